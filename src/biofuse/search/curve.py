"""Scores against the number of labelled samples: which encoders to use when labels are few, and whether more help."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import SearchError, option
from biofuse.core.hashing import derive_seed, hash_order
from biofuse.core.target import Labels, Target
from biofuse.data.splits import ValidationPlan, make_folds
from biofuse.evaluation.intervals import SIGNIFICANCE, corrected_t, holm
from biofuse.evaluation.metrics import SELECTABLE, Record, Score, get_metric
from biofuse.predictors.combined import average
from biofuse.predictors.fused import Predictor
from biofuse.search.leaderboard import Leaderboard, Subset, label
from biofuse.search.problem import Problem, head_of
from biofuse.search.rules import CHOSEN
from biofuse.search.runner import SearchContext, run_search
from biofuse.search.scorers import FitFunction, RefitScorer
from biofuse.search.search import Fit
from biofuse.search.strategies import Listed

if TYPE_CHECKING:
    import pandas as pd

Index = NDArray[np.int64]

STEPS = (5, 10, 20)
"""Labelled samples per class where a curve begins; each step is followed by its tenfold, and so on."""

NEARLY_ALL = 0.9
"""A number per class that takes this part of all labels is left out: the point of all labels says the same."""

SHARES = (0.5, 1.0, 0.25)
"""Parts of the labels from which the gain of a doubling is found. Half comes first, because the cost of the whole is
estimated from the first training set."""

REPEATS = 2
"""How often the development samples are divided into folds anew."""


class TrainingSet(Record):
    """How many labels are fitted on.

    Attributes
    ----------
    per_class : int or None
        Most labelled samples of each class; None for a share of all.
    share : float or None
        Part of the labels of a training fold, in their own proportions; None for a number per class.
    rows : float
        Samples, mean over the draws.
    groups : float or None
        Groups that they are from, likewise; None where there are no groups.
    """

    per_class: int | None = None
    share: float | None = None
    rows: float
    groups: float | None = None

    @property
    def text(self) -> str:
        """What it is, in words."""
        if self.per_class is not None:
            return f"{self.per_class} per class"
        return "all" if self.share == 1 else f"{self.share:.0%} of all"


class CurvePoint(Record):
    """The score of one model with one number of labels.

    Attributes
    ----------
    mean : float
        Over the draws in which it is defined.
    low, high : float
        95 % interval of the mean from the corrected t statistic, as if all labels had been fitted on, whose training
        sets overlap most; NaN with fewer than two draws.
    values : tuple of float
        Score of each draw, in the same order for all models and numbers of labels; NaN where undefined.
    """

    mean: Score
    low: Score
    high: Score
    values: tuple[Score, ...]


class CurveModel(Record):
    """The curve of one model.

    Attributes
    ----------
    subset : tuple of str
        Its encoders.
    points : tuple of CurvePoint
        One for each training set.
    """

    subset: Subset
    points: tuple[CurvePoint, ...]


class Advantage(Record):
    """What one model scores above the chosen one with so many labels, draw by draw.

    Attributes
    ----------
    model : str
        Which model: its name, or that of a single encoder.
    place : int
        Which training set.
    difference, low, high : float
        Mean of the paired differences, and its interval.
    p_holm : float
        Two-sided p-value, corrected (Holm) over all models and all numbers per class.
    """

    model: str
    place: int
    difference: Score
    low: Score
    high: Score
    p_holm: Score


class Doubling(Record):
    """What more labels are worth.

    Attributes
    ----------
    gain, low, high : float
        What the last doubling of the labels, from half of them to all, has added, and its interval from the t statistic
        of the draws.
    p_value : float
        Two-sided p-value of no gain.
    before : float
        What the doubling before that one has added.
    expected, expected_low, expected_high : float
        What one more doubling is expected to add: the gain of the last, shrunk as that one shrank from the one before;
        the interval is that of the last gain, shrunk alike.
    """

    gain: Score
    low: Score
    high: Score
    p_value: Score
    before: Score
    expected: Score
    expected_low: Score
    expected_high: Score


class LearningCurve(Record):
    """Scores against the number of labelled samples.

    Every draw takes a fold out of the development samples, orders the groups of the others at random, and fits on more
    and more of them in that order; all are scored on the fold that was taken out. Test data have no part in it.

    Attributes
    ----------
    metric : str
        Of the scores.
    predictor, head : str
        What the models are: the kind of predictor, and the head that the search chose for it.
    sets : tuple of TrainingSet
        Numbers per class first, the fewest first; then shares of all labels, the smallest first.
    models : dict of str to CurveModel
        ``chosen`` first, then what it is compared with; one of equal encoders stands for all.
    singles : dict of str to CurveModel
        Every encoder by itself.
    n_folds, n_repeats : int
        Draws are their product.
    n_train, n_test : float
        Samples of a training fold with all labels, and of a fold that is scored: means.
    seconds : float
        Of fitting and scoring.
    notes : tuple of str
        What a reader should know.
    """

    metric: str
    predictor: str
    head: str
    sets: tuple[TrainingSet, ...]
    models: dict[str, CurveModel]
    singles: dict[str, CurveModel] = Field(default_factory=dict)
    n_folds: int
    n_repeats: int
    n_train: float
    n_test: float
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def fitted(self) -> str:
        """What the models are, in words."""
        return f"{self.head} head" if self.predictor == "fused" else f"{self.predictor} predictor"

    @property
    def shown(self) -> tuple[int, ...]:
        """Places of the training sets that make the curve: the numbers per class, and all labels."""
        return tuple(place for place, each in enumerate(self.sets) if each.per_class is not None or each.share == 1)

    @property
    def everything(self) -> dict[str, CurveModel]:
        """The models, and the single encoders that are none of them."""
        known = {model.subset for model in self.models.values()}
        return {**self.models, **{name: each for name, each in self.singles.items() if each.subset not in known}}

    def best(self, place: int) -> str:
        """Return the name of what scores best with one number of labels; among ties the first."""
        sign = 1 if get_metric(self.metric).higher_is_better else -1
        means = {name: sign * each.points[place].mean for name, each in self.everything.items()}
        return max(means, key=lambda name: -np.inf if np.isnan(means[name]) else round(means[name], 12))

    def named(self, model: str) -> str:
        """Return what a model is called in a sentence, with its encoders where the name does not say them."""
        encoders = label(self.everything[model].subset)
        return {CHOSEN: "the chosen encoders", "all": "all encoders together"}.get(
            model, encoders if model in self.singles else f"{model.replace('_', ' ')} ({encoders})"
        )

    def advantages(self) -> tuple[Advantage, ...]:
        """Compare every other model with the chosen one at every number of labels per class."""
        own, signed = self.models[CHOSEN].points, get_metric(self.metric).signed
        places = [place for place in self.shown if self.sets[place].per_class is not None]
        pairs = [(name, place) for name in self.everything if name != CHOSEN for place in places]
        found = [
            corrected_t(
                signed(np.subtract(self.everything[name].points[place].values, own[place].values)),
                self.n_train,
                self.n_test,
            )
            for name, place in pairs
        ]
        corrected = holm([each[3] for each in found])
        return tuple(
            Advantage(model=name, place=place, difference=mean, low=low, high=high, p_holm=float(p))
            for (name, place), (mean, low, high, _), p in zip(pairs, found, corrected, strict=True)
        )

    def doubling(self, model: str = CHOSEN) -> Doubling:
        """Say what the last doubling of the labels has added to the score of a model, and what one more may add."""
        signed, own = get_metric(self.metric).signed, self.models[model].points
        points = {each.share: signed(np.array(own[place].values)) for place, each in enumerate(self.sets)}
        # Of one draw the smaller training set is part of the larger and both are scored on the same fold: what folds
        # have in common cancels, and a correction for it would make the interval twice as wide as it has to be.
        gain, low, high, p_value = corrected_t(points[1.0] - points[0.5], 1, 0)
        before = corrected_t(points[0.5] - points[0.25], 1, 0)[0]
        # Learning curves flatten: a gain that grows, or follows a loss, is noise, and is taken to stay as it is.
        kept = gain / before if before > gain > 0 else 1.0
        return Doubling(
            gain=gain, low=low, high=high, p_value=p_value, before=before,
            expected=kept * gain, expected_low=kept * low, expected_high=kept * high,
        )  # fmt: skip

    def sentences(self) -> list[str]:
        """Say which encoders to use when labels are few, and whether more labels would help."""
        return [self._few(), self._more(), *self.notes]

    def _few(self) -> str:
        title, chosen = get_metric(self.metric).title, self.models[CHOSEN]
        better = [each for each in self.advantages() if each.p_holm <= SIGNIFICANCE and each.difference > 0]
        first, last = self.shown[0], self.shown[-1]
        ends = (
            f"{title} {chosen.points[first].mean:.4f} with {self.sets[first].text}, "
            f"{chosen.points[last].mean:.4f} with {self.sets[last].text} ({self.sets[last].rows:,.0f} samples)"
        )
        if not better:
            return (
                f"With few labels, too, use the chosen encoders: nothing does better beyond noise at any number of "
                f"labels ({ends})."
            )
        most = max(better, key=lambda each: each.difference)
        where = ", ".join(
            dict.fromkeys(str(self.sets[each.place].per_class) for each in better if each.model == most.model)
        )
        return (
            f"With few labels {self.named(most.model)} serve better than the chosen encoders (at {where} per class): "
            f"with {self.sets[most.place].text} {title} {most.difference:+z.4f}, 95 % interval {most.low:+z.4f} to "
            f"{most.high:+z.4f}, p = {most.p_holm:.3g}. The chosen encoders: {ends}."
        )

    def _more(self) -> str:
        title, found = get_metric(self.metric).title, self.doubling()
        rows = {each.share: each.rows for each in self.sets}
        if np.isnan(found.low):
            return "Whether more labels would help cannot be told: there are too few draws."
        measured = (
            f"from {rows[0.5]:,.0f} to {rows[1.0]:,.0f} samples, changed {title} by {found.gain:+z.4f} (95 % interval "
            f"{found.low:+z.4f} to {found.high:+z.4f})"
        )
        if not found.p_value <= SIGNIFICANCE:
            return f"More labels cannot be expected to help much: the last doubling, {measured}, which may be chance."
        if found.gain < 0:
            return f"More labels do not help: the last doubling, {measured}."
        return (
            f"Doubling the labels is expected to add {found.expected:.4f} {title} (95 % interval "
            f"{found.expected_low:+z.4f} to {found.expected_high:+z.4f}): the last doubling, {measured}."
        )

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per model and training set: its encoders, the number of labels, the score and its interval."""
        import pandas as pd

        rows = [
            {
                "model": name, "encoders": label(model.subset), "labels": training.text,
                "per_class": training.per_class, "share": training.share, "samples": training.rows,
                "groups": training.groups, self.metric: point.mean, "low": point.low, "high": point.high,
            }
            for name, model in (*self.models.items(), *self.singles.items())
            for training, point in zip(self.sets, model.points, strict=True)
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        return f"<LearningCurve of {len(self.models)} models over {len(self.sets)} numbers of labels: {self._more()}>"


@dataclass(frozen=True, kw_only=True, eq=False)
class CurvePlan:
    """What a learning curve fits on and scores.

    Attributes
    ----------
    plan : ValidationPlan
        A fold for each training set of each draw, draw by draw, in the order of ``sets``.
    sets : tuple of TrainingSet
    n_folds, n_repeats : int
        Draws are their product.
    """

    plan: ValidationPlan
    sets: tuple[TrainingSet, ...]
    n_folds: int
    n_repeats: int


def numbers_per_class(largest: int) -> tuple[int, ...]:
    """Return 5, 10, 20, 50, 100, 200, ... as far as they are less than the largest class has.

    Examples
    --------
    >>> numbers_per_class(180)
    (5, 10, 20, 50, 100)
    """
    found, scale = [], 1
    while STEPS[0] * scale < largest:
        found += [step * scale for step in STEPS if step * scale < largest]
        scale *= 10
    return tuple(found)


def refuse_without_classes(target: Target) -> None:
    """Refuse a curve over labelled samples per class where there are no classes.

    Raises
    ------
    SearchError
        Saying what to do instead.
    """
    if not target.categorical:
        raise SearchError(
            f"A learning curve counts labelled samples per class, and this predicts {target.text}.",
            remedy="Fit on fewer samples, and compare the runs: biofuse compare RUN OTHER-RUN.",
        )


def plan_curve(problem: Problem, *, repeats: int = REPEATS, per_class: Sequence[int] | None = None) -> CurvePlan:
    """Draw training sets of growing size from the development samples, and the folds that they are scored on.

    Groups, and samples that are byte for byte the same, are never on both sides, and come into a training set one
    after the other. A larger training set of a draw contains the smaller ones of its kind.

    Parameters
    ----------
    problem : Problem
    repeats : int, default 2
        How often the samples are divided into as many folds as the search has.
    per_class : sequence of int, optional
        Numbers of labelled samples per class; by default 5, 10, 20, 50, ...

    Raises
    ------
    DataError
        If a class has samples in one group only.
    SearchError
        If a number per class is less than 1 or repeats, or there are no classes.
    """
    refuse_without_classes(problem.target)
    samples, units, target, seed = problem.samples, problem.units, problem.target, problem.config.seed
    names = samples.ids.astype(str) if units is None else units.astype(str)
    folds = make_folds(
        problem.labels, ids=samples.ids.tolist(), groups=None if units is None else units.tolist(),
        n_folds=problem.config.folds, n_repeats=repeats, seed=derive_seed(seed, "curve"), classes=problem.classes,
        splits=samples.splits,
    )  # fmt: skip
    indicators = _columns(target, problem.labels)
    largest = min(int(indicators[fit].sum(axis=0).max()) for fit, _ in folds.folds)
    numbers = numbers_per_class(largest) if per_class is None else _checked(per_class)
    drawn = []
    for draw, (fit, held_out) in enumerate(folds.folds):
        ordered = _in_order(fit, names, samples.ids, seed=derive_seed(seed, "curve", "draw", draw))
        sets = [_first_of_each(ordered, indicators, number) for number in numbers]
        sets += [_share(ordered, problem.labels, share, target) for share in SHARES]
        drawn.append([(each, held_out) for each in sets])
    whole = float(np.mean([len(fit) for fit, _ in folds.folds]))
    sizes = np.array([[len(fit) for fit, _ in draw] for draw in drawn], dtype=np.float64).mean(axis=0)
    kept = [place for place, number in enumerate(numbers) if sizes[place] < NEARLY_ALL * whole]
    # Half of all comes first; see SHARES.
    kept = [*(len(numbers) + place for place in range(len(SHARES))), *kept]
    grouped = None if problem.samples.groups is None else problem.samples.groups.astype(str)
    described = []
    for place in kept:
        in_draws = [draw[place][0] for draw in drawn]
        is_number = place < len(numbers)
        described.append(
            TrainingSet(
                per_class=numbers[place] if is_number else None,
                share=None if is_number else SHARES[place - len(numbers)],
                rows=float(sizes[place]),
                groups=None if grouped is None else float(np.mean([len(np.unique(grouped[r])) for r in in_draws])),
            )
        )
    plan = ValidationPlan.cross_validation(
        [draw[place] for draw in drawn for place in kept],
        ids=samples.ids,
        splits=samples.splits,
        groups=None if units is None else units.tolist(),
        n_repeats=len(drawn),
        notes=folds.notes,
    )
    return CurvePlan(plan=plan, sets=tuple(described), n_folds=folds.n_folds, n_repeats=repeats)


def _checked(numbers: Sequence[int]) -> tuple[int, ...]:
    found = tuple(sorted(set(numbers)))
    if not found or found[0] < 1 or len(found) < len(numbers):
        raise SearchError(
            f"{', '.join(map(str, numbers)) or 'Nothing'} cannot be numbers of labelled samples per class.",
            remedy=f"Give each once, from 1: {option('per_class', list(STEPS))}.",
        )
    return found


def _columns(target: Target, labels: Labels) -> NDArray[np.bool_]:
    """Return what there should be as many of: the classes; of several labels, each label and its absence."""
    found = target.indicators(labels)
    return np.column_stack([found, ~found]) if target.several else found


def _in_order(rows: Index, names: NDArray[np.str_], ids: NDArray[np.object_], *, seed: int) -> Index:
    """Order rows by a hash of their unit's name, then of their own: whole units, one after the other."""
    units, of_row = np.unique(names[rows], return_inverse=True)
    place = np.argsort(hash_order(units.tolist(), seed), kind="stable")
    own = np.argsort(hash_order([str(name) for name in ids[rows]], seed), kind="stable")
    return np.asarray(rows[np.lexsort((own, place[of_row]))], dtype=np.int64)


def _first_of_each(ordered: Index, indicators: NDArray[np.bool_], number: int) -> Index:
    """Return the first rows of each column, so many of each, or all that there are."""
    among = indicators[ordered]
    return np.asarray(ordered[(among & (np.cumsum(among, axis=0) <= number)).any(axis=1)], dtype=np.int64)


def _share(ordered: Index, labels: Labels, share: float, target: Target) -> Index:
    """Return the first part of the rows: of every class, where classes exclude each other."""
    if target.several:
        return ordered[: max(1, round(share * len(ordered)))]
    among = target.indicators(labels[ordered])
    wanted = np.maximum(np.ceil(share * among.sum(axis=0)), 1)
    return np.asarray(ordered[(among & (np.cumsum(among, axis=0) <= wanted)).any(axis=1)], dtype=np.int64)


class FitAverage:
    """Fits the average of several subsets: an ensemble, whatever encoders it is asked for.

    Parameters
    ----------
    fit : Fit
        Fits one subset.
    members : sequence of subset
    pool : sequence of str
    """

    def __init__(self, fit: Fit, members: Sequence[Subset], *, pool: Sequence[str]) -> None:
        self._fit, self._members, self._pool = fit, tuple(members), tuple(pool)

    def __call__(
        self,
        blocks: Blocks,
        labels: Labels,
        *,
        encoders: Subset,  # noqa: ARG002
        seed: int,
        threads: int,
    ) -> Predictor:
        """Fit the members on these rows alone."""
        fitted = [self._fit(blocks, labels, encoders=each, seed=seed, threads=threads) for each in self._members]
        return average(fitted, pool=self._pool)


def models_to_fit(
    problem: Problem, models: Mapping[str, Subset], *, members: Sequence[Subset] = ()
) -> dict[str, tuple[Subset, FitFunction]]:
    """Return how models are fitted anew.

    Parameters
    ----------
    problem : Problem
        Whose options have the head that the search chose.
    models : mapping of str to subset
    members : sequence of subset
        Subsets whose average the chosen model is; none where it is one subset.
    """
    fit = Fit(problem, head_of(problem.config))
    found: dict[str, tuple[Subset, FitFunction]] = {name: (subset, fit) for name, subset in models.items()}
    if len(members) > 1:
        found[CHOSEN] = (models[CHOSEN], FitAverage(fit, members, pool=problem.blocks.encoders))
    return found


def measure_curve(
    problem: Problem,
    planned: CurvePlan,
    models: Mapping[str, tuple[Subset, FitFunction]],
    *,
    singles: Mapping[str, tuple[Subset, FitFunction]] | None = None,
    kind: Sequence[object],
    context: SearchContext,
) -> LearningCurve:
    """Fit models on every training set of every draw, and score them on the fold that was taken out.

    Parameters
    ----------
    problem : Problem
    planned : CurvePlan
        What :func:`plan_curve` drew.
    models : mapping of str to (subset, fit)
        ``chosen`` and what it is compared with. Models with the same encoders and the same fit are fitted once.
    singles : mapping of str to (subset, fit), optional
        Single encoders.
    kind : sequence
        What decides a fit beside the subset, as JSON values, for the key of kept scores: predictor, head and fusion.
    context : SearchContext
        Where scores are kept, so that a killed curve goes on.

    Raises
    ------
    SearchError
        If it would take long and that was not confirmed.
    DataError
        If a model cannot be fitted on so few samples.
    """
    wanted = {**models, **(singles or {})}
    boards = {}
    for number, fit in enumerate(dict.fromkeys(fit for _, fit in wanted.values())):
        subsets = list(dict.fromkeys(subset for subset, own in wanted.values() if own is fit))
        name = "curve" if number == 0 else f"curve-{number}"
        boards[fit] = _score(problem, planned, subsets, fit, kind=[*kind, number], name=name, context=context)
    held_out = [len(rows) for _, rows in planned.plan.folds]
    whole = next(each.rows for each in planned.sets if each.share == 1)
    facts = {"n_train": whole, "n_test": float(np.mean(held_out))}
    order = sorted(range(len(planned.sets)), key=lambda place: _position(planned.sets[place]))

    # What is perfect scores 1, by every metric of which more is better.
    best = 1.0 if get_metric(problem.config.metric).higher_is_better else np.inf

    def curve(subset: Subset, fit: FitFunction) -> CurveModel:
        values = np.array(boards[fit][subset].folds[problem.config.metric]).reshape(-1, len(planned.sets))
        points = []
        for place in order:
            mean, low, high, _ = corrected_t(values[:, place], **facts)
            high = min(high, best)
            points.append(CurvePoint(mean=mean, low=low, high=high, values=tuple(values[:, place].tolist())))
        return CurveModel(subset=subset, points=tuple(points))

    distinct: dict[str, tuple[Subset, FitFunction]] = {}
    for name, each in models.items():
        if each not in distinct.values():
            distinct[name] = each
    return LearningCurve(
        metric=problem.config.metric,
        predictor=problem.config.predictor,
        head=problem.config.head,
        sets=tuple(planned.sets[place] for place in order),
        models={name: curve(*each) for name, each in distinct.items()},
        singles={name: curve(*each) for name, each in (singles or {}).items()},
        n_folds=planned.n_folds,
        n_repeats=planned.n_repeats,
        seconds=sum(board.seconds for board in boards.values()),
        notes=(*planned.plan.notes, CAUTION),
        **facts,
    )


CAUTION = (
    "The encoders were chosen with all development labels, so with fewer labels the scores of the chosen ones are a "
    "little too good."
)


def _position(training: TrainingSet) -> tuple[bool, float]:
    return training.per_class is None, training.per_class or training.share or 0.0


def _score(
    problem: Problem,
    planned: CurvePlan,
    subsets: Sequence[Subset],
    fit: FitFunction,
    *,
    kind: Sequence[object],
    name: str,
    context: SearchContext,
) -> Leaderboard:
    metrics = tuple(metric for metric in SELECTABLE if get_metric(metric).applies(problem.target))
    scorer = RefitScorer(
        problem.blocks,
        problem.labels,
        plan=planned.plan,
        fit=fit,
        task=problem.task,
        classes=problem.classes,
        metrics=metrics,
        seed=problem.config.seed,
    )
    key = problem.key(stage="curve", plan=planned.plan.key(), fit=list(kind), metrics=metrics)
    return run_search(
        problem.blocks.encoders,
        Listed(subsets),
        scorer,
        metric=problem.config.metric,
        sink=context.sink(f"scores-{name}"),
        key=key,
        workers=context.workers,
        engine=context.engine,
        ray_address=context.ray_address,
        progress=context.progress,
        announce=lambda cost: context.tell(f"Curve: {cost}."),
        yes=context.yes,
    )
