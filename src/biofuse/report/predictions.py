"""Test predictions out of a run."""

import numpy as np

from biofuse.core.errors import ArtifactError
from biofuse.core.tasks import Task
from biofuse.report.curves import Predicted
from biofuse.report.material import Material


def read_predicted(material: Material) -> Predicted | None:
    """Return the predictions of the chosen model; None where there are none.

    Raises
    ------
    ArtifactError
        If ``predictions.parquet`` does not belong to the run.
    """
    frame, run = material.predictions, material.run
    if frame is None:
        return None
    classes = run.classes
    task, place = Task(run.task), {name: column for column, name in enumerate(classes)}
    missing = [name for name in classes if f"p_{name}" not in frame.columns]
    targets = np.zeros((len(frame), len(classes)), dtype=bool)
    labels = frame["label"].fillna("").astype(str).tolist()
    for row, label in enumerate(labels):
        for name in label.split("|") if task is Task.MULTILABEL and label not in place else [label]:
            if name in place:
                targets[row, place[name]] = True
            elif name:
                missing.append(name)
    if missing:
        raise ArtifactError(
            f"predictions.parquet does not belong to this run: {missing[0]!r} is not a class of both.",
            remedy="Run `biofuse evaluate` again.",
        )
    ids = frame["id"].astype(str).tolist()
    return Predicted(
        task=task,
        classes=classes,
        ids=tuple(ids),
        targets=targets,
        probabilities=frame[[f"p_{name}" for name in classes]].to_numpy(np.float64),
        labels=tuple(labels),
        predictions=tuple(frame["prediction"].fillna("").astype(str).tolist()),
        groups=_groups(material, ids),
    )


def _groups(material: Material, ids: list[str]) -> tuple[str, ...] | None:
    frame = material.predictions
    if frame is not None and "group" in frame.columns:
        found = frame["group"]
    else:
        known = material.samples.set_index("id")["group"]
        if not set(ids) <= set(known.index):
            return None
        found = known.loc[ids]
    return None if found.isna().any() else tuple(found.astype(str).tolist())
