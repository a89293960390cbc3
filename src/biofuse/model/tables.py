"""What a model says of images, as tables: a row per sample, and a row per image of each sample."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseWarning, DataError, option
from biofuse.core.target import SEPARATOR, Target
from biofuse.data.cuts import Placed
from biofuse.evaluation.novelty import Unusual
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.predictors.arguments import arguments_of
from biofuse.predictors.fused import Predictor

if TYPE_CHECKING:
    import pandas as pd

NOVELTY = "novelty"
"""Column of predictions that says how unlike the development data an image is."""

NAMED = 3
"""Images that a warning names."""


def prediction_table(
    target: Target,
    ids: Sequence[str] | NDArray[np.object_],
    predicted: NDArray[np.float64],
    *,
    said: NDArray[Any],
    inside: NDArray[np.bool_] | None = None,
    ends: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    novelty: NDArray[np.float64] | None = None,
) -> "pd.DataFrame":
    """Return a table with a row per sample.

    Parameters
    ----------
    target : Target
    ids : sequence of str
        ``id``.
    predicted : ndarray of float64, shape (n, n_columns)
        A column ``p_<class>`` each; values, ``prediction`` where there is one and ``prediction_<column>`` of several.
    said : ndarray, shape (n,)
        ``prediction``, where no values are predicted.
    inside : ndarray of bool, shape (n, n_columns), optional
        ``set``: the classes of each sample's prediction set.
    ends : tuple of ndarray of float64, shape (n, n_columns), optional
        ``low_<column>`` and ``high_<column>`` of the interval of each value.
    novelty : ndarray of float64, shape (n,), optional
        ``novelty``.
    """
    import pandas as pd

    frame = pd.DataFrame({"id": ids})
    if target.measured:
        for column, name in enumerate(target.classes):
            frame["prediction" if len(target.classes) == 1 else f"prediction_{name}"] = predicted[:, column]
        if ends is not None:
            low, high = ends
            for column, name in enumerate(target.classes):
                frame[f"low_{name}"], frame[f"high_{name}"] = low[:, column], high[:, column]
    else:
        frame["prediction"] = said
        if inside is not None:
            frame["set"] = [SEPARATOR.join(np.array(target.classes, dtype=object)[row]) for row in inside]
        for column, name in enumerate(target.classes):
            frame[f"p_{name}"] = predicted[:, column]
    if novelty is not None:
        frame[NOVELTY] = novelty
    return frame


def image_table(predictor: Predictor, classes: Sequence[str], embeddings: EmbeddingSet) -> "pd.DataFrame":
    """Return a table with a row per image: see :meth:`biofuse.BioFuseModel.tabulate_images`.

    Raises
    ------
    DataError
        If every sample is one image.
    """
    import pandas as pd

    if not embeddings.samples.bagged:
        raise DataError(
            "Every sample is one image, which is all that the prediction rests on.",
            remedy=f"Say which images belong together: {option('bag', 'patient')}.",
        )
    found = arguments_of(predictor, embeddings.blocks)
    images = embeddings.samples.images()
    frame = pd.DataFrame(
        {
            "id": np.repeat(embeddings.blocks.ids, found.sizes),
            "image": [source.description for source in images.sources],
        }
    )
    places = [dict(source.place) if isinstance(source, Placed) else {} for source in images.sources]
    frame = frame.join(pd.DataFrame(places, dtype="Int64"))
    if found.weights is not None:
        frame["weight"] = found.weights
    for column, name in enumerate(classes):
        frame[f"for_{name}"] = found.values[:, column]
    return frame


def warn_of_unusual(frame: "pd.DataFrame", *, known: int) -> None:
    """Warn of images that are unlike the development data, naming the most unusual ones.

    Parameters
    ----------
    frame : DataFrame
        As :func:`prediction_table` returns it, with ``novelty``.
    known : int
        Independent units of the development data, which the percentiles are of.
    """
    found = Unusual.of(frame[NOVELTY].to_numpy(), known=known)
    if found.above:
        most = frame.sort_values(NOVELTY, ascending=False, kind="stable")["id"].head(min(found.above, NAMED))
        warnings.warn(f"{found} The most unusual: {', '.join(map(str, most))}.", BioFuseWarning, stacklevel=4)
