import numpy as np
import pytest

from biofuse.core.errors import DataError
from biofuse.core.target import Task
from biofuse.data.decoding import ArraySource
from biofuse.data.samples import Samples


def table(n=4, **changes):
    facts = {
        "ids": np.array([f"s{i}" for i in range(n)], dtype=object),
        "sources": tuple(ArraySource(np.zeros((2, 2), np.uint8), f"row {i}") for i in range(n)),
        "labels": np.arange(n, dtype=np.int64) % 2,
        "classes": ("a", "b"),
        "task": Task.BINARY,
        "splits": np.array(["train", "val", "test", "train"][:n], dtype=object),
    }
    return Samples(**(facts | changes))


@pytest.mark.parametrize("rows", [[2, 0], np.array([True, False, True, False])])
def test_rows_are_taken_with_all_their_columns(rows):
    taken = table().take(rows)
    expected = [2, 0] if isinstance(rows, list) else [0, 2]
    assert taken.ids.tolist() == [f"s{i}" for i in expected]
    assert [source.description for source in taken.sources] == [f"row {i}" for i in expected]
    assert taken.labels.tolist() == [i % 2 for i in expected]


def test_no_rows_are_rows_too():
    for empty in ([], np.zeros(4, dtype=bool)):
        assert len(table().take(empty)) == 0
    assert len(table().take([]).take([])) == 0


def test_splits_are_chosen_by_name_and_must_exist():
    assert table().in_split("train", "val").ids.tolist() == ["s0", "s1", "s3"]
    with pytest.raises(DataError, match="no splits"):
        table(splits=None).in_split("train")


def test_columns_of_another_length_and_repeated_ids_are_refused():
    with pytest.raises(DataError, match="4 ids but 3 labels"):
        table(labels=np.zeros(3, np.int64))
    with pytest.raises(DataError, match="'x'"):
        table(ids=np.array(["x", "y", "x", "z"], dtype=object))
