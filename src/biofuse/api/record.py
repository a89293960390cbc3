"""What a run directory says about a fit, as JSON values and tables."""

import importlib.metadata
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.api.development import Development
from biofuse.api.embedding import EmbeddingSet
from biofuse.api.evaluation import CHOSEN, hex_contents
from biofuse.api.export import label_names
from biofuse.api.fitting import Problem
from biofuse.core.hashing import digest_json
from biofuse.data.samples import Samples
from biofuse.runs import RunRecord, describe_environment
from biofuse.search import Row, Selection

if TYPE_CHECKING:
    import pandas as pd


def describe_selection(selection: Selection) -> dict[str, Any]:
    """Return a selection as JSON values."""
    rows: dict[str, Row | None] = {
        CHOSEN: selection.chosen,
        "best": selection.best,
        "best_single": selection.best_single,
        "all": selection.all,
        "greedy": selection.greedy,
    }
    return {
        "rule": selection.rule,
        "metric": selection.metric,
        "reason": selection.reason,
        "better_than_chance": selection.better_than_chance,
        **{
            name: {
                "encoders": list(row.subset),
                "dims": row.n_dims,
                "mean": row.mean(selection.metric),
                "folds": [None if np.isnan(value) else value for value in row.folds[selection.metric]],
            }
            for name, row in rows.items()
            if row is not None
        },
    }


def new_record(problem: Problem, embeddings: EmbeddingSet, development: Development, data: dict[str, Any]) -> RunRecord:
    """Return the record of a run that is about to start."""
    config = problem.config.model_dump(mode="json")
    return RunRecord(
        version=importlib.metadata.version("biofuse-embed"),
        key=digest_json([problem.key, config]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        data={"name": problem.samples.name, **data},
        task=str(problem.task),
        classes=problem.samples.classes,
        counts=_counts(problem.samples, development.held_out),
        encoders=[
            {"name": card.name, "fingerprint": card.fingerprint(), "dim": card.dim, "licence": card.licence}
            for card in embeddings.cards
        ],
        options=config,
        plan={
            "kind": problem.plan.kind,
            "folds": len(problem.plan.folds),
            "repeats": problem.plan.n_repeats,
            "key": problem.plan.key(),
            "notes": list(problem.plan.notes),
        },
        fitted_on=problem.fitted_on,
        environment=describe_environment(),
    )


def _counts(samples: Samples, held_out: Samples | None) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for part in (samples, held_out):
        if part is None or part.splits is None or part.labels is None:
            continue
        for split in dict.fromkeys(part.splits.tolist()):
            labels = part.labels[part.splits == split]
            each = np.bincount(labels, minlength=len(part.classes)) if labels.ndim == 1 else labels.sum(axis=0)
            counts[split] = dict(zip(part.classes, each.tolist(), strict=True))
    return counts


def sample_rows(embeddings: EmbeddingSet, development: Development) -> "pd.DataFrame":
    """Return a row per sample of the run; test samples are unread, hence without content."""
    import pandas as pd

    parts = [_rows(embeddings.samples, hex_contents(embeddings).tolist())]
    if development.held_out is not None:
        parts.append(_rows(development.held_out, [""] * len(development.held_out)))
    return pd.concat(parts, ignore_index=True)


def _rows(samples: Samples, contents: list[str]) -> "pd.DataFrame":
    import pandas as pd

    groups = [None] * len(samples) if samples.groups is None else samples.groups
    return pd.DataFrame(
        {
            "id": samples.ids,
            "content": contents,
            "label": label_names(samples),
            "split": samples.splits,
            "group": groups,
        }
    )
