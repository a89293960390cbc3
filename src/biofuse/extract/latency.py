"""How long an image takes each encoder on this machine."""

import time
from collections.abc import Sequence

import numpy as np

from biofuse.core.errors import DataError
from biofuse.core.hashing import hash_order
from biofuse.data.decoding import decode
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.registry import load_encoder
from biofuse.extract.options import ExtractOptions, choose_device
from biofuse.extract.prepare import encode

IMAGES = 16
"""Enough for a batch that is representative, few enough for the slowest encoder on a CPU."""

REPEATS = 3
"""Timed passes; the quickest counts, since what else the machine does can only slow one down."""


def measure_latency(
    samples: Samples, cards: Sequence[EncoderCard], *, options: ExtractOptions | None = None, n_images: int = IMAGES
) -> dict[str, float]:
    """Time resizing and forward pass of some of the images; decoding, which all encoders share, is left out.

    Parameters
    ----------
    samples : Samples
        Readable images; those timed are drawn by a hash of their ids.
    cards : sequence of EncoderCard
    options : ExtractOptions, optional
        Device, batch size, and the precision of each encoder.
    n_images : int, default 16

    Returns
    -------
    dict of str to float
        Milliseconds per image of each encoder.

    Raises
    ------
    DataError
        If there is no image.
    """
    if not len(samples):
        raise DataError(f"{samples.name} holds no image to time encoders on.")
    options = options or ExtractOptions()
    device = "cpu"
    if any(card.runtime == "torch" for card in cards):
        device = choose_device(options.device)
    rows = hash_order(samples.ids.tolist(), seed=0)[: min(n_images, options.batch_size or n_images)]
    sources = [samples.sources[row] for row in rows]
    images = [decode(source.read(), samples.decode, description=source.description) for source in sources]
    found = {}
    for card in cards:
        precision = options.precisions.get(card.name, "fp32")
        encoder = load_encoder(card, device=device, precision=precision, weights_path=options.weights_of(card))
        times = []
        for _ in range(1 + REPEATS):
            start = time.perf_counter()
            encode(encoder, np.stack([card.preprocessing.apply(image) for image in images]))
            times.append(time.perf_counter() - start)
        found[card.name] = 1000 * min(times[1:]) / len(images)  # the first pass loads libraries and warms up
    return found
