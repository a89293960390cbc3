import csv
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from biofuse.core.errors import ArtifactError, SearchError, UndefinedMetricError
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets

NAN = float("nan")
ROWS = [
    Row(subset=("a",), n_dims=4, folds={"auroc": (1 / 3, NAN), "accuracy": (0.5, 0.1)}, seconds=0.25, notes=("é",)),
    Row(subset=("b",), n_dims=3, folds={"auroc": (0.7, 0.9), "accuracy": (0.5, 0.2)}),
    Row(subset=("a", "b"), n_dims=7, folds={"auroc": (0.8, 0.8), "accuracy": (0.5, 0.3)}),
]


def board(rows=ROWS):
    return Leaderboard(
        encoders=("a", "b"), metrics=("auroc", "accuracy"), rows=tuple(rows), n_train=(8, 8), n_test=(2, 2)
    )


def same(found, expected):
    assert [row.subset for row in found] == [row.subset for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.n_dims, one.seconds, one.notes) == (other.n_dims, other.seconds, other.notes)
        assert list(one.folds) == list(other.folds)
        for metric in one.folds:
            np.testing.assert_array_equal(one.values(metric), other.values(metric))  # exact, NaN included


def test_rows_stand_in_combination_order_and_are_found_in_any_order():
    found = board(ROWS[::-1])
    same(found.rows, ROWS)
    assert found["b", "a"].n_dims == 7
    assert found.get(["x"]) is None
    with pytest.raises(KeyError):
        found[("x",)]


def test_looking_rows_up_takes_no_search_through_them():
    pool = tuple("abcdefghijkl")
    rows = [Row(subset=subset, n_dims=1, folds={"auroc": (0.5,)}) for subset in all_subsets(pool)]
    found = Leaderboard(encoders=pool, metrics=("auroc",), rows=tuple(rows), n_train=(1,), n_test=(1,))
    compared = []

    class Watched(str):
        __slots__ = ()

        def __eq__(self, other):
            compared.append(other)
            return super().__eq__(other)

        __hash__ = str.__hash__

    assert found[Watched("l"), Watched("a")].subset == ("a", "l")
    assert len(compared) < 20


def test_predictions_stand_in_the_order_of_rows_and_only_beside_rows():
    kept = {name: (np.zeros((2, 2), dtype=np.float32),) for name in (("a", "b"), ("x",), ("a",))}
    found = Leaderboard(
        encoders=("a", "b"), metrics=("auroc",), rows=tuple(ROWS), n_train=(8, 8), n_test=(2, 2), out_of_fold=kept
    )
    assert list(found.out_of_fold) == [("a",), ("a", "b")]


def test_means_are_over_defined_folds():
    assert ROWS[0].mean("auroc") == 1 / 3
    assert np.isnan(ROWS[0].std("auroc"))
    assert ROWS[1].std("auroc") == pytest.approx(np.std([0.7, 0.9], ddof=1))
    with pytest.raises(SearchError, match="no metric 'f1'"):
        ROWS[0].mean("f1")
    nothing = Row(subset=("a",), n_dims=1, folds={"auroc": (NAN, NAN)}, notes=("no sample of c",))
    assert np.isnan(nothing.mean("auroc"))
    with pytest.raises(UndefinedMetricError, match="undefined in every fold: no sample of c"):
        nothing.quality("auroc")
    assert Row(subset=("a",), n_dims=1, folds={"log_loss": (0.5,)}).quality("log_loss") == -0.5


def test_best_first_breaks_ties_by_encoders_and_dimensions():
    assert [row.subset for row in board().best_first()] == [("b",), ("a", "b"), ("a",)]  # .8 and .8 tie


def test_fewer_encoders_win_ties_even_with_more_dimensions():
    rows = [Row(subset=s, n_dims=d, folds={"auroc": (0.8,)}) for s, d in ((("a", "b"), 3), (("a",), 9), (("b",), 7))]
    assert [row.subset for row in board(rows).best_first("auroc")] == [("b",), ("a",), ("a", "b")]


def test_bug_15_the_header_is_as_wide_as_the_rows_and_precision_is_full(tmp_path):
    board().to_csv(tmp_path / "leaderboard.csv")
    board().to_parquet(tmp_path / "leaderboard.parquet")
    with (tmp_path / "leaderboard.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    assert len({len(line) for line in lines}) == 1
    assert len(set(lines[0])) == len(lines[0])
    assert all(lines[0])
    read = pd.read_csv(tmp_path / "leaderboard.csv")
    pd.testing.assert_frame_equal(
        read, pd.read_parquet(tmp_path / "leaderboard.parquet"), check_exact=True, check_dtype=False
    )
    assert read["auroc_fold_1"][0] == 1 / 3
    assert read["subset"].tolist() == ["a", "b", "a+b"]


def test_it_is_read_back_as_it_was_written(tmp_path):
    path = tmp_path / "leaderboard.parquet"
    for written in (
        replace(board(), n_train=(9, 7), n_test=(3, 1), key="abc"),
        board(()),
        replace(board(), out_of_fold={("a",): (np.zeros((2, 2)),) * 2}),
    ):
        written.to_parquet(path)
        assert Leaderboard.read_parquet(path) == written
    assert Leaderboard.read_parquet(path) != board(ROWS[1:])


def test_a_file_that_is_no_leaderboard_is_refused_with_a_remedy(tmp_path):
    path = tmp_path / "leaderboard.parquet"
    with pytest.raises(ArtifactError, match="is missing") as error:
        Leaderboard.read_parquet(path)
    assert error.value.remedy
    path.write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Leaderboard.read_parquet(path)
    board().to_frame().to_parquet(path)
    with pytest.raises(ArtifactError, match="lacks the sizes of its folds"):
        Leaderboard.read_parquet(path)


def test_bug_3_no_test_column_can_exist(tmp_path):
    assert not [column for column in board().to_frame() if "test" in column]
    assert list(board().to_frame().columns) == [
        "subset", "n_encoders", "n_dims", "auroc_mean", "auroc_std", "accuracy_mean", "accuracy_std",
        "auroc_fold_1", "auroc_fold_2", "accuracy_fold_1", "accuracy_fold_2", "seconds",
    ]  # fmt: skip


def test_it_prints_and_shows_well_in_a_notebook():
    assert "3 subsets of 2 encoders, 2 folds" in repr(board())
    assert "a+b" in repr(board())
    assert "0.8000 ± 0.1414" in repr(board())
    assert "<table" in board()._repr_html_()
    assert repr(board(())).startswith("0 subsets")
    assert board(())._repr_html_()
