import os
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biofuse.core.errors import AlignmentError, CorruptPartError, DiskError
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.store.store import EmbeddingStore, clean_store, list_store, verify_store


def as_contents(hashes):
    return np.array(hashes, dtype="S16")


DIM = 3


def card(**changes):
    facts = {
        "name": "tiny",
        "title": "Tiny",
        "loader": "function",
        "preprocessing": Preprocessing(resize="squash", size=8),
        "output": "descriptor",
        "dim": DIM,
        "runtime": "numpy",
        "licence": "Apache-2.0",
        "modality": "none",
        "source": "this test",
    }
    return EncoderCard(**(facts | changes))


def key(number):
    return number.to_bytes(16, "little")


def rows(numbers):
    """Contents and embeddings that can be recognised: row i holds i, i + .25, i + .5."""
    return as_contents([key(n) for n in numbers]), np.array([[n, n + 0.25, n + 0.5] for n in numbers], dtype=np.float32)


@pytest.fixture
def folder(tmp_path):
    return EmbeddingStore(tmp_path / "store").open(card())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None)
@given(data=st.data())
def test_rows_never_slip(tmp_path_factory, data):
    folder = EmbeddingStore(tmp_path_factory.mktemp("s")).open(card())
    parts = data.draw(
        st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=12, unique=True), min_size=1, max_size=4)
    )
    for part in parts:
        folder.write(*rows(part))
    known = sorted({n for part in parts for n in part})
    asked = data.draw(st.lists(st.sampled_from(known), max_size=30))
    contents, expected = rows(asked) if asked else (as_contents([]), np.zeros((0, DIM), np.float32))
    np.testing.assert_array_equal(folder.read(contents), expected)
    absent = as_contents([key(n) for n in range(50)])
    np.testing.assert_array_equal(folder.missing(absent), ~np.isin(np.arange(50), known))


def test_a_part_in_order_is_read_without_a_copy(folder):
    contents, embeddings = rows(range(10))
    folder.write(contents, embeddings)
    block = folder.read(contents[2:7])
    assert block.base is not None
    assert not block.flags.writeable
    np.testing.assert_array_equal(block, embeddings[2:7])


def test_a_missing_row_raises_and_is_never_guessed(folder):
    folder.write(*rows([1, 2]))
    with pytest.raises(AlignmentError, match="1 of 3 samples have no tiny embedding"):
        folder.read(rows([1, 2, 3])[0])


def test_a_part_is_named_by_its_bytes_and_a_flipped_bit_is_found_and_healed(folder):
    path = folder.write(*rows([1, 2, 3]))
    healthy = folder.write(*rows([4]))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    store = EmbeddingStore(folder.path.parent)
    (found,) = verify_store(store)
    assert [p.name for p in found.broken] == [path.name + ".broken"]
    fresh = store.open(card())
    assert fresh.missing(rows([1, 2, 3, 4])[0]).tolist() == [True, True, True, False]
    assert fresh.part_paths() == [healthy]
    cleaning = clean_store(store)
    assert [p.name for p in cleaning.removed] == [path.name + ".broken"]
    assert verify_store(store)[0].broken == ()


def test_a_truncated_part_is_never_read_as_a_whole_one(folder):
    path = folder.write(*rows(range(100)))
    path.write_bytes(path.read_bytes()[:-300])
    fresh = EmbeddingStore(folder.path.parent).open(card())
    with pytest.raises(CorruptPartError):
        fresh.parts()
    assert len(fresh.check()) == 1
    assert fresh.missing(rows([5])[0]).all()


def test_unfinished_files_are_ignored_and_removed_once_stale(folder):
    folder.write(*rows([1]))
    litter = folder.path / ".x.arrow.1-abc.tmp"
    litter.write_bytes(b"half")
    store = EmbeddingStore(folder.path.parent)
    assert clean_store(store).removed == ()  # it may be being written right now
    os.utime(litter, (time.time() - 7200,) * 2)
    assert clean_store(store, dry_run=True).removed == (litter,)
    assert litter.exists()
    assert clean_store(store).removed == (litter,)


def test_parts_whose_rows_all_stand_elsewhere_are_removed(folder):
    folder.write(*rows(range(10)))
    small = folder.write(*rows([3, 4]))
    partly = folder.write(*rows([9, 10]))
    store = EmbeddingStore(folder.path.parent)
    assert clean_store(store).removed == (small,)
    assert partly.exists()
    np.testing.assert_array_equal(store.open(card()).read(rows([3, 10])[0]), rows([3, 10])[1])


@pytest.mark.slow
def test_two_processes_may_write_the_same_rows_at_once(tmp_path):
    script = (
        "import sys; sys.path[:0] = sys.argv[2:];"
        "from test_store import rows, card, EmbeddingStore;"
        "f = EmbeddingStore(sys.argv[1]).open(card());"
        "[f.write(*rows(range(n, n + 5))) for n in range(0, 50, 5)]"
    )
    command = [sys.executable, "-c", script, str(tmp_path), os.path.dirname(__file__)]  # noqa: PTH120
    runs = [subprocess.Popen(command) for _ in range(2)]
    assert [run.wait() for run in runs] == [0, 0]
    (entry,) = list_store(EmbeddingStore(tmp_path))
    assert entry.embeddings == 50
    everything = rows(range(50))
    np.testing.assert_array_equal(EmbeddingStore(tmp_path).open(card()).read(everything[0]), everything[1])


def test_the_dimension_is_checked_when_rows_are_written(folder):
    with pytest.raises(AlignmentError, match="3 columns"):
        folder.write(rows([1])[0], np.zeros((1, 4), np.float32))


@pytest.mark.parametrize(
    "changes",
    [{"preprocessing": Preprocessing(resize="squash", size=9)}, {"version": 2}, {"dim": 4}, {"arguments": {"a": 1}}],
)
def test_style_bug_15_whatever_changes_the_vector_changes_the_folder(tmp_path, changes):
    store = EmbeddingStore(tmp_path)
    assert store.open(card()).path != store.open(card(**changes)).path


def test_precision_is_part_of_the_fingerprint_and_prose_is_not(tmp_path):
    store = EmbeddingStore(tmp_path)
    network = card(runtime="torch")
    assert store.open(network).path != store.open(network, precision="bf16").path
    assert store.open(card()).path == store.open(card(title="Another", licence="MIT")).path


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "store").write_text("a file")
    with pytest.raises(DiskError, match="store"):
        EmbeddingStore(tmp_path / "store").check_writable()
