"""Ranks and marks of heat maps, against tables made by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from biofuse.core.errors import AlignmentError
from biofuse.report.draw import Heatmap, dense_ranks

NAN = float("nan")

BY_HAND = np.array(
    [
        # blood: ties for second      skin: ties for first        eye: one not scored, ties that only rounding makes
        [0.9900, 0.8000, 0.71234],
        [0.9500, 0.9000, NAN],
        [0.9500, 0.9000, 0.71226],
        [0.9400, 0.7000, 0.70000],
        [0.9000, 0.6000, 0.60000],
    ]
)
RANKS_BY_HAND = [[1, 2, 1], [2, 1, 0], [2, 1, 2], [3, 3, 3], [4, 4, 4]]
MARKS_BY_HAND = [
    ["0.9900¹", "0.8000²", "0.7123¹"],
    ["0.9500²", "0.9000¹", ""],
    ["0.9500²", "0.9000¹", "0.7123²"],
    ["0.9400³", "0.7000³", "0.7000³"],
    ["0.9000", "0.6000", "0.6000"],
]


def heatmap(values=BY_HAND, **options):
    rows = tuple("abcde"[: len(values)])
    return Heatmap(title="t", rows=rows, columns=("blood", "skin", "eye"), values=np.array(values), **options)


def test_ties_share_a_rank_and_none_is_left_out_after_them():
    values = BY_HAND.copy()
    values[2, 2] = 0.71214  # reads 0.7121, so below 0.7123
    np.testing.assert_array_equal(dense_ranks(values, digits=4), RANKS_BY_HAND)


def test_what_reads_the_same_is_ranked_the_same():
    ranks = dense_ranks(BY_HAND, digits=4)  # 0.71234 and 0.71226 both read 0.7123
    assert ranks[:, 2].tolist() == [1, 0, 1, 2, 3]
    assert dense_ranks(BY_HAND, digits=5)[:, 2].tolist() == [1, 0, 2, 3, 4]


def test_what_is_written_decides_where_rounding_and_writing_differ():
    # 0.5785 is a little more than it says and 0.57849 less: NumPy rounds both to 0.578, and one is written 0.579.
    assert (np.round(0.5785, 3), f"{0.5785:.3f}") == (0.578, "0.579")
    assert dense_ranks([[0.5785], [0.57849], [0.579]], digits=3)[:, 0].tolist() == [1, 2, 1]


def test_best_in_white_second_and_third_in_red_as_marked_by_hand():
    values = BY_HAND.copy()
    values[2, 2] = 0.71214
    expected = [row.copy() for row in MARKS_BY_HAND]
    expected[2][2] = "0.7121²"
    table = heatmap(values).to_table()
    assert [[cell.text for cell in row[1:]] for row in table.rows] == expected
    tones = [[cell.tone for cell in row[1:]] for row in table.rows]
    by_mark = {"¹": "best", "²": "next", "³": "next"}
    assert tones == [[by_mark.get(text[-1:], "") for text in row] for row in expected]


def test_an_encoder_that_was_not_scored_has_no_mark_and_no_colour():
    cell = heatmap().to_table().rows[1][3]
    assert (cell.text, cell.tone, cell.background) == ("", "", "")


def test_shades_go_from_the_lowest_to_the_highest_of_a_column():
    shades = [[cell.shade for cell in row[1:]] for row in heatmap().to_table().rows]
    assert shades[0][0] == 1
    assert shades[4][0] == 0
    assert shades[1][0] == pytest.approx((0.95 - 0.90) / (0.99 - 0.90))
    assert all(0 <= shade <= 1 for row in shades for shade in row if shade is not None)


def test_columns_of_one_value_or_none_do_no_harm():
    for values in (np.full((2, 3), 0.5), np.full((2, 3), NAN), np.empty((0, 3))):
        table = heatmap(values).to_table()
        assert all(cell.tone in {"best", ""} for row in table.rows for cell in row[1:])


def test_values_must_fit_rows_and_columns():
    with pytest.raises(AlignmentError):
        Heatmap(title="t", rows=("a",), columns=("x", "y"), values=np.zeros((1, 1)))


@given(arrays(np.float64, (6, 2), elements=st.floats(0, 1) | st.just(NAN)))
def test_ranks_are_scipys_dense_ranks(values):
    ranks = dense_ranks(values, digits=3)
    for column, found in zip(values.T, ranks.T, strict=True):
        there = ~np.isnan(column)
        np.testing.assert_array_equal(
            found[there], rankdata([-float(f"{value:.3f}") for value in column[there]], method="dense")
        )
        assert not found[~there].any()


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_marks_can_be_read_on_every_shade():
    """WCAG 2: a contrast of at least 4.5 to 1, by its formula."""
    from biofuse.report.draw import Cell

    for shade in np.linspace(0, 1, 11):
        behind = luminance(Cell(text="x", shade=float(shade)).background)
        for ink in ("#a50f15", "#1a1a1a"):
            assert (behind + 0.05) / (luminance(ink) + 0.05) >= 4.5
    assert 1.05 / (luminance("#08519c") + 0.05) >= 4.5
