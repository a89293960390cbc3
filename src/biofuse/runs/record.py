"""What ``run.json`` holds: the very objects that were in memory, with their types."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from biofuse.blocks.pooling import Pooling
from biofuse.core.errors import in_utf8
from biofuse.core.hashing import digest_json
from biofuse.core.target import Target, Task
from biofuse.data.config import DataConfig
from biofuse.data.decoding import DecodePolicy
from biofuse.data.load import Development
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.doctor import Skipped
from biofuse.encoders.registry import ENCODERS, Plugin
from biofuse.evaluation.metrics import Record, Score
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.search.config import SearchConfig
from biofuse.search.evidence import Evidence
from biofuse.search.leaderboard import Row, Subset
from biofuse.search.problem import Problem
from biofuse.search.rules import CHOSEN, Ensemble, Selection
from biofuse.search.screen import ReductionLoss, ScreenPlan
from biofuse.search.search import Search, singles_to_fit

RUN_FORMAT = 5
"""Raised when ``run.json`` changes so that other versions cannot read it. Formats 3 (no checksums) and 4 (no lean
subset) are still read."""

LIBRARIES = (
    "biofuse-embed",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "pillow",
    "pandas",
    "pyarrow",
    "torch",
    "torchvision",
    "timm",
    "xgboost",
)
"""Distributions whose version can change a result."""


class Environment(Record):
    """Versions and hardware.

    Attributes
    ----------
    python, platform, processor : str
    cores : int or None
    accelerator : str or None
        The graphics processor, where one could be used.
    libraries : dict of str to (str or None)
        Version of each of :data:`LIBRARIES`; None where it is not installed.
    """

    python: str
    platform: str
    processor: str
    cores: int | None
    accelerator: str | None
    libraries: dict[str, str | None]

    @classmethod
    def here(cls) -> Self:
        """Describe this machine; never loads a model library for it."""
        return cls(
            python=platform.python_version(),
            platform=platform.platform(),
            processor=platform.processor() or platform.machine(),
            cores=os.cpu_count(),
            accelerator=_accelerator(),
            libraries={name: _version(name) for name in LIBRARIES},
        )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _accelerator() -> str | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return str(torch.cuda.get_device_name())


class DataSource(Record):
    """Where data came from and how they were read, so that they can be found again.

    Attributes
    ----------
    source : str or None
        A path or a name; None for data in memory.
    kind : str or None
        What data in memory were.
    config : DataConfig
        How they, and the parts that came apart, were read.
    val, test : DataSource or None
        Validation and test data that came apart.
    """

    source: str | None = None
    kind: str | None = None
    config: DataConfig = DataConfig()
    val: "DataSource | None" = None
    test: "DataSource | None" = None

    @classmethod
    def of(
        cls,
        data: Any,
        *,
        val: Any = None,
        test: Any = None,
        config: DataConfig | None = None,
    ) -> Self:
        """Describe what a user gave, so that it is found again from any folder.

        Parameters
        ----------
        data, val, test : anything :func:`biofuse.load_samples` takes
            The last two where they came apart; None, or for test ``auto``, where they did not.
        config : DataConfig, optional
            How they are read.
        """
        config = config or DataConfig()
        if config.folder is not None:
            config = config.but(root=config.folder.resolve())
        parts = {
            name: cls.of(part)
            for name, part in (("val", val), ("test", test))
            if part is not None and not (isinstance(part, str) and part == "auto")
        }
        kind = None if isinstance(data, str | Path) else type(data).__name__
        path = Path(data).expanduser() if kind is None else None
        where = None if path is None else in_utf8(str(path.resolve() if path.exists() else data))
        return cls(source=where, kind=kind, config=config, **parts)

    @property
    def in_memory(self) -> bool:
        """Whether the data, or a part of them, cannot be found again."""
        return self.source is None or any(part.in_memory for part in (self.val, self.test) if part is not None)

    @model_validator(mode="before")
    @classmethod
    def _of_before(cls, read: Any) -> Any:
        """Read records that had three of the options beside the source."""
        if not isinstance(read, dict):
            return read
        options = {name: read[name] for name in ("label", "group", "task") if read.get(name) is not None}
        rest = {name: value for name, value in read.items() if name not in {"label", "group", "task"}}
        return {"config": options, **rest} if options else rest


class UsedEncoder(Record):
    """An encoder of the pool, as it was used.

    Attributes
    ----------
    card : EncoderCard
    precision : {"fp32", "fp16", "bf16"}
        What it computed in.
    fingerprint : str
        Of both: under it the store keeps its embeddings.
    """

    card: EncoderCard
    precision: Precision
    fingerprint: str

    @property
    def name(self) -> str:
        """Name of the encoder."""
        return self.card.name


class Folds(Record):
    """How subsets were validated.

    Attributes
    ----------
    kind : {"cv", "holdout"}
    folds, repeats : int
        Folds, those of all repeats together.
    key : str
        Hash of the division.
    notes : tuple of str
        What a reader should know of it.
    """

    kind: Literal["cv", "holdout"]
    folds: int
    repeats: int
    key: str
    notes: tuple[str, ...] = ()


class RunRecord(Record):
    """The content of ``run.json``: enough to repeat the run.

    Attributes
    ----------
    format : int
    version : str
        BioFuse's version.
    key : str
        Hash of everything that decides the result: data, folds, encoders and options.
    state : {"searching", "complete"}
    started : str
        UTC, ISO 8601.
    seconds : dict of str to float
        Wall time of each stage.
    name : str
        What the data are called.
    data : Source
        Where they came from and how they were read.
    decode : DecodePolicy
        How pixels were read.
    pooling : {"mean", "max", "mean+max", "mean+std"}
        How the embeddings of a bag's images became one row.
    task : Task
    classes : tuple of str
    counts : dict of str to dict of str to int
        Samples per split and class.
    reading : tuple of str
        What was recognised, decided and doubted when the data were read.
    encoders : tuple of UsedEncoder
        The pool.
    latency : dict of str to float
        Milliseconds per image of each encoder, where they were measured.
    skipped : tuple of Skipped
        Encoders that were asked for and could not be run.
    embeddings_kept : bool
        Whether the store has the embeddings.
    options : SearchConfig
        What the user chose, with presets resolved.
    plan : Folds
    fitted_on : str
        Which samples the final model was fitted on.
    environment : Environment
    plugins : tuple of Plugin
        Python files that were run to register encoders, heads or fusions.
    head : str
        The head that subsets were refitted with.
    heads : dict of str to float
        Mean score of each head that it was chosen from.
    selection : Selection or None
        The chosen subset and what it stands beside; None until the run is complete.
    ensemble : Ensemble or None
        The average of subsets that was chosen, where one was asked for.
    singles : tuple of str
        Encoders that have a model of their own.
    screen : ScreenPlan or None
        How all subsets were scored in closed form.
    reduction : ReductionLoss or None
        What reducing the blocks for that cost.
    evidence : Evidence
        What corrects and explains the choice: optimism, nested scores, contributions of the encoders.
    files : dict of str to str
        Checksum of every file of the run that is read again, by its path below the run's.
    """

    format: int = RUN_FORMAT
    version: str
    key: str
    state: Literal["searching", "complete"] = "searching"
    started: str
    seconds: dict[str, float] = Field(default_factory=dict)
    name: str
    data: DataSource = DataSource()
    decode: DecodePolicy = DecodePolicy()
    pooling: Pooling = "mean"
    task: Task
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]
    reading: tuple[str, ...] = ()
    encoders: tuple[UsedEncoder, ...]
    latency: dict[str, float] = Field(default_factory=dict)
    skipped: tuple[Skipped, ...] = ()
    embeddings_kept: bool = True
    options: SearchConfig
    plan: Folds
    fitted_on: str
    environment: Environment
    plugins: tuple[Plugin, ...] = ()
    head: str = ""
    heads: dict[str, Score] = Field(default_factory=dict)
    selection: Selection | None = None
    ensemble: Ensemble | None = None
    singles: tuple[str, ...] = ()
    screen: ScreenPlan | None = None
    reduction: ReductionLoss | None = None
    evidence: Evidence = Evidence()
    files: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def begin(cls, problem: Problem, embeddings: EmbeddingSet, development: Development, source: DataSource) -> Self:
        """Return the record of a run that is about to start."""
        plan, config = problem.plan, problem.config
        return cls(
            version=importlib.metadata.version("biofuse-embed"),
            key=digest_json([problem.key(stage="run"), config.model_dump(mode="json")]),
            started=datetime.now(UTC).isoformat(timespec="seconds"),
            name=problem.samples.name,
            data=source,
            decode=problem.samples.decode,
            pooling=embeddings.pooling,
            task=problem.task,
            classes=problem.classes,
            counts=_counts(problem.samples, development.held_out),
            reading=(*problem.samples.notes, *problem.samples.warnings),
            encoders=tuple(
                UsedEncoder(card=card, precision=precision, fingerprint=card.fingerprint(precision=precision))
                for card in embeddings.cards
                for precision in (embeddings.precisions.get(card.name, "fp32"),)
            ),
            skipped=embeddings.skipped,
            embeddings_kept=embeddings.kept,
            options=config,
            plan=Folds(kind=plan.kind, folds=len(plan.folds), repeats=plan.n_repeats, key=plan.key(), notes=plan.notes),
            fitted_on=problem.fitted_on,
            environment=Environment.here(),
            plugins=ENCODERS.plugins,
        )

    def completed(self, search: Search, evidence: Evidence, *, seconds: Mapping[str, float]) -> Self:
        """Return the record with what was found."""
        screen = search.screen
        found = {
            "state": "complete",
            "seconds": dict(seconds),
            "head": search.head,
            "heads": dict(search.heads),
            "selection": search.selection,
            "ensemble": search.ensemble,
            "singles": tuple(singles_to_fit(search)),
            "screen": None if screen is None else screen.plan,
            "reduction": None if screen is None else screen.loss,
            "evidence": evidence,
        }
        return self.model_copy(update=found)

    @property
    def target(self) -> Target:
        """What is predicted."""
        return Target(self.task, self.classes)

    @property
    def pool(self) -> tuple[str, ...]:
        """Names of all encoders of the search."""
        return tuple(encoder.name for encoder in self.encoders)

    @property
    def cards(self) -> dict[str, EncoderCard]:
        """Cards of the pool."""
        return {encoder.name: encoder.card for encoder in self.encoders}

    @property
    def precisions(self) -> dict[str, Precision]:
        """What each encoder of the pool computed in."""
        return {encoder.name: encoder.precision for encoder in self.encoders}

    @property
    def choice(self) -> Selection:
        """The selection of a complete run."""
        if self.selection is None:
            raise ValueError("Nothing was selected yet.")
        return self.selection

    @property
    def chosen(self) -> Subset:
        """Encoders of the chosen model."""
        return self.choice.chosen.subset if self.ensemble is None else self.ensemble.encoders

    @property
    def reason(self) -> str:
        """The choice in words."""
        return self.choice.reason if self.ensemble is None else str(self.ensemble)

    @property
    def members(self) -> tuple[Subset, ...]:
        """Subsets whose average was chosen; empty where one subset was."""
        return () if self.ensemble is None else self.ensemble.members

    @property
    def mean(self) -> float:
        """Cross-validated mean of the chosen model, by the metric of the choice."""
        return self.choice.chosen.mean(self.choice.metric) if self.ensemble is None else self.ensemble.mean

    @property
    def companions(self) -> dict[str, Row]:
        """What the chosen model is compared with, as far as the search scored it."""
        return self.choice.companions

    @property
    def models(self) -> dict[str, Subset]:
        """Encoders of the chosen model and of those that it is compared with."""
        return {CHOSEN: self.chosen} | {name: row.subset for name, row in self.companions.items()}


def _counts(*parts: Samples | None) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for part in parts:
        if part is not None and part.splits is not None and part.labels is not None and part.target is not None:
            for split in dict.fromkeys(part.splits.tolist()):
                counts[split] = part.target.counts(part.labels[part.splits == split])
    return counts
