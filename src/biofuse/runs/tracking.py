"""What a run tells a tracker of experiments: MLflow, Weights & Biases. Nothing is told unless it is asked for.

Where a tracker writes, and under which experiment or project, is its own business: ``MLFLOW_TRACKING_URI``,
``MLFLOW_EXPERIMENT_NAME``; ``WANDB_PROJECT``, ``WANDB_MODE``, ``WANDB_DIR``.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biofuse.core.errors import BioFuseError, DependencyError, TrackingError, did_you_mean, option

if TYPE_CHECKING:
    from biofuse.runs.record import RunRecord
    from biofuse.runs.run import Run

LONGEST = 500
"""Characters of a parameter: what every version of MLflow takes."""

TAG = "biofuse.key"
"""Tag by which the tracker's run is found again, so that an evaluation joins the fit it is about."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a tracker is told.

    Attributes
    ----------
    name : str
        Of the run.
    key : str
        Hash of everything that decides the run's result.
    parameters : dict of str to str
    metrics : dict of str to float
        Finite ones.
    files : tuple of Path
    """

    name: str
    key: str
    parameters: dict[str, str]
    metrics: dict[str, float]
    files: tuple[Path, ...]

    @classmethod
    def of(cls, run: "Run") -> "Told":
        """Gather it from a complete run, with its test scores where it was evaluated, and its files as far as there."""
        from biofuse.runs.run import METRICS, RECORD, REPORT

        there = [run.path / name for name in (REPORT, RECORD, METRICS, "leaderboard.csv")]
        metrics = {name: value for name, value in _metrics(run).items() if isfinite(value)}
        return cls(
            name=run.path.resolve().name,
            key=run.record.key,
            parameters={name: _short(value) for name, value in _parameters(run.record).items()},
            metrics=metrics,
            files=tuple(path for path in there if path.is_file()),
        )


def _parameters(record: "RunRecord") -> dict[str, str]:
    chosen = record.options.model_dump(mode="json", exclude={"encoders"})
    sizes = {split: sum(counts.values()) for split, counts in record.counts.items()}
    return {
        "data": record.name,
        "source": record.data.source or "in memory",
        "task": str(record.task),
        "classes": ", ".join(record.classes),
        "pool": ", ".join(record.pool),
        "chosen": ", ".join(record.chosen),
        "fitted_head": record.head,
        "fitted_on": record.fitted_on,
        "biofuse": record.version,
        **{f"n_{split}": str(size) for split, size in sizes.items() if not record.task.several},
        **{f"option_{name}": str(value) for name, value in chosen.items() if value is not None},
    }


def _metrics(run: "Run") -> dict[str, float]:
    from biofuse.search.rules import CHOSEN

    record = run.record
    metric, optimism = record.choice.metric, record.evidence.optimism
    found = {f"cv_{metric}": record.mean, "n_encoders": float(len(record.chosen))}
    found |= {f"cv_{name}_{metric}": row.mean(metric) for name, row in record.companions.items()}
    if optimism is not None:
        found |= {f"cv_corrected_{metric}": optimism.corrected, "cv_corrected_low": optimism.low}
        found |= {"cv_corrected_high": optimism.high}
    found |= {f"seconds_{stage}": seconds for stage, seconds in record.seconds.items()}
    evaluation = run.evaluation
    if evaluation is not None:
        found["test_n"] = float(evaluation.n)
        for model, scores in evaluation.models.items():
            start = "test" if model == CHOSEN else f"test_{model}"
            for name, interval in scores.intervals.items():
                found[f"{start}_{name}"] = interval.estimate
                if model == CHOSEN:
                    found |= {f"{start}_{name}_low": interval.low, f"{start}_{name}_high": interval.high}
    return found


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _tell_mlflow(told: Told) -> str:
    import mlflow
    from mlflow.entities import Metric, Param
    from mlflow.tracking import MlflowClient

    client, active = MlflowClient(), mlflow.active_run()
    experiment = _experiment(client)
    known = client.search_runs([experiment], f"tags.`{TAG}` = '{told.key}'", max_results=1) if active is None else []
    if active is not None:
        run = client.get_run(active.info.run_id)
    elif known:
        run = known[0]
    else:
        run = client.create_run(experiment, run_name=told.name, tags={TAG: told.key})
    # A parameter cannot be changed once it was told.
    parameters = [Param(name, value) for name, value in told.parameters.items() if name not in run.data.params]
    now = run.info.start_time or 0
    client.log_batch(
        run.info.run_id,
        metrics=[Metric(name, value, now, 0) for name, value in told.metrics.items()],
        params=parameters,
    )
    for path in told.files:
        client.log_artifact(run.info.run_id, str(path))
    if active is None:
        client.set_terminated(run.info.run_id)
    return f"{mlflow.get_tracking_uri()}, experiment {experiment}, run {run.info.run_id}"


def _experiment(client: Any) -> str:
    """Return the experiment that MLflow's own variables name, made where there is none."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME")
    if not name:
        return os.environ.get("MLFLOW_EXPERIMENT_ID") or "0"
    known = client.get_experiment_by_name(name)
    return str(client.create_experiment(name) if known is None else known.experiment_id)


