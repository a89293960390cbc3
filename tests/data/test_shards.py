import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biofuse.core.errors import DataError
from biofuse.data.decoding import ArraySource
from biofuse.data.samples import Samples
from biofuse.data.shards import Shard


@given(st.integers(0, 2000), st.integers(1, 300))
def test_shards_one_after_the_other_are_all_rows_each_once_and_nearly_equal(n, count):
    shards = [Shard(index, count).rows(n) for index in range(1, count + 1)]
    assert [row for shard in shards for row in shard] == list(range(n))
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["1/1", "3/8", "8/8"])
def test_what_is_read_is_what_is_written(text):
    assert str(Shard.parse(text)) == text


@pytest.mark.parametrize("text", ["0/8", "9/8", "1/0", "1", "a/b", "1/", "/3", "-1/3", "1.0/3", "1/2/3", ""])
def test_a_shard_that_does_not_exist_is_refused_with_an_example(text):
    with pytest.raises(DataError) as caught:
        Shard.parse(text)
    assert "--array=1-8" in caught.value.remedy


def test_a_shard_of_samples_keeps_classes_and_order():
    samples = Samples(
        ids=np.array([f"s{i}" for i in range(5)], dtype=object),
        sources=tuple(ArraySource(np.full((2, 2, 3), i, np.uint8), f"row {i}") for i in range(5)),
    )
    assert [Shard(i, 3).take(samples).ids.tolist() for i in (1, 2, 3)] == [["s0"], ["s1", "s2"], ["s3", "s4"]]
    assert len(Shard(2, 50).take(samples)) == 0
