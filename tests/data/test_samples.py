from dataclasses import replace

import numpy as np
import pytest

from biofuse.core.errors import DataError, UnreadableImageError
from biofuse.core.target import Task
from biofuse.data.decoding import ArraySource, DecodePolicy, FileSource
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples, hash_samples, require_contents


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


def test_content_hashes_are_found_once_and_carried():
    reads = []

    class Counted(ArraySource):
        def read(self):
            reads.append(self.description)
            return super().read()

    sources = tuple(Counted(np.full((2, 2), row, np.uint8), f"row {row}") for row in range(4))
    part, reasons = hash_samples(table(sources=sources), rows=np.array([True, False, True, True]))
    assert not reasons
    assert (part.contents == b"").tolist() == [False, True, False, False]
    whole, _ = hash_samples(part)
    assert sorted(reads) == [f"row {row}" for row in range(4)]
    assert hash_samples(whole)[0] is whole
    np.testing.assert_array_equal(whole.take([2, 0]).contents, whole.contents[[2, 0]])
    np.testing.assert_array_equal(whole.in_split("test").contents, whole.contents[[2]])
    np.testing.assert_array_equal(load_samples(whole).contents, whole.contents)
    joined = load_samples({"train": whole.take([0, 1]), "test": replace(whole.take([2, 3]), contents=None)})
    np.testing.assert_array_equal(joined.contents[:2], whole.contents[:2])
    assert (joined.contents[2:] == b"").all()


def test_another_decode_policy_makes_content_hashes_unknown():
    samples, _ = hash_samples(table())
    assert samples.decoded_by(DecodePolicy()).contents is samples.contents
    other = DecodePolicy(sixteen_bit="full")
    assert samples.decoded_by(other).contents is None
    assert load_samples({"train": samples}, decode=other).contents is None


def test_an_unreadable_image_has_a_reason_and_no_content(tmp_path):
    sources = (FileSource(tmp_path / "gone.png"), *table().sources[1:])
    samples, reasons = hash_samples(table(sources=sources))
    assert (samples.contents == b"").tolist() == [True, False, False, False]
    assert list(reasons) == [0]
    with pytest.raises(UnreadableImageError, match=r"gone.png: does not exist"):
        require_contents(samples)
