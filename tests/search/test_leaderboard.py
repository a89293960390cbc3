import csv
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.core.errors import ArtifactError, DiskError, SearchError, UndefinedMetricError
from biofuse.search.leaderboard import Leaderboard, Row, ScoreLog, all_subsets

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


HEADER = {
    "key": "k" * 32,
    "encoders": ["a", "b"],
    "metrics": ["auroc", "accuracy"],
    "n_train": [8, 8],
    "n_test": [2, 2],
}
SHAPES = ((3, 2), (1, 2))  # more rows kept of one fold than of the other


def predictions(seed):
    random = np.random.default_rng(seed)
    return tuple(random.random(shape).astype(np.float32) for shape in SHAPES)


KEPT = {row.subset: predictions(number) for number, row in enumerate(ROWS)}
RECORD = 4 * 8
"""Bytes of one record: float32."""


def same_predictions(found, expected):
    assert set(found) == set(expected)
    for subset, folds in found.items():
        for one, other in zip(folds, expected[subset], strict=True):
            assert one.dtype == np.float32
            np.testing.assert_array_equal(one, other)


def beside(path):
    return path.with_name(path.name + ".predictions")


def write(path, rows=ROWS, **changes):
    with sink(path, keep_predictions=True, **changes) as file:
        for row in rows:
            file.append(row, KEPT[row.subset])


