"""How much two encoders see the same."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import AlignmentError


def linear_cka(blocks: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float64]:
    """Linear centred kernel alignment of every pair of blocks (Kornblith et al. 2019, arXiv:1905.00414).

    With columns centred, it is ``|YᵀX|² / (|XᵀX| |YᵀY|)`` in Frobenius norms: 1 where two encoders arrange the samples
    alike up to rotation and a common scale, 0 where nothing of one can be read off the other linearly. With fewer
    samples than columns it comes out too high (Murphy et al. 2024, arXiv:2405.01012).

    Parameters
    ----------
    blocks : Blocks, or mapping of str to ndarray of shape (n, dim)
        Encoder to block; the same samples row by row.

    Returns
    -------
    ndarray of float64, shape (m, m)
        Symmetric; NaN in rows and columns of encoders that are constant over the samples.

    Raises
    ------
    AlignmentError
        If the blocks have different numbers of rows.
    """
    if len({len(block) for block in blocks.values()}) > 1:
        raise AlignmentError("Blocks of different numbers of samples cannot be compared.")
    centred = [_centred(block) for block in blocks.values()]
    found = np.full((len(centred), len(centred)), np.nan)
    # |YᵀX|² is also the sum of the products of XXᵀ and YYᵀ, entry by entry: cheaper where there are fewer rows.
    grams: list[NDArray[np.float64] | None] = [
        block @ block.T if len(block) < block.shape[1] else None for block in centred
    ]
    norms = [np.sqrt(_alignment(block, block, gram, gram)) for block, gram in zip(centred, grams, strict=True)]
    for i in range(len(centred)):
        for j in range(i + 1):
            if norms[i] > 0 and norms[j] > 0:
                value = _alignment(centred[i], centred[j], grams[i], grams[j]) / (norms[i] * norms[j])
                found[i, j] = found[j, i] = min(value, 1.0)
    return found


def _centred(block: NDArray[np.floating]) -> NDArray[np.float64]:
    centred = np.asarray(block, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    size = float(np.abs(centred).max(initial=0))
    constant = size <= 1e-12 * float(np.abs(block).max(initial=0))  # what is left is rounding
    return np.zeros_like(centred) if constant else centred / size


def _alignment(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    gram_x: NDArray[np.float64] | None,
    gram_y: NDArray[np.float64] | None,
) -> float:
    if gram_x is not None and gram_y is not None:
        return float(np.einsum("ij,ij->", gram_x, gram_y))
    if gram_x is not None:
        return float(np.einsum("ij,ij->", y, gram_x @ y))
    if gram_y is not None:
        return float(np.einsum("ij,ij->", x, gram_y @ x))
    return float(np.square(y.T @ x).sum())
