"""The closed form on an accelerator: the same algebra in torch, for many subsets at a time.

A processor tridiagonalises the products of one subset after another. An accelerator is quicker with Cholesky
decompositions, one per penalty, of as many subsets as its memory holds: more operations, but all of them products of
matrices. Decision values are the same to rounding.
"""

import importlib.util
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from biofuse.blocks.gram import ColumnBlocks, GramBlocks
from biofuse.core.errors import SearchError
from biofuse.core.machine import free_memory, limit_threads
from biofuse.core.ridge import ROUNDING
from biofuse.extract.local import out_of_memory
from biofuse.heads.ridge import Weighting
from biofuse.search.closed_form import ClosedFormScorer, Fold
from biofuse.search.leaderboard import Subset, in_pool_order
from biofuse.search.scorers import FoldPart, FoldScores, gather

if TYPE_CHECKING:
    import torch

    Tensor = torch.Tensor

Choosing = Literal["float64", "float32"]

MOST_SUBSETS = 256
"""Subsets solved together: more are no quicker, and progress would stand still."""

MEMORY_SHARE = 0.5
"""Part of the device's free memory for what is solved together, after the products of all folds are on it."""

ROWS_AT_ONCE = 16_384
"""Training rows whose leverages are computed together, where products are of columns."""

FLOAT32_ERROR = 0.05
"""Relative error allowed for leave-one-out errors in float32: penalties within it of the least are compared again in
float64. With penalties from 1e-3 times the mean squared distance of a row, the condition of what is factored stays
below 1e3 times the rows, 4e5 for 437 rows, and float32 rounds to 6e-8; measured errors stay below 0.01."""

SLOW_FLOAT64 = 4.0
"""Times that a float64 product may take of a float32 one for float64 to be used throughout. Accelerators for data
centres take 1 to 2 times as long, others up to 64 times."""


WORTH_DEVICE = 5e11
"""Operations of a screen below which a processor is done before an accelerator has started: some ten seconds of one
core."""


def accelerator(requested: str, *, operations: float) -> str | None:
    """Return the device that a screen is worth moving to; None where the processor should do it.

    Apple's accelerators are never taken: they have no float64.

    Parameters
    ----------
    requested : str
        ``auto``, or torch devices, the first of which counts.
    operations : float
        What the screen costs a processor.
    """
    first = requested.partition(",")[0].strip()
    if operations < WORTH_DEVICE or not (first == "auto" or first.startswith("cuda")):
        return None
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return "cuda" if first == "auto" else first


def choose_in(device: str) -> Choosing:
    """Time a product in both precisions, and return the one to choose penalties in."""
    import torch

    if not device.startswith("cuda"):
        return "float64"
    seconds = {}
    for dtype in (torch.float32, torch.float64):
        some = torch.rand(2048, 2048, dtype=dtype, device=device)
        times = []
        for _ in range(4):
            torch.cuda.synchronize(device)
            start = time.perf_counter()
            some @ some
            torch.cuda.synchronize(device)
            times.append(time.perf_counter() - start)
        seconds[dtype] = min(times[1:])
    return "float64" if seconds[torch.float64] <= SLOW_FLOAT64 * seconds[torch.float32] else "float32"


