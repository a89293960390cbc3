"""The demo: the main job from images to predictions, on a real data set that installs from the registry."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from biofuse.api.development import development_data
from biofuse.api.embedding import as_store
from biofuse.api.estimator import BioFuse
from biofuse.api.evaluation import CHOSEN, Evaluation
from biofuse.api.result import FitResult
from biofuse.api.running import evaluate_run
from biofuse.benchmark.demo_data import build_demo
from biofuse.benchmark.drawing import draw_leaderboard, draw_predictions, prediction_title
from biofuse.core.seeds import hash_order
from biofuse.data.decoding import decode
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.extract import Progress, Silent

DRAWN = 18
"""Test images in the picture of predictions."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoOutcome:
    """What the demo made.

    Attributes
    ----------
    result : FitResult
    evaluation : Evaluation
    pictures : tuple of Path
    """

    result: FitResult
    evaluation: Evaluation
    pictures: tuple[Path, ...]


def run_demo(
    folder: Path | str,
    *,
    store: Path | str | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] | None = None,
    encoders: str = "starter",
) -> DemoOutcome:
    """Build the demo set, search the pool, evaluate the choice, and draw predictions.

    Parameters
    ----------
    folder : path
        Data set, run and pictures go into it; what is there already is reused.
    store : path, optional
        The embedding store.
    progress : Progress, optional
        Shows the building of the data set.
    tell : callable, optional
        Receives news line by line.
    encoders : str, default "starter"
        The pool.

    Raises
    ------
    DependencyError
        If the extra ``demo`` is not installed.
    """
    folder, progress, say = Path(folder), progress or Silent(), tell or (lambda _: None)
    manifest = build_demo(folder / "brain-regions", progress=_Stage(progress, "building the data set").report)
    samples = load_samples(manifest)
    fuse = BioFuse(encoders, store=store)
    result = fuse.fit_development(
        development_data(samples),
        out=folder / "run",
        overwrite=True,
        tell=say,
        data={"source": str(manifest.resolve())},
    )
    evaluation = evaluate_run(folder / "run", store=as_store(store))
    pictures = (
        _draw_predictions(samples, evaluation, folder / "predictions.png"),
        _draw_scores(evaluation, folder / "scores.png"),
    )
    return DemoOutcome(result=result, evaluation=evaluation, pictures=pictures)


class _Stage:
    """Turns (done, total) reports into progress."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._done = 0
        self._begun = False

    def report(self, done: int, total: int) -> None:
        if not self._begun:
            self._progress.begin(self._name, total)
            self._begun = True
        self._progress.advance(self._name, done - self._done)
        self._done = done


def _draw_predictions(samples: Samples, evaluation: Evaluation, path: Path) -> Path:
    frame = evaluation.predictions
    rows = hash_order(frame["id"].tolist(), seed=0)[:DRAWN]
    row_of = {sample: row for row, sample in enumerate(samples.ids.tolist())}
    images, titles, right = [], [], []
    for row in rows:
        shown = frame.iloc[row]
        source = samples.sources[row_of[shown["id"]]]
        images.append(decode(source.read(), samples.decode, description=source.description))
        probability = float(shown[f"p_{shown['prediction']}"])
        titles.append(prediction_title(true=shown["label"], predicted=shown["prediction"], probability=probability))
        right.append(bool(shown["label"] == shown["prediction"]))
    accuracy = evaluation["accuracy"]
    heading = f"{len(rows)} of {evaluation.n} test patches, drawn at random; accuracy on all of them {accuracy:.1%}"
    return draw_predictions(images, titles, right, path, heading=heading)


def _draw_scores(evaluation: Evaluation, path: Path) -> Path:
    names, intervals = [], []
    for name, scores in evaluation.models.items():
        count = len(scores.encoders)
        names.append(f"{name.replace('_', ' ')} ({count} encoder{'' if count == 1 else 's'})")
        intervals.append(scores.intervals["auroc"])
    return draw_leaderboard(
        names,
        [interval.estimate for interval in intervals],
        [interval.low for interval in intervals],
        [interval.high for interval in intervals],
        f"Test AUROC on {evaluation.n} patches",
        path,
        xlabel=f"AUROC, with 95 % bootstrap interval over {intervals[0].unit}",
        chosen=list(evaluation.models).index(CHOSEN),
    )
