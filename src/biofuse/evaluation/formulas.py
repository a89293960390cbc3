"""Every metric as a function of row weights: weights of one score the data, resampling counts score a resample.

A formula returns one value per column (class or label) and weighting, shape (n_columns, n_weightings); the metric is
the mean over columns, NaN where any column is undefined. Weights have shape (n, n_weightings).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import UndefinedMetricError
from biofuse.core.tasks import Task
from biofuse.evaluation.prepared import Prepared, Ranking

Values = NDArray[np.float64]

TOP_K = 5
"""Top-5 accuracy is what ImageNet results report beside accuracy; it needs more than five classes."""

NORMALISED = 1e-3
"""How far a row of probabilities may be from adding to one before its log-loss means nothing."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What a metric is called, how it is computed and how to read it.

    Attributes
    ----------
    name, title : str
        Its key in tables, and its name in prose.
    formula : callable
        Maps (prepared, weights) to values per column and weighting.
    applies : callable
        Whether the metric exists for a task with so many classes.
    per_class : bool
        Whether the formula's columns are the classes or labels.
    higher_is_better : bool
        False for losses.
    chance : float or None
        What a guess scores whatever the data; None where that depends on them.
    """

    name: str
    title: str
    formula: Callable[[Prepared, Values], Values]
    applies: Callable[[Task, int], bool] = lambda _task, _n_classes: True
    per_class: bool = False
    higher_is_better: bool = True
    chance: float | None = None

    def resample(self, data: Prepared, weights: Values) -> Values:
        """Return the metric under each weighting, shape (n_weightings,); NaN where it is undefined."""
        return np.asarray(self.formula(data, weights).mean(axis=0))


def auroc_columns(targets: NDArray[np.bool_], scores: NDArray[np.floating]) -> Values:
    """Area under the ROC curve of every column at once, from ranks; ties count half.

    Parameters
    ----------
    targets : ndarray of bool, shape (n, n_columns)
        Which rows are positive.
    scores : ndarray of float, shape (n, n_columns)
        Probabilities or decision values: only their order counts.

    Returns
    -------
    ndarray of float64, shape (n_columns,)
        NaN where a column has no positive or no negative row.
    """
    positive = targets.sum(axis=0).astype(np.float64)
    order = np.argsort(np.ascontiguousarray(scores.T), axis=1)
    ascending = np.take_along_axis(scores.T, order, axis=1)
    ranks = np.broadcast_to(np.arange(1.0, len(scores) + 1), order.shape)
    tied = np.flatnonzero((ascending[:, 1:] == ascending[:, :-1]).any(axis=1))
    if len(tied):
        ranks = ranks.copy()
        ranks[tied] = [_mean_ranks(row) for row in ascending[tied]]
    total = np.einsum("ij,ij->i", ranks, np.take_along_axis(targets.T, order, axis=1))
    return _divide(total - positive * (positive + 1) / 2, positive * (len(targets) - positive))


def _mean_ranks(ascending: NDArray[np.floating]) -> Values:
    """Return ranks from 1, those of ties their mean."""
    below, up_to = (np.searchsorted(ascending, ascending, side=side) for side in ("left", "right"))
    return np.asarray((below + 1 + up_to) / 2, dtype=np.float64)


def _divide(over: Values, under: Values) -> Values:
    quotient = np.full(np.broadcast_shapes(over.shape, under.shape), np.nan)
    np.divide(over, under, out=quotient, where=under > 0)
    return quotient


def _running(weights: Values) -> Values:
    return np.concatenate([np.zeros((1, weights.shape[1])), np.cumsum(weights, axis=0)])


def _auroc(data: Prepared, weights: Values) -> Values:
    return np.stack([_ranking_auroc(ranking, weights) for ranking in data.rankings])


def _ranking_auroc(ranking: Ranking, weights: Values) -> Values:
    positive, below = weights[ranking.positives], _running(weights[ranking.negatives])
    beaten = below[ranking.below]
    if not np.array_equal(ranking.below, ranking.up_to):
        beaten = (beaten + below[ranking.up_to]) / 2
    return _divide(np.einsum("ij,ij->j", positive, beaten), positive.sum(axis=0) * below[-1])


def _average_precision(data: Prepared, weights: Values) -> Values:
    return np.stack([_ranking_precision(ranking, weights) for ranking in data.rankings])


def _ranking_precision(ranking: Ranking, weights: Values) -> Values:
    positive = weights[ranking.positives]
    hits, misses = _running(positive), _running(weights[ranking.negatives])
    above = hits[-1] - hits[ranking.positives_below]
    precision = _divide(above, above + misses[-1] - misses[ranking.below])
    # A row of weight nothing has no precision when nothing stands above it; it does not count either.
    return _divide(np.einsum("ij,ij->j", positive, np.where(positive > 0, precision, 0)), hits[-1])


def _accuracy(data: Prepared, weights: Values) -> Values:
    right = data.targets == data.predicted
    right = right.T if data.multilabel else right.all(axis=1)[np.newaxis]
    return _divide(right.astype(np.float64) @ weights, weights.sum(axis=0))


def _balanced_accuracy(data: Prepared, weights: Values) -> Values:
    total, truth, hits = weights.sum(axis=0), data.target_sums @ weights, data.hit_sums @ weights
    recall = _divide(hits, truth)
    if not data.multilabel:
        return recall
    return (recall + _divide(total - truth - data.predicted_sums @ weights + hits, total - truth)) / 2


def _f1(data: Prepared, weights: Values) -> Values:
    truth, said, hits = (sums @ weights for sums in (data.target_sums, data.predicted_sums, data.hit_sums))
    return _divide(2 * hits, truth + said)


def _mcc(data: Prepared, weights: Values) -> Values:
    truth, said, hits = (sums @ weights for sums in (data.target_sums, data.predicted_sums, data.hit_sums))
    total = weights.sum(axis=0)
    if data.multilabel:
        over, spread = hits * total - truth * said, said * (total - said)
        variety = truth * (total - truth)
    else:
        over = (hits.sum(axis=0) * total - (truth * said).sum(axis=0))[None]
        spread, variety = ((total**2 - (counts**2).sum(axis=0))[None] for counts in (said, truth))
    # Constant predictions have no correlation by definition of scikit-learn (0); constant labels leave it undefined.
    under = np.sqrt(np.maximum(spread, 0) * np.maximum(variety, 0))
    return np.where((spread <= 0) & (variety > 0), 0.0, _divide(over, under))


def _quadratic_kappa(data: Prepared, weights: Values) -> Values:
    total, grades = weights.sum(axis=0), np.arange(len(data.classes), dtype=np.float64)
    truth, said = data.target_sums @ weights, data.predicted_sums @ weights
    observed = ((data.labels - data.predicted.argmax(axis=1)) ** 2).astype(np.float64) @ weights
    # Expected squared distance of independent grades, from their first two moments.
    expected = grades**2 @ (truth + said) - 2 * _divide((grades @ truth) * (grades @ said), total)
    return (1 - _divide(observed, np.where(expected > 1e-12 * total, expected, 0)))[None]


def _log_loss(data: Prepared, weights: Values) -> Values:
    tiny = np.finfo(np.float64).eps  # as scikit-learn clips
    p = np.clip(data.probabilities, tiny, 1 - tiny)
    loss = (
        -np.where(data.targets, np.log(p), np.log1p(-p)).T
        if data.multilabel
        else -np.log(p[np.arange(data.n), data.labels])[None]
    )
    if not is_probability(data):
        loss = np.full_like(loss, np.nan)
    return _divide(loss @ weights, weights.sum(axis=0))


def is_probability(data: Prepared) -> bool:
    """Whether the predictions lie in [0, 1] and, with one label per row, add to one."""
    p = data.probabilities
    inside = bool(((p >= 0) & (p <= 1)).all())
    return inside and (data.multilabel or bool((np.abs(p.sum(axis=1) - 1) <= NORMALISED).all()))


def _top_k(data: Prepared, weights: Values) -> Values:
    own = data.probabilities[np.arange(data.n), data.labels][:, None]
    earlier = np.arange(data.probabilities.shape[1]) < data.labels[:, None]
    ahead = ((data.probabilities > own) | ((data.probabilities == own) & earlier)).sum(axis=1)
    return _divide((ahead < TOP_K).astype(np.float64)[None] @ weights, weights.sum(axis=0))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="auroc", title="AUROC", formula=_auroc, per_class=True, chance=0.5),
        Metric(name="accuracy", title="accuracy", formula=_accuracy),
        Metric(name="balanced_accuracy", title="balanced accuracy", formula=_balanced_accuracy),
        Metric(name="average_precision", title="average precision", formula=_average_precision, per_class=True),
        Metric(name="f1", title="F1", formula=_f1, per_class=True),
        Metric(name="mcc", title="Matthews correlation", formula=_mcc, chance=0.0),
        Metric(name="log_loss", title="log-loss", formula=_log_loss, higher_is_better=False),
        Metric(
            name="quadratic_kappa",
            title="quadratic kappa",
            formula=_quadratic_kappa,
            applies=lambda task, _n_classes: task is Task.ORDINAL,
            chance=0.0,
        ),
        Metric(
            name=f"top_{TOP_K}",
            title=f"top-{TOP_K} accuracy",
            formula=_top_k,
            applies=lambda task, n_classes: task is not Task.MULTILABEL and n_classes > TOP_K,
        ),
    )
}
"""The metrics by name, in the order in which tables show them."""


def get_metric(name: str) -> Metric:
    """Return a metric by name.

    Raises
    ------
    UndefinedMetricError
        If there is no such metric.
    """
    if name not in METRICS:
        raise UndefinedMetricError(f"There is no metric {name!r}.", remedy=f"Choose one of {', '.join(METRICS)}.")
    return METRICS[name]