def sink(path, **changes):
    return ScoreLog(path, **(HEADER | changes))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_file_cut_anywhere_resumes_from_its_whole_lines(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "leaderboard.jsonl"
    with sink(path) as file:
        for row in ROWS:
            file.append(row)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    garbage = data.draw(st.sampled_from([b"", b'{"subset": ["a"', b"\x00\xff\x00\n", b'{"subset": ["a"]}\n', b"[]\n"]))
    path.write_bytes(whole[:cut] + garbage)
    lines = max(0, whole[:cut].count(b"\n") - 1)
    with sink(path) as file:
        # A cut inside a line may be completed by garbage, but never to a row that was not there.
        same(list(file.rows.values()), ROWS[:lines])
        for row in ROWS[lines:]:
            file.append(row)
    with sink(path) as file:
        same(file.rows.values(), ROWS)


@pytest.mark.parametrize(
    "changes",
    [{"key": "other"}, {"metrics": ["auroc"]}, {"n_test": [3, 3]}, {"encoders": ["a", "b", "c"]}],
    ids=lambda changes: next(iter(changes)),
)
def test_another_search_sets_the_old_file_aside(tmp_path, changes):
    path = tmp_path / "leaderboard.jsonl"
    for _ in range(2):
        with sink(path) as file:
            file.append(ROWS[0])
        before = path.read_bytes()
        with sink(path, **changes) as file:
            assert file.rows == {}
            assert file.set_aside.read_bytes() == before
        path.unlink()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_row_that_was_changed_is_not_read(tmp_path):
    path = tmp_path / "leaderboard.jsonl"
    with sink(path) as file:
        file.append(ROWS[0])
    header, row = path.read_text().splitlines()
    for change in ({"seconds": 9.5}, {"subset": []}, {"folds": {"auroc": [1, 1]}}, {"notes": None}):
        path.write_text("\n".join([header, json.dumps(json.loads(row) | change), row]) + "\n")
        with sink(path) as file:
            assert file.rows == {}
    wide = json.loads(row)
    wide["folds"]["auroc"].append(0.5)
    path.write_text(f"{header}\n{json.dumps(wide)}\n")
    with sink(path) as file:
        assert file.rows == {}


def test_foreign_and_newer_files_are_set_aside(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("hello\n")
    with sink(path) as file:
        assert "unreadable" in file.set_aside.name
    path.write_text(path.read_text().replace('"version": 2', '"version": 3'))
    with sink(path) as file:
        assert file.set_aside is not None


def test_a_folder_in_the_way_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        sink(tmp_path / "file" / "leaderboard.jsonl")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_files_cut_anywhere_resume_with_the_predictions_that_are_whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "leaderboard.jsonl"
    write(path)
    lines, records = path.read_bytes(), beside(path).read_bytes()
    cut = data.draw(st.integers(0, len(lines)))
    length = data.draw(st.integers(0, len(records)))
    extra = data.draw(st.sampled_from([b"", b"\x00" * 7, b"\x00" * RECORD]))
    path.write_bytes(lines[:cut])
    beside(path).write_bytes(records[:length] + extra)
    n_lines = max(0, lines[:cut].count(b"\n") - 1)
    n_records = min(n_lines, length // RECORD)
    with sink(path, keep_predictions=True) as file:
        same(list(file.rows.values()), ROWS[:n_lines])
        same_predictions(file.predictions, {row.subset: KEPT[row.subset] for row in ROWS[:n_records]})
        for row in ROWS[n_records:]:
            file.append(row, KEPT[row.subset])
    with sink(path, keep_predictions=True) as file:
        same(file.rows.values(), ROWS)
        same_predictions(file.predictions, KEPT)
    assert beside(path).stat().st_size == len(ROWS) * RECORD


def test_a_record_is_there_before_the_line_that_promises_it(tmp_path, monkeypatch):
    path = tmp_path / "leaderboard.jsonl"
    with sink(path, keep_predictions=True) as file:
        file.append(ROWS[0], KEPT["a",])

        def killed(value):
            raise KeyboardInterrupt

        monkeypatch.setattr(file, "_write", killed)
        with pytest.raises(KeyboardInterrupt):
            file.append(ROWS[1], KEPT["b",])
    assert beside(path).stat().st_size == 2 * RECORD
    with sink(path, keep_predictions=True) as file:
        same_predictions(file.predictions, {("a",): KEPT["a",]})
    assert beside(path).stat().st_size == RECORD


def test_a_damaged_or_missing_record_costs_its_predictions_alone(tmp_path):
    path = tmp_path / "leaderboard.jsonl"
    write(path)
    data = bytearray(beside(path).read_bytes())
    data[RECORD + 3] ^= 1
    beside(path).write_bytes(data)
    with sink(path, keep_predictions=True) as file:
        same(file.rows.values(), ROWS)
        assert set(file.predictions) == {("a",), ("a", "b")}
        file.append(ROWS[1], KEPT["b",])
    with sink(path, keep_predictions=True) as file:
        same_predictions(file.predictions, KEPT)
    beside(path).unlink()
    with sink(path, keep_predictions=True) as file:
        assert file.predictions == {}
        same(file.rows.values(), ROWS)


def test_a_search_that_keeps_no_predictions_leaves_them_alone(tmp_path):
    path = tmp_path / "leaderboard.jsonl"
    write(path, ROWS[:2])
    before = beside(path).read_bytes()
    with sink(path) as file:
        same(file.rows.values(), ROWS[:2])
        file.append(ROWS[2], KEPT["a", "b"])
    assert beside(path).read_bytes() == before
    with sink(path, keep_predictions=True) as file:
        same(file.rows.values(), ROWS)
        same_predictions(file.predictions, {subset: KEPT[subset] for subset in (("a",), ("b",))})


def test_another_search_sets_the_old_predictions_aside_too(tmp_path):
    path = tmp_path / "leaderboard.jsonl"
    write(path)
    before = beside(path).read_bytes()
    with sink(path, key="other", keep_predictions=True) as file:
        assert file.predictions == {}
        assert beside(file.set_aside).read_bytes() == before
        aside = file.set_aside
    with sink(aside, keep_predictions=True) as old:
        same_predictions(old.predictions, KEPT)
    assert beside(path).read_bytes() == b""


@pytest.mark.parametrize("entry", [{"at": -1}, {"shapes": []}, {"shapes": [[-3, 2]]}, {"at": "x"}, {"hash": None}])
def test_a_line_with_a_wrong_record_is_never_trusted(tmp_path, entry):
    path = tmp_path / "leaderboard.jsonl"
    write(path, ROWS[:1])
    header, line = path.read_text().splitlines()
    value = json.loads(line)
    value["predictions"] |= entry
    path.write_text(f"{header}\n{json.dumps(value)}\n")
    with sink(path, keep_predictions=True) as file:
        assert file.predictions == {}
