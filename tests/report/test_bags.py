"""Where the tiles that decide lie on their slide."""

import numpy as np
import pytest
import tifffile
from skimage import data

from biofuse.data.load import load_samples
from biofuse.report.bags import AGAINST, FOR, ArguedSample
from biofuse.report.draw import LIGHT


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Return the tiles of a small pyramid of real tissue."""
    path = tmp_path_factory.mktemp("slide") / "a.tif"
    tissue = np.tile(data.immunohistochemistry(), (2, 2, 1))
    with tifffile.TiffWriter(path) as file:
        how = {"tile": (256, 256), "photometric": "rgb", "resolutionunit": "CENTIMETER"}
        file.write(tissue, subifds=0, resolution=(20_000, 20_000), **how)
        file.write(tissue[::4, ::4], subfiletype=1, resolution=(5_000, 5_000), **how)
    return load_samples(path, labelled=False).sources[0].images


def test_the_tiles_shown_are_outlined_where_they_are(tiles) -> None:
    values = np.random.default_rng(0).standard_normal(len(tiles))
    values[3] = 0.001  # which nobody would see
    sample = ArguedSample(
        id="a", said="", called="x", probability=1.0, sources=tiles, values=values, weights=None, how=""
    )
    order = np.argsort(-values)
    expected = [*order[values[order] > 0.005][:FOR], *order[::-1][values[order[::-1]] < -0.005][:AGAINST]]
    assert list(sample.shown) == expected
    image = np.asarray(sample.overview())
    assert image.shape == (1024, 1024, 3)
    for place in sample.shown:
        left, top, width, _ = tiles[place].box
        colour = LIGHT["above" if values[place] > 0 else "below"]
        assert image[top, left + width // 2].tolist() == [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    assert sample.names[0].startswith("tile of")
    alone = ArguedSample(**{**vars(sample), "sources": (*tiles[:-1], object())})
    assert alone.overview() is None
