"""Scores of fitted models on test data: loaded in their terms, compared, and told apart from development data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import DataError, UndefinedMetricError, option
from biofuse.core.hashing import Contents, to_hex
from biofuse.core.progress import Progress
from biofuse.core.target import Labels, Target
from biofuse.data.config import DataConfig
from biofuse.data.labels import counted, is_number, listing, match_names
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.encoders.plugins import naming_plugins
from biofuse.evaluation.calibration import CalibrationTest, measure_calibration
from biofuse.evaluation.conformal import TESTED, SetsTest, measure_sets
from biofuse.evaluation.intervals import Comparison, Interval, compare_with, distinct, named_together, score_intervals
from biofuse.evaluation.metrics import METRICS, Metrics, default_metric, score
from biofuse.evaluation.novelty import Unusual
from biofuse.evaluation.operating import DEFAULT_SENSITIVITY, Operating, check_stated, measure_operating
from biofuse.evaluation.risks import GROUPS as RISKS
from biofuse.evaluation.risks import RisksTest, measure_risks
from biofuse.evaluation.rows import prepare
from biofuse.evaluation.subgroups import Breakdown, break_down
from biofuse.evaluation.values import COVERAGES, ValuesTest, measure_values
from biofuse.extract.embeddings import EmbeddingSet, Quarantined
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.model.model import BioFuseModel
from biofuse.model.tables import NOVELTY
from biofuse.search.rules import CHOSEN
from biofuse.store.exchange import image_column, label_names
from biofuse.store.store import EmbeddingStore

if TYPE_CHECKING:
    import pandas as pd


TRUE, LOW, HIGH = "true_", "low_", "high_"
"""What columns of predictions begin with before the name of a column of values: true ones, ends of the interval."""

UNKNOWN = "unknown"
"""The column of predictions that names the labels of which nothing is known, where there are any."""

FACTS = ("id", "label", "content")
"""Columns of a table of predictions that no model has a part in."""


def load_test(
    data: Any,
    model: BioFuseModel,
    *,
    split: str = "test",
    labels: Any = None,
    config: DataConfig | None = None,
    like: DataConfig | None = None,
) -> Samples:
    """Load test data as the model needs them: its task, its way of decoding, and its labels where there are several.

    Classes that exclude each other keep the names that the data give them; :func:`align_classes` finds them among the
    model's.

    Parameters
    ----------
    data : anything :func:`biofuse.load_samples` takes
        Of data with several splits, only ``split`` is returned; data with one split or none are returned whole.
    model : BioFuseModel
    split : {"test", "val", "train"}
    labels, config, like
        As for :func:`biofuse.load_samples`.

    Raises
    ------
    DataError
        If the data have several splits and none of them is the one asked for.
    """
    if isinstance(data, Samples):
        samples = load_samples(data, labels=labels, config=config).decoded_by(model.decode)
    else:
        known: dict[str, Any] = {"classes": model.classes} if model.task.several or model.task.timed else {}
        try:
            samples = load_samples(
                data, labels=labels, config=config, like=like, task=model.task, decode=model.decode, strict=False,
                **known,
            )  # fmt: skip
        except DataError as error:
            raise type(error)(_as_column(error.message), remedy=_as_column(error.remedy)) from error
        notes, warnings = (tuple(map(_as_column, said)) for said in (samples.notes, samples.warnings))
        samples = replace(samples, notes=notes, warnings=warnings)
    given = set() if samples.splits is None else set(samples.splits.tolist())
    if split in given:
        return samples.in_split(split)
    if len(given) > 1:
        raise DataError(
            f"{samples.name} has no {split} samples, only {', '.join(sorted(given))}.",
            remedy=f"Choose one: {option('split')}; or give the samples to be scored alone.",
        )
    return samples


def _as_column(said: str) -> str:
    """Name the column of splits as an evaluation does, where ``split`` says which split to score."""
    return said.replace("`split=", "`split_column=")


def align_classes(samples: Samples, model: BioFuseModel) -> tuple[Samples, tuple[str, ...]]:
    """Express labels in the model's own table of classes, and have images decoded as at fitting.

    Classes are found by name; numbers as numbers, so that 1 and 1.0 are the same, and never as positions.

    Returns
    -------
    samples : Samples
        Those whose class the model knows.
    notes : tuple of str
        How classes were matched, and how many samples are left out.

    Raises
    ------
    DataError
        If there are no labels, the model knows none of them, or two readings of their numbers are possible.
    """
    if samples.labels is None or samples.task is None:
        raise DataError(
            f"{samples.name} has no labels, so there is nothing to evaluate against.",
            remedy=f"Name the label column: {option('label')}; or use `biofuse predict`.",
        )
    numbers = not (model.target.categorical and samples.task.categorical)
    if model.task.several != samples.task.several or (numbers and model.task is not samples.task):
        has = Target(samples.task, samples.classes).text
        raise DataError(f"{samples.name} has {has}, but the model was fitted for {model.target.text}.")
    if numbers:
        return _align_numbers(samples, model), ()
    counts = Target(samples.task, samples.classes).counts(samples.labels)
    present = {name: count for name, count in counts.items() if count or samples.task.several}
    found = match_names(present, model.classes)
    notes = [f"{name} is read as the model's {match}." for name, match in found.items() if name != match]
    unknown = {name: count for name, count in present.items() if name not in found}
    _refuse_misread(samples, model, found, unknown)
    if samples.task.several:
        labels = np.zeros((len(samples), len(model.classes)), dtype=np.int64)
        for name, match in found.items():
            at, column = model.classes.index(match), samples.labels[:, samples.classes.index(name)]
            labels[:, at] = column if name == match else np.maximum(labels[:, at], column)
        if any(unknown.values()):
            notes.append(f"The model does not know the label(s) {counted(unknown.items())}; they are not scored.")
    else:
        kept = ~np.isin(samples.labels, [samples.classes.index(name) for name in unknown])
        if unknown:
            notes.append(
                f"{sum(unknown.values())} of {len(samples)} samples are left out, of classes that the model does not "
                f"know: {counted(unknown.items(), limit=20)}."
            )
        samples = samples.take(kept)
        place = {samples.classes.index(name): model.classes.index(match) for name, match in found.items()}
        labels = np.array([place[label] for label in (samples.labels if samples.labels is not None else ())], np.int64)
    aligned = replace(samples, labels=labels, classes=model.classes, task=model.task)
    return aligned, tuple(notes)


def _align_numbers(samples: Samples, model: BioFuseModel) -> Samples:
    """Put columns of values in the model's order; times to an event have none.

    Raises
    ------
    DataError
        If a column of several is missing; a single one may be called anything.
    """
    classes, labels = samples.classes, samples.labels
    if model.target.measured and labels is not None:
        classes = model.classes if len(classes) == len(model.classes) == 1 else classes
        absent = [name for name in model.classes if name not in classes]
        if absent:
            raise DataError(
                f"{samples.name} has no column {listing(absent)}, which the model predicts.",
                remedy=f"Name the columns: {option('label', ','.join(model.classes))}.",
            )
        columns = model.target.columns(labels)[:, [classes.index(name) for name in model.classes]]
        aligned: Any = columns.reshape(model.target.shape(len(samples)))
        return replace(samples, labels=aligned, classes=model.classes, task=model.task)
    return replace(samples, labels=labels, classes=model.classes, task=model.task)


def _refuse_misread(
    samples: Samples, model: BioFuseModel, found: Mapping[str, str], unknown: Mapping[str, int]
) -> None:
    """Refuse labels of which the model knows none, numbers of which it knows only some, and labels it lacks."""
    known = f"The model's are {listing(model.classes, limit=20)}."
    if not found:
        numbered = all(name.isdecimal() and int(name) < len(model.classes) for name in unknown)
        raise DataError(
            f"{samples.name} has no class that the model knows, but {counted(unknown.items())}. {known}",
            remedy=f"Give {option('classes')} with the names that 0, 1, ... stand for, in that order."
            if numbered
            else "Write the labels as the model's classes.",
        )
    absent = [name for name in model.classes if name not in found.values()]
    if model.task.several and absent:
        raise DataError(
            f"{samples.name} does not say whether it has {listing(absent)}. {known}",
            remedy="Add these labels, as 0 where they are absent.",
        )
    strange = [(name, count) for name, count in unknown.items() if is_number(name)]
    if strange and not model.task.several and all(map(is_number, model.classes)):
        raise DataError(
            f"{samples.name} has numbers that are no class of the model: {counted(strange)}. {known} They are not "
            "taken for positions.",
            remedy="Correct the labels if they count from another number. To leave these samples out, give "
            f"{option('classes', list(model.classes))}.",
        )


@dataclass(frozen=True, kw_only=True)
class ModelScores:
    """One model on test data.

    Attributes
    ----------
    encoders : tuple of str
    metrics : Metrics
    intervals : dict of str to Interval
        For the metrics that get one (:data:`biofuse.evaluation.metrics.INTERVAL_METRICS`).
    same : tuple of str
        Other names of this model: what is chosen may also be all encoders, and the end of the greedy path.
    """

    encoders: tuple[str, ...]
    metrics: Metrics
    intervals: dict[str, Interval]
    same: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Leak:
    """Test samples whose image, byte for byte, is also among the development data.

    Attributes
    ----------
    samples : int
        How many test samples.
    per_class : dict of str to int
        The same by class; empty for multi-label tasks.
    groups : int
        Number of groups (patients, slides) that are also among the development data.
    without : dict of str to Metrics
        Scores of each model on the remaining test samples; empty where none leaks, or none remains.
    """

    samples: int
    per_class: dict[str, int]
    groups: int
    without: dict[str, Metrics]


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """Scores of the chosen model and of its companions on test data.

    Attributes
    ----------
    n : int
        Test samples scored.
    models : dict of str to ModelScores
        ``chosen`` first.
    comparisons : dict of str to Comparison
        Chosen against each companion that is another model, on one primary metric, Holm-corrected.
    leak : Leak
    notes : tuple of str
        What looked unintended when the data were read, how classes were matched, and what is left out.
    positive : str or None
        Of two classes the one that is looked for, which AUROC and average precision are about.
    predictions : DataFrame
        A row per sample: id, label, prediction, group where there are groups, whether it is also development data,
        its content hash, its value of every column that scores are broken down by (``by_<column>``), a probability per
        class (``p_<class>``), and how unlike the development data it is (``novelty``), where the model knows. Of values
        the true and the predicted one of every column (``true_<column>``, ``p_<column>``) and the ends of its
        prediction interval (``low_<column>``, ``high_<column>``); of times to an event ``time``, ``event``, the risk by
        each horizon, and the risk group.
    quarantined : tuple of Quarantined
    singles : dict of str to Metrics
        Every encoder of the pool by itself; for a ranking of encoders, outside the corrected comparisons.
    calibration : CalibrationTest or None
        How good the chosen model's probabilities are, before and after calibration.
    sets : tuple of SetsTest
        What its prediction sets hold, at several coverages; empty where it knows none.
    operating : Operating or None
        What the chosen model finds and misses at thresholds, and gets right of what it is surest of; None in
        evaluations of earlier versions.
    values : ValuesTest or None
        Of values: what prediction intervals hold, and how far predictions are off.
    risks : RisksTest or None
        Of times to an event: what became of the risk groups, and whether risks are right.
    subgroups : tuple of Breakdown
        Scores of the chosen model for every value of the columns that were asked for.
    novelty : Unusual or None
        How many samples are unlike the development data; None where the chosen model does not know.
    data : str or None
        Where the test data came from; None for data in memory.
    split : str
        Which split of them was scored.
    embeddings : EmbeddingSet or None
        Of the samples scored, under all encoders that took part; None where the evaluation was read from a run.
    folder, report : Path or None
        Where it was written, and the report that was written after it; None where there is none.

    Examples
    --------
    >>> import biofuse
    >>> result = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", progress=False)
    >>> evaluation = result.evaluate(progress=False)
    >>> evaluation.predictions.columns.tolist()
    ['id', 'label', 'prediction', 'in_development', 'content', 'p_benign', 'p_malignant', 'novelty']
    """

    n: int
    models: dict[str, ModelScores]
    comparisons: dict[str, Comparison]
    leak: Leak
    predictions: "pd.DataFrame"
    quarantined: tuple[Quarantined, ...]
    singles: dict[str, Metrics] = field(default_factory=dict)
    calibration: CalibrationTest | None = None
    sets: tuple[SetsTest, ...] = ()
    operating: Operating | None = None
    values: ValuesTest | None = None
    risks: RisksTest | None = None
    subgroups: tuple[Breakdown, ...] = ()
    novelty: Unusual | None = None
    notes: tuple[str, ...] = ()
    positive: str | None = None
    data: str | None = None
    split: str = "test"
    embeddings: EmbeddingSet | None = field(default=None, repr=False)
    folder: Path | None = field(default=None, repr=False)
    report: Path | None = field(default=None, repr=False)

    def __getitem__(self, metric: str) -> float:
        """Return the chosen model's value of a metric."""
        return self.models[CHOSEN].metrics[metric]

    @property
    def distinct_models(self) -> dict[tuple[str, ...], ModelScores]:
        """Every model once, by all its names."""
        together = named_together({name: scores.same for name, scores in self.models.items()})
        return {names: self.models[name] for name, names in together.items()}

    def is_of_the_samples_of(self, other: "Evaluation") -> bool:
        """Tell whether another evaluation scored the same images with the same labels, from the same place."""
        if (self.data, self.split) != (other.data, other.split):
            return False
        mine, theirs = (
            sorted(zip(*(frame[column].astype(str) for column in FACTS), strict=True))
            for frame in (self.predictions, other.predictions)
        )
        return mine == theirs

    def to_json(self) -> dict[str, Any]:
        """Return everything but the rows of predictions and quarantined images as JSON values."""
        sentences = {
            name: str(comparison)
            for comparison in distinct(self.comparisons)
            for name in (comparison.second, *comparison.same)
        }
        return {
            "data": self.data,
            "split": self.split,
            "n": self.n,
            "notes": list(self.notes),
            "positive": self.positive,
            "models": {
                name: {
                    "encoders": list(scores.encoders),
                    "same": list(scores.same),
                    **scores.metrics.to_json(),
                    "intervals": {
                        metric: interval.model_dump(mode="json") for metric, interval in scores.intervals.items()
                    },
                }
                for name, scores in self.models.items()
            },
            "singles": {name: {"encoders": [name], **metrics.to_json()} for name, metrics in self.singles.items()},
            "comparisons": {
                name: comparison.model_dump(mode="json") | {"sentence": sentences[name]}
                for name, comparison in self.comparisons.items()
            },
            "calibration": None if self.calibration is None else self.calibration.model_dump(mode="json"),
            "sets": [each.model_dump(mode="json") for each in self.sets],
            "operating": None
            if self.operating is None
            else self.operating.model_dump(mode="json") | {"sentences": list(self.operating.sentences())},
            "values": None
            if self.values is None
            else self.values.model_dump(mode="json") | {"sentences": list(self.values.sentences())},
            "risks": None
            if self.risks is None
            else self.risks.model_dump(mode="json") | {"sentences": list(self.risks.sentences())},
            "subgroups": [each.model_dump(mode="json") | {"sentence": str(each)} for each in self.subgroups],
            "novelty": None if self.novelty is None else self.novelty.model_dump(mode="json"),
            "leak": {
                "samples": self.leak.samples,
                "per_class": self.leak.per_class,
                "groups": self.leak.groups,
                "without": {name: metrics.to_json() for name, metrics in self.leak.without.items()},
            },
            "quarantined": len(self.quarantined),
        }

    @classmethod
    def from_json(
        cls, found: Mapping[str, Any], predictions: "pd.DataFrame", quarantined: Sequence[Quarantined] = ()
    ) -> Self:
        """Return what :meth:`to_json` gave, with the rows that it leaves out.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing or of another kind.
        """
        leak, novelty = found["leak"], found.get("novelty")
        operating, values, risks = (_unsaid(found.get(name)) for name in ("operating", "values", "risks"))
        calibration = found.get("calibration")
        return cls(
            n=found["n"],
            notes=tuple(found.get("notes", ())),
            positive=found.get("positive"),
            models={
                name: ModelScores(
                    encoders=tuple(each["encoders"]),
                    metrics=Metrics.from_json(each),
                    intervals={metric: Interval(**interval) for metric, interval in each["intervals"].items()},
                    same=tuple(each.get("same", ())),
                )
                for name, each in found["models"].items()
            },
            comparisons={
                name: Comparison(**{key: value for key, value in each.items() if key != "sentence"})
                for name, each in found["comparisons"].items()
            },
            leak=Leak(**{**leak, "without": {name: Metrics.from_json(each) for name, each in leak["without"].items()}}),
            predictions=predictions,
            quarantined=tuple(quarantined),
            singles={name: Metrics.from_json(each) for name, each in found["singles"].items()},
            calibration=None if calibration is None else CalibrationTest.model_validate(calibration),
            sets=tuple(map(SetsTest.model_validate, found.get("sets", ()))),
            operating=None if operating is None else Operating.model_validate(operating),
            values=None if values is None else ValuesTest.model_validate(values),
            risks=None if risks is None else RisksTest.model_validate(risks),
            subgroups=tuple(
                Breakdown(**{key: value for key, value in each.items() if key != "sentence"})
                for each in found.get("subgroups", ())
            ),
            novelty=None if novelty is None else Unusual.model_validate(novelty),
            data=found["data"],
            split=found["split"],
        )

    def to_frame(self) -> "pd.DataFrame":
        """Return a row per model with its encoders, metrics, and the ends of their intervals."""
        import pandas as pd

        rows = []
        for name, scores in self.models.items():
            row: dict[str, Any] = {"model": name, "encoders": "+".join(scores.encoders), **scores.metrics}
            for metric, interval in scores.intervals.items():
                row |= {f"{metric}_low": interval.low, f"{metric}_high": interval.high}
            rows.append(row)
        return pd.DataFrame(rows)

    def sentences(self) -> list[str]:
        """Say in words how the chosen model compares, and whether test and development data overlap."""
        said = [*self.notes, *map(str, distinct(self.comparisons))]
        said += [] if self.calibration is None else [str(self.calibration)]
        said += [str(each) for each in self.sets if (each.asked, each.class_conditional) == TESTED[0]]
        for part in (self.operating, self.values, self.risks):
            said += () if part is None else part.sentences()
        said += map(str, self.subgroups)
        if self.novelty is not None and self.novelty.surprising:
            said.append(str(self.novelty))
        if self.leak.samples:
            said.append(
                f"{self.leak.samples} of {self.n} test samples are also development data, byte for byte"
                f"{_per_class(self.leak.per_class)}; scores without them stand beside those with them."
            )
        if self.leak.groups:
            said.append(
                f"{self.leak.groups} groups are in both development and test data: these scores are optimistic."
            )
        return said

    def __repr__(self) -> str:
        chosen = self.models[CHOSEN].metrics
        shown = ", ".join(f"{metric} {value:.4f}" for metric, value in chosen.items())
        return f"<Evaluation on {self.n} samples: {shown}>"

    def _repr_html_(self) -> str:
        import pandas as pd

        def cell(scores: ModelScores, metric: str) -> str:
            value, interval = scores.metrics.get(metric, float("nan")), scores.intervals.get(metric)
            ends = (
                "" if interval is None or np.isnan(interval.low) else f" ({interval.low:.3f}\u2013{interval.high:.3f})"
            )
            return f"{value:.4f}{ends}"

        names = self.models[CHOSEN].metrics
        rows = [
            {"model": " = ".join(called), "encoders": " + ".join(scores.encoders)}
            | {METRICS[metric].title: cell(scores, metric) for metric in names}
            for called, scores in self.distinct_models.items()
        ]
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in self.sentences())
        with pd.option_context("display.max_colwidth", None):
            table = pd.DataFrame(rows).to_html(index=False, border=0)
        return (
            f"<p><b>{self.n:,} {self.split} samples</b>, 95 % intervals in parentheses</p>{table}"
            f"<details><summary>In words</summary>{said}</details>"
        )


