"""Runs side by side: single encoders over data sets, gains of each modality, what was chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError, ArtifactError
from biofuse.core.hashing import digest_json
from biofuse.evaluation.intervals import SIGNIFICANCE, Interval
from biofuse.evaluation.metrics import BOARD_METRICS, DEFAULT_METRIC, METRICS, SELECTABLE
from biofuse.model.evaluate import Evaluation
from biofuse.report.content import Cell, Table, Tone, Value
from biofuse.report.html import TablePage
from biofuse.report.input import data_title
from biofuse.runs.record import RunRecord
from biofuse.runs.run import RECORD, Run
from biofuse.search.attribution import CrossModal, Line
from biofuse.search.rules import CHOSEN, LEAN

ModalityOf = Callable[[RunRecord], str]

TITLES = {name: METRICS[name].title for name in SELECTABLE if name in BOARD_METRICS}
"""What the heat maps show."""

ABSENT = "\u2013"
"""What stands where there is nothing to show."""

GAINS = (
    "Cross-validated gain, on development data, of the best encoder of each modality by itself over the baseline by "
    "itself, with 95 % intervals; grey where, after Holm's correction, it may be chance. Where subsets were screened, "
    "the scores are those of the screen's ridge regression."
)

MARKS = ("\u00b9", "\u00b2", "\u00b3")
"""Superscripts of the first three ranks: the marks must not rest on colour alone."""

LEGEND = f"{', '.join(MARKS)}: best of its column (white), second and third (red); equal values share a mark."

TONES: tuple[Tone, ...] = ("best", "next", "next")
"""The best in white, the second and third in red, as in Figures 4 and 5 of the BioFuse paper."""


def dense_ranks(values: ArrayLike, *, digits: int) -> NDArray[np.int64]:
    """Rank each column from the highest value down; equal values share a rank, and none is left out after them.

    Parameters
    ----------
    values : array-like, shape (n_rows, n_columns)
        NaN where there is none.
    digits : int
        Values are compared as they are shown: what reads the same is the same.

    Returns
    -------
    ndarray of int64, shape (n_rows, n_columns)
        1 for the best; 0 where there is no value.
    """
    given = np.asarray(values, dtype=np.float64)
    # Through text, because rounding numbers and writing them can differ in the last place.
    texts = [f"{value:.{digits}f}" for value in given.ravel().tolist()]
    shown: NDArray[np.float64] = np.array(texts, dtype=np.float64).reshape(given.shape)
    ranks = np.zeros(shown.shape, dtype=np.int64)
    for column in range(shown.shape[1]):
        there = ~np.isnan(shown[:, column])
        distinct, place = np.unique(-shown[there, column], return_inverse=True)
        if len(distinct):
            ranks[there, column] = place + 1
    return ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoreMatrix:
    """Scores of encoders over data sets; more is better.

    Attributes
    ----------
    title : str
    rows, columns : tuple of str
        Encoders and data sets.
    values : ndarray of float64, shape (len(rows), len(columns))
        NaN where an encoder was not scored.
    digits : int
        Decimals that are shown, and compared.
    """

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: NDArray[np.float64]
    digits: int = 4

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.rows), len(self.columns)):
            raise AlignmentError(
                f"{self.title}: {self.values.shape} values for {len(self.rows)} x {len(self.columns)}."
            )

    @property
    def ranks(self) -> NDArray[np.int64]:
        """Dense ranks within each column; see :func:`dense_ranks`."""
        return dense_ranks(self.values, digits=self.digits)

    def to_table(self) -> Table:
        """Return it as a table of shaded and marked cells; the shades compare within one column."""
        rows: list[list[Value | Cell]] = [
            [name, *map(self._cell, values.tolist(), ranks.tolist(), shades.tolist())]
            for name, values, ranks, shades in zip(
                self.rows, self.values, self.ranks, _shades(self.values), strict=True
            )
        ]
        return Table.of(self.title, ("encoder", *self.columns), rows, aligned=self.columns, notes=(LEGEND,))

    def to_json(self) -> dict[str, dict[str, float | None]]:
        """Return column, row, value; null where there is none."""
        return {
            column: {
                row: None if np.isnan(value) else float(value)
                for row, value in zip(self.rows, self.values[:, place], strict=True)
            }
            for place, column in enumerate(self.columns)
        }

    def _cell(self, value: float, rank: int, shade: float) -> Cell:
        if np.isnan(value):
            return Cell(None, note="not scored")
        marked = 1 <= rank <= len(MARKS)
        return Cell(
            value=f"{value:.{self.digits}f}{MARKS[rank - 1] if marked else ''}",
            tone=TONES[rank - 1] if marked else "",
            shade=float(shade),
            note=f"rank {rank}",
        )


def _shades(values: NDArray[np.float64]) -> NDArray[np.float64]:
    there = ~np.isnan(values)
    high = values.max(axis=0, initial=-np.inf, where=there)
    low = values.min(axis=0, initial=np.inf, where=there)
    with np.errstate(invalid="ignore"):
        span = np.where(high > low, high - low, 1.0)
        return np.asarray(np.nan_to_num((values - low) / span, nan=0.0, posinf=0.0, neginf=0.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSummary:
    """One run as far as a comparison needs it.

    Attributes
    ----------
    run : Run
        A complete one.
    name : str
        What it is called in tables.
    modality : str
        What the images are, where that is known.
    """

    run: Run
    name: str
    modality: str = ""

    @classmethod
    def read(cls, path: Path, *, name: str = "", modality_of: ModalityOf | None = None) -> Self:
        """Read a finished run.

        Raises
        ------
        ArtifactError
            If there is no complete run at ``path``, or its files cannot be read.
        """
        run = Run.open(path)
        _ = run.evaluation  # what is damaged is said now
        modality = modality_of(run.record) if modality_of else ""
        return cls(run=run, name=name or path.resolve().name, modality=modality)

    @property
    def record(self) -> RunRecord:
        """What ``run.json`` holds."""
        return self.run.record

    @property
    def evaluation(self) -> Evaluation | None:
        """What the last evaluation found; None for a run that was not evaluated."""
        return self.run.evaluation

    @property
    def heading(self) -> str:
        """Its name, and what the images are."""
        return f"{self.name} ({self.modality})" if self.modality else self.name

    @property
    def n_test(self) -> int | None:
        """Samples it was tested on; None for a run that was not evaluated."""
        return None if self.evaluation is None else self.evaluation.n

    @property
    def best_single(self) -> tuple[str, ...]:
        """The best single encoder; empty where the search scored none."""
        row = self.record.companions.get("best_single")
        return () if row is None else row.subset

    @property
    def lean(self) -> tuple[str, ...]:
        """The fewest encoders whose score the folds could not tell from the best; empty where there are none such."""
        row = self.record.companions.get(LEAN)
        return () if row is None else row.subset

    def single(self, encoder: str, metric: str) -> float | None:
        """Return an encoder's test score by itself; None where it was not scored, or the score is undefined."""
        found = self.evaluation
        value = float("nan") if found is None or encoder not in found.singles else found.singles[encoder][metric]
        return None if isnan(value) else value

    def score(self, model: str, metric: str) -> Interval | None:
        """Return a model's test score and its interval; None where there is none."""
        found = self.evaluation
        interval = None if found is None or model not in found.models else found.models[model].intervals.get(metric)
        return None if interval is None or isnan(interval.estimate) else interval


