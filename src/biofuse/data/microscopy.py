"""Images of microscopes: one brightness for all of a data set."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import UnreadableImageError, option
from biofuse.core.hashing import hash_order
from biofuse.core.progress import Progress, Silent
from biofuse.data.decoding import ImageFacts, read_pixels
from biofuse.data.samples import Samples
from biofuse.data.stacks import Channels

PERCENTILES = (0.1, 99.9)
"""Which values of the data set become black and white. Wider than what is usual for one image at a time (1 and 99 in
Cellpose, Stringer et al., Nature Methods 2021; 1 and 99.8 in StarDist's examples), since one window serves images of
every brightness."""
LOOKED_AT, PER_IMAGE = 2_000, 10_000
"""Images, drawn by a hash of their ids, and values of each channel of each, that percentiles are taken of: the same
weight for every image, and at most 160 MB."""


def with_windows(samples: Samples, *, progress: Progress | None = None) -> Samples:
    """Find the one window by which images of more than 8 bits become 8-bit, where the decode policy asks for it.

    Samples of split test are not looked at. Images that cannot be read are passed over: they are named where they are
    embedded.

    Parameters
    ----------
    samples : Samples
        Images are read where their policy is ``percentile`` and has no windows; others are returned as they are.
    progress : Progress, optional

    Returns
    -------
    Samples
        Under a policy with a window for each channel, and a note that states them.
    """
    if samples.decode.sixteen_bit != "percentile" or samples.decode.windows:
        return samples
    seen = (samples if samples.splits is None else samples.take(samples.splits != "test")).images()
    looked_at = seen.take(hash_order([str(name) for name in seen.ids])[:LOOKED_AT])
    values: dict[int, list[NDArray[np.float64]]] = {}
    progress = progress or Silent()
    progress.begin("looking at brightness", len(looked_at))
    random = np.random.default_rng(0)
    for source in looked_at.sources:
        progress.advance("looking at brightness", 1)
        try:
            pixels, facts = read_pixels(source.read(), samples.decode, description=source.description)
        except UnreadableImageError:
            continue
        for place, channel in _deep(pixels, facts):
            drawn = channel.ravel()[random.integers(0, channel.size, PER_IMAGE)].astype(np.float64)
            values.setdefault(place, []).append(drawn[np.isfinite(drawn)])
    windows = [_window(values.get(place, [])) for place in range(max(values, default=-1) + 1)]
    found = samples.decoded_by(samples.decode.model_copy(update={"windows": tuple(windows)}))
    return replace(found, notes=(*found.notes, _said(windows, len(looked_at))))


def _deep(pixels: NDArray[np.generic] | Channels, facts: ImageFacts) -> list[tuple[int, NDArray[np.generic]]]:
    """Return the channels that are of more than 8 bits, with the places of their windows."""
    if not facts.deep:
        return []
    if isinstance(pixels, Channels):
        return [(place, pixels.pixels[:, :, at]) for at, place in enumerate(pixels.places)]
    return [(0, pixels)]


def _window(values: list[NDArray[np.float64]]) -> tuple[float, float]:
    drawn = np.concatenate(values) if values else np.zeros(0)
    if not drawn.size:
        return 0.0, 0.0
    low, high = np.percentile(drawn, PERCENTILES)
    return float(low), float(high)


def _said(windows: list[tuple[float, float]], n_images: int) -> str:
    asked = option("sixteen_bit", "percentile")
    if not windows:
        return f"{asked}: none of the images looked at is of more than 8 bits; they are read as they are."
    ranges = ", ".join(f"{low:.6g} to {high:.6g}" for low, high in windows)
    each = f" (by channel: {ranges})" if len(windows) > 1 else f" of {ranges}"
    return (
        f"Images of more than 8 bits become 8-bit by one window{each}: percentiles {PERCENTILES[0]} and "
        f"{PERCENTILES[1]} of the values of {n_images:,} images."
    )
