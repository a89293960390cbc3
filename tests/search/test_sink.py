import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.core.errors import ArtifactError, DiskError
from biofuse.search.leaderboard import Row, Sink, read_sink

NAN = float("nan")
HEADER = {
    "key": "k" * 32,
    "encoders": ["a", "b"],
    "metrics": ["auroc", "accuracy"],
    "n_train": [8, 8],
    "n_test": [2, 2],
}
ROWS = [
    Row(subset=("a",), n_dims=4, folds={"auroc": (1 / 3, NAN), "accuracy": (0.5, 0.1)}, seconds=0.25, notes=("é",)),
    Row(subset=("b",), n_dims=3, folds={"auroc": (0.7, 0.9), "accuracy": (0.5, 0.2)}),
    Row(subset=("a", "b"), n_dims=7, folds={"auroc": (0.8, 0.8), "accuracy": (0.5, 0.3)}),
]
SHAPES = ((3, 2), (1, 2))  # more rows kept of one fold than of the other


def predictions(seed):
    random = np.random.default_rng(seed)
    return tuple(random.random(shape).astype(np.float32) for shape in SHAPES)


KEPT = {row.subset: predictions(number) for number, row in enumerate(ROWS)}
RECORD = 4 * 8
"""Bytes of one record: float32."""


def same(found, expected):
    assert [row.subset for row in found] == [row.subset for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert (one.n_dims, one.seconds, one.notes) == (other.n_dims, other.seconds, other.notes)
        assert list(one.folds) == list(other.folds)
        for metric in one.folds:
            np.testing.assert_array_equal(one.values(metric), other.values(metric))  # exact, NaN included


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
    return Sink(path, **(HEADER | changes))


def test_rows_survive_and_a_leaderboard_reads_back(tmp_path):
    path = tmp_path / "runs" / "leaderboard.jsonl"
    with sink(path) as file:
        for row in ROWS:
            file.append(row)
    with sink(path) as again:
        same(again.rows.values(), ROWS)
        assert again.set_aside is None
    found = read_sink(path)
    same(found.rows, ROWS)
    assert (found.key, found.n_test, found.metrics) == (HEADER["key"], (2, 2), ("auroc", "accuracy"))


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
    same(read_sink(path).rows, ROWS)


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


def test_a_row_that_does_not_fit_the_header_is_not_read(tmp_path):
    path = tmp_path / "leaderboard.jsonl"
    with sink(path) as file:
        file.append(ROWS[0])
    header, row = path.read_text().splitlines()
    for change in ({"subset": ["b", "a"]}, {"subset": []}, {"folds": {"auroc": [1, 1]}}, {"notes": None}):
        path.write_text("\n".join([header, json.dumps(json.loads(row) | change), row]) + "\n")
        with sink(path) as file:
            assert file.rows == {}
    wide = json.loads(row)
    wide["folds"]["auroc"].append(0.5)
    path.write_text(f"{header}\n{json.dumps(wide)}\n")
    with sink(path) as file:
        assert file.rows == {}


def test_foreign_and_newer_files_are_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text("hello\n")
    with pytest.raises(ArtifactError, match="not the leaderboard"):
        read_sink(path)
    with sink(path) as file:
        assert "unreadable" in file.set_aside.name
    path.write_text(path.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ArtifactError, match="newer"):
        read_sink(path)


def test_a_folder_in_the_way_is_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        sink(tmp_path / "file" / "leaderboard.jsonl")


def test_predictions_survive_and_read_back_exactly(tmp_path):
    path = tmp_path / "leaderboard.jsonl"
    write(path)
    assert beside(path).stat().st_size == len(ROWS) * RECORD
    with sink(path, keep_predictions=True) as again:
        same(again.rows.values(), ROWS)
        same_predictions(again.predictions, KEPT)
    found = read_sink(path)
    same(found.rows, ROWS)
    same_predictions(found.out_of_fold, KEPT)


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
    found = read_sink(path)
    same(found.rows, ROWS)
    same_predictions(found.out_of_fold, KEPT)
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
    same_predictions(read_sink(path).out_of_fold, KEPT)
    beside(path).unlink()
    assert read_sink(path).out_of_fold == {}
    same(read_sink(path).rows, ROWS)


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
        same_predictions(read_sink(file.set_aside).out_of_fold, KEPT)
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
