"""The metrics, and scores of predictions with a reason wherever a score does not exist."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from biofuse.core.errors import SearchError, UndefinedMetricError, did_you_mean, option, squashed
from biofuse.core.target import Labels, Target, Task
from biofuse.evaluation import survival, weighted
from biofuse.evaluation.rows import Ranking, ScoredRows, prepare, sums
from biofuse.evaluation.weighted import divide, running

Values = NDArray[np.float64]


def _number(value: Any) -> Any:
    number = math.nan if value is None else float(value)
    return math.nan if math.isnan(number) else number  # one object, so that equal records are equal


Score = Annotated[
    float,
    BeforeValidator(_number),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, when_used="json"),
]
"""A number that may be undefined: NaN in memory, null in JSON."""


class Record(BaseModel):
    """What was found, frozen: as JSON it holds null for what is undefined, and read back it equals what was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")


TOP_K = 5
"""Top-5 accuracy is what ImageNet results report beside accuracy; it needs more than five classes."""

NORMALISED = 1e-3
"""How far a row of probabilities may be from adding to one before its log-loss means nothing."""


Guess = Callable[[Target, Labels], float | None]
"""Maps a target and labels to the score of a guess; None where that cannot be said."""


Kind = Literal["share", "shares", "ranking", "agreement", "pairs", "correlation", "explained", "error"]
"""What a metric is, as far as its interval goes."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row of the table: what a metric is called, how it is computed, how to read it and what it is used for.

    Attributes
    ----------
    name, title : str
        Its key in tables, and its name in prose.
    formula : callable
        Maps (prepared, weights) to values per column and weighting.
    applies : callable
        Whether the metric exists for a target.
    per_class : bool
        Whether the formula's columns are the classes or labels.
    higher_is_better : bool
        False for losses.
    chance : float or None
        What a guess scores whatever the data; None where that depends on them.
    guess : callable or None
        What a guess scores on given labels, where that depends on them and can be told.
    selects : bool
        Whether subsets may be chosen by it; such metrics also head the comparison of runs. The first of the table is
        the default.
    board : bool
        Whether it is a column of the leaderboards; what selects always is.
    closed_form : bool
        Whether estimates that are not probabilities will do, as a closed-form screen has them.
    interval : str or None
        Whether test scores have an interval of it, and of which kind: a share of rows, a mean of the shares of several
        classes, the share of positive and negative ("ranking") or of any pairs ("pairs") in the right order, agreement
        or a correlation between -1 and 1, what is explained, or an error.
    hub : str or None
        The name that model hubs know it by.
    also : tuple of str
        What else it is called, in papers and in other libraries; case, spaces and hyphens never count.
    """

    name: str
    title: str
    formula: Callable[[ScoredRows, Values], Values]
    applies: Callable[[Target], bool] = lambda target: target.categorical
    per_class: bool = False
    higher_is_better: bool = True
    chance: float | None = None
    guess: Guess | None = None
    selects: bool = False
    board: bool = False
    closed_form: bool = True
    interval: Kind | None = None
    hub: str | None = None
    also: tuple[str, ...] = ()

    def kept(self, data: ScoredRows) -> NDArray[np.bool_]:
        """Return which of the formula's columns the metric is the mean of, shape (n_columns,)."""
        values = self.formula(data, np.ones((data.n, 1)))[:, 0]
        return averaged(data, values) if len(values) > 1 else np.ones(1, dtype=np.bool_)

    def resample(self, data: ScoredRows, weights: Values) -> Values:
        """Return the metric under each weighting, shape (n_weightings,); NaN where it is undefined.

        A mean over classes runs over those that can be scored on all rows (:func:`averaged`), in every weighting.
        """
        return np.asarray(self.formula(data, weights)[self.kept(data)].mean(axis=0))

    @property
    def mean_title(self) -> str:
        """What the mean of several of its values is called; a mean error is one already.

        Examples
        --------
        >>> METRICS["auroc"].mean_title, METRICS["mae"].mean_title
        ('mean AUROC', 'mean absolute error')
        """
        return self.title if self.title.startswith("mean ") else f"mean {self.title}"

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest value that it can have."""
        if self.interval == "explained":
            return -math.inf, 1.0
        if not self.higher_is_better:
            return 0.0, math.inf
        return (-1.0 if self.chance == 0 else 0.0), 1.0

    def signed(self, values: Values) -> Values:
        """Turn values of the metric so that more is better."""
        return values if self.higher_is_better else -values

    def guessing(self, target: Target, labels: Labels) -> float | None:
        """Return what guessing scores on these labels; None where that cannot be told."""
        return self.chance if self.guess is None else self.guess(target, labels)


def averaged(data: ScoredRows, columns: Values) -> NDArray[np.bool_]:
    """Return which classes take part in a mean over them: those whose value is defined.

    All, so that the mean is undefined, where no class is, or where all rows are of one class of several that exclude
    each other: there is nothing to tell apart.
    """
    defined = ~np.isnan(columns)
    apart = not data.target.exclusive or int(data.targets.any(axis=0).sum()) > 1
    return defined if apart and defined.any() else np.ones(len(columns), dtype=bool)


def auroc_columns(targets: NDArray[np.bool_], scores: NDArray[np.floating]) -> Values:
    """Area under the ROC curve of every column at once, from ranks; ties count half.

    Parameters
    ----------
    targets : ndarray of bool, shape (n, n_columns)
        Which rows are positive.
    scores : ndarray of float, shape (n, n_columns)
        Probabilities or decision values: only their order counts.

    Returns
    -------
    ndarray of float64, shape (n_columns,)
        NaN where a column has no positive or no negative row.
    """
    positive = targets.sum(axis=0).astype(np.float64)
    order = np.argsort(np.ascontiguousarray(scores.T), axis=1)
    ascending = np.take_along_axis(scores.T, order, axis=1)
    ranks = np.broadcast_to(np.arange(1.0, len(scores) + 1), order.shape)
    tied = np.flatnonzero((ascending[:, 1:] == ascending[:, :-1]).any(axis=1))
    if len(tied):
        ranks = ranks.copy()
        ranks[tied] = [_mean_ranks(row) for row in ascending[tied]]
    total = np.einsum("ij,ij->i", ranks, np.take_along_axis(targets.T, order, axis=1))
    return divide(total - positive * (positive + 1) / 2, positive * (len(targets) - positive))


def _mean_ranks(ascending: NDArray[np.floating]) -> Values:
    """Return ranks from 1, those of ties their mean."""
    below, up_to = (np.searchsorted(ascending, ascending, side=side) for side in ("left", "right"))
    return np.asarray((below + 1 + up_to) / 2, dtype=np.float64)


def _auroc(data: ScoredRows, weights: Values) -> Values:
    return np.stack([_ranking_auroc(ranking, weights) for ranking in data.rankings])


def _ranking_auroc(ranking: Ranking, weights: Values) -> Values:
    positive, below = weights[ranking.positives], running(weights[ranking.negatives])
    beaten = below[ranking.below]
    if not np.array_equal(ranking.below, ranking.up_to):
        beaten = (beaten + below[ranking.up_to]) / 2
    return divide(np.einsum("ij,ij->j", positive, beaten), positive.sum(axis=0) * below[-1])


def _average_precision(data: ScoredRows, weights: Values) -> Values:
    return np.stack([_ranking_precision(ranking, weights) for ranking in data.rankings])


def _ranking_precision(ranking: Ranking, weights: Values) -> Values:
    positive = weights[ranking.positives]
    hits, misses = running(positive), running(weights[ranking.negatives])
    above = hits[-1] - hits[ranking.positives_below]
    precision = divide(above, above + misses[-1] - misses[ranking.below])
    # A row of weight nothing has no precision when nothing stands above it; it does not count either.
    return divide(np.einsum("ij,ij->j", positive, np.where(positive > 0, precision, 0)), hits[-1])


def _accuracy(data: ScoredRows, weights: Values) -> Values:
    right = data.targets == data.predicted
    if data.target.several:
        return divide(sums(right & data.known) @ weights, data.known_sums @ weights)
    return divide(right.all(axis=1).astype(np.float64)[np.newaxis] @ weights, weights.sum(axis=0))


def _balanced_accuracy(data: ScoredRows, weights: Values) -> Values:
    truth, hits = data.target_sums @ weights, data.hit_sums @ weights
    recall = divide(hits, truth)
    if not data.target.several:
        return recall
    total = data.known_sums @ weights
    return (recall + divide(total - truth - data.predicted_sums @ weights + hits, total - truth)) / 2


def _f1(data: ScoredRows, weights: Values) -> Values:
    truth, said, hits = (sums @ weights for sums in (data.target_sums, data.predicted_sums, data.hit_sums))
    return divide(2 * hits, truth + said)


def _mcc(data: ScoredRows, weights: Values) -> Values:
    truth, said, hits = (sums @ weights for sums in (data.target_sums, data.predicted_sums, data.hit_sums))
    total = data.known_sums @ weights if data.target.several else weights.sum(axis=0)
    if data.target.several:
        over, spread = hits * total - truth * said, said * (total - said)
        variety = truth * (total - truth)
    else:
        over = (hits.sum(axis=0) * total - (truth * said).sum(axis=0))[None]
        spread, variety = ((total**2 - (counts**2).sum(axis=0))[None] for counts in (said, truth))
    # Constant predictions have no correlation by definition of scikit-learn (0); constant labels leave it undefined.
    under = np.sqrt(np.maximum(spread, 0) * np.maximum(variety, 0))
    return np.where((spread <= 0) & (variety > 0), 0.0, divide(over, under))


def _quadratic_kappa(data: ScoredRows, weights: Values) -> Values:
    total, grades = weights.sum(axis=0), np.arange(len(data.classes), dtype=np.float64)
    truth, said = data.target_sums @ weights, data.predicted_sums @ weights
    observed = (_grades_off(data) ** 2).astype(np.float64) @ weights
    # Expected squared distance of independent grades, from their first two moments.
    expected = grades**2 @ (truth + said) - 2 * divide((grades @ truth) * (grades @ said), total)
    return (1 - divide(observed, np.where(expected > 1e-12 * total, expected, 0)))[None]


def _grades_off(data: ScoredRows) -> NDArray[np.int64]:
    return np.asarray(data.labels.astype(np.int64) - data.predicted.argmax(axis=1), dtype=np.int64)


def _grade_error(data: ScoredRows, weights: Values) -> Values:
    return weighted.mean(np.abs(_grades_off(data)).astype(np.float64), weights)[None]


def _guessed_grade(target: Target, labels: Labels) -> float:  # noqa: ARG001 (one signature)
    return _around_median(labels.astype(np.float64)[:, None])


def _around_median(values: Values) -> float:
    """Return what guessing the median is off by, on average."""
    return float(np.abs(values - np.median(values, axis=0)).mean(axis=0).mean())


def _log_loss(data: ScoredRows, weights: Values) -> Values:
    tiny = np.finfo(np.float64).eps  # as scikit-learn clips
    p = np.clip(data.probabilities, tiny, 1 - tiny)
    if data.target.several:
        loss = -np.where(data.targets, np.log(p), np.log1p(-p)).T * data.known.T
        under = data.known_sums @ weights
    else:
        loss, under = -np.log(p[np.arange(data.n), data.labels.astype(np.int64)])[None], weights.sum(axis=0)
    if not is_probability(data):
        loss = np.full_like(loss, np.nan)
    return divide(loss @ weights, under)


def is_probability(data: ScoredRows) -> bool:
    """Whether the predictions lie in [0, 1] and, with one label per row, add to one."""
    p = data.probabilities
    inside = bool(((p >= 0) & (p <= 1)).all())
    return inside and (data.target.several or bool((np.abs(p.sum(axis=1) - 1) <= NORMALISED).all()))


def _top_k(data: ScoredRows, weights: Values) -> Values:
    labels = data.labels.astype(np.int64)
    own = data.probabilities[np.arange(data.n), labels][:, None]
    earlier = np.arange(data.probabilities.shape[1]) < labels[:, None]
    ahead = ((data.probabilities > own) | ((data.probabilities == own) & earlier)).sum(axis=1)
    return divide((ahead < TOP_K).astype(np.float64)[None] @ weights, weights.sum(axis=0))


def _each_column(statistic: Callable[[Values, Values, Values], Values]) -> Callable[[ScoredRows, Values], Values]:
    """Return the formula of a statistic of true and predicted values, of each column by itself."""

    def formula(data: ScoredRows, weights: Values) -> Values:
        columns = zip(data.values.T, data.probabilities.T, strict=True)
        return np.stack([statistic(truth, predicted, weights) for truth, predicted in columns])

    return formula


def _absolute_error(truth: Values, predicted: Values, weights: Values) -> Values:
    return weighted.mean(np.abs(truth - predicted), weights)


def _root_mean_square(truth: Values, predicted: Values, weights: Values) -> Values:
    return np.sqrt(weighted.mean(np.square(truth - predicted), weights))


def _guessed_value(target: Target, labels: Labels) -> float:
    return _around_median(target.columns(labels))


def _deviation(target: Target, labels: Labels) -> float:
    return float(target.columns(labels).std(axis=0).mean())


def _harrell(data: ScoredRows, weights: Values) -> Values:
    return data.pairs.concordance(weights)[None]


def _uno(data: ScoredRows, weights: Values) -> Values:
    return data.pairs.concordance(weights, data.observed.uno)[None]


def _dynamic_auc(data: ScoredRows, weights: Values) -> Values:
    factor = data.observed.inverse[:, None]
    found = []
    for ranking in data.horizon_rankings:
        kept = np.ones((data.n, 1))
        kept[ranking.positives] = factor[ranking.positives]
        found.append(_ranking_auroc(ranking, weights * kept))
    return np.stack(found)


def _integrated_brier(data: ScoredRows, weights: Values) -> Values:
    scores = survival.brier(data.observed, data.probabilities, weights)
    if ((data.probabilities < 0) | (data.probabilities > 1)).any():
        scores = np.full_like(scores, np.nan)
    return survival.integrated(data.observed.horizons, scores)[None]


def _guessed_curve(target: Target, labels: Labels) -> float:
    """Return the score of the curve of all samples together, whatever their images."""
    rows = prepare(target, labels, np.zeros((len(labels), target.n_columns)))
    curve = survival.kaplan_meier(rows.observed.time, rows.observed.event)
    everyone = np.tile(1 - curve.at(rows.observed.horizons), (rows.n, 1))
    scores = survival.brier(rows.observed, everyone, np.ones((rows.n, 1)))
    return float(survival.integrated(rows.observed.horizons, scores)[0])


def _ordered(target: Target) -> bool:
    return target.kind.ordered


def _measured(target: Target) -> bool:
    return target.measured


def _timed(target: Target) -> bool:
    return target.timed


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            name="auroc", title="AUROC", formula=_auroc, per_class=True, chance=0.5, selects=True, interval="ranking",
            hub="roc_auc", also=("auc", "roc_auc", "auc_roc", "area under the ROC curve"),
        ),
        Metric(
            name="accuracy", title="accuracy", formula=_accuracy, guess=Target.majority_share, selects=True,
            interval="share", hub="accuracy", also=("acc", "top_1", "top_1_accuracy", "accuracy_score"),
        ),
        Metric(
            name="balanced_accuracy", title="balanced accuracy", formula=_balanced_accuracy, board=True,
            interval="shares",
            also=("bacc", "bal_acc", "balanced_acc", "balanced_accuracy_score"),
        ),
        Metric(
            name="average_precision", title="average precision", formula=_average_precision, per_class=True,
            also=("ap", "auprc", "pr_auc", "auc_pr", "aupr", "average_precision_score"),
        ),
        Metric(name="f1", title="F1", formula=_f1, per_class=True, also=("f1_score", "f1_macro", "macro_f1")),
        Metric(
            name="mcc", title="Matthews correlation", formula=_mcc, chance=0.0,
            also=("matthews", "matthews_corrcoef", "matthews correlation coefficient"),
        ),
        Metric(
            name="log_loss", title="log-loss", formula=_log_loss, higher_is_better=False, board=True, closed_form=False,
            also=("nll", "cross_entropy", "logistic_loss"),
        ),
        Metric(
            name="quadratic_kappa", title="quadratic kappa", formula=_quadratic_kappa, chance=0.0, selects=True,
            interval="agreement", applies=_ordered,
            also=("qwk", "quadratic_weighted_kappa", "weighted kappa", "Cohen's kappa"),
        ),
        Metric(
            name="grade_error", title="mean grade error", formula=_grade_error, higher_is_better=False,
            guess=_guessed_grade, selects=True, interval="error", applies=_ordered,
            also=("mean absolute grade error", "absolute grade error", "grade_mae", "ordinal_mae"),
        ),
        Metric(
            name=f"top_{TOP_K}", title=f"top-{TOP_K} accuracy", formula=_top_k,
            applies=lambda target: target.exclusive and target.n_columns > TOP_K,
            also=(f"top_{TOP_K}_acc", f"acc@{TOP_K}"),
        ),
        Metric(
            name="r2", title="R²", formula=_each_column(weighted.explained), per_class=True, chance=0.0, selects=True,
            interval="explained", applies=_measured, hub="r_squared",
            also=("R2", "R^2", "r_squared", "r2_score", "coefficient of determination", "explained variance"),
        ),
        Metric(
            name="mae", title="mean absolute error", formula=_each_column(_absolute_error), per_class=True,
            higher_is_better=False, guess=_guessed_value, selects=True, interval="error", applies=_measured, hub="mae",
            also=("mean_absolute_error", "l1"),
        ),
        Metric(
            name="rmse", title="root mean squared error", formula=_each_column(_root_mean_square), per_class=True,
            higher_is_better=False, guess=_deviation, selects=True, interval="error", applies=_measured, hub="rmse",
            also=("root_mean_squared_error", "root mean square error", "rms_error"),
        ),
        Metric(
            name="pearson", title="Pearson correlation", formula=_each_column(weighted.correlation), per_class=True,
            chance=0.0, interval="correlation", applies=_measured, hub="pearsonr",
            also=("pearson_r", "pearsonr", "correlation", "pearson's r"),
        ),
        Metric(
            name="spearman", title="Spearman correlation", formula=_each_column(weighted.rank_correlation),
            per_class=True, chance=0.0, selects=True, interval="correlation", applies=_measured, hub="spearmanr",
            also=("spearman_r", "spearmanr", "spearman_rho", "rank correlation", "spearman's rho"),
        ),
        Metric(
            name="harrell_c", title="Harrell's C", formula=_harrell, chance=0.5, selects=True, interval="pairs",
            applies=_timed,
            also=("c_index", "concordance_index", "concordance", "harrell", "cindex", "Harrell's concordance index"),
        ),
        Metric(
            name="uno_c", title="Uno's C", formula=_uno, chance=0.5, selects=True, interval="pairs", applies=_timed,
            also=("uno", "c_index_ipcw", "concordance_index_ipcw", "Uno's concordance index"),
        ),
        Metric(
            name="dynamic_auc", title="time-dependent AUC", formula=_dynamic_auc, per_class=True, chance=0.5,
            board=True, interval="pairs", applies=_timed,
            also=("td_auc", "time_dependent_auc", "cumulative_dynamic_auc"),
        ),
        Metric(
            name="integrated_brier", title="integrated Brier score", formula=_integrated_brier, higher_is_better=False,
            guess=_guessed_curve, board=True, closed_form=False, interval="error", applies=_timed,
            also=("ibs", "integrated_brier_score"),
        ),
    )
}  # fmt: skip
"""The metrics by name, in the order in which tables show them. Everything else that is said of metrics, anywhere, is
derived from this table."""

SELECTABLE = tuple(metric.name for metric in METRICS.values() if metric.selects)
"""What subsets may be chosen by, and what runs are compared by."""

if TYPE_CHECKING:
    MetricName = str
else:
    MetricName = Literal[SELECTABLE]  # a fixed choice for whatever reads annotations: options files, the command line

DEFAULT_METRIC = SELECTABLE[0]
"""What subsets are chosen by unless told otherwise, where there are classes."""


def default_metric(target: Target) -> str:
    """Return what subsets are chosen by unless told otherwise: the first of the table that exists for the target."""
    return next(name for name in SELECTABLE if METRICS[name].applies(target))


def board_metrics(target: Target, *, closed_form: bool = False) -> tuple[str, ...]:
    """Return the columns of a leaderboard of a target: of refitted subsets, or of a closed-form screen."""
    return tuple(
        metric.name
        for metric in METRICS.values()
        if (metric.board or metric.selects) and (metric.closed_form or not closed_form) and metric.applies(target)
    )


_ANY = Target.numbered(Task.BINARY, 2)

BOARD_METRICS = board_metrics(_ANY)
"""Columns of every leaderboard of refitted subsets, whatever is predicted."""

SCREEN_METRICS = board_metrics(_ANY, closed_form=True)
"""Columns of every leaderboard of a closed-form screen, whatever is predicted."""

INTERVAL_METRICS = tuple(metric.name for metric in METRICS.values() if metric.interval)
"""Metrics of test scores that get intervals, where they exist."""

AUROC, ACCURACY = METRICS["auroc"], METRICS["accuracy"]
"""The two that are also computed, or spoken of, outside this table."""


NAMES = {
    squashed(name): metric.name for metric in METRICS.values() for name in (*metric.also, metric.title, metric.name)
}
"""Every name that a metric goes by, without marks, and that of its row."""


def get_metric(name: str) -> Metric:
    """Return a metric by its name here, or by one that the field has for it: ``auc`` and ``ROC-AUC`` are ``auroc``.

    Raises
    ------
    UndefinedMetricError
        If there is no such metric.
    """
    found = METRICS.get(name) or METRICS.get(NAMES.get(squashed(name), ""))
    if found is None:
        hint = did_you_mean(name, {metric.name: metric.also for metric in METRICS.values()})
        raise UndefinedMetricError(f"There is no metric {name!r}.", remedy=f"{hint}Choose one of {', '.join(METRICS)}.")
    return found


def selectable(name: str) -> str:
    """Return the name here of a metric that subsets may be chosen by.

    Raises
    ------
    SearchError
        If there is no such metric, or it is only reported.
    """
    found = NAMES.get(squashed(str(name)))
    if found in SELECTABLE:
        return found
    raise SearchError(
        f"There is no metric {name!r}." if found is None else f"{name}: subsets are not chosen by it; it is reported.",
        remedy=did_you_mean(str(name), {each: METRICS[each].also for each in SELECTABLE})
        + f"Give {' or '.join(option('metric', each) for each in SELECTABLE)}.",
    )


def check_selectable(name: str, target: Target) -> None:
    """Refuse to choose by a metric that does not exist for a target.

    Raises
    ------
    SearchError
        Naming those that do.
    """
    if not METRICS[name].applies(target):
        others = [each for each in SELECTABLE if METRICS[each].applies(target)]
        for_grades = target.exclusive and METRICS[name].applies(Target(Task.ORDINAL, target.classes))
        raise SearchError(
            f"There is no {METRICS[name].title} of {target.text}{': it is for ordered grades' if for_grades else ''}.",
            remedy=f"Give {' or '.join(option('metric', each) for each in others)}"
            + (f"; or, where the classes are grades, {option('task', str(Task.ORDINAL))}." if for_grades else "."),
        )


@dataclass(frozen=True, kw_only=True)
class Metrics(Mapping[str, float]):
    """A read-only mapping from metric name to value.

    Attributes
    ----------
    values_by_name : mapping of str to float
        NaN where a metric is undefined.
    undefined : mapping of str to str
        Why, for every metric that is NaN.
    partial : mapping of str to str
        Why some classes or labels take no part, for every metric that is a mean over the others.
    per_class : mapping of str to mapping of str to float
        Class or label name to its one-versus-rest ``auroc``, ``average_precision`` and ``f1`` and its number of rows
        ``n``. The ranking metrics of a binary task belong to the second class alone. Of values every column, of times
        every horizon with the number of events by then.
    n : int
        Number of rows scored.
    """

    values_by_name: Mapping[str, float]
    undefined: Mapping[str, str] = field(default_factory=dict)
    partial: Mapping[str, str] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    n: int = 0

    def __getitem__(self, metric: str) -> float:
        return self.values_by_name[metric if metric in self.values_by_name else NAMES.get(squashed(metric), metric)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_by_name)

    def __len__(self) -> int:
        return len(self.values_by_name)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in self.items())
        return f"Metrics({shown}; {self.n} samples)"

    def remarks(self) -> list[str]:
        """Say which metrics are undefined, and which are means over some of the classes, and why."""
        said = [f"{get_metric(name).title} is undefined: {reason}." for name, reason in self.undefined.items()]
        for reason in dict.fromkeys(self.partial.values()):
            titles = [get_metric(name).title for name, why in self.partial.items() if why == reason]
            several = "are means" if len(titles) > 1 else "is a mean"
            said.append(f"{', '.join(titles)} {several} over the classes that can be scored: {reason}.")
        return said

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        """Return what :meth:`to_json` gave."""
        return cls(
            values_by_name={name: _number(value) for name, value in found["metrics"].items()},
            undefined=found["undefined"],
            partial=found.get("partial", {}),
            per_class={
                c: {name: _number(value) for name, value in row.items()} for c, row in found["per_class"].items()
            },
            n=found["n"],
        )

    def to_json(self) -> dict[str, object]:
        """Return plain JSON values; an undefined metric is null."""
        return {
            "n": self.n,
            "metrics": {name: None if np.isnan(value) else value for name, value in self.items()},
            "undefined": dict(self.undefined),
            "partial": dict(self.partial),
            "per_class": {
                name: {metric: None if np.isnan(value) else value for metric, value in row.items()}
                for name, row in self.per_class.items()
            },
        }


def score(
    task: Task | Target,
    labels: ArrayLike,
    probabilities: ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    decision: ArrayLike | None = None,
) -> Metrics:
    """Score predictions.

    ``auroc`` and ``accuracy`` follow ``medmnist.Evaluator``: one-versus-rest AUROC averaged over classes (second
    class of a binary task, average over labels of a multi-label one); accuracy by the most probable class, at a
    probability above 0.5 for binary tasks, averaged over labels for multi-label ones. ``average_precision`` averages
    likewise, ``f1`` is the plain mean over classes or labels, ``balanced_accuracy`` the mean recall (mean of
    sensitivity and specificity per label), ``mcc`` and ``log_loss`` are averaged over labels; ``quadratic_kappa`` is
    there for ordinal tasks and ``top_5`` beyond five classes. Means over classes or labels leave out those that these
    rows cannot score, such as a class without a sample, and ``partial`` names them. Labels of which nothing is known
    take no part, each label by itself.

    Metrics of several columns of values are means over the columns. Of times to an event ``harrell_c`` counts all pairs
    of which is known who had it first, ``uno_c`` those before the last horizon, weighted for the censoring;
    ``dynamic_auc`` is a mean over the horizons, ``integrated_brier`` one over the time between them. They equal
    scikit-survival's, with the censoring of the rows that are scored.

    Parameters
    ----------
    task : Task or Target
        What the labels are; of times to an event a target, or the names of horizons as ``classes``.
    labels : array-like
        Shape (n,) class indices or values; (n, n_labels) zeros and ones, -1 where nothing is known; (n, k) values;
        (n, 2) times and events.
    probabilities : array-like of float
        Shape (n, n_columns); for binary tasks also (n,), the probability of the second class; predicted values.
    classes : sequence of str, optional
        Names of the columns; their numbers by default.
    metrics : sequence of str, optional
        Which metrics to compute; by default all that exist for the task.
    decision : array-like of float, optional
        Shape (n, n_classes): what ``auroc`` and ``average_precision`` rank by instead of the probabilities.

    Raises
    ------
    AlignmentError
        If shapes or class indices do not belong together.
    UndefinedMetricError
        If a prediction is not a finite number, or a metric name is unknown or not of this task.
    """
    data = prepare(task, labels, probabilities, classes=classes, decision=decision)
    wanted = applicable(data.target) if metrics is None else tuple(metrics)
    values: dict[str, float] = {}
    undefined: dict[str, str] = {}
    partial: dict[str, str] = {}
    columns: dict[str, np.ndarray] = {}
    ones = np.ones((data.n, 1))
    for metric in map(get_metric, wanted):
        name = metric.name
        if not metric.applies(data.target):
            raise UndefinedMetricError(
                f"There is no {metric.title} for a {data.target.kind} task with {len(data.classes)} {data.target.noun}."
            )
        quick = name == "auroc" and data.known.all()
        columns[name] = _auroc_by_class(data) if quick else metric.formula(data, ones)[:, 0]
        values[name] = float(columns[name][averaged(data, columns[name])].mean())
        if np.isnan(columns[name]).any():
            (undefined if np.isnan(values[name]) else partial)[name] = _reason(data, name, columns[name])
    return Metrics(
        values_by_name=values, undefined=undefined, partial=partial, per_class=_table(data, columns), n=data.n
    )


def applicable(target: Target) -> tuple[str, ...]:
    """Return the names of the metrics that exist for a target, in table order."""
    return tuple(name for name, metric in METRICS.items() if metric.applies(target))


def _auroc_by_class(data: ScoredRows) -> np.ndarray:
    columns = list(data.target.ranked_columns)
    return auroc_columns(data.targets[:, columns], data.ranked_by[:, columns])


def _table(data: ScoredRows, columns: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    counts = np.full(len(data.classes), data.n) if data.target.measured else _occurring(data)
    table: dict[str, dict[str, float]] = {
        name: {"n": float(count)} for name, count in zip(data.classes, counts, strict=True)
    }
    ranked = data.target.ranked_columns
    for metric, values in columns.items():
        if METRICS[metric].per_class:
            of = ranked if len(values) == len(ranked) else range(len(data.classes))
            for column, value in zip(of, values, strict=True):
                table[data.classes[column]][metric] = float(value)
    return table


def _occurring(data: ScoredRows) -> NDArray[np.int64]:
    """Return how many samples are of each class, or had the event by each horizon."""
    there = data.observed.happened() if data.target.timed else data.targets
    return np.asarray(there.sum(axis=0), dtype=np.int64)


def _reason(data: ScoredRows, metric: str, columns: np.ndarray) -> str:
    if not data.n:
        return "there are no samples"
    if not data.target.categorical:
        lost = [name for name, value in zip(data.classes, columns, strict=False) if np.isnan(value)]
        return _why_untimed(data, metric) if data.target.timed else f"all values of {_some(lost)} are alike"
    if metric == "log_loss" and not is_probability(data):
        return "the predictions are not probabilities"
    counts = data.targets.sum(axis=0)
    absent = [name for name, count in zip(data.classes, counts, strict=True) if not count]
    every = data.known.sum(axis=0)
    full = [name for name, count, rows in zip(data.classes, counts, every, strict=True) if count == rows]
    if metric == "f1":
        lost = [name for name, value in zip(data.classes, columns, strict=True) if np.isnan(value)]
        return f"neither present nor predicted: {_some(lost)}"
    if absent and not (full and metric in {"mcc", "quadratic_kappa"}):
        return f"no sample of {_some(absent)}"
    return f"every sample is {_some(full)}"


def _why_untimed(data: ScoredRows, metric: str) -> str:
    if METRICS[metric].guess is not None:
        return "the predictions are not probabilities"
    happened, beyond = data.observed.happened(), data.observed.beyond()
    for what, there in (("no event is seen", happened), ("nobody without an event is seen", beyond)):
        lost = [name for name, seen in zip(data.classes, there.T, strict=True) if not seen.any()]
        if lost and METRICS[metric].per_class:
            return f"{what} {_some(lost)}"
    return "of no two samples is known who had the event first"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