@dataclass(frozen=True, kw_only=True, eq=False)
class RunComparison(TablePage):
    """Several runs side by side.

    Attributes
    ----------
    runs : tuple of RunSummary
    """

    runs: tuple[RunSummary, ...]
    title = "Runs compared"

    @classmethod
    def read(cls, paths: Sequence[Path | str], *, modality_of: ModalityOf | None = None) -> Self:
        """Read finished runs; each is called by as much of the end of its path as tells it from the others.

        Parameters
        ----------
        paths : sequence of path
        modality_of : callable, optional
            Says of a run's record what its images are; empty where that is not known.

        Raises
        ------
        ArtifactError
            If one of them is no complete run, or the same one is named twice.
        """
        folders = [Path(path) for path in paths]
        names = _distinct_names([folder.resolve() for folder in folders])
        pairs = zip(folders, names, strict=True)
        return cls(runs=tuple(RunSummary.read(path, name=name, modality_of=modality_of) for path, name in pairs))

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders of all pools, in the order in which they first appear."""
        return tuple(dict.fromkeys(encoder for run in self.runs for encoder in run.record.pool))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of these runs before comparing them."""
        said = []
        for run in self.runs:
            found = run.evaluation
            if found is None:
                said.append(f"{run.name} was not evaluated, so it has no test scores. Run `biofuse evaluate RUN`.")
            elif not found.singles:
                said.append(f"{run.name} has no test scores of single encoders: it was fitted without a search.")
            elif found.split != "test":
                said.append(f"The scores of {run.name} are of its {found.split} samples.")
        choices: dict[str, dict[str, str]] = {
            "heads": {run.name: run.record.head or "none" for run in self.runs},
            "ways to select": {run.name: run.record.options.select for run in self.runs},
            "presets": {run.name: run.record.options.preset or "none" for run in self.runs},
        }
        for what, values in choices.items():
            if len(set(values.values())) > 1:
                said.append(f"These runs differ in {what}: {', '.join(f'{n}: {v}' for n, v in values.items())}.")
        return tuple(said)

    def scores(self, metric: str) -> ScoreMatrix:
        """Return test scores of single encoders over the runs."""
        values = [[run.single(encoder, metric) for run in self.runs] for encoder in self.encoders]
        return ScoreMatrix(
            title=f"Test {TITLES[metric]} of single encoders",
            rows=self.encoders,
            columns=tuple(run.name for run in self.runs),
            values=np.array(values, dtype=np.float64).reshape(len(self.encoders), len(self.runs)),
        )

    def cross_modal(self) -> dict[str, CrossModal]:
        """Return the gains over the baseline of each run; those without a general-purpose encoder lack."""
        found = {run.name: run.record.evidence.modality for run in self.runs}
        return {name: modality for name, modality in found.items() if modality is not None}

    def tables(self) -> list[Table]:
        """Return everything as tables: what was chosen, single encoders, subsets, and gains by modality."""
        matrices = [self.scores(metric) for metric in TITLES]
        shown = [matrix.to_table() for matrix in matrices if not np.isnan(matrix.values).all()]
        modal = [self.modality_table()] if self.cross_modal() else []
        return [self.chosen_table(), *shown, self.subset_table(), *modal]

    def chosen_table(self) -> Table:
        """Return a row per run: what was chosen, and its test scores beside those of its companions."""
        first = TITLES[DEFAULT_METRIC]
        rows = [
            (
                run.name,
                run.record.task,
                ABSENT if run.n_test is None else run.n_test,
                run.record.head or ABSENT,
                f"{' + '.join(run.record.chosen)} ({len(run.record.chosen)} of {len(run.record.pool)})",
                *(with_interval(run.score(CHOSEN, metric)) for metric in TITLES),
                " + ".join(run.best_single) or ABSENT,
                *(_companion_score(run, name) for name in ("best_single", "all")),
                " + ".join(run.lean) or ABSENT,
                _companion_score(run, LEAN),
                _against_single(run),
            )
            for run in self.runs
        ]
        return Table.of(
            "What was chosen, and its test scores",
            (
                "run", "task", "samples", "head", "chosen encoders", *TITLES.values(), "best single encoder",
                f"its {first}", f"{first} of all encoders", "lean encoders", f"{first} of these",
                "chosen against best single",
            ),
            rows,
            aligned=("samples", *TITLES.values()),
            notes=("95 % intervals in parentheses. Encoders are chosen on development data, never on these scores.",),
        )  # fmt: skip

    def subset_table(self) -> Table:
        """Return which encoders each run chose."""

        def mark(run: RunSummary, encoder: str) -> Cell:
            if encoder in run.record.chosen:
                return Cell("\u25cf", note="chosen")
            return Cell("", note="offered") if encoder in run.record.pool else Cell(ABSENT, note="not in the pool")

        rows: list[tuple[Value | Cell, ...]] = []
        for encoder in self.encoders:
            times = sum(encoder in run.record.chosen for run in self.runs)
            offered = sum(encoder in run.record.pool for run in self.runs)
            rows.append((encoder, *(mark(run, encoder) for run in self.runs), f"{times} of {offered}"))
        return Table.of(
            "Chosen subsets",
            ("encoder", *(run.name for run in self.runs), "chosen"),
            rows,
            notes=(f"\u25cf: chosen; {ABSENT}: not in that run's pool.",),
        )

    def modality_table(self) -> Table:
        """Return the gain of each modality of encoders over the general-purpose baseline, with its interval."""
        found = self.cross_modal()
        lines = {(run, line.name): line for run, modality in found.items() for line in modality.modalities}
        baselines = [
            f"{name}: {modality.baseline}, {METRICS[modality.metric].title} {modality.baseline_score:.4f}"
            for name, modality in found.items()
        ]
        return Table.of(
            "Encoder modality against data: gain over the general-purpose baseline",
            ("trained on", *(run.heading for run in self.runs)),
            [
                (name, *(_gain_cell(lines.get((run.name, name))) for run in self.runs))
                for name in dict.fromkeys(name for _, name in lines)
            ],
            notes=(GAINS, f"Baselines: {'; '.join(baselines)}."),
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        matrices = {metric: self.scores(metric) for metric in TITLES}
        return {
            "runs": [
                {
                    "name": run.name,
                    "path": str(run.run.path),
                    "data": run.record.data.source,
                    "modality": run.modality or None,
                    "task": run.record.task,
                    "n_test": run.n_test,
                    "pool": list(run.record.pool),
                    "chosen": list(run.record.chosen),
                    "head": run.record.head or None,
                    "test": {
                        model: {metric: _score_json(run.score(model, metric)) for metric in TITLES}
                        for model in (run.evaluation.models if run.evaluation else {})
                    },
                }
                for run in self.runs
            ],
            "singles": {metric: matrix.to_json() for metric, matrix in matrices.items()},
            "ranks": {
                metric: {
                    column: dict(zip(matrix.rows, matrix.ranks[:, place].tolist(), strict=True))
                    for place, column in enumerate(matrix.columns)
                }
                for metric, matrix in matrices.items()
            },
            "modality": {
                run: {line.name: line.model_dump(mode="json") for line in modality.modalities}
                for run, modality in self.cross_modal().items()
            },
            "notes": list(self.notes),
        }


def _score_json(score: Interval | None) -> dict[str, float | None] | None:
    if score is None:
        return None
    content = score.model_dump(mode="json", include={"estimate", "low", "high"})
    return {"value": content.pop("estimate"), **content}


def _companion_score(run: RunSummary, model: str) -> str:
    """Write the score of what the chosen model is compared with, unless it is the very same model."""
    scores = None if run.evaluation is None else run.evaluation.models.get(model)
    if scores is not None and CHOSEN in scores.same:
        return "the same as chosen"
    return with_interval(run.score(model, DEFAULT_METRIC))


def with_interval(score: Interval | None) -> str:
    """Write a score and its interval; a dash where there is none."""
    if score is None:
        return ABSENT
    if isnan(score.low) or isnan(score.high):
        return f"{score.estimate:.4f}"
    return f"{score.estimate:.4f} ({score.low:.3f}\u2013{score.high:.3f})"


def _gain_cell(line: Line | None) -> Cell:
    if line is None or isnan(line.alone.gain):
        return Cell(ABSENT)
    alone = line.alone
    ends = "" if isnan(alone.low) else f" ({alone.low:+z.4f} to {alone.high:+z.4f})"
    return Cell(f"{alone.gain:+z.4f}{ends} {line.best}", tone=_tone(alone.gain, noise=alone.noise))


def _tone(difference: float, *, noise: bool) -> Tone:
    return "noise" if noise else "gain" if difference > 0 else "loss"


def _against_single(run: RunSummary) -> Cell:
    evaluation = run.evaluation
    found = None if evaluation is None else evaluation.comparisons.get("best_single")
    if found is None or isnan(found.difference):
        return Cell("the same" if evaluation is not None and run.record.chosen == run.best_single else ABSENT)
    noise = not found.p_holm <= SIGNIFICANCE
    text = f"{found.difference:+z.4f} {METRICS[found.metric].title}{', noise' if noise else ''}"
    return Cell(text, tone=_tone(found.difference, noise=noise), note=str(found))


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    repeated = [path for path in paths if paths.count(path) > 1]
    if repeated:
        raise ArtifactError(f"{repeated[0]} is named twice.", remedy="Name every run once.")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


Order = Literal["date", "score", "name"]
"""What a list of runs may be sorted by: the latest, or the best by cross-validation, first; or by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RunList(TablePage):
    """The runs of a folder, a row each.

    Attributes
    ----------
    runs : tuple of RunSummary
        Complete ones, in order.
    left_out : tuple of str
        What is no complete run, and why.
    """

    runs: tuple[RunSummary, ...]
    left_out: tuple[str, ...] = ()
    title = "Runs"

    @classmethod
    def read(cls, folder: Path | str, *, sort: Order = "date") -> Self:
        """Read all runs of a folder, itself one or at any depth below it.

        Parameters
        ----------
        folder : path
        sort : {"date", "score", "name"}

        Raises
        ------
        ArtifactError
            If there is no run.
        """
        root = Path(folder)
        found = sorted(path.parent for path in root.rglob(RECORD))
        if not found:
            raise ArtifactError(f"There is no run in {folder}.", remedy="Make one with `biofuse fit DATA --out RUN`.")
        runs, left_out = [], []
        for path in found:
            name = path.relative_to(root).as_posix() if path != root else path.resolve().name
            try:
                summary = RunSummary.read(path, name=name)
                _ = summary.run.samples  # what is damaged is said now
                runs.append(summary)
            except ArtifactError as error:
                left_out.append(f"{name} is left out: {error.message}")
        if sort == "date":
            runs.sort(key=lambda run: run.record.started, reverse=True)
        elif sort == "score":
            runs.sort(key=lambda run: -run.record.mean)
        return cls(runs=tuple(runs), left_out=tuple(left_out))

    @cached_property
    def data(self) -> dict[str, int]:
        """The data of each run, by its name, numbered: the same number for the same samples, labels and splits."""
        numbers: dict[str, int] = {}
        return {run.name: numbers.setdefault(_samples_key(run.run), len(numbers) + 1) for run in self.runs}

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known to compare them."""
        said = list(self.left_out)
        if len(set(self.data.values())) > 1:
            by_data = {
                number: [name for name, own in self.data.items() if own == number] for number in self.data.values()
            }
            listed = "; ".join(f"{number}: {', '.join(names)}" for number, names in by_data.items())
            said.append(f"These runs are on different data or splits, so that scores do not compare across: {listed}.")
        metrics = dict.fromkeys(run.record.choice.metric for run in self.runs)
        if len(metrics) > 1:
            said.append(f"They chose by different metrics: {', '.join(METRICS[name].title for name in metrics)}.")
        return tuple(said)

    def tables(self) -> list[Table]:
        """Return a row per run."""
        several = len(set(self.data.values())) > 1
        rows: list[tuple[Value, ...]] = [
            (
                run.name,
                f"{data_title(run.record)} ({self.data[run.name]})" if several else data_title(run.record),
                run.record.started[:16].replace("T", " "),
                f"{' + '.join(run.record.chosen)} ({len(run.record.chosen)} of {len(run.record.pool)})",
                run.record.options.rule,
                f"{METRICS[run.record.choice.metric].title} {run.record.mean:.4f}",
                with_interval(run.score(CHOSEN, run.record.choice.metric)),
                f"{run.record.options.seed} / {run.record.version}",
            )
            for run in self.runs
        ]
        columns = (
            "run",
            "data",
            "fitted",
            "chosen encoders",
            "rule",
            "cross-validated",
            "on test data",
            "seed / BioFuse",
        )
        return [Table.of("Runs", columns, rows, notes=(f"{ABSENT}: not evaluated. 95 % intervals in parentheses.",))]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "runs": [
                {
                    "name": run.name,
                    "path": str(run.run.path),
                    "data": data_title(run.record),
                    "source": run.record.data.source,
                    "same_data": self.data[run.name],
                    "started": run.record.started,
                    "chosen": list(run.record.chosen),
                    "pool": list(run.record.pool),
                    "head": run.record.head or None,
                    "rule": run.record.options.rule,
                    "metric": run.record.choice.metric,
                    "cross_validated": run.record.mean,
                    "test": _score_json(run.score(CHOSEN, run.record.choice.metric)),
                    "seed": run.record.options.seed,
                    "version": run.record.version,
                    "key": run.record.key,
                }
                for run in self.runs
            ],
            "notes": list(self.notes),
        }


def _samples_key(run: Run) -> str:
    """Hash the samples of a run: which images, with which labels, in which split; test samples by their ids."""
    frame = run.samples
    development = frame["split"] != "test"
    what = frame["content"].where(development, frame["id"]).fillna("").astype(str)
    side = np.where(development, "development", "test")
    rows = zip(what, frame["label"].fillna("").astype(str), side, strict=True)
    return digest_json(sorted(map(list, rows)))
