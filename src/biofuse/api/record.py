"""What a run directory says about a fit, as JSON values and tables."""

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from biofuse.api.development import Development
from biofuse.api.embedding import EmbeddingSet
from biofuse.api.evaluation import CHOSEN, hex_contents
from biofuse.api.export import label_names
from biofuse.api.fitting import singles_to_fit
from biofuse.api.problem import Problem
from biofuse.api.searching import Search
from biofuse.core.hashing import digest_json
from biofuse.data.samples import Samples
from biofuse.runs import RunRecord, describe_environment
from biofuse.search import Row

if TYPE_CHECKING:
    import pandas as pd


def describe_search(search: Search) -> dict[str, Any]:
    """Return the choice, how it was made and what it stands beside as JSON values."""
    selection = search.selection
    rows: dict[str, Row | None] = {
        CHOSEN: selection.chosen,
        "best": selection.best,
        "best_single": selection.best_single,
        "all": selection.all,
        "greedy": selection.greedy,
    }
    described = {name: _describe_row(row, selection.metric) for name, row in rows.items() if row is not None}
    singles = {name: search.leaderboard.get(subset) for name, subset in singles_to_fit(search).items()}
    facts: dict[str, Any] = {
        "rule": selection.rule,
        "metric": selection.metric,
        "reason": search.reason,
        "better_than_chance": selection.better_than_chance,
        "head": search.head,
        "heads": dict(search.heads),
        "singles": {n: _describe_row(row, selection.metric) for n, row in singles.items() if row is not None},
    }
    if search.screen is not None:
        loss = search.screen.loss
        facts["screen"] = {"plan": str(search.screen.plan), "loss_of_reduction": None if loss is None else str(loss)}
    if search.ensemble is not None:
        described["one_subset"] = described[CHOSEN]
        described[CHOSEN] = {
            "encoders": list(search.ensemble.encoders),
            "members": [list(member) for member in search.ensemble.members],
            "mean": search.ensemble.mean,
            "folds": _finite(search.ensemble.scores[len(search.ensemble.members)]),
            "means": {str(size): float(np.nanmean(values)) for size, values in search.ensemble.scores.items()},
        }
    return facts | described


def _describe_row(row: Row, metric: str) -> dict[str, Any]:
    return {
        "encoders": list(row.subset),
        "dims": row.n_dims,
        "mean": row.mean(metric),
        "folds": _finite(row.folds[metric]),
    }


def _finite(values: Sequence[float]) -> list[float | None]:
    return [None if np.isnan(value) else value for value in values]


def new_record(problem: Problem, embeddings: EmbeddingSet, development: Development, data: dict[str, Any]) -> RunRecord:
    """Return the record of a run that is about to start."""
    config = problem.config.model_dump(mode="json")
    return RunRecord(
        version=importlib.metadata.version("biofuse-embed"),
        key=digest_json([problem.key(stage="run"), config]),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        data={"name": problem.samples.name, **data},
        task=str(problem.task),
        classes=problem.samples.classes,
        counts=_counts(problem.samples, development.held_out),
        encoders=[
            {
                "name": card.name,
                "fingerprint": card.fingerprint(precision=(precision := embeddings.precisions.get(card.name, "fp32"))),
                "precision": precision,
                "dim": card.dim,
                "licence": card.licence,
            }
            for card in embeddings.cards
        ],
        skipped=[asdict(skipped) for skipped in embeddings.skipped],
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
