"""Runs made up from random numbers: as large as needed in a second, with every file that a real one has."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.target import Target, Task
from biofuse.data.load import load_samples
from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.evaluation.calibration import Calibration, measure_calibration
from biofuse.evaluation.conformal import Conformal, measure_sets
from biofuse.evaluation.intervals import Comparison, Interval
from biofuse.evaluation.metrics import Metrics, score
from biofuse.evaluation.operating import measure_operating
from biofuse.evaluation.rows import prepare
from biofuse.model.evaluate import Evaluation, Leak, ModelScores
from biofuse.report.content import Report
from biofuse.report.html import build_report, render_html
from biofuse.report.input import Embedded, ReportInput, SampleImages
from biofuse.runs.record import DataSource, Environment, Folds, RunRecord, UsedEncoder
from biofuse.runs.run import Run, write_record
from biofuse.search.attribution import attribute
from biofuse.search.config import SearchConfig
from biofuse.search.evidence import Evidence
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets
from biofuse.search.rules import select
from biofuse.search.screen import ScreenPlan

METRICS = ("auroc", "accuracy", "balanced_accuracy")


@dataclass(frozen=True)
class MadeUp:
    """A run directory, what goes with it, and what it was made from."""

    given: ReportInput
    classes: tuple[str, ...]
    probabilities: np.ndarray
    labels: np.ndarray
    board: Leaderboard
    screen: Leaderboard

    @property
    def path(self) -> Path:
        return self.given.run.path

    def read(self, **changes: Any) -> ReportInput:
        """Read the directory anew, as somebody else would."""
        return replace(self.given, run=Run.open(self.path), **changes)

    @property
    def report(self) -> Report:
        return build_report(self.read())

    @property
    def page(self) -> str:
        return render_html(self.report)


def card(name: str, **changes: Any) -> EncoderCard:
    facts: dict[str, Any] = {
        "name": name,
        "title": name.upper(),
        "loader": "timm",
        "preprocessing": Preprocessing(resize="shortest", size=8, crop=8, interpolation="bicubic"),
        "output": "pooled",
        "dim": 12,
        "licence": "MIT",
        "commercial": True,
        "modality": "general",
        "source": "made up",
        "weights": Weights(repository="owner/name", revision="a" * 40, file="f.safetensors", sha256="b" * 64),
    }
    return EncoderCard(**(facts | changes))


@pytest.fixture(scope="session")
def make_card() -> Callable[..., EncoderCard]:
    """Return a function that makes a card of a made-up encoder."""
    return card


def _boards(names: tuple[str, ...], generator: np.random.Generator, dims: int) -> tuple[Leaderboard, Leaderboard]:
    worth = generator.uniform(0.02, 0.1, len(names))

    def row(subset: tuple[str, ...]) -> Row:
        level = 0.6 + 0.38 * np.tanh(3 * sum(worth[names.index(name)] for name in subset))
        folds = {metric: tuple((level - generator.uniform(0, 0.02, 10)).tolist()) for metric in METRICS}
        return Row(subset=subset, n_dims=dims * len(subset), folds=folds, seconds=0.1)

    common: dict[str, Any] = {"encoders": names, "metrics": METRICS, "n_train": (80,) * 10, "n_test": (20,) * 10}
    screen = Leaderboard(rows=tuple(row(subset) for subset in all_subsets(names)), **common)
    kept = {*screen.best_first()[:16], *screen.singles, screen[names]}
    return Leaderboard(rows=tuple(row(one.subset) for one in kept), **common), screen


def _table(ids: list[str], labels: list[str], splits: list[str], contents: list[str]) -> pd.DataFrame:
    groups = [f"g{number // 4}" for number in range(len(ids))]
    return pd.DataFrame({"id": ids, "content": contents, "label": labels, "split": splits, "group": groups})


def _words(classes: tuple[str, ...], labels: np.ndarray) -> list[str]:
    if labels.ndim == 1:
        return [classes[label] for label in labels]
    return ["|".join(name for name, on in zip(classes, row, strict=True) if on) for row in labels]


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory, reseal: Callable[..., None]) -> Callable[..., MadeUp]:
    """Return a function that makes up a run."""

    def make(
        *,
        classes: tuple[str, ...] = ("normal", "mild", "severe"),
        encoders: int = 4,
        development: int = 60,
        test: int = 90,
        task: Task = Task.MULTICLASS,
        dims: int = 12,
        side: int = 24,
        ids: Callable[[int], str] = "image-{:05d}.png".format,
        cards: dict[str, dict[str, Any]] | None = None,
        tested: bool = True,
        name: str = "made-up",
    ) -> MadeUp:
        generator = np.random.default_rng(0)
        names = tuple(f"encoder_{number}" for number in range(encoders))
        path = tmp_path_factory.mktemp("made-up") / "run"
        board, screen = _boards(names, generator, dims)
        total, n_classes = development + test, len(classes)
        shape = (total, n_classes) if task is Task.MULTILABEL else (total,)
        labels = generator.integers(0, 2 if task is Task.MULTILABEL else n_classes, shape)
        words, every = _words(classes, labels), [ids(number) for number in range(total)]
        splits = ["train" if number % 5 else "val" for number in range(development)] + ["test"] * test
        targets = labels if labels.ndim == 2 else np.eye(n_classes, dtype=int)[labels]
        noisy = 2.2 * targets + generator.normal(0, 1, targets.shape)
        if task is Task.MULTILABEL:
            probabilities = 1 / (1 + np.exp(1.1 - noisy))
        else:
            probabilities = np.exp(noisy) / np.exp(noisy).sum(axis=1, keepdims=True)
        selection = select(board, rule="one_se", metric="auroc")
        record = RunRecord(
            version="0.1.0", key="k" * 32, state="complete", started="2026-01-02T03:04:05+00:00",
            seconds={"search": 1.0}, name=name, data=DataSource(source=f"/data/{name}"), task=task, classes=classes,
            counts={split: _counts(classes, targets, splits, split) for split in ("train", "val", "test")},
            encoders=tuple(
                UsedEncoder(card=own, precision="fp32", fingerprint=own.fingerprint())
                for own in (card(n, dim=dims, **(cards or {}).get(n, {})) for n in names)
            ),
            options=SearchConfig(encoders=names), plan=Folds(kind="cv", folds=10, repeats=2, key="p"),
            selection=selection, head="ridge", heads={"ridge": 0.9}, singles=names,
            screen=ScreenPlan(mode="primal", reduce_to=None, n_subsets=len(screen), memory=1, operations=1.0),
            evidence=Evidence(attribution=attribute(screen, metric="auroc", empty=0.5)),
            fitted_on="train + val", environment=Environment.here(),
        )  # fmt: skip
        path.mkdir()
        board.to_parquet(path / "leaderboard.parquet")
        screen.to_parquet(path / "screen.parquet")
        contents = [f"{number:032x}" for number in range(development)] + [""] * test
        _table(every, words, splits, contents).to_parquet(path / "samples.parquet")
        write_record(path, record)
        reseal(path)
        run = Run.open(path)
        if tested:
            run.write_evaluation(
                _evaluated(record, ids=every[development:], labels=labels[development:],
                           probabilities=probabilities[development:])
            )  # fmt: skip
        pixels = generator.integers(0, 256, (total, side, side, 3), dtype=np.uint8)
        samples = load_samples(pixels, labelled=False)
        samples = type(samples)(ids=np.array(every, dtype=object), sources=samples.sources, decode=samples.decode)
        first, rest = np.arange(development), np.arange(development, total)

        def embedded(part: np.ndarray) -> Embedded:
            own = {n: targets[part] @ generator.normal(0, 1, (n_classes, dims)) for n in names}
            noise = {n: generator.normal(0, 1, (len(part), dims)) for n in names}
            blocks = Blocks(ids=samples.ids[part], matrices={n: (own[n] + noise[n]).astype(np.float32) for n in names})
            return Embedded(blocks=blocks, labels=tuple(words[row] for row in part))

        given = ReportInput(
            run=run,
            development=embedded(first),
            test=embedded(rest) if tested else None,
            development_images=SampleImages(samples.take(first)),
            test_images=SampleImages(samples.take(rest)) if tested else None,
        )
        return MadeUp(given, classes, probabilities[development:], labels[development:], board, screen)

    return make


def _counts(classes: tuple[str, ...], targets: np.ndarray, splits: list[str], split: str) -> dict[str, int]:
    own = targets[[each == split for each in splits]].sum(axis=0)
    return dict(zip(classes, own.tolist(), strict=True))


def _evaluated(record: RunRecord, *, ids: list[str], labels: np.ndarray, probabilities: np.ndarray) -> Evaluation:
    classes, task = record.classes, record.task
    found = score(task, labels, probabilities, classes=classes)
    how: dict[str, Any] = {"confidence": 0.95, "unit": "samples", "n_units": len(ids), "n_resamples": 9}

    def model(encoders: tuple[str, ...], less: float) -> ModelScores:
        values = {name: value - less for name, value in found.items()}
        metrics = Metrics(values_by_name=values, undefined=found.undefined, per_class=found.per_class, n=found.n)
        intervals = {
            name: Interval(metric=name, estimate=values[name], low=values[name] - 0.02, high=values[name] + 0.01,
                           method="percentile", n_undefined=0, **how)
            for name in METRICS
        }  # fmt: skip
        return ModelScores(encoders=encoders, metrics=metrics, intervals=intervals)

    comparisons = {
        name: Comparison(metric="auroc", first="chosen", second=name, first_score=0.9, second_score=0.9 - less,
                         difference=less, low=less - 0.01, high=less + 0.01, p_value=p, p_holm=p, n_undefined=0, **how)
        for name, less, p in (("best_single", 0.05, 0.01), ("all", 0.01, 0.4))
    }  # fmt: skip
    said = (probabilities > 0.5).astype(int) if task is Task.MULTILABEL else probabilities.argmax(axis=1)
    predictions = pd.DataFrame(
        {"id": ids, "label": _words(classes, labels), "prediction": _words(classes, said), "in_development": False}
    )
    for column, name in enumerate(classes):
        predictions[f"p_{name}"] = probabilities[:, column]
    pool, target = record.pool, Target(task, classes)
    cooled = [0.8] * (len(classes) if target.several else 1)
    calibration = Calibration(temperatures=tuple(cooled), n=100)
    before = Calibration(temperatures=tuple(1 / each for each in cooled), n=100).apply(target, probabilities)
    made = Conformal.learn(target, labels, probabilities, units=ids)
    return Evaluation(
        n=len(ids),
        models={"chosen": model(record.chosen, 0.0), "best_single": model(pool[:1], 0.05), "all": model(pool, 0.01)},
        comparisons=comparisons,
        leak=Leak(samples=0, per_class={}, groups=0, without={}),
        predictions=predictions,
        quarantined=(),
        calibration=measure_calibration(target, labels, before, probabilities, calibration=calibration, ids=ids),
        sets=tuple(
            measure_sets(
                target,
                labels,
                made.sets(target, probabilities, asked),
                probabilities,
                asked=asked,
                class_conditional=False,
                ids=ids,
            )
            for asked in (0.9, 0.5)
        ),
        operating=measure_operating(prepare(task, labels, probabilities, classes=classes), ids=ids),
        data=record.data.source,
    )


@pytest.fixture(scope="session")
def large_page(make_run: Callable[..., MadeUp], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """511 subsets, 10,000 test samples, and noise for images: nothing compresses worse."""
    classes = tuple(f"class {number}" for number in range(9))
    made = make_run(encoders=9, development=2000, test=10_000, classes=classes, side=64, dims=32)
    path = tmp_path_factory.mktemp("large") / "report.html"
    path.write_text(made.page)
    return path
