"""Runs side by side: single encoders over data sets, gains of each modality, what was chosen."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from biofuse.core.errors import ArtifactError
from biofuse.evaluation.metrics import DEFAULT_METRIC, METRICS, SELECTABLE
from biofuse.report.draw import Cell, Heatmap, Table, Tone, cells
from biofuse.report.html import render_page, render_tables
from biofuse.runs.run import Run, RunRecord

ModalityOf = Callable[[RunRecord], str]

TITLES = {name: METRICS[name].title for name in SELECTABLE}
"""What the heat maps show."""

SIGNIFICANCE = 0.05
"""A gain with a larger Holm-corrected p-value is called noise, as everywhere in BioFuse."""

ABSENT = "\u2013"
"""What stands where there is nothing to show."""

GAINS = (
    "Cross-validated gain, on development data, of the best encoder of each modality by itself over the baseline by "
    "itself, with 95 % intervals; grey where, after Holm's correction, it may be chance."
)

EVALUATE = "Run `biofuse evaluate RUN`."


@dataclass(frozen=True, kw_only=True, eq=False)
class RunSummary:
    """One run as far as a comparison needs it.

    Attributes
    ----------
    name : str
        What it is called in tables.
    path : Path
    record : RunRecord
    metrics : mapping or None
        The content of ``metrics.json``; None for a run that was not evaluated.
    modality : str
        What the images are, where that is known.
    """

    name: str
    path: Path
    record: RunRecord
    metrics: Mapping[str, Any] | None
    modality: str = ""

    @classmethod
    def read(cls, path: Path, *, name: str = "", modality_of: ModalityOf | None = None) -> Self:
        """Read a finished run.

        Raises
        ------
        ArtifactError
            If there is no complete run at ``path``, or its files cannot be read.
        """
        run = Run(path)
        record = run.read()
        if record.state != "complete":
            raise ArtifactError(
                f"The fit in {path} did not finish.", remedy="Run the same `biofuse fit` again: it goes on from there."
            )
        try:
            metrics = json.loads(run.metrics_path.read_text(encoding="utf-8")) if run.metrics_path.exists() else None
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{run.metrics_path} cannot be read: {error}", remedy=EVALUATE) from error
        if metrics is not None and not isinstance(metrics, dict):
            raise ArtifactError(f"{run.metrics_path} does not hold metrics.", remedy=EVALUATE)
        modality = modality_of(record) if modality_of else ""
        return cls(name=name or path.resolve().name, path=path, record=record, metrics=metrics, modality=modality)

    @property
    def heading(self) -> str:
        """Its name, and what the images are."""
        return f"{self.name} ({self.modality})" if self.modality else self.name

    @property
    def encoders(self) -> tuple[str, ...]:
        """The pool."""
        return tuple(encoder["name"] for encoder in self.record.encoders)

    @property
    def chosen(self) -> tuple[str, ...]:
        """The encoders of the chosen model."""
        return tuple(self.record.selection["chosen"]["encoders"])

    def single(self, encoder: str, metric: str) -> float | None:
        """Return an encoder's test score by itself; None where it was not scored, or the score is undefined."""
        entry = (self.metrics or {}).get("singles", {}).get(encoder, {})
        value = entry.get("metrics", {}).get(metric)
        return None if value is None else float(value)

    def score(self, model: str, metric: str) -> dict[str, Any]:
        """Return estimate, low and high of a model's test score; empty where there is none."""
        entry = (self.metrics or {}).get("models", {}).get(model, {})
        value = entry.get("metrics", {}).get(metric)
        if value is None:
            return {}
        interval = entry.get("intervals", {}).get(metric, {})
        return {"value": float(value), "low": interval.get("low"), "high": interval.get("high")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Several runs side by side.

    Attributes
    ----------
    runs : tuple of RunSummary
    """

    runs: tuple[RunSummary, ...]

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
        return tuple(dict.fromkeys(encoder for run in self.runs for encoder in run.encoders))

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of these runs before comparing them."""
        said = []
        for run in self.runs:
            if run.metrics is None:
                said.append(f"{run.name} was not evaluated, so it has no test scores. {EVALUATE}")
            elif not run.metrics.get("singles"):
                said.append(f"{run.name} has no test scores of single encoders: it was fitted without a search.")
            elif run.metrics.get("split") != "test":
                said.append(f"The scores of {run.name} are of its {run.metrics.get('split')} samples.")
        for what, key in (("heads", "head"), ("ways to select", "select"), ("presets", "preset")):
            values = {run.name: _option(run, key) for run in self.runs}
            if len(set(values.values())) > 1:
                said.append(f"These runs differ in {what}: {', '.join(f'{n}: {v}' for n, v in values.items())}.")
        return tuple(said)

    def heatmap(self, metric: str) -> Heatmap:
        """Return test scores of single encoders over the runs."""
        values = [[run.single(encoder, metric) for run in self.runs] for encoder in self.encoders]
        return Heatmap(
            title=f"Test {TITLES[metric]} of single encoders",
            rows=self.encoders,
            columns=tuple(run.name for run in self.runs),
            values=np.array(values, dtype=np.float64).reshape(len(self.encoders), len(self.runs)),
        )

    def cross_modal(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return run, encoder modality, line of ``run.json``'s evidence; runs without a general-purpose one lack."""
        found = {}
        for run in self.runs:
            evidence = run.record.evidence.get("modality")
            if evidence:
                found[run.name] = {line["name"]: line for line in evidence["modalities"]}
        return found

    def tables(self) -> list[Table]:
        """Return everything as tables: what was chosen, heat maps, subsets, and gains by modality."""
        maps = [self.heatmap(metric) for metric in TITLES]
        shown = [heatmap.to_table() for heatmap in maps if not np.isnan(heatmap.values).all()]
        modal = [self.modality_table()] if self.cross_modal() else []
        return [self.chosen_table(), *shown, self.subset_table(), *modal]

    def chosen_table(self) -> Table:
        """Return a row per run: what was chosen, and its test scores beside those of its companions."""
        rows, first = [], TITLES[DEFAULT_METRIC]
        for run in self.runs:
            singles = run.record.selection.get("best_single", {}).get("encoders", [])
            counts = run.metrics["n"] if run.metrics else ABSENT
            rows.append(
                cells(
                    run.name,
                    run.record.task,
                    counts,
                    run.record.selection.get("head", ABSENT),
                    f"{' + '.join(run.chosen)} ({len(run.chosen)} of {len(run.encoders)})",
                    *(with_interval(run.score("chosen", metric)) for metric in TITLES),
                    " + ".join(singles) or ABSENT,
                    *(with_interval(run.score(name, DEFAULT_METRIC)) for name in ("best_single", "all")),
                    _against_single(run),
                )
            )
        return Table(
            title="What was chosen, and its test scores",
            columns=(
                "run", "task", "samples", "head", "chosen encoders", *TITLES.values(), "best single encoder",
                f"its {first}", f"{first} of all encoders", "chosen against best single",
            ),
            rows=tuple(rows),
            notes=("95 % intervals in parentheses. Encoders are chosen on development data, never on these scores.",),
            numbers=frozenset({"samples", *TITLES.values()}),
        )  # fmt: skip

    def subset_table(self) -> Table:
        """Return which encoders each run chose."""
        rows = []
        for encoder in self.encoders:
            marks = [
                Cell(text="\u25cf", note="chosen") if encoder in run.chosen
                else Cell(text="", note="offered") if encoder in run.encoders
                else Cell(text=ABSENT, note="not in the pool")
                for run in self.runs
            ]  # fmt: skip
            times = sum(encoder in run.chosen for run in self.runs)
            rows.append(cells(encoder, *marks, f"{times} of {sum(encoder in run.encoders for run in self.runs)}"))
        return Table(
            title="Chosen subsets",
            columns=("encoder", *(run.name for run in self.runs), "chosen"),
            rows=tuple(rows),
            notes=(f"\u25cf: chosen; {ABSENT}: not in that run's pool.",),
        )

    def modality_table(self) -> Table:
        """Return the gain of each modality of encoders over the general-purpose baseline, with its interval."""
        lines = self.cross_modal()
        modalities = list(dict.fromkeys(name for by_name in lines.values() for name in by_name))
        rows = [
            (Cell(text=name), *(_gain_cell(lines.get(run.name, {}).get(name)) for run in self.runs))
            for name in modalities
        ]
        baselines = [
            f"{run.name}: {evidence['baseline']}, {TITLES.get(evidence['metric'], evidence['metric'])} "
            f"{evidence['baseline_score']:.4f}"
            for run in self.runs
            if (evidence := run.record.evidence.get("modality"))
        ]
        return Table(
            title="Encoder modality against data: gain over the general-purpose baseline",
            columns=("trained on", *(run.heading for run in self.runs)),
            rows=tuple(rows),
            notes=(GAINS, f"Baselines: {'; '.join(baselines)}."),
        )

    def to_html(self, *, title: str = "Runs compared") -> str:
        """Return one self-contained page."""
        return render_page(title, self.tables(), lead=self.notes)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "runs": [
                {
                    "name": run.name,
                    "path": str(run.path),
                    "data": run.record.data.get("source"),
                    "modality": run.modality or None,
                    "task": run.record.task,
                    "n_test": run.metrics["n"] if run.metrics else None,
                    "pool": list(run.encoders),
                    "chosen": list(run.chosen),
                    "head": run.record.selection.get("head"),
                    "test": {
                        model: {metric: run.score(model, metric) or None for metric in TITLES}
                        for model in (run.metrics or {}).get("models", {})
                    },
                }
                for run in self.runs
            ],
            "singles": {metric: self.heatmap(metric).to_json() for metric in TITLES},
            "ranks": {
                metric: {
                    column: dict(zip(heatmap.rows, heatmap.ranks[:, place].tolist(), strict=True))
                    for place, column in enumerate(heatmap.columns)
                }
                for metric in TITLES
                for heatmap in (self.heatmap(metric),)
            },
            "modality": self.cross_modal(),
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> str:
        return render_tables(self.tables())


def with_interval(score: Mapping[str, Any]) -> str:
    """Write a score and its interval; a dash where there is none."""
    if not score:
        return ABSENT
    if score["low"] is None or score["high"] is None:
        return f"{score['value']:.4f}"
    return f"{score['value']:.4f} ({score['low']:.3f}\u2013{score['high']:.3f})"


def _gain_cell(line: Mapping[str, Any] | None) -> Cell:
    if line is None or line["alone"]["gain"] is None:
        return Cell(text=ABSENT)
    alone = line["alone"]
    tone: Tone = "gain" if alone["gain"] > 0 else "loss"
    if alone["p_holm"] is None or alone["p_holm"] > SIGNIFICANCE:
        tone = "noise"
    ends = "" if alone["low"] is None else f" ({alone['low']:+.4f} to {alone['high']:+.4f})"
    return Cell(text=f"{alone['gain']:+.4f}{ends} {line['best']}", tone=tone)


def _against_single(run: RunSummary) -> Cell:
    found = (run.metrics or {}).get("comparisons", {}).get("best_single")
    if not found or found.get("difference") is None:
        same = run.metrics is not None and run.chosen == tuple(
            run.record.selection.get("best_single", {}).get("encoders", ())
        )
        return Cell(text="the same" if same else ABSENT)
    noise = found.get("p_holm") is None or found["p_holm"] > SIGNIFICANCE
    tone: Tone = "noise" if noise else "gain" if found["difference"] > 0 else "loss"
    text = f"{found['difference']:+.4f} {TITLES.get(found['metric'], found['metric'])}{', noise' if noise else ''}"
    return Cell(text=text, tone=tone, note=found.get("sentence", ""))


def _option(run: RunSummary, key: str) -> str:
    value = run.record.selection.get("head") if key == "head" else run.record.options.get(key)
    return "none" if value is None else str(value)


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    repeated = [path for path in paths if paths.count(path) > 1]
    if repeated:
        raise ArtifactError(f"{repeated[0]} is named twice.", remedy="Name every run once.")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]