class TorchScorer:
    """Scores of a :class:`biofuse.search.closed_form.ClosedFormScorer`, computed on a torch device.

    Parameters
    ----------
    scorer : ClosedFormScorer
        Whose folds are prepared; it also scores what comes back.
    device : str
        A torch device with float64.
    choosing : {"float64", "float32"}, optional
        What leave-one-out errors are compared in; by default float64 where the device has it at speed. In float32 the
        penalties that come near the best are compared again in float64, and solutions are always float64.
    memory : int, optional
        Bytes of the device for what is solved together; a share of what is free by default.
    threads : int
        Cores that score held-out rows meanwhile.
    """

    def __init__(
        self,
        scorer: ClosedFormScorer,
        *,
        device: str,
        choosing: Choosing | None = None,
        memory: int | None = None,
        threads: int = 1,
    ) -> None:
        self._scorer = scorer
        self.device = device
        self.choosing: Choosing = choosing or choose_in(device)
        self._threads = threads
        self._folds = [_fold_on(device, fold, scorer, self.choosing) for fold in scorer.folds]
        free = memory or int(MEMORY_SHARE * (free_memory(device) or 2**30))
        self._at_once = min(MOST_SUBSETS, max(1, free // max(fold.bytes_each for fold in self._folds)))

    @property
    def encoders(self) -> Subset:
        """The encoders it can score, in pool order."""
        return self._scorer.encoders

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics it returns."""
        return self._scorer.metrics

    @property
    def n_train(self) -> tuple[int, ...]:
        """Rows fitted on, per fold."""
        return self._scorer.n_train

    @property
    def n_test(self) -> tuple[int, ...]:
        """Rows scored, per fold."""
        return self._scorer.n_test

    @property
    def keeps_predictions(self) -> bool:
        """Whether out-of-fold predictions come with the scores."""
        return self._scorer.keeps_predictions

    def n_dims(self, subset: Subset) -> int:
        """Columns of the subset's blocks together, before any reduction."""
        return self._scorer.n_dims(subset)

    def score(self, subset: Subset) -> FoldScores:
        """Score a subset on every fold."""
        return next(self.score_many([subset]))

    def score_many(self, subsets: Sequence[Subset]) -> Iterator[FoldScores]:
        """Score subsets, and yield them in their order.

        Raises
        ------
        SearchError
            If products are not positive to rounding.
        """
        names = [in_pool_order(self.encoders, subset) for subset in subsets]
        with limit_threads(1), ThreadPoolExecutor(self._threads) as pool:
            done = 0
            judged: Iterator[tuple[FoldPart, ...]] = iter(())
            while done < len(names):
                some = names[done : done + self._at_once]
                try:
                    solved = [self._solve(some, number) for number in range(len(self._folds))]
                except RuntimeError as error:
                    if not out_of_memory(error) or self._at_once == 1:
                        raise
                    self._at_once //= 2
                    continue
                done += len(some)
                for parts in judged:
                    yield gather(self.metrics, parts)
                # Held-out rows are scored while the device solves what comes next.
                judged = zip(
                    *(pool.map(self._judge, found, [number] * len(some)) for number, found in enumerate(solved)),
                    strict=True,
                )
            for parts in judged:
                yield gather(self.metrics, parts)

    def _solve(self, subsets: Sequence[Subset], number: int) -> list[tuple[list[Any], float]]:
        """Solve some subsets on one fold; per subset what ``Fold.assemble`` takes, and the seconds it took."""
        start = time.perf_counter()
        fold = self._folds[number]
        solved = [fold.solve(subsets, weighting) for weighting in range(len(fold.weightings))]
        each = (time.perf_counter() - start) / len(subsets)
        return [([(found[row], penalties[row]) for found, penalties in solved], each) for row in range(len(subsets))]

    def _judge(self, solved: tuple[list[Any], float], number: int) -> FoldPart:
        found, seconds = solved
        start = time.perf_counter() - seconds
        return self._scorer.judge(self._scorer.folds[number].assemble(found), number, since=start)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Weighting:
    """One weighting of a fold on the device; see :class:`biofuse.heads.ridge.Weighting`."""

    weights: "Tensor"
    targets: "Tensor"
    columns: tuple[slice, ...]

    @property
    def share(self) -> "Tensor":
        return self.weights / self.weights.sum()

    @property
    def n_rows(self) -> int:
        return int((self.weights > 0).sum())

    @property
    def alike(self) -> bool:
        return bool((self.weights == 1).all())


def _fold_on(device: str, fold: Fold, scorer: ClosedFormScorer, choosing: Choosing) -> "_RowFold | _ColumnFold":
    """Move a fold to a device."""
    import torch

    def moved(array: Any) -> "Tensor":
        return torch.from_numpy(np.ascontiguousarray(array)).to(device)

    def weighted(each: Weighting) -> _Weighting:
        return _Weighting(weights=moved(each.weights), targets=moved(each.targets), columns=each.columns)

    common: dict[str, Any] = {
        "weightings": tuple(map(weighted, fold.weightings)),
        "relative": moved(scorer.relative),
        "choosing": choosing,
        "generalised": scorer.choice == "generalised",
        "places": {name: place for place, name in enumerate(fold.algebra.encoders)},
        "train": moved(fold.algebra.train),
        "test": moved(fold.algebra.test),
    }
    if isinstance(fold.algebra, GramBlocks):
        return _RowFold(**common)
    moments = tuple(tuple(map(moved, each)) for each in fold.moments)
    return _ColumnFold(algebra=fold.algebra, moments=moments, **common)


@dataclass(frozen=True, kw_only=True, eq=False)
class _FoldArrays:
    """A fold's arrays on the device; what both kinds of products have in common.

    ``generalised`` is whether penalties are chosen by generalised cross-validation.
    """

    weightings: tuple[_Weighting, ...]
    relative: "Tensor"
    choosing: Choosing
    generalised: bool
    places: dict[str, int]
    train: "Tensor"
    test: "Tensor"

    def members(self, subsets: Sequence[Subset]) -> "Tensor":
        """Return which encoders each subset has, shape (n_subsets, n_encoders), of 0 and 1."""
        import torch

        chosen = torch.zeros(len(subsets), len(self.places), dtype=self.train.dtype)
        for row, subset in enumerate(subsets):
            chosen[row, [self.places[name] for name in subset]] = 1
        return chosen.to(self.train.device)

    def best(
        self, count: int, groups: Sequence[slice], errors_of: Any, *, shape: Sequence[int]
    ) -> tuple["Tensor", "Tensor"]:
        """Find the penalty with the least leave-one-out error for every subset and group of columns.

        Parameters
        ----------
        count : int
            Subsets.
        groups : sequence of slice
            Columns of targets that share a penalty.
        errors_of : callable
            Takes subsets, the place of a penalty and a dtype; returns errors (b, n_groups) and solutions (b, *shape).

        Returns
        -------
        places : Tensor of int64, shape (count, n_groups)
            Ties go to the smaller penalty.
        solutions : Tensor of float64, shape (count, *shape)
        """
        import torch

        n_alphas, device = len(self.relative), self.train.device
        every = torch.arange(count, device=device)
        rivals = torch.ones(count, n_alphas, dtype=torch.bool, device=device)
        if self.choosing == "float32" and n_alphas > 1:
            rough = torch.stack([errors_of(every, place, torch.float32)[0] for place in range(n_alphas)], dim=1)
            least = rough.amin(dim=1, keepdim=True)
            rivals = (rough <= least * (1 + FLOAT32_ERROR)).any(dim=2)
        best = torch.full((count, len(groups)), torch.inf, dtype=torch.float64, device=device)
        places = torch.zeros(count, len(groups), dtype=torch.int64, device=device)
        solutions = torch.zeros(count, *shape, dtype=torch.float64, device=device)
        for place in range(n_alphas):
            rows = every[rivals[:, place]]
            if not len(rows):
                continue
            errors, found = errors_of(rows, place, torch.float64)
            for group, columns in enumerate(groups):
                better = errors[:, group] < best[rows, group] * (1 - ROUNDING)
                chosen = rows[better]
                best[chosen, group] = errors[better, group]
                places[chosen, group] = place
                solutions[chosen, :, columns] = found[better][:, :, columns]
        return places, solutions


@dataclass(frozen=True, kw_only=True, eq=False)
class _RowFold(_FoldArrays):
    """Products of rows: ``train`` (n_encoders, n, n), ``test`` (n_encoders, t, n)."""

    @property
    def bytes_each(self) -> int:
        n, t = self.train.shape[1], self.test.shape[1]
        return 8 * (6 * n * n + t * n)

    def solve(self, subsets: Sequence[Subset], weighting: int) -> tuple[Any, list[list[float]]]:
        import torch

        each = self.weightings[weighting]
        n, t, c = self.train.shape[1], self.test.shape[1], each.targets.shape[1]
        members = self.members(subsets)
        K = (members @ self.train.reshape(len(self.places), -1)).reshape(-1, n, n)
        share, root = each.share, each.weights.sqrt()
        across = torch.zeros(len(K), n, dtype=K.dtype, device=K.device)
        if not each.alike:
            across = K @ share
            K = K - across[:, :, None] + ((across @ share)[:, None] - across)[:, None, :]
            K *= root[:, None] * root
        offset = share @ each.targets
        centred = root[:, None] * (each.targets - offset)
        spread = K.diagonal(dim1=1, dim2=2).sum(dim=1) / each.n_rows
        spread = torch.where(spread == 0, 1.0, spread)
        # As in biofuse.core.ridge.row_path: along the weights' root the products are 0, and so are the targets.
        K += spread[:, None, None] * torch.outer(root, root) / each.weights.sum()
        alphas = self.relative * spread[:, None]

        def errors_of(rows: "Tensor", place: int, dtype: Any) -> tuple["Tensor", "Tensor"]:
            alpha, some = alphas[rows, place].to(dtype), K[rows].to(dtype)
            inverse = _inverse_factor(some, alpha)
            dual = inverse.mT @ (inverse @ centred.to(dtype))
            diagonal = inverse.square().sum(dim=1)
            leaving = alpha[:, None] * (diagonal - share.to(dtype) / (spread[rows].to(dtype) + alpha)[:, None])
            if self.generalised:  # rows of weight 0 leave out 1 each
                leaving = 1 - (n - leaving.sum(dim=1, keepdim=True)) / each.n_rows
            wrong = (alpha[:, None, None] * dual / leaving[:, :, None]).square().sum(dim=1)
            return _by_group(wrong, each.columns), dual

        places, dual = self.best(len(K), each.columns, errors_of, shape=each.targets.shape)
        coef = root[:, None] * dual
        intercept = offset - torch.einsum("bn,bnc->bc", across, coef)
        crossed = (members @ self.test.reshape(len(self.places), -1)).reshape(-1, t, n)
        found = crossed @ coef + intercept[:, None, :]
        return found.reshape(-1, t, c).cpu().numpy(), _penalties(alphas, places)


@dataclass(frozen=True, kw_only=True, eq=False)
class _ColumnFold(_FoldArrays):
    """Products of columns: ``train`` (n, d_all), ``test`` (t, d_all), and the moments of each weighting.

    Where penalties are chosen by generalised cross-validation, ``train`` has no rows.
    """

    algebra: ColumnBlocks
    moments: "tuple[tuple[Tensor, ...], ...]"

    @property
    def bytes_each(self) -> int:
        n, d = self.train.shape
        return 8 * (6 * d * d + min(n, ROWS_AT_ONCE) * 3 * d)

    def solve(self, subsets: Sequence[Subset], weighting: int) -> tuple[Any, list[list[float]]]:
        import torch

        each, (mean, products, crossed) = self.weightings[weighting], self.moments[weighting]
        columns = [torch.from_numpy(self.algebra.columns(subset)).to(self.train.device) for subset in subsets]
        widest, c = max(map(len, columns)), each.targets.shape[1]
        # Columns that a subset lacks are 0: the inverse there is that of the penalty, and nothing else changes.
        P = torch.zeros(len(subsets), widest, widest, dtype=self.train.dtype, device=self.train.device)
        S = torch.zeros(len(subsets), widest, c, dtype=P.dtype, device=P.device)
        for row, kept in enumerate(columns):
            P[row, : len(kept), : len(kept)] = products[kept][:, kept]
            S[row, : len(kept)] = crossed[kept]
        trace = P.diagonal(dim1=1, dim2=2).sum(dim=1) / each.n_rows
        alphas = self.relative * torch.where(trace == 0, 1.0, trace)[:, None]
        offset = each.share @ each.targets
        total = each.weights @ (each.targets - offset).square()

        def errors_of(rows: "Tensor", place: int, dtype: Any) -> tuple["Tensor", "Tensor"]:
            alpha = alphas[rows, place].to(dtype)
            inverse = _inverse_factor(P[rows].to(dtype), alpha)
            coef = inverse.mT @ (inverse @ S[rows].to(dtype))
            if self.generalised:  # as in biofuse.core.ridge.generalised_path
                residual = total - (coef * S[rows]).sum(dim=1) - alpha[:, None] * coef.square().sum(dim=1)
                leaving = 1 - (1 + widest - alpha * inverse.square().sum(dim=(1, 2))) / each.n_rows
                return _by_group(residual.clamp(min=0) / leaving.square()[:, None], each.columns), coef
            wrong = torch.zeros(len(rows), c, dtype=P.dtype, device=P.device)
            for row, number in enumerate(rows.tolist()):
                kept = columns[number]
                wrong[row] = self._left_out(
                    each,
                    kept,
                    mean=mean[kept],
                    inverse=inverse[row, : len(kept), : len(kept)],
                    coef=coef[row, : len(kept)],
                )
            return _by_group(wrong, each.columns), coef

        places, coef = self.best(len(subsets), each.columns, errors_of, shape=(widest, c))
        found = torch.stack(
            [(self.test[:, kept] - mean[kept]) @ coef[row, : len(kept)] + offset for row, kept in enumerate(columns)]
        )
        return found.cpu().numpy(), _penalties(alphas, places)

    def _left_out(
        self, each: _Weighting, kept: "Tensor", *, mean: "Tensor", inverse: "Tensor", coef: "Tensor"
    ) -> "Tensor":
        """Return the weighted sum of squared leave-one-out errors of each column of targets."""
        offset = each.share @ each.targets
        wrong: Tensor = offset.new_zeros(len(offset))
        for begin in range(0, len(self.train), ROWS_AT_ONCE):
            rows = slice(begin, begin + ROWS_AT_ONCE)
            centred = (self.train[rows][:, kept] - mean).to(coef.dtype)
            leverage = (centred @ inverse.mT).square().sum(dim=1)
            leaving = 1 - each.share[rows] - each.weights[rows] * leverage
            off = (each.targets[rows] - offset - centred @ coef) / leaving[:, None]
            wrong += each.weights[rows] @ off.square().double()
        return wrong


def _inverse_factor(A: "Tensor", alpha: "Tensor") -> "Tensor":
    """Return the inverse of the lower Cholesky factor of ``A + alpha`` for a stack of matrices."""
    import torch

    A = A.clone()
    A.diagonal(dim1=1, dim2=2).add_(alpha[:, None])
    factor, failed = torch.linalg.cholesky_ex(A)
    if bool(failed.any()):
        raise SearchError(
            f"The products of training rows are not positive to rounding at penalty {float(alpha.min()):.3g}.",
            remedy="Try larger penalties.",
        )
    identity = torch.eye(A.shape[1], dtype=A.dtype, device=A.device).expand_as(A)
    inverse: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return inverse


def _by_group(wrong: "Tensor", groups: Sequence[slice]) -> "Tensor":
    """Add up errors (b, n_columns) over the columns that share a penalty: (b, n_groups)."""
    import torch

    return torch.stack([wrong[:, columns].sum(dim=1) for columns in groups], dim=1).double()


def _penalties(alphas: "Tensor", places: "Tensor") -> list[list[float]]:
    found: list[list[float]] = alphas.gather(1, places).tolist()
    return found
