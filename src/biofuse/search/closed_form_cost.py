"""What closed-form scores cost in memory and arithmetic, by way of rows and by way of columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from biofuse.core.errors import SearchError
from biofuse.search.leave_one_out import ROWS_AT_ONCE, STEPS_AT_ONCE

Way = Literal["dual", "primal"]

TRIDIAGONAL = 8 / 3
"""Operations, times n^3, of tridiagonalising (4/3) and of forming the orthogonal matrix (4/3): Golub and Van Loan,
Matrix Computations, 4th edition, section 8.3."""

RECURRENCE = 5
"""Passes over n numbers per row and penalty of the recurrence for the leverages."""

EIGEN = 9
"""Operations, times n^3, of a symmetric eigendecomposition with vectors: same book and section."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one way of scoring needs.

    Attributes
    ----------
    bytes : int
        Held for all folds until the search ends, plus what the largest subset needs while it is scored. A search in
        several processes shares the former, and keeps one more copy of it in shared memory or a temporary folder.
    setup_flops, flops : float
        Floating-point operations before the first subset, and for all subsets and folds.
    """

    bytes: int
    setup_flops: float
    flops: float

    @property
    def total_flops(self) -> float:
        """Both together."""
        return self.setup_flops + self.flops

    def __str__(self) -> str:
        return f"{self.bytes / 2**30:.2f} GiB, {self.total_flops / 1e9:,.0f} GFLOP"


def estimate(
    dims: Sequence[int],
    *,
    n_train: Sequence[int],
    n_test: Sequence[int],
    n_columns: int = 1,
    n_weightings: int = 1,
    n_alphas: int = 15,
    n_subsets: int | None = None,
    reduce_to: int | None = None,
) -> dict[Way, Work]:
    """Estimate both ways of scoring subsets.

    Parameters
    ----------
    dims : sequence of int
        Columns of each block.
    n_train, n_test : sequence of int
        Rows fitted on and scored, per fold.
    n_columns : int
        Columns of targets: 1 for two classes, else one per class or label.
    n_weightings : int
        Different weightings of the rows: more than 1 only for multi-label tasks with class weights.
    n_alphas : int
        Penalties tried.
    n_subsets : int, optional
        How many are scored; all by default. Their mean size is taken as half the pool.
    reduce_to : int, optional
        Principal components kept of each block.
    """
    count = 2 ** len(dims) - 1 if n_subsets is None else n_subsets
    kept = [dim if reduce_to is None else min(dim, reduce_to) for dim in dims]
    size = _Size(
        dims=dims,
        kept=kept,
        n_train=n_train,
        n_test=n_test,
        n_columns=n_columns,
        n_weightings=n_weightings,
        n_alphas=n_alphas,
        n_subsets=count,
    )
    return {"dual": size.dual(), "primal": size.primal()}


def choose(works: dict[Way, Work], *, mode: Literal["auto", "dual", "primal"], memory_limit: int) -> Way:
    """Choose the way with the fewest operations that fits into memory, or check the one that was asked for.

    Raises
    ------
    SearchError
        If none does.
    """
    ways: list[Way] = sorted(works, key=lambda way: works[way].total_flops) if mode == "auto" else [mode]
    fitting = [way for way in ways if works[way].bytes <= memory_limit]
    if not fitting:
        said = "; ".join(f"{way}: {works[way]}" for way in works)
        raise SearchError(
            f"Closed-form scores would need {min(works[way].bytes for way in ways) / 2**30:.2f} GiB of memory, more "
            f"than the limit of {memory_limit / 2**30:.2f} GiB ({said}).",
            remedy='Reduce each block inside the folds (reduce_to=64 or 128), leave mode="auto", offer fewer encoders, '
            "use fewer repeats, or raise memory_limit.",
        )
    return fitting[0]


@dataclass(frozen=True, kw_only=True)
class _Size:
    """A search as far as its cost goes; see :func:`estimate`."""

    dims: Sequence[int]
    kept: Sequence[int]
    n_train: Sequence[int]
    n_test: Sequence[int]
    n_columns: int
    n_weightings: int
    n_alphas: int
    n_subsets: int

    def reduction(self, n: int) -> float:
        """Operations of the principal components of every block that is reduced."""
        return sum(
            2.0 * n * dim * min(n, dim) + EIGEN / 2 * min(n, dim) ** 3 + 2.0 * n * dim * kept
            for dim, kept in zip(self.dims, self.kept, strict=True)
            if kept < dim
        )

    def dual(self) -> Work:
        """Products of rows."""
        blocks, a, c = len(self.dims), self.n_alphas, self.n_columns
        held = setup = flops = 0.0
        for n, t in zip(self.n_train, self.n_test, strict=True):
            held += blocks * (n + t) * n
            setup += (2.0 * t + n) * n * sum(self.kept) + self.reduction(n)
            one = TRIDIAGONAL * n**3 + (RECURRENCE + 2 * c) * a * n**2
            flops += self.n_subsets * (self.n_weightings * one + blocks / 2 * (n + t) * n)
        n, t = max(self.n_train), max(self.n_test)
        # While a block is standardised, its columns are held in float64 a few at a time and its products once more.
        scratch = 2 * (n + t) * n + 3 * n**2 + (4 + STEPS_AT_ONCE) * a * n * (1 + c)
        return Work(bytes=int(8 * (held + scratch)), setup_flops=setup, flops=flops)

    def primal(self) -> Work:
        """Products of columns."""
        total, a, c = sum(self.kept), self.n_alphas, self.n_columns
        # Moments of the columns of a subset, each block in or out at even odds.
        mean, variance = total / 2, sum(kept**2 for kept in self.kept) / 4
        square, cube = mean**2 + variance, mean**3 + 3 * mean * variance
        held = setup = flops = 0.0
        for n, t in zip(self.n_train, self.n_test, strict=True):
            held += (n + t) * total + self.n_weightings * total**2
            setup += self.n_weightings * 2.0 * n * total**2 + self.reduction(n)
            one = EIGEN * cube + 2.0 * n * square + 2.0 * n * mean * a * (1 + c)
            flops += self.n_subsets * self.n_weightings * one
        n, t = max(self.n_train), max(self.n_test)
        scratch = (n + t) * total + 3 * total**2 + ROWS_AT_ONCE * (total + 3 * a * c) + 2 * max(self.dims) ** 2
        return Work(bytes=int(8 * (held + scratch)), setup_flops=setup, flops=flops)
