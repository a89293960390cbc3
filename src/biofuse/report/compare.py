"""Runs side by side: single encoders over data sets, gains of each modality, what was chosen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from biofuse.core.errors import ArtifactError
from biofuse.core.hashing import digest_json
from biofuse.evaluation.across import FEWEST_SETS
from biofuse.evaluation.intervals import SIGNIFICANCE, Interval
from biofuse.evaluation.metrics import DEFAULT_METRIC, METRICS, SELECTABLE
from biofuse.model.evaluate import Evaluation
from biofuse.report.content import Cell, Table, Value
from biofuse.report.html import TablePage
from biofuse.report.input import data_title
from biofuse.report.matrix import ScoreMatrix, against_table, rank_plate_of, ranks_json, tone_of
from biofuse.report.plates import ABSENT, Plate, gain_plate, table_plate
from biofuse.runs.record import RunRecord
from biofuse.runs.run import RECORD, Run
from biofuse.search.attribution import CrossModal, Line
from biofuse.search.leaderboard import Leaderboard
from biofuse.search.rules import CHOSEN, LEAN

ModalityOf = Callable[[RunRecord], str]

GAINS = (
    "Cross-validated gain, on development data, of the best encoder of each modality by itself over the baseline by "
    "itself, with 95 % intervals; {noise} where, after Holm's correction, it may be chance. Where subsets were "
    "screened, the scores are those of the screen's ridge regression."
)

CROSS_VALIDATED = "(cross-validated)"
"""What stands beside a score of development data, where nothing was tested."""

MODELS = {
    CHOSEN: "chosen encoders",
    "best_single": "best single encoder of each run",
    "all": "all encoders together",
    "greedy": "greedy path",
    LEAN: "lean encoders",
}
"""What the models of a run are called beside single encoders."""


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
    def lead(self) -> str:
        """The metric that stands for the run where there is room for one."""
        return DEFAULT_METRIC if METRICS[DEFAULT_METRIC].applies(self.record.target) else self.record.choice.metric

    @cached_property
    def data_key(self) -> str:
        """The same for the same samples, labels and splits."""
        return _samples_key(self.run)

    @cached_property
    def _cross_validated(self) -> Leaderboard:
        """The scores that compare most subsets with one another."""
        return self.run.leaderboard if self.run.screen is None else self.run.screen

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
        scores: Mapping[str, float] = {} if found is None else found.singles.get(encoder, {})
        value = scores[metric] if metric in scores else float("nan")
        return None if isnan(value) else value

    def single_in_folds(self, encoder: str, metric: str) -> float | None:
        """Return an encoder's cross-validated score by itself; None where the search has none."""
        row = self._cross_validated.get((encoder,))
        value = row.mean(metric) if row is not None and metric in row.folds else float("nan")
        return None if isnan(value) else value

    def in_folds(self, model: str, metric: str) -> float | None:
        """Return a model's cross-validated score; None where the search has none."""
        row = self.record.choice.chosen if model == CHOSEN else self.record.companions.get(model)
        value = row.mean(metric) if row is not None and metric in row.folds else float("nan")
        return None if isnan(value) else value

    def text(self, model: str, metric: str) -> str:
        """Write a model's test score and its interval, or its cross-validated score where nothing was tested."""
        if self.evaluation is not None:
            return with_interval(self.score(model, metric))
        value = self.in_folds(model, metric)
        return ABSENT if value is None else f"{value:.4f} {CROSS_VALIDATED}"

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
        said = [_said_of_data(self.data)]
        for run in self.runs:
            found = run.evaluation
            if found is None:
                screened = "" if run.run.screen is None else " Those of its single encoders are the screen's."
                said.append(
                    f"{run.name} was not evaluated: its scores are cross-validated, of development data, and do not "
                    f"compare with test scores.{screened} Run `biofuse evaluate RUN`."
                )
            elif not found.singles:
                said.append(f"{run.name} has no test scores of single encoders: it was fitted without a search.")
            elif found.split != "test":
                said.append(f"The scores of {run.name} are of its {found.split} samples.")
        choices: dict[str, dict[str, str]] = {
            "heads": {run.name: run.record.head or "none" for run in self.runs},
            "ways to select": {run.name: run.record.options.select for run in self.runs},
            "presets": {run.name: run.record.options.preset or "none" for run in self.runs},
            "horizons": {run.name: ", ".join(run.record.classes) for run in self.runs if run.record.target.timed},
        }
        for what, values in choices.items():
            if len(set(values.values())) > 1:
                said.append(f"These runs differ in {what}: {', '.join(f'{n}: {v}' for n, v in values.items())}.")
        return tuple(filter(None, said))

    @cached_property
    def data(self) -> dict[str, int]:
        """The data of each run, by its name, numbered: the same number for the same samples, labels and splits."""
        return _numbered(self.runs)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What runs are compared by: metrics that exist for some of them."""
        return tuple(name for name in SELECTABLE if any(METRICS[name].applies(run.record.target) for run in self.runs))

    @property
    def lead(self) -> str | None:
        """The metric of all runs where there is room for one; None where no metric exists for all of them."""
        chosen_by = {run.lead for run in self.runs}
        shared = [name for name in self.metrics if all(METRICS[name].applies(run.record.target) for run in self.runs)]
        return chosen_by.pop() if len(chosen_by) == 1 else next(iter(shared), None)

    def scores(self, metric: str) -> ScoreMatrix:
        """Return scores of single encoders over the runs: on test data, or cross-validated where nothing was tested."""

        def score(run: RunSummary, encoder: str) -> float | None:
            single = run.single_in_folds if run.evaluation is None else run.single
            return single(encoder, metric)

        values = [[score(run, encoder) for run in self.runs] for encoder in self.encoders]
        without = [run.evaluation is None for run in self.runs]
        untested = all(without)
        return ScoreMatrix(
            title=f"{'Cross-validated' if untested else 'Test'} {METRICS[metric].title} of single encoders",
            rows=self.encoders,
            columns=tuple(
                f"{run.name} {CROSS_VALIDATED}" if run.evaluation is None and not untested else run.name
                for run in self.runs
            ),
            values=np.array(values, dtype=np.float64).reshape(len(self.encoders), len(self.runs)),
            alike=untested or not any(without),
            higher_is_better=METRICS[metric].higher_is_better,
        )

    def over_sets(self, metric: str) -> ScoreMatrix | None:
        """Return the test scores of models and single encoders over data sets; None where they cannot be ranked.

        They can on at least :data:`biofuse.evaluation.across.FEWEST_SETS` data sets, a tested run each: data sets are
        the units, and two runs on the same data are not two of them.
        """
        tested = [run for run in self.runs if run.score(CHOSEN, metric) is not None]
        if len(tested) < FEWEST_SETS or len({self.data[run.name] for run in tested}) < len(tested):
            return None
        rows: dict[tuple[float, ...], str] = {}
        for model, title in MODELS.items():
            found = [run.score(model, metric) for run in tested]
            values = tuple(score.estimate for score in found if score is not None)
            if len(values) == len(tested):  # a model that is another one everywhere has one row, under both names
                rows[values] = f"{rows[values]} = {title}" if values in rows else title
        for encoder in self.encoders:
            alone = [run.single(encoder, metric) for run in tested]
            if None not in alone:
                rows.setdefault(tuple(value for value in alone if value is not None), encoder)
        return ScoreMatrix(
            title=f"{METRICS[metric].title} over data sets",
            rows=tuple(rows.values()),
            columns=tuple(run.name for run in tested),
            values=np.array(list(rows), dtype=np.float64).reshape(len(rows), len(tested)),
            higher_is_better=METRICS[metric].higher_is_better,
        )

    def cross_modal(self) -> dict[str, CrossModal]:
        """Return the gains over the baseline of each run; those without a general-purpose encoder lack."""
        found = {run.name: run.record.evidence.modality for run in self.runs}
        return {name: modality for name, modality in found.items() if modality is not None}

    def tables(self) -> list[Table]:
        """Return everything as tables: what was chosen, single encoders, tests over data sets, subsets, modalities."""
        modal = [self.modality_table()] if self.cross_modal() else []
        ranked = [against_table(matrix, matrix.rows[0]) for matrix in self._ranked()]
        return [self.chosen_table(), *self._heat_maps(), *ranked, self.subset_table(), *modal]

    def _heat_maps(self) -> list[Table]:
        matrices = [self.scores(metric) for metric in self.metrics]
        return [matrix.to_table() for matrix in matrices if not np.isnan(matrix.values).all()]

    def _ranked(self) -> list[ScoreMatrix]:
        found = [self.over_sets(metric) for metric in self.metrics]
        return [matrix for matrix in found if matrix is not None and len(matrix.rows) > 1]

    def plates(self) -> list[Plate]:
        """Return critical-difference diagrams, the heat maps of single encoders, and gains by modality."""
        ranks = [rank_plate_of(matrix) for matrix in self._ranked()]
        maps = [
            replace(table_plate(table, summary=" ".join(table.notes)), shown=False)  # the page has the table itself
            for table in self._heat_maps()
        ]
        return [*filter(None, ranks), *maps, *([self._gain_plate()] if self.modality_table().rows else [])]

    def _gain_plate(self) -> Plate:
        table, found = self.modality_table(), self.cross_modal()
        gains = {(run, line.name): line.alone.gain for run, modal in found.items() for line in modal.modalities}
        values = [[gains.get((run.name, str(row[0])), np.nan) for run in self.runs] for row in table.rows]
        shape = (len(table.rows), len(self.runs))
        return gain_plate(
            table,
            np.array(values, dtype=np.float64).reshape(shape),
            title="Gains of encoders by modality, as a heat map",
            summary=" ".join([GAINS.format(noise="in italics"), *table.notes[1:]]),
        )

    def chosen_table(self) -> Table:
        """Return a row per run: what was chosen, and its test scores beside those of its companions."""
        first = "score" if self.lead is None else METRICS[self.lead].title
        titles = tuple(METRICS[name].title for name in self.metrics)
        rows = [
            (
                run.name,
                run.record.task,
                ABSENT if run.n_test is None else run.n_test,
                run.record.head or ABSENT,
                f"{' + '.join(run.record.chosen)} ({len(run.record.chosen)} of {len(run.record.pool)})",
                *(run.text(CHOSEN, metric) for metric in self.metrics),
                " + ".join(run.best_single) or ABSENT,
                *(_companion_score(run, name, self.lead) for name in ("best_single", "all")),
                " + ".join(run.lean) or ABSENT,
                _companion_score(run, LEAN, self.lead),
                _against_single(run),
            )
            for run in self.runs
        ]
        return Table.of(
            "What was chosen, and its test scores",
            (
                "run", "task", "samples", "head", "chosen encoders", *titles, "best single encoder",
                f"its {first}", f"{first} of all encoders", "lean encoders", f"{first} of these",
                "chosen against best single",
            ),
            rows,
            aligned=("samples", *titles),
            notes=("95 % intervals in parentheses. Encoders are chosen on development data, never on test scores.",),
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
            notes=(GAINS.format(noise="grey"), f"Baselines: {'; '.join(baselines)}."),
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        matrices = {metric: self.scores(metric) for metric in self.metrics}
        over_sets = {metric: self.over_sets(metric) for metric in self.metrics}
        return {
            "runs": [
                {
                    "name": run.name,
                    "path": str(run.run.path),
                    "same_data": self.data[run.name],
                    "data": run.record.data.source,
                    "modality": run.modality or None,
                    "task": run.record.task,
                    "n_test": run.n_test,
                    "pool": list(run.record.pool),
                    "chosen": list(run.record.chosen),
                    "head": run.record.head or None,
                    "test": {
                        model: {metric: _score_json(run.score(model, metric)) for metric in self.metrics}
                        for model in (run.evaluation.models if run.evaluation else {})
                    },
                    "cross_validated": {
                        model: {metric: run.in_folds(model, metric) for metric in self.metrics}
                        for model in run.record.models
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
            "over_sets": {metric: ranks_json(matrix) for metric, matrix in over_sets.items() if matrix is not None},
            "modality": {
                run: {line.name: line.model_dump(mode="json") for line in modality.modalities}
                for run, modality in self.cross_modal().items()
            },
            "notes": list(self.notes),
        }


def _numbered(runs: Sequence[RunSummary]) -> dict[str, int]:
    numbers: dict[str, int] = {}
    return {run.name: numbers.setdefault(run.data_key, len(numbers) + 1) for run in runs}


def _said_of_data(data: dict[str, int]) -> str:
    """Say which runs are on the same data; nothing of a single run."""
    if len(data) < 2:
        return ""
    if len(set(data.values())) == 1:
        return "All runs are on the same data and splits."
    if len(set(data.values())) == len(data):
        return "Every run is on data or splits of its own: compare scores within a run, and ranks over runs."
    by_data = {number: [name for name, own in data.items() if own == number] for number in data.values()}
    listed = "; ".join(f"{number}: {', '.join(names)}" for number, names in by_data.items())
    return f"These runs are on different data or splits, so that scores do not compare across: {listed}."


def _score_json(score: Interval | None) -> dict[str, float | None] | None:
    if score is None:
        return None
    content = score.model_dump(mode="json", include={"estimate", "low", "high"})
    return {"value": content.pop("estimate"), **content}


def _companion_score(run: RunSummary, model: str, metric: str | None) -> str:
    """Write the score of what the chosen model is compared with, unless it is the very same model.

    Where no metric is that of all runs, each has its own, which is named beside the score.
    """
    scores = None if run.evaluation is None else run.evaluation.models.get(model)
    if scores is not None and CHOSEN in scores.same:
        return "the same as chosen"
    if metric is not None:
        return run.text(model, metric)
    text = run.text(model, run.lead)
    return text if text == ABSENT else f"{METRICS[run.lead].title} {text}"


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
    return Cell(f"{alone.gain:+z.4f}{ends} {line.best}", tone=tone_of(alone.gain, noise=alone.noise))


def _against_single(run: RunSummary) -> Cell:
    evaluation = run.evaluation
    found = None if evaluation is None else evaluation.comparisons.get("best_single")
    if found is None or isnan(found.difference):
        return Cell("the same" if evaluation is not None and run.record.chosen == run.best_single else ABSENT)
    noise = not found.p_holm <= SIGNIFICANCE
    text = f"{found.difference:+z.4f} {METRICS[found.metric].title}{', noise' if noise else ''}"
    return Cell(text, tone=tone_of(found.difference, noise=noise), note=str(found))


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
"""What a list of runs may be sorted by: the latest, or the best by cross-validation, first; or by name. Scores of
different metrics do not compare: runs that chose by one follow those that chose by another."""


def _by_score(run: RunSummary) -> tuple[int, float]:
    metric, mean = run.record.choice.metric, run.record.mean
    return SELECTABLE.index(metric), -mean if METRICS[metric].higher_is_better else mean


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
            runs.sort(key=_by_score)
        return cls(runs=tuple(runs), left_out=tuple(left_out))

    @cached_property
    def data(self) -> dict[str, int]:
        """The data of each run, by its name, numbered: the same number for the same samples, labels and splits."""
        return _numbered(self.runs)

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known to compare them."""
        said = list(self.left_out)
        if len(set(self.data.values())) > 1:
            said.append(_said_of_data(self.data))
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
