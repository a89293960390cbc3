"""Contact sheets: what is on them is what an encoder is given."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from biofuse import load_samples
from biofuse.core.errors import DataError
from biofuse.data.cuts import Bag
from biofuse.data.decoding import ArraySource
from biofuse.encoders.registry import get_card
from biofuse.report import sheet as module
from biofuse.report.sheet import COLUMNS, GAP, LETTERS, LINE, SIDE, contact_sheet


def cell(picture, row, column, *, titles=1):
    left, upper = GAP + column * (SIDE + GAP), titles * LINE + 2 * GAP + row * (SIDE + 2 * LINE + GAP)
    return np.asarray(picture.crop((left, upper, left + SIDE, upper + SIDE)))


def received(pixels, card):
    return np.asarray(Image.fromarray(card.preprocessing.apply(pixels)).resize((SIDE, SIDE), Image.Resampling.NEAREST))


@pytest.fixture
def samples(make_images, tmp_path):
    make_images(tmp_path / "images", classes=("blue", "green", "red"), per_class=9, size=40)
    return load_samples(tmp_path / "images")


def test_the_cells_are_the_pixels_that_the_encoder_is_given_with_its_classes_alike(samples):
    card = get_card("lbp")
    sheet = contact_sheet(samples, card, rows=2)
    assert (sheet.shown, sheet.unreadable) == (16, ())
    chosen = [shown for row in module._chosen(samples, 2) for shown in row]
    assert sorted(Counter(each.lines[1] for each in chosen).values()) == [5, 5, 6]
    for place, shown in enumerate(chosen):
        pixels = np.asarray(Image.open(shown.source.path))
        np.testing.assert_array_equal(cell(sheet.picture, *divmod(place, COLUMNS)), received(pixels, card))
    other = samples.take(np.random.default_rng(0).permutation(len(samples)))
    assert {each.lines for row in module._chosen(other, 2) for each in row} == {each.lines for each in chosen}


def test_images_are_stretched_where_the_encoder_stretches_them(samples):
    card = get_card("lbp")
    stretching = card.model_copy(
        update={"preprocessing": card.preprocessing.model_copy(update={"value_range": "min-max"})}
    )
    dull = load_samples([np.arange(100, 116, dtype=np.uint8).reshape(4, 4).repeat(32, 0).repeat(32, 1)])
    grey = cell(contact_sheet(dull, stretching).picture, 0, 0, titles=6)
    assert (grey.min(), grey.max()) == (0, 255)


def test_a_sample_of_several_images_has_a_row_from_its_first_to_its_last(samples):
    card = get_card("lbp")
    levels = [ArraySource(np.full((16, 16, 3), level, np.uint8), f"slice {level}") for level in range(100)]
    sources = (Bag(tuple(levels), "deep"), Bag(tuple(levels[:3]), "flat"))
    bags = replace(samples.take([0, 9]), sources=sources, ids=np.array(["deep", "flat"], dtype=object))
    sheet = contact_sheet(bags, card)
    assert sheet.shown == COLUMNS + 3
    first, *several = module._chosen(bags, 6)
    assert first == []
    rows = {shown[0].lines[0]: shown for shown in several}
    mixed = replace(bags, sources=(sources[0], samples.sources[9]))
    assert [len(row) for row in module._chosen(mixed, 6)] == [1, COLUMNS]
    assert [len(row) for row in module._chosen(mixed, 1)] in ([1], [0, COLUMNS])
    assert [each.source.description for each in rows["deep"]] == [f"slice {n}" for n in (0, 14, 28, 42, 57, 71, 85, 99)]
    assert [each.lines[1] for each in rows["flat"]] == ["green 1 of 3", "green 2 of 3", "green 3 of 3"]


def test_what_cannot_be_read_is_named_and_left_out(samples, tmp_path):
    broken = samples.sources[0].path
    broken.write_bytes(b"no image")
    sheet = contact_sheet(samples, get_card("lbp"))
    assert (sheet.shown, sheet.unreadable) == (26, (str(broken),))
    with pytest.raises(DataError, match="none of 1 images can be read"):
        contact_sheet(samples.take([0]), get_card("lbp"))


def test_long_names_keep_their_ends_and_fit():
    from matplotlib.font_manager import findfont
    from PIL import ImageFont

    font = ImageFont.truetype(findfont("DejaVu Sans"), LETTERS)
    text = module._end("a/very/long/way/to/the/picture/of/patient/0007.png", font, SIDE)
    assert text.startswith("…")
    assert text.endswith("0007.png")
    assert font.getlength(text) <= SIDE
    assert module._beginning("short", font, SIDE) == "short"
