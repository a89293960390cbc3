"""k nearest neighbours."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from biofuse.core.errors import ArtifactError, SearchError
from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Labels, Target
from biofuse.heads.base import Features, FittedOwnHead, Limits, OwnHead, Scores, Setup, check_features

Metric = Literal["cosine", "euclidean"]


def check_metric(k: int, metric: Metric) -> None:
    """Refuse a number of neighbours, or a distance, that there is not.

    Raises
    ------
    SearchError
    """
    if k < 1 or metric not in get_args(Metric):
        raise SearchError(f"k must be at least 1, the metric cosine or euclidean, not {k} and {metric}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedRows(FittedOwnHead):
    """The training rows, the nearest of which are asked.

    Attributes
    ----------
    k : int
        How many of them.
    metric : {"cosine", "euclidean"}
    rows : ndarray of float32, shape (n, n_features)
        The training rows.
    """

    k: int
    metric: Metric
    rows: NDArray[np.float32]

    @property
    def n_features(self) -> int:
        """Columns of the matrices it takes."""
        return int(self.rows.shape[1])

    @cached_property
    def _index(self) -> NearestNeighbors:
        return NearestNeighbors(n_neighbors=self.k, metric=self.metric, algorithm="brute").fit(self.rows)

    def nearest(self, X: Features) -> NDArray[np.int64]:
        """Return the training rows nearest to each row, the nearest first, shape (n, k)."""
        found: NDArray[np.int64] = self._index.kneighbors(np.asarray(X, dtype=np.float32), return_distance=False)
        return found

    @abstractmethod
    def predict_proba(self, X: Features) -> Scores:
        """Return what the nearest rows say; see :meth:`biofuse.heads.base.FittedHead.predict_proba`."""

    def decision(self, X: Features) -> Scores:
        """Return the probabilities: what the nearest rows say is all there is to rank by."""
        return self.predict_proba(X)

    def common_state(self) -> dict[str, Any]:
        """Return the JSON values that all heads of this kind have."""
        return super().common_state() | {"k": self.k, "metric": self.metric}

    @classmethod
    def read_rows(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """Read what all heads of this kind have."""
        rows = np.array(arrays["rows"], dtype=np.float32, order="C")
        return cls.read_common(json) | {"k": int(json["k"]), "metric": json["metric"], "rows": rows}

    def check_rows(self) -> None:
        """Refuse rows and options that cannot have been saved.

        Raises
        ------
        ArtifactError
        """
        if self.rows.ndim != 2 or not np.isfinite(self.rows).all():
            raise ArtifactError("The saved head's training rows are no finite numbers.", remedy="Fit again.")
        if self.metric not in get_args(Metric) or not 1 <= self.k <= len(self.rows):
            raise ArtifactError("The saved head's neighbours or distance are malformed.", remedy="Fit again.")


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedNeighbours(FittedRows):
    """The training rows and their votes, of which values are the weighted mean.

    Attributes
    ----------
    codes : ndarray of int64 or float64, shape (n, n_problems)
        Class, or value, of each row in each problem.
    votes : ndarray of float64, shape (n, n_problems)
        How much each row's vote counts in each problem.
    """

    codes: Labels
    votes: NDArray[np.float64]

    def predict_proba(self, X: Features) -> Scores:
        """Return each class's share of the votes, or the mean value; see :class:`~biofuse.heads.base.FittedHead`."""
        check_features(X, n_features=self.n_features)
        if not len(X) or not self.outputs.columns:
            return self.outputs.place([np.zeros((len(X), codes)) for codes in self.outputs.n_codes], n=len(X))
        nearest = self.nearest(X)
        shares = []
        for problem, n_codes in enumerate(self.outputs.n_codes):
            codes, votes = self.codes[nearest, problem], self.votes[nearest, problem]
            if self.outputs.task.measured:
                shares.append(np.average(codes, axis=1, weights=votes)[:, None])
                continue
            counts = np.stack([(votes * (codes == code)).sum(axis=1) for code in range(n_codes)], axis=1)
            shares.append(counts / votes.sum(axis=1, keepdims=True))
        return self.outputs.place(shares, n=len(X))

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays."""
        return self.common_state(), {"rows": self.rows, "codes": self.codes, "votes": self.votes}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose state this is."""
        with reading("k-NN head"):
            common = cls.read_rows(json, arrays)
            fitted = cls(
                **common,
                codes=np.array(arrays["codes"], dtype=np.float64 if common["outputs"].task.measured else np.int64),
                votes=np.array(arrays["votes"], dtype=np.float64),
            )
        fitted.check_rows()
        shape = (len(fitted.rows), len(fitted.outputs.columns))
        if fitted.codes.shape != shape or fitted.votes.shape != shape:
            raise ArtifactError("The saved k-NN head's arrays do not fit together.", remedy="Fit again.")
        codes_known = np.array(fitted.outputs.n_codes, dtype=np.int64).reshape(-1)
        finite = all(np.isfinite(array).all() for array in (fitted.codes, fitted.votes))
        if not finite or (fitted.votes < 0).any():
            raise ArtifactError("The saved k-NN head holds values that are no numbers.", remedy="Fit again.")
        if not fitted.outputs.task.measured and ((fitted.codes < 0) | (fitted.codes >= codes_known)).any():
            raise ArtifactError("The saved k-NN head holds classes that there are not.", remedy="Fit again.")
        return fitted


@dataclass(frozen=True, kw_only=True)
class Neighbours(OwnHead[FittedNeighbours]):
    """Votes of the nearest training rows, as scikit-learn's ``KNeighborsClassifier`` and ``KNeighborsRegressor``.

    Parameters
    ----------
    k : int, default 10
        Rows that vote; all of them if there are fewer. By 5-fold grouped cross-validation on real embeddings (blood
        cells and brain MRI, 250 and 1,431 rows, 1,280 and 4,324 columns) 10 gave the best or second-best AUROC
        among 1, 3, 5, 10, 20 and 40 in 7 of 8 cases with the cosine distance, which in turn beat the Euclidean
        distance by about .03 on brain MRI and equalled it on blood cells.
    metric : {"cosine", "euclidean"}, default "cosine"
        Distance between rows.
    class_weight : mapping, "balanced" or None
        A neighbour's vote counts this much. (scikit-learn's ``KNeighborsClassifier`` has no such option.)
    """

    name = "knn"
    fitted = FittedNeighbours
    limits = Limits(rows=200_000, reason="every training row is kept, and compared with every new one")

    k: int = 10
    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        check_metric(self.k, self.metric)

    def takes(self, target: Target) -> bool:
        """Return whether it predicts such a target: classes, labels and values."""
        return not target.timed

    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> FittedNeighbours:  # noqa: ARG002
        """Keep the training rows and their votes."""
        few = (f"There are {len(X)} training rows only: all of them vote.",) if len(X) < self.k else ()
        nothing: list[NDArray[Any]] = [np.zeros((len(X), 0))]
        codes = np.hstack([*nothing, *(problem.codes[:, None] for problem in setup.classifications)]).astype(np.int64)
        return FittedNeighbours(
            outputs=setup.outputs,
            k=min(self.k, len(X)),
            metric=self.metric,
            rows=np.ascontiguousarray(X, dtype=np.float32),
            codes=np.hstack([problem.targets for problem in setup.regressions]) if setup.regressions else codes,
            votes=np.hstack([*nothing, *(problem.weights[:, None] for problem in setup.problems)]),
            notes=setup.notes + few,
        )