def _tell_wandb(told: Told) -> str:
    import wandb

    active = wandb.run
    run = active or wandb.init(
        id=told.key[:32], name=told.name, resume="allow", job_type="biofuse", settings=wandb.Settings(silent=True)
    )
    try:
        run.config.update(told.parameters, allow_val_change=True)
        run.log(told.metrics)
        run.summary.update(told.metrics)
        artifact = wandb.Artifact(f"biofuse-{told.key[:16]}", type="biofuse-run")
        for path in told.files:
            artifact.add_file(str(path))
        run.log_artifact(artifact)
    finally:
        if active is None:
            run.finish()
    return str(run.url or run.dir)


TRACKERS: dict[str, Callable[[Told], str]] = {"mlflow": _tell_mlflow, "wandb": _tell_wandb}
"""What tells each tracker, and returns where it is to be found. The extras of the package have the same names."""


def require_tracker(name: str) -> None:
    """Refuse a tracker that there is not, before anything long is begun.

    Raises
    ------
    TrackingError
        If BioFuse does not know it.
    DependencyError
        If it is not installed.
    """
    if name not in TRACKERS:
        raise TrackingError(
            f"There is no tracker {name!r}.",
            remedy=f"{did_you_mean(name, list(TRACKERS))}There are: {', '.join(TRACKERS)}.",
        )
    if find_spec(name) is None:
        raise DependencyError(f"{name} is not installed.", remedy=f"pip install 'biofuse-embed[{name}]'")


def track(run: "Run | Path | str", tracker: str) -> str:
    """Tell a tracker of experiments of a run: its parameters, scores, and report.

    A run that was told of before is found again, so that scores of an evaluation stand beside those of the fit. Within
    a run of the tracker's own that is open, it is told there.

    Parameters
    ----------
    run : path
        The run directory.
    tracker : {"mlflow", "wandb"}
        Where it writes is said by its own environment variables.

    Returns
    -------
    str
        Where it is to be found.

    Raises
    ------
    ArtifactError
        If there is no complete run there.
    DependencyError
        If the tracker is not installed.
    TrackingError
        If the tracker failed; the run is as it was.

    Examples
    --------
    >>> import biofuse
    >>> fuse = biofuse.BioFuse(["colour", "lbp"], head="ridge")
    >>> _ = fuse.fit("images/", out="run", progress=False)
    >>> where = biofuse.track("run", "mlflow")
    """
    from biofuse.runs.run import Run

    require_tracker(tracker)
    told = Told.of(run if isinstance(run, Run) else Run.open(run))
    try:
        return TRACKERS[tracker](told)
    except Exception as error:  # whatever a tracker raises, the run is not to be lost for it
        text = " ".join(str(error).split())
        raise TrackingError(
            f"{tracker} failed: {type(error).__name__}: {_short(text)}",
            remedy=f"The run is complete. Set {tracker} up, and try again: {option('track', tracker)}.",
        ) from error


def attempt_tracking(run: "Run | Path | str", trackers: Sequence[str], *, tell: Callable[[str], None]) -> bool:
    """Tell trackers of a run after a fit or an evaluation, which must not be lost if that fails.

    Parameters
    ----------
    run : Run or path
    trackers : sequence of {"mlflow", "wandb"}
    tell : callable
        Receives a line for each: where the run is to be found, or why it is not.

    Returns
    -------
    bool
        Whether all were told.
    """
    told = True
    for name in trackers:
        try:
            tell(f"Tracked by {name}: {track(run, name)}")
        except BioFuseError as error:
            told = False
            tell(f"The run was not tracked ({error.message}). {error.remedy}")
    return told
