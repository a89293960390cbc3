"""What closed-form scores cost in memory and arithmetic, by way of rows and by way of columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from biofuse.blocks.gram import COLUMNS_AT_ONCE
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

RIVALS = 5
"""Penalties, of 15, that bounds leave to be compared by all their leave-one-out errors when rows are many."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one way of scoring needs.

    Attributes
    ----------
    held : int
        Bytes held for all folds until the search ends; several processes share one more copy of them.
    scratch : int
        Bytes that a process needs while the largest subset is scored, or a fold prepared.
    setup_flops, flops : float
        Floating-point operations before the first subset, and for all subsets and folds.
    """

    held: int
    scratch: int
    setup_flops: float
    flops: float

    @property
    def total_flops(self) -> float:
        """Both together."""
        return self.setup_flops + self.flops

    def bytes(self, workers: int = 1) -> int:
        """Memory of a search in so many processes."""
        return self.held * (1 if workers == 1 else 2) + self.scratch * workers

    def __str__(self) -> str:
        return f"{self.bytes() / 2**30:.2f} GiB, {self.total_flops / 1e9:,.0f} GFLOP"


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


def flops_per_fold(
    way: Way, *, dims: Sequence[int], n_train: int, n_test: int, n_columns: int, n_weightings: int, n_alphas: int
) -> float:
    """Return the operations of scoring one subset, of blocks with these (reduced) columns, on one fold."""
    n, t, a, c = float(n_train), float(n_test), n_alphas, n_columns
    if way == "dual":
        return n_weightings * _row_flops(n, a, c) + len(dims) * (n * n + 2 * t * n * c)
    d = float(sum(dims))
    return n_weightings * _column_flops(n, (d, d**2, d**3), a, c) + 2 * t * d * c


def choose(
    works: dict[Way, Work], *, mode: Literal["auto", "dual", "primal"], memory_limit: int, workers: int = 1
) -> Way:
    """Choose the way with the fewest operations that fits into memory, or check the one that was asked for.

    Raises
    ------
    SearchError
        If none does.
    """
    ways: list[Way] = sorted(works, key=lambda way: works[way].total_flops) if mode == "auto" else [mode]
    fitting = [way for way in ways if works[way].bytes(workers) <= memory_limit]
    if not fitting:
        raise too_large({way: works[way] for way in ways}, memory_limit=memory_limit, workers=workers)
    return fitting[0]


def too_large(works: dict[Way, Work], *, memory_limit: int, workers: int) -> SearchError:
    """Return the error that says how much memory would be needed."""
    needed = {way: work.bytes(workers) / 2**30 for way, work in works.items()}
    said = ", ".join(f"{way} {size:.2f}" for way, size in needed.items())
    return SearchError(
        f"Closed-form scores would need {min(needed.values()):.2f} GiB of memory, more than the limit of "
        f"{memory_limit / 2**30:.2f} GiB ({said}).",
        remedy='Reduce each block inside the folds (reduce_to=64 or 128), leave mode="auto", offer fewer encoders, '
        "use fewer repeats, or raise memory_limit.",
    )


def _row_flops(n: float, a: int, c: int) -> float:
    if a == 1:
        return n**3 / 3 + 2 * c * n**2
    return TRIDIAGONAL * n**3 + (RECURRENCE + 2 * c) * a * n**2


def _column_flops(n: float, moments: tuple[float, float, float], a: int, c: int) -> float:
    """Operations from the first three moments of the number of columns, since subsets differ."""
    mean, square, cube = moments
    return EIGEN * cube + 2 * n * square + 2 * n * mean * (a + min(a, RIVALS) * c) + 2 * a * c * square


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
            one = self.n_weightings * _row_flops(n, a, c) + blocks / 2 * (n * n + 2 * t * n * c)
            flops += self.n_subsets * one
        n, t = max(self.n_train), max(self.n_test)
        # While a block is standardised, its columns are held in float64 a few at a time and its products once more.
        scratch = 2 * (n + t) * n + 3 * n**2 + (4 + STEPS_AT_ONCE) * a * n * (1 + c)
        return Work(held=int(8 * held), scratch=int(8 * scratch), setup_flops=setup, flops=flops)

    def primal(self) -> Work:
        """Products of columns."""
        total, a, c = sum(self.kept), self.n_alphas, self.n_columns
        # Moments of the columns of a subset, each block in or out at even odds.
        mean, variance = total / 2, sum(kept**2 for kept in self.kept) / 4
        square, cube = mean**2 + variance, mean**3 + 3 * mean * variance
        held = setup = flops = 0.0
        for n, t in zip(self.n_train, self.n_test, strict=True):
            held += (n + t) * total + self.n_weightings * (total + c) * total
            setup += self.n_weightings * 2.0 * n * total**2 + self.reduction(n)
            one = self.n_weightings * _column_flops(n, (mean, square, cube), a, c) + 2 * t * mean * c
            flops += self.n_subsets * one
        n, t = max(self.n_train), max(self.n_test)
        solving = 3 * total**2 + (a + c) * n + ROWS_AT_ONCE * (3 * total + 3 * a * c)
        # A block in float64 a few columns at a time, its products and their axes, and the parts before they are joined.
        preparing = 2 * COLUMNS_AT_ONCE * n + 3 * max(self.dims) ** 2 + (n + t) * total
        scratch = max(solving, preparing)
        return Work(held=int(8 * held), scratch=int(8 * scratch), setup_flops=setup, flops=flops)
