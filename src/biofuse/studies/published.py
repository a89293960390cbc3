"""What others reached on the 12 two-dimensional MedMNIST+ sets, how honestly, and the same beside one's own scores.

``published.json`` has the numbers and says where each comes from. A published score is *honest* where its checkpoint or
subset was chosen on validation data, or nothing was chosen; *claimed* is what anybody states, however it was chosen.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from biofuse.data.medmnist import parse_medmnist_name
from biofuse.evaluation.metrics import ACCURACY, AUROC
from biofuse.report.compare import (
    RunComparison,
    RunSummary,
    with_interval,
)
from biofuse.report.content import Cell, Table, Value
from biofuse.report.matrix import ScoreMatrix, against_table, rank_plate_of, ranks_json
from biofuse.report.plates import ABSENT, Plate
from biofuse.runs.record import RunRecord
from biofuse.search.rules import CHOSEN

SHORT: Mapping[str, str] = {AUROC.name: "AUC", ACCURACY.name: "ACC"}
"""The two metrics of MedMNIST, and what the field calls them there."""

HONEST, ORACLE = "v", "o"
"""Marks of protocols: chosen on validation data or not at all; the best after looking at the test data."""

OURS = "BioFuse here"


class _Scores(BaseModel):
    """Scores of one thing by metric."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    auroc: dict[str, float]
    accuracy: dict[str, float]

    def scores(self, metric: str) -> dict[str, float]:
        """Return the scores of one metric: by encoder, or by data set."""
        scores: dict[str, float] = getattr(self, metric)
        return scores


class PublishedSet(_Scores):
    """Published test scores of single encoders on one data set.

    Attributes
    ----------
    modality : str
        What the images are.
    chosen_on_validation : str
        The encoder with the best published validation accuracy.
    auroc, accuracy : dict of str to float
        By encoder, as BioFuse names it.
    """

    modality: str
    chosen_on_validation: str


class PublishedResult(_Scores):
    """Published test scores of one method.

    Attributes
    ----------
    method : str
    source : str
        Key of :attr:`Published.sources`.
    protocol : str
        How its checkpoint or subset was chosen: key of :attr:`Published.protocols`.
    confidence : str
        How sure it is that these are the numbers: key of :attr:`Published.confidences`.
    size : int
        Pixels of the images.
    fused : bool
        Whether it fuses the embeddings of frozen encoders, as BioFuse does.
    note : str
    auroc, accuracy : dict of str to float
        By MedMNIST flag.
    """

    method: str
    source: str
    protocol: str
    confidence: str
    size: int
    fused: bool
    note: str

    @property
    def marks(self) -> str:
        """Its protocol and how sure the number is, for a cell."""
        return f"[{self.protocol}, {self.confidence}]"


