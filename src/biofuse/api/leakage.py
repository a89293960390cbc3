"""A block that already knows the label."""

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks import Blocks
from biofuse.core.errors import LeakageError

ENOUGH_ROWS = 10
"""Rows per class from which a column that is constant within every class cannot be chance in real images."""


def refuse_leaked_labels(blocks: Blocks, labels: NDArray[np.int64]) -> None:
    """Refuse embeddings of which one column is the label itself.

    An embedding computed from pixels varies within a class. A column that is constant within every class, and differs
    between classes (the label itself, or whether it is a certain class), was written by somebody who knew the labels.
    Classes of fewer than :data:`ENOUGH_ROWS` samples are not looked at.

    Parameters
    ----------
    blocks : Blocks
    labels : ndarray of int64, shape (n,) or (n, n_labels)

    Raises
    ------
    LeakageError
        Naming the encoder and the column.
    """
    indicators = labels[:, None] if labels.ndim == 1 else labels
    for target in indicators.T:
        classes, counts = np.unique(target, return_counts=True)
        classes = classes[counts >= ENOUGH_ROWS]
        if len(classes) < 2:
            continue
        for encoder, matrix in blocks.items():
            lows = np.array([matrix[target == name].min(axis=0) for name in classes])
            highs = np.array([matrix[target == name].max(axis=0) for name in classes])
            leaked = (lows == highs).all(axis=0) & (lows != lows[0]).any(axis=0)
            if leaked.any():
                column = int(np.flatnonzero(leaked)[0])
                raise LeakageError(
                    f"Column {column} of encoder {encoder} is the label itself: it is constant within every class and "
                    "differs between classes.",
                    remedy="Leave this encoder out, or correct the embeddings or files it was made from.",
                )
