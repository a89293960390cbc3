"""The demo's pictures: that they say what they are given, in more than colour."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biofuse.core.errors import AlignmentError, DataError
from biofuse.studies.demo import draw_leaderboard, draw_predictions, prediction_title

GREY = np.full((48, 48), 100, dtype=np.uint8)


def luminance(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"), dtype=int)


def test_grey_images_are_shown_at_their_own_level(tmp_path: Path) -> None:
    picture = luminance(draw_predictions([GREY], ["a"], [True], tmp_path / "sheet.png"))
    # Stretched to its own range, a flat image would be black.
    assert (picture == 100).sum() > 10_000


def test_colour_and_pil_images_can_be_mixed_with_grey_ones(tmp_path: Path) -> None:
    red = np.zeros((10, 30, 3), dtype=np.uint8)
    red[..., 0] = 255
    path = draw_predictions([GREY, red, Image.fromarray(GREY)], ["a", "b", "c"], [True] * 3, tmp_path / "sheet.png")
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert (pixels == [255, 0, 0]).all(axis=1).sum() > 1_000


def test_right_and_wrong_differ_in_more_than_colour(tmp_path: Path) -> None:
    paper = np.full((48, 48), 255, dtype=np.uint8)  # on a white image all ink is frame and text
    right, wrong = (
        luminance(draw_predictions([paper], ["a"], [mark], tmp_path / f"{mark}.png")) < 200 for mark in (True, False)
    )
    assert right.shape == wrong.shape
    assert wrong.sum() > 1.2 * right.sum()  # thicker, though broken
    top = int(right.sum(axis=1).argmax())  # a row through the upper or lower edge of the closed frame
    gaps = [int((np.diff(picture[top - 2 : top + 3].any(axis=0).astype(int)) == 1).sum()) for picture in (right, wrong)]
    assert gaps[0] == 1
    assert gaps[1] > 5


def test_a_long_title_is_wrapped_and_many_images_make_rows(tmp_path: Path) -> None:
    title = prediction_title(
        true="a class with quite a long name", predicted="another long class name", probability=0.5
    )
    path = draw_predictions([GREY] * 7, [title] * 7, [True, False] * 3 + [True], tmp_path / "s.png", columns=3)
    width, height = Image.open(path).size
    assert height > width
    picture = luminance(path)
    assert (picture[:, :4] == 255).all()
    assert (picture[:, -4:] == 255).all()


def test_prediction_title_has_prediction_probability_and_truth() -> None:
    assert prediction_title(true="b", predicted="a", probability=0.834) == "a (83%)\ntrue: b"


def test_pictures_are_the_same_bytes_each_time_and_replace_old_ones(tmp_path: Path) -> None:
    drawn = []
    for _ in range(2):
        sheet = draw_predictions([GREY], ["a"], [True], tmp_path / "sheet.png", heading="Heading")
        board = draw_leaderboard(["one", "two"], [0.9, 0.8], [0.8, 0.7], [1, 0.9], "Title", tmp_path / "board.png")
        drawn.append((sheet.read_bytes(), board.read_bytes()))
    assert drawn[0] == drawn[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["board.png", "sheet.png"]


def test_uneven_or_empty_input_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    with pytest.raises(AlignmentError, match="1 images, 2 titles and 1 marks"):
        draw_predictions([GREY], ["a", "b"], [True], path)
    with pytest.raises(DataError, match="no images"):
        draw_predictions([], [], [], path)
    with pytest.raises(AlignmentError, match="2 names, 1 means"):
        draw_leaderboard(["a", "b"], [0.5], [0.4], [0.6], "t", path)
    with pytest.raises(DataError, match="no scores"):
        draw_leaderboard([], [], [], [], "t", path)
    with pytest.raises(DataError, match="upside down"):
        draw_leaderboard(["a"], [0.5], [0.6], [0.4], "t", path)
    assert not path.exists()


def test_leaderboard_draws_each_row_in_order_with_its_interval(tmp_path: Path) -> None:
    names = ["wide", "narrow", "no interval"]
    path = draw_leaderboard(names, [0.5, 0.5, 0.5], [0.1, 0.4, np.nan], [0.9, 0.6, np.nan], "t", tmp_path / "b.png")
    dark = luminance(path) < 120
    # Intervals are the longest unbroken dark runs in the plot; the last long one is the axis.
    longest = np.array(
        [max((len(run) for run in "".join("x" if d else " " for d in row).split()), default=0) for row in dark]
    )
    plot = longest[: int(np.flatnonzero(longest > 0.5 * dark.shape[1])[-1]) - 5]
    bands = np.split(np.flatnonzero(plot > 60), np.flatnonzero(np.diff(np.flatnonzero(plot > 60)) > 5) + 1)
    lengths = [int(plot[band].max()) for band in bands if len(band)]
    assert len(lengths) == 2
    assert lengths[0] == pytest.approx(4 * lengths[1], rel=0.1)


def test_the_chosen_row_is_marked_by_shape_and_weight_not_only_by_colour(tmp_path: Path) -> None:
    scores = ([0.9, 0.8], [0.85, 0.75], [0.95, 0.85])
    plain = luminance(draw_leaderboard(["a", "b"], *scores, "t", tmp_path / "p.png"))
    marked = luminance(draw_leaderboard(["a", "b"], *scores, "t", tmp_path / "m.png", chosen=0))
    assert (plain < 200).sum() != (marked < 200).sum()