class Published(BaseModel):
    """Published test scores.

    Attributes
    ----------
    source : str
        Where the scores of single encoders come from, and how they were made.
    size : int
        Pixels of their images.
    encoders : dict of str to str
        BioFuse's name of each encoder: the published one.
    notes : dict of str to str
        What is to be known of an encoder's numbers.
    datasets : dict of str to PublishedSet
        By MedMNIST flag, in the order of the publication.
    protocols, confidences, sources : dict of str to str
        What the marks and names of :attr:`results` mean.
    remarks : dict of str to str
        What is to be known of a data set.
    results : tuple of PublishedResult
        Whole methods.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    size: int
    encoders: dict[str, str]
    notes: dict[str, str]
    datasets: dict[str, PublishedSet]
    protocols: dict[str, str]
    confidences: dict[str, str]
    sources: dict[str, str]
    remarks: dict[str, str]
    results: tuple[PublishedResult, ...]

    def best(self, flag: str, metric: str, *, honest: bool) -> tuple[float, PublishedResult] | None:
        """Return the best published score of a data set and whose it is; None where there is none.

        Parameters
        ----------
        flag, metric : str
        honest : bool
            Whether only what was chosen without test data counts; otherwise whatever is claimed, the best single
            encoder of the BioFuse paper included.
        """
        offered = [*self.results, *([] if honest else [self._best_single(flag, metric)])]
        found = [
            (each.scores(metric)[flag], each)
            for each in offered
            if flag in each.scores(metric) and (each.protocol == HONEST or not honest)
        ]
        return max(found, key=lambda one: one[0], default=None)

    def _best_single(self, flag: str, metric: str) -> PublishedResult:
        scores = self.datasets[flag].scores(metric)
        name = max(scores, key=lambda encoder: scores[encoder])
        empty: dict[str, dict[str, float]] = {name: {} for name in SHORT}
        return PublishedResult.model_validate(
            {
                "method": f"{self.encoders[name]} alone, the best of nine on test",
                "source": "biofuse-2025",
                "protocol": ORACLE,
                "confidence": "A",
                "size": self.size,
                "fused": False,
                "note": "XGBoost with 250 trees",
                **empty,
                metric: {flag: scores[name]},
            }
        )


@lru_cache(maxsize=1)
def published_results() -> Published:
    """Return the published scores on the 12 two-dimensional MedMNIST+ sets.

    Examples
    --------
    >>> from biofuse.studies.published import published_results
    >>> score, result = published_results().best("breastmnist", "accuracy", honest=True)
    >>> f"{score:.4f} {result.method} {result.marks}"
    '0.9295 Ensemble, soft voting [v, A]'
    """
    content: dict[str, Any] = json.loads(
        resources.files("biofuse.studies").joinpath("published.json").read_text(encoding="utf-8")
    )
    return Published.model_validate(content)


def medmnist_modality(record: RunRecord) -> str:
    """Say what the images of a run are, if its data are a MedMNIST set; otherwise nothing."""
    named = parse_medmnist_name(Path(record.data.source or "").stem)
    known = published_results().datasets.get(named[0]) if named else None
    return known.modality if known else ""


TEST_CHOICES = (
    "The published best single encoder is the best of nine on the test data themselves, by AUC and by ACC; the best "
    "single encoder here was chosen on development data."
)

BEST_OF_MANY = (
    "Honest: the checkpoint, or the subset, was chosen on validation data, or nothing was chosen. Claimed: whatever is "
    "stated. Either is the best of many methods by their test scores, and so higher than a method named beforehand."
)


MEANS = (
    "Mean: over the data sets on which every column has a score. Mean rank: among all methods of the "
    "table of published methods that have a score on each of these data sets; 1 is the best."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Beside:
    """Runs on MedMNIST+ sets, and what was published on these.

    Attributes
    ----------
    comparison : RunComparison
    flags : mapping of str to str
        MedMNIST flag of each run.
    """

    comparison: RunComparison
    flags: Mapping[str, str]

    @property
    def runs(self) -> tuple[RunSummary, ...]:
        """Those whose data set has published scores."""
        return tuple(run for run in self.comparison.runs if self.flags[run.name] in published_results().datasets)

    def tables(self) -> list[Table]:
        """Return the summary, what others reached, and single encoders beside their published values."""
        methods = [self.methods(metric) for metric in SHORT]
        singles = [self.singles_table(metric) for metric in SHORT]
        return [
            self.summary_table(),
            *(self.best_table(metric) for metric in SHORT),
            *(self._methods_table(matrix) for matrix in methods),
            *(against_table(matrix, OURS) for matrix in methods if OURS in matrix.complete.rows and self.runs),
            *(table for table in singles if table.rows),
        ]

    def summary_table(self) -> Table:
        """Return a row per data set: the chosen subset, what it stands beside, and the best published single."""
        published = published_results()
        rows = []
        for run in self.comparison.runs:
            known = published.datasets.get(self.flags[run.name])
            theirs = [_best_single(known.scores(metric)) if known else ABSENT for metric in SHORT]
            rows.append(
                (
                    run.name,
                    ABSENT if run.n_test is None else run.n_test,
                    " + ".join(run.record.chosen),
                    *(with_interval(run.score(CHOSEN, metric)) for metric in SHORT),
                    *(_pair(run, model) for model in ("best_single", "all")),
                    *theirs,
                )
            )
        return Table.of(
            "BioFuse and single encoders, test scores",
            (
                "data set", "samples", "chosen encoders", "AUC", "ACC", "best single AUC/ACC", "all AUC/ACC",
                "published best single AUC", "published best single ACC",
            ),
            rows,
            aligned=("samples", "AUC", "ACC"),
            notes=(f"Published: {published.source}", TEST_CHOICES, *_encoder_notes()),
        )  # fmt: skip

    def best_table(self, metric: str) -> Table:
        """Return a row per data set: ours, the authors' fusion, the best honest and the best claimed; then means."""
        published, short = published_results(), SHORT[metric]
        fused = [each for each in published.results if each.fused and each.protocol == HONEST]
        rows: list[list[Value | Cell]] = []
        values: list[list[float]] = []
        for run in self.runs:
            flag = self.flags[run.name]
            own = run.score(CHOSEN, metric)
            best = [published.best(flag, metric, honest=honest) for honest in (True, False)]
            theirs = [each.scores(metric).get(flag) for each in fused]
            numbers = [None if own is None else own.estimate, *(one[0] if one else None for one in best), *theirs]
            values.append([np.nan if number is None else number for number in numbers])
            rows.append([run.name, _text(numbers[0]), *map(_whose, best), *map(_text, theirs)])
        rows += self._summary_rows(metric, np.array(values, dtype=np.float64).reshape(len(rows), 3 + len(fused)), fused)
        titles = ("data set", OURS, "best honest", "best claimed", *(each.method for each in fused))
        marks = "; ".join(f"{mark}: {words}" for mark, words in published.protocols.items())
        sure = "; ".join(f"{mark}: {words}" for mark, words in published.confidences.items())
        known: dict[str, list[str]] = {}
        for name in self._names:
            known.setdefault(published.remarks.get(self.flags[name], ""), []).append(name)
        return Table.of(
            f"BioFuse and what others reached, test {short}",
            titles,
            rows,
            aligned=titles[1:],
            notes=(
                f"[protocol, confidence]. Protocol: {marks}. Confidence: {sure}.",
                BEST_OF_MANY,
                MEANS,
                *(f"{', '.join(names)}: {said}" for said, names in known.items() if said),
            ),
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(run.name for run in self.runs)

    def _summary_rows(self, metric: str, values: Any, fused: Sequence[PublishedResult]) -> list[list[Value | Cell]]:
        """Return the rows of means and of mean ranks."""
        whole = ~np.isnan(values).any(axis=1)
        n = int(whole.sum())
        if not n:
            return []
        means: list[Value | Cell] = [_text(float(mean)) for mean in values[whole].mean(axis=0)]
        ranks = self.methods(metric).mean_ranks
        named = [OURS, "", "", *map(_name, fused)]
        return [
            [f"mean of {n}", *means],
            ["mean rank", *(f"{ranks[name]:.2f}" if name in ranks else ABSENT for name in named)],
        ]

    def methods(self, metric: str) -> ScoreMatrix:
        """Return the scores of BioFuse and of every published method on these data sets."""
        published = published_results()
        own = [run.score(CHOSEN, metric) for run in self.runs]
        rows = [(OURS, [None if score is None else score.estimate for score in own])]
        for each in published.results:
            scores = [each.scores(metric).get(self.flags[run.name]) for run in self.runs]
            if each.protocol != ORACLE and any(score is not None for score in scores):
                rows.append((_name(each), scores))
        return ScoreMatrix(
            title=f"Published methods, test {SHORT[metric]}",
            rows=tuple(name for name, _ in rows),
            columns=self._names,
            values=np.array([values for _, values in rows], dtype=np.float64).reshape(len(rows), len(self.runs)),
            what="method",
        )

    def plates(self) -> list[Plate]:
        """Return the critical-difference diagram of BioFuse and the published methods, by AUC and by ACC."""
        found = [rank_plate_of(self.methods(metric)) for metric in SHORT]
        return [plate for plate in found if plate is not None]

    def _methods_table(self, matrix: ScoreMatrix) -> Table:
        published = published_results()
        by_name = {_name(each): each for each in published.results}
        table = matrix.to_table()
        rows: list[list[Value | Cell]] = []
        notes: dict[str, list[str]] = {}
        for row in table.rows:
            about = by_name.get(str(row[0]))
            rows.append([*row, *((None, "this benchmark") if about is None else (about.size, about.source))])
            if about is not None and about.note:
                notes.setdefault(about.note, []).append(about.method)
        sources = {by_name[name].source for name in matrix.rows if name in by_name}
        titles = [column.title for column in table.columns]
        return Table.of(
            matrix.title,
            (*titles, "pixels", "source"),
            rows,
            aligned=(*titles[1:], "pixels", "source"),
            notes=(
                *table.notes,
                *(f"{name}: {words}." for name, words in published.sources.items() if name in sources),
                *(f"{'; '.join(methods)}: {said}." for said, methods in notes.items()),
            ),
        )

    def singles_table(self, metric: str) -> Table:
        """Return a row per encoder that has published scores: one's own, the published one, the difference."""
        published = published_results()
        rows = []
        for encoder in self.comparison.encoders:
            if encoder not in published.encoders:
                continue
            row = []
            for run in self.comparison.runs:
                known = published.datasets.get(self.flags[run.name])
                row.append(_beside(run.single(encoder, metric), known.scores(metric).get(encoder) if known else None))
            rows.append((f"{encoder} ({published.encoders[encoder]})", *row))
        return Table.of(
            f"Single encoders, test {SHORT[metric]}: here / published (difference)",
            ("encoder (as published)", *(run.name for run in self.comparison.runs)),
            rows,
            notes=(f"Published: {published.source}", *_encoder_notes()),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what was published on these data sets as JSON values."""
        published = published_results()

        def best(flag: str, metric: str, *, honest: bool) -> dict[str, Any] | None:
            found = published.best(flag, metric, honest=honest)
            return None if found is None else {"value": found[0], **found[1].model_dump(exclude=set(SHORT))}

        return {
            **published.model_dump(mode="json", exclude={"datasets", "results", "remarks", "encoders"}),
            "names": published.encoders,
            "datasets": {
                run.name: published.datasets[self.flags[run.name]].model_dump(mode="json")
                | {
                    "remark": published.remarks.get(self.flags[run.name]),
                    "best_honest": {m: best(self.flags[run.name], m, honest=True) for m in SHORT},
                    "best_claimed": {m: best(self.flags[run.name], m, honest=False) for m in SHORT},
                }
                for run in self.runs
            },
            "methods": [each.model_dump(mode="json") for each in published.results],
            "over_sets": {metric: ranks_json(self.methods(metric)) for metric in SHORT},
        }


def _name(result: PublishedResult) -> str:
    return f"{result.method} {result.marks}"


def _encoder_notes() -> list[str]:
    return [f"{encoder}: {note}" for encoder, note in published_results().notes.items()]


def _best_single(scores: Mapping[str, float]) -> str:
    best = max(scores.values())
    return f"{best:.4f} {', '.join(name for name, value in scores.items() if value == best)}"


def _text(value: float | None) -> str:
    return ABSENT if value is None or np.isnan(value) else f"{value:.4f}"


def _whose(best: tuple[float, PublishedResult] | None) -> Cell:
    if best is None:
        return Cell(ABSENT)
    value, result = best
    note = ". ".join(filter(None, [published_results().sources[result.source], result.note]))
    return Cell(f"{value:.4f} {result.method} {result.marks}", note=note)


def _pair(run: RunSummary, model: str) -> str:
    scores = [run.score(model, metric) for metric in SHORT]
    if not any(scores):
        return ABSENT
    named = f" {' + '.join(run.best_single)}" if model == "best_single" else ""
    return " / ".join(f"{score.estimate:.4f}" if score else ABSENT for score in scores) + named


def _beside(mine: float | None, theirs: float | None) -> str:
    shown = [ABSENT if value is None else f"{value:.4f}" for value in (mine, theirs)]
    difference = "" if mine is None or theirs is None else f" ({mine - theirs:+z.4f})"
    return f"{' / '.join(shown)}{difference}"