def _unsaid(found: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return a part as it was written, without the sentences about it."""
    return None if found is None else {name: value for name, value in found.items() if name != "sentences"}


def evaluate_models(
    models: Mapping[str, BioFuseModel],
    test: Samples,
    *,
    singles: Mapping[str, BioFuseModel] | None = None,
    known_contents: Contents,
    known_groups: frozenset[str] = frozenset(),
    store: EmbeddingStore,
    options: ExtractOptions | None = None,
    progress: Progress | bool = True,
    metric: str | None = None,
    sensitivity: float = DEFAULT_SENSITIVITY,
    prevalence: float | None = None,
) -> Evaluation:
    """Score models on test data, beside one another.

    Parameters
    ----------
    models : mapping of str to BioFuseModel
        ``chosen`` and what it is compared with; all of one task.
    test : Samples
        Labelled; samples of classes that the models do not know are left out.
    singles : mapping of str to BioFuseModel, optional
        Models of single encoders, by encoder, that are scored too.
    known_contents : ndarray of S16
        Content hashes of the development data.
    known_groups : frozenset of str
        Groups of the development data.
    store : EmbeddingStore
    options : ExtractOptions, optional
    progress : Progress or bool, default True
    metric : str, optional
        What the models are compared on; by default what subsets of such a target are chosen by.
    sensitivity : float, default 0.95
        What thresholds are chosen for, on the chosen model's out-of-fold predictions.
    prevalence : float, optional
        What predictive values are given at; by default that of the test samples.

    Raises
    ------
    DataError
        If the test data are unlabelled, or have no class that the models know.
    UndefinedMetricError
        If the sensitivity or prevalence is no share, or is given where there are no classes.
    """
    check_stated(sensitivity=sensitivity, prevalence=prevalence)
    chosen = models[CHOSEN]
    stated = {"sensitivity": None if sensitivity == DEFAULT_SENSITIVITY else sensitivity, "prevalence": prevalence}
    for name, value in stated.items():
        if value is not None and not chosen.target.categorical:
            raise UndefinedMetricError(
                f"{option(name, value)} is about classes, and this model predicts {chosen.target.text}.",
                remedy=f"Leave {option(name)} out.",
            )
    metric = metric or default_metric(chosen.target)
    samples, notes = align_classes(test, chosen)
    singles = singles or {}
    cards = {card.name: card for model in (*models.values(), *singles.values()) for card in model.cards}
    # Each encoder at the precision that the models were fitted at.
    precisions = {
        card.name: model.precisions.get(card.name, "fp32")
        for model in (*models.values(), *singles.values())
        for card in model.cards
    }
    options = (options or ExtractOptions()).but(precisions=precisions, pooling=chosen.pooling)
    with naming_plugins(models[CHOSEN].plugins):
        embeddings = extract(samples, tuple(cards.values()), store=store, options=options, progress=progress)
    samples = embeddings.samples
    if not len(samples):
        raise DataError(f"No image of {test.name} could be read.", remedy="See the quarantine list for the reasons.")
    said = {name: _Said.by(model, embeddings.blocks) for name, model in models.items()}
    labels, groups = _labels(samples), samples.groups
    leaking = np.zeros(len(samples), dtype=bool)
    leaking[samples.owners[np.isin(embeddings.image_contents, known_contents)]] = True
    scores = {
        name: ModelScores(
            encoders=model.encoders,
            metrics=said[name].score(chosen.target, labels),
            intervals=score_intervals(chosen.target, labels, said[name].probabilities, ids=samples.ids, groups=groups),
            same=tuple(n for n, p in said.items() if n != name and np.array_equal(p.raw, said[name].raw)),
        )
        for name, model in models.items()
    }
    predictions = _predictions(chosen, embeddings, said[CHOSEN].probabilities, leaking)
    others = {n: each.probabilities for n, each in said.items() if not np.array_equal(each.raw, said[CHOSEN].raw)}
    return Evaluation(
        n=len(samples),
        notes=tuple(
            dict.fromkeys(
                (
                    *test.warnings,
                    *notes,
                    *_never_predicted(chosen.target, labels, said[CHOSEN].probabilities),
                    *_doubt(scores[CHOSEN]),
                )
            )
        ),
        positive=Target(chosen.task, chosen.classes).positive,
        models=scores,
        comparisons=compare_with(
            chosen.target, labels, said[CHOSEN].probabilities, others,
            ids=samples.ids, groups=groups, name=CHOSEN, metric=metric,
        ),
        **_trusted(chosen, samples, said[CHOSEN], sensitivity=sensitivity, prevalence=prevalence),
        subgroups=break_down(
            chosen.target, labels, said[CHOSEN].probabilities, samples.by, ids=samples.ids, groups=groups,
            metric=metric if METRICS[metric].interval else None,
        ),
        novelty=_unusual(chosen, predictions, groups),
        leak=_leak(chosen, samples, said, leaking, known_groups),
        predictions=predictions,
        quarantined=embeddings.quarantined,
        embeddings=embeddings,
        singles={
            name: _Said.by(model, embeddings.blocks).score(chosen.target, labels) for name, model in singles.items()
        },
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class _Said:
    """What a model says of test samples: probabilities as its predictor gives them, and calibrated.

    Scores are those of the latter, which a user sees; of three or more classes a temperature may change the order.
    """

    raw: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    @classmethod
    def by(cls, model: BioFuseModel, blocks: Blocks) -> Self:
        raw = model.predictor.predict_proba(blocks)
        return cls(raw=raw, probabilities=model.trust.calibrated(model.target, raw))

    def score(self, target: Target, labels: Labels, *, rows: NDArray[np.bool_] | None = None) -> Metrics:
        chosen = slice(None) if rows is None else rows
        return score(target.kind, labels[chosen], self.probabilities[chosen], classes=target.classes)


class _Trusted(TypedDict, total=False):
    """What an evaluation says of how far to believe a model, by the kind of what it predicts."""

    calibration: CalibrationTest
    sets: tuple[SetsTest, ...]
    operating: Operating
    values: ValuesTest
    risks: RisksTest


def _trusted(
    model: BioFuseModel, samples: Samples, said: _Said, *, sensitivity: float, prevalence: float | None
) -> _Trusted:
    """Measure on test samples what the model knows of itself from development data."""
    target, labels, ids, groups = model.target, _labels(samples), samples.ids, samples.groups
    if target.measured:
        found = measure_values(target, labels, said.probabilities, known=model.trust.values, ids=ids, groups=groups)
        return {"values": found}
    if target.timed:
        risks = measure_risks(target, labels, said.probabilities, known=model.trust.risks, ids=ids, groups=groups)
        return {"risks": risks}
    return {
        "calibration": measure_calibration(
            target, labels, said.raw, said.probabilities,
            calibration=model.trust.calibration, ids=ids, groups=groups,
        ),
        "sets": _sets(model, samples, said.probabilities),
        "operating": measure_operating(
            prepare(target, labels, said.probabilities), ids=ids, groups=groups,
            thresholds=model.trust.thresholds, sensitivity=sensitivity, prevalence=prevalence,
        ),
    }  # fmt: skip


def _never_predicted(target: Target, labels: Labels, probabilities: NDArray[np.float64]) -> tuple[str, ...]:
    """Say which classes some samples have and the model predicts for none."""
    if not target.categorical:
        return ()
    predicted = target.counts(target.predict(probabilities))
    missed = [(name, n) for name, n in target.counts(labels).items() if n and not predicted[name]]
    if len(missed) == 1:
        name, n = missed[0]
        return (f"The model predicts no {name}, which {n} of {len(labels)} samples {'are' if n > 1 else 'is'}.",)
    return (f"The model predicts none of {counted(missed)}; in brackets, how many samples are.",) if missed else ()


def _sets(model: BioFuseModel, samples: Samples, probabilities: NDArray[np.float64]) -> tuple[SetsTest, ...]:
    if model.trust.conformal is None:
        return ()
    target, made = model.target, model.trust.conformal
    return tuple(
        measure_sets(
            target,
            _labels(samples),
            made.sets(target, probabilities, asked, class_conditional=each),
            probabilities,
            asked=asked,
            class_conditional=each,
            ids=samples.ids,
            groups=samples.groups,
        )
        for asked, each in TESTED
        if not (each and target.several)  # of several labels, each has its own threshold anyway
    )


def _doubt(scores: ModelScores) -> tuple[str, ...]:
    """Say that intervals cannot be trusted, where there are too few groups for that."""
    few = [interval.n_units for interval in scores.intervals.values() if not interval.trusted]
    return (f"There are only {few[0]} groups: no interval of these scores can be trusted.",) if few else ()


def _labels(samples: Samples) -> Labels:
    if samples.labels is None:
        raise DataError(f"{samples.name} has no labels.")
    return samples.labels


def _leak(
    model: BioFuseModel,
    samples: Samples,
    said: Mapping[str, "_Said"],
    leaking: NDArray[np.bool_],
    known_groups: frozenset[str],
) -> Leak:
    labels = _labels(samples)
    target = Target(model.task, model.classes)
    counts = target.counts(labels[leaking]) if target.exclusive else {}
    rest = ~leaking
    without = {}
    if leaking.any() and rest.any():
        without = {name: each.score(target, labels, rows=rest) for name, each in said.items()}
    return Leak(
        samples=int(leaking.sum()),
        per_class={name: count for name, count in counts.items() if count},
        groups=0 if samples.groups is None else len(set(samples.groups.tolist()) & known_groups),
        without=without,
    )


def _unusual(model: BioFuseModel, predictions: "pd.DataFrame", groups: NDArray[np.object_] | None) -> Unusual | None:
    """Count samples that are unlike the development data; None where the model does not know."""
    if model.trust.novelty is None:
        return None
    return Unusual.of(predictions[NOVELTY].to_numpy(), known=model.trust.novelty.n_units, groups=groups)


def _called(model: BioFuseModel, scores: NDArray[np.float64]) -> Sequence[str] | NDArray[np.object_]:
    """Return what each sample is called: its class, its value, or its risk group."""
    target = model.target
    if target.measured:
        return target.names(target.predict(scores))
    if target.timed:
        known = model.trust.risks
        return [""] * len(scores) if known is None else [RISKS[each] for each in known.group(target, scores)]
    return model.decide(scores)


def _predictions(
    model: BioFuseModel, embeddings: EmbeddingSet, probabilities: NDArray[np.float64], leaking: NDArray[np.bool_]
) -> "pd.DataFrame":
    import pandas as pd

    samples = embeddings.samples
    frame = pd.DataFrame(
        {
            "id": samples.ids,
            "label": label_names(samples),
            "prediction": _called(model, probabilities),
            "in_development": leaking,
            "content": to_hex(embeddings.contents),
            **image_column(samples),
        }
    )
    if samples.groups is not None:
        frame.insert(3, "group", samples.groups)
    for name, values in samples.by.items():
        frame[f"by_{name}"] = values
    truth = samples.labels
    if model.target.timed and truth is not None:
        frame["time"], frame["event"] = truth[:, 0], truth[:, 1].astype(np.int64)
    for column, name in enumerate(model.classes):
        if model.target.measured and truth is not None:
            frame[f"{TRUE}{name}"] = model.target.columns(truth)[:, column]
        frame[f"p_{name}"] = probabilities[:, column]
    if model.trust.values is not None:
        for what, ends in zip((LOW, HIGH), model.trust.values.ends(probabilities, COVERAGES[0]), strict=True):
            for column, name in enumerate(model.classes):
                frame[f"{what}{name}"] = ends[:, column]
    if model.target.several and truth is not None:
        unknown = ~model.target.known(truth)
        if unknown.any():
            frame[UNKNOWN] = model.target.names(unknown)
    if model.trust.novelty is not None:
        frame[NOVELTY] = model.trust.novelty.percentiles(embeddings.blocks)
    return frame


def _per_class(counts: dict[str, int]) -> str:
    return f" ({', '.join(f'{count} {name}' for name, count in counts.items())})" if counts else ""
