"""What each image of a sample argues: by how much it moves what is predicted of the sample."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.blocks.pooling import Pooling, pooled_width
from biofuse.heads.base import Scores
from biofuse.predictors.attention import AttentionPredictor, bags_of, pieces
from biofuse.predictors.fused import Predictor

BY_ATTENTION, BY_LEAVING_OUT = "weight times contribution", "leaving the image out"
"""How it is found: exactly, of attention, whose margins are a sum over images; of any other predictor from what it says
of the sample without the image."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Arguments:
    """What the images of some samples argue for each class, label, column of values or horizon.

    Attributes
    ----------
    values : ndarray of float64, shape (n_images, n_columns)
        What an image adds to the log-odds of each class, in the unit of values, or to the logarithm of the cumulative
        hazard of an event. Of attention relative to an image like the mean of the training images, of three and more
        classes also to the mean of the classes; of a predictor that the image is left out for relative to the sample
        without it, NaN where nothing is left then.
    weights : ndarray of float64, shape (n_images,), or None
        Of attention; those of a sample add up to 1.
    sizes : ndarray of int64, shape (n,)
        Images of each sample; they follow one another.
    how : str
        How it was found, in words.
    """

    values: Scores
    weights: Scores | None
    sizes: NDArray[np.int64]
    how: str

    def of(self, row: int) -> slice:
        """Return the places of the images of a sample."""
        end = int(self.sizes[: row + 1].sum())
        return slice(end - int(self.sizes[row]), end)


def arguments_of(predictor: Predictor, blocks: Blocks) -> Arguments:
    """Find what each image argues.

    Parameters
    ----------
    predictor : Predictor
    blocks : Blocks
        Of samples, with their images; a sample without is one image.

    Raises
    ------
    AlignmentError
        If an encoder has no block, or one of another width than at fitting.
    """
    if isinstance(predictor, AttentionPredictor):
        found = predictor.attend(blocks)
        values = predictor.outputs.place(
            [_centred(part) for part in predictor.outputs.split(found.contributions)], n=len(found.contributions)
        )
        values[:, list(predictor.outputs.constant)] = 0.0  # nothing moves what is always predicted
        return Arguments(values=values, weights=found.weights, sizes=found.sizes, how=BY_ATTENTION)
    blocks = blocks.only(predictor.encoders)
    parts = [_by_leaving_out(predictor, some) for some in pieces(blocks)]
    return Arguments(
        values=np.concatenate([np.zeros((0, predictor.n_classes)), *parts]),
        weights=None,
        sizes=bags_of(blocks).sizes,
        how=BY_LEAVING_OUT,
    )


def _centred(margins: Scores) -> Scores:
    """Return a column for each class: both signs of two, of more the margins about their mean, which is no odds."""
    if margins.shape[1] == 1:
        return np.hstack([-margins, margins])
    return np.asarray(margins - margins.mean(axis=1, keepdims=True))


def _by_leaving_out(predictor: Predictor, blocks: Blocks) -> Scores:
    bags = bags_of(blocks)
    owners = np.repeat(np.arange(len(bags.sizes)), bags.sizes)
    several = bags.sizes[owners] > 1
    found = np.full((len(owners), predictor.n_classes), np.nan)
    rest = Blocks(
        ids=np.array([f"{place}" for place in np.flatnonzero(several)], dtype=object),
        matrices={
            name: pool_without_each(bags.images(name), bags.sizes, bags.pooling)[several] for name in blocks.encoders
        },
    )
    found[several] = predictor.decision(blocks)[owners[several]] - predictor.decision(rest)
    return found


def pool_without_each(matrix: Matrix, sizes: NDArray[np.int64], pooling: Pooling) -> Matrix:
    """Pool every bag without each of its images in turn.

    Parameters
    ----------
    matrix : ndarray of float32, shape (n_images, dim)
        Bag by bag.
    sizes : ndarray of int64, shape (n,)
    pooling : {"mean", "max", "mean+max", "mean+std"}

    Returns
    -------
    ndarray of float32, shape (n_images, dim) or (n_images, 2 dim)
        Row i is the bag of image i without it; NaN of bags of one image.

    Examples
    --------
    >>> import numpy as np
    >>> matrix = np.array([[1.0], [3.0], [8.0]], dtype=np.float32)
    >>> pool_without_each(matrix, np.array([3]), "max").ravel().tolist()
    [8.0, 8.0, 3.0]
    """
    bags = np.split(matrix, np.cumsum(sizes)[:-1])
    return np.concatenate([_without_each(bag, pooling) for bag in bags])


def _without_each(bag: Matrix, pooling: Pooling) -> Matrix:
    """Pool one bag without each of its images, from what its images have in common: in one pass over them."""
    others = len(bag) - 1
    if not others:
        return np.full((1, bag.shape[1] * pooled_width(pooling)), np.nan, dtype=np.float32)
    parts: list[Scores | Matrix] = []
    if pooling != "max":
        parts.append((bag.sum(axis=0, dtype=np.float64) - bag) / others)
    if pooling in {"max", "mean+max"}:
        largest = bag.argmax(axis=0)
        rest = bag.copy()
        np.put_along_axis(rest, largest[None], -np.inf, axis=0)
        parts.append(np.where(np.arange(len(bag))[:, None] == largest, rest.max(axis=0), bag.max(axis=0)))
    if pooling == "mean+std":
        squares = np.square(bag - bag.mean(axis=0, dtype=np.float64))
        # Without image i the mean moves by its distance from the mean over the number of the others.
        variance = (squares.sum(axis=0) - squares * (1 + 1 / others)) / others
        parts.append(np.sqrt(variance.clip(0)) if others > 1 else np.zeros(bag.shape))
    return np.hstack(parts).astype(np.float32)
