import gc
import itertools
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biofuse.core.errors import AlignmentError, CorruptPartError
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.preprocessing import Preprocessing
from biofuse.store import parts
from biofuse.store.parts import HeldPart, Index, locate_ids
from biofuse.store.store import EmbeddingStore, clean_store, verify_store

DIM = 3


def card(dim=DIM, **changes):
    facts = {
        "name": "tiny",
        "title": "Tiny",
        "loader": "function",
        "preprocessing": Preprocessing(resize="squash", size=8),
        "output": "descriptor",
        "dim": dim,
        "runtime": "numpy",
        "licence": "Apache-2.0",
        "modality": "none",
        "source": "this test",
    }
    return EncoderCard(**(facts | changes))


def rows(numbers, dim=DIM):
    """Contents and embeddings that can be recognised: row i holds i, i + .25, ..."""
    numbers = [int(n) for n in numbers]
    values = np.array(numbers, dtype=np.float32).reshape(-1, 1) + np.float32(0.25) * np.arange(dim, dtype=np.float32)
    # Big numbers first and zeros last: hashes may end in zero bytes, which NumPy would strip from single items.
    keys = [(n % 7 << 120 | n << 8).to_bytes(16, "little") for n in numbers]
    return np.array(keys, dtype="S16"), values


@pytest.fixture
def folder(tmp_path):
    return EmbeddingStore(tmp_path / "store").open(card())


def every_way(folder, contents):
    """Read the same rows in all the ways there are."""
    yield folder.read(contents)
    yield folder.read(contents, memory="ram")
    yield folder.read(contents, memory="map")
    for size in (1, 3, 1000):
        yield np.concatenate([np.empty((0, DIM), np.float32), *folder.iter_blocks(contents, rows=size)])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(data=st.data())
def test_every_way_of_reading_gives_each_row_its_own_values(tmp_path_factory, data):
    folder = EmbeddingStore(tmp_path_factory.mktemp("s")).open(card())
    starts = data.draw(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), min_size=1, max_size=4))
    for start, length in starts:
        folder.write(*rows(range(start, start + length)))
    known = sorted({n for start, length in starts for n in range(start, start + length)})
    asked = data.draw(
        st.one_of(
            st.lists(st.sampled_from(known), max_size=30),  # scattered
            st.permutations(starts).map(lambda s: [n for a, b in s for n in range(a, a + b)]),  # whole parts
            st.just(known),  # runs
        )
    )
    contents, expected = rows(asked)
    for found in every_way(folder, contents):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(folder.missing(rows(range(110))[0]), ~np.isin(np.arange(110), known))


def test_runs_of_whole_parts_and_scattered_rows_are_the_same_block(folder):
    for start in range(0, 400, 100):
        folder.write(*rows(range(start, start + 100)))
    shuffled = np.random.default_rng(0).permutation(400)
    for order in (range(400), range(50, 350), shuffled):
        contents, expected = rows(order)
        for found in every_way(folder, contents):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("reads", [lambda f, c: f.read(c), lambda f, c: list(f.iter_blocks(c, rows=2))])
def test_a_missing_row_raises_however_it_is_read(folder, reads):
    folder.write(*rows(range(10)))
    with pytest.raises(AlignmentError, match="1 of 11 samples have no tiny embedding"):
        reads(folder, rows(range(11))[0])


@pytest.mark.slow
def test_a_mapped_block_is_read_only_and_its_file_goes_with_the_last_array(folder):
    folder.write(*rows(range(5)))
    folder.write(*rows(range(5, 10)))
    block = folder.read(rows(range(10))[0], memory="map")
    part = block[2:4]
    assert not block.flags.writeable
    (scratch,) = folder.temporary_paths()
    assert scratch.stat().st_size == block.nbytes
    del block
    gc.collect()
    assert folder.temporary_paths() == [scratch]
    np.testing.assert_array_equal(part, rows([2, 3])[1])
    del part
    gc.collect()
    assert folder.temporary_paths() == []


def test_a_block_too_large_for_memory_is_mapped(folder, monkeypatch):
    from biofuse.store import parts as reading

    folder.write(*rows(range(5)))
    folder.write(*rows(range(5, 10)))
    contents, expected = rows(range(10))
    monkeypatch.setattr(reading, "available_memory", lambda: 4 * expected.nbytes)
    assert folder.read(contents).flags.writeable
    monkeypatch.setattr(reading, "available_memory", lambda: 4 * expected.nbytes - 1)
    block = folder.read(contents)
    assert not block.flags.writeable
    np.testing.assert_array_equal(block, expected)
    assert folder.read(contents, memory="ram").flags.writeable


@pytest.mark.parametrize("scattered", [False, True])
def test_reading_piece_by_piece_holds_one_piece_in_memory(tmp_path, scattered):
    import tracemalloc

    n, dim, piece = 8_000, 256, 500
    folder = EmbeddingStore(tmp_path).open(card(dim))
    contents, values = rows(range(n), dim)
    for start in range(0, n, 1000):
        folder.write(contents[start : start + 1000], values[start : start + 1000])
    order = np.random.default_rng(0).permutation(n) if scattered else np.arange(n)
    sizes, last = 0, None
    tracemalloc.start()
    for last in folder.iter_blocks(contents[order], rows=piece):
        sizes += len(last)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes == n
    np.testing.assert_array_equal(last, values[order][-piece:])
    assert peak < 5 * 4 * piece * dim < values.nbytes / 3


def test_no_file_stays_open_however_many_parts_there_are(folder):
    for start in range(0, 60, 2):
        folder.write(*rows(range(start, start + 2)))
    opened = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc").exists() else pytest.skip("needs /proc")
    fresh = EmbeddingStore(folder.path.parent).open(card())
    block = fresh.read(rows(range(60))[0])
    assert len(list(Path("/proc/self/fd").iterdir())) <= opened + 1
    assert len(block) == 60


def test_a_part_that_goes_while_it_is_read_is_read_elsewhere(folder):
    folder.write(*rows(range(4)))
    folder.write(*rows(range(4, 8)))
    contents, expected = rows(range(8))
    pieces = folder.iter_blocks(contents, rows=3)
    first = next(pieces)
    EmbeddingStore(folder.path.parent).open(card()).write(*rows(range(8)))
    assert len(clean_store(EmbeddingStore(folder.path.parent)).removed) == 2
    np.testing.assert_array_equal(np.concatenate([first, *pieces]), expected)


def test_a_part_that_was_cut_off_after_it_was_looked_at_is_an_error(folder):
    path = folder.write(*rows(range(2000)))
    contents = rows(range(2000))[0]
    folder.read(contents)
    os.truncate(path, 9000)
    with pytest.raises(CorruptPartError, match="ends before its last row"):
        folder.read(contents)
    folder.write(*rows([3000]))
    with pytest.raises(CorruptPartError, match="ends before its last row"):
        folder.read(np.concatenate([contents, rows([3000])[0]]))


def test_a_part_of_another_dimension_is_refused(tmp_path):
    narrow = EmbeddingStore(tmp_path).open(card())
    path = narrow.write(*rows(range(9)))
    for dim in (1, 9, 4):
        other = EmbeddingStore(tmp_path).open(card(dim))
        other.path.mkdir()
        (other.path / path.name).write_bytes(path.read_bytes())
        with pytest.raises(CorruptPartError, match=f"not a part of {dim}-column"):
            other.parts()


def test_a_store_hashes_each_part_once_and_a_changed_one_again(folder, monkeypatch):
    hashed = []
    real = parts.digest_file
    monkeypatch.setattr(parts, "digest_file", lambda path: hashed.append(path.name) or real(path))
    first = folder.write(*rows([1, 2]))
    second = folder.write(*rows([3]))
    store = EmbeddingStore(folder.path.parent)
    assert store.open(card()).check() == []
    assert sorted(hashed) == sorted([first.name, second.name])
    hashed.clear()
    assert store.open(card()).check() == []
    assert hashed == []
    assert store.open(card()).check(again=True) == []
    assert len(hashed) == 2
    data = bytearray(second.read_bytes())
    data[data.index(np.float32(3.25).tobytes())] ^= 1
    second.write_bytes(data)
    hashed.clear()
    assert len(store.open(card()).check()) == 1
    assert hashed == [second.name]
    assert store.open(card()).missing(rows([1, 3])[0]).tolist() == [False, True]


@given(st.lists(st.integers(0, 20)), st.lists(st.integers(0, 20)))
@settings(deadline=None, max_examples=60)
def test_locating_is_the_first_occurrence(wanted, available):
    expected = [available.index(n) if n in available else -1 for n in wanted]
    one = HeldPart.of(Path("none"), *rows(available))
    index = Index.of([one])
    for few in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parts, "FEW", 0 if few else 1000)  # looked through once, then sorted; sorted at once
            assert index.locate(rows(wanted)[0]).tolist() == expected
    assert index.first().tolist() == [n not in available[:place] for place, n in enumerate(available)]
    assert index.n_distinct() == len(set(available))
    words = [np.array([f"s{n}" for n in each], dtype=object) for each in (wanted, available)]
    assert locate_ids(*words).tolist() == expected


def test_a_part_in_order_is_read_without_a_copy(folder):
    contents, embeddings = rows(range(10))
    folder.write(contents, embeddings)
    block = folder.read(contents[2:7])
    assert block.base is not None
    assert not block.flags.writeable
    np.testing.assert_array_equal(block, embeddings[2:7])


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
    assert clean_store(store, dry_run=True).merged == 2
    cleaning = clean_store(store)
    assert (cleaning.removed, cleaning.merged) == ((small,), 2)
    assert not partly.exists()
    assert len(folder.part_paths()) == 1
    np.testing.assert_array_equal(store.open(card()).read(rows([3, 10])[0]), rows([3, 10])[1])


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


IN_A_SMALL_DISK = """
import sys
sys.path[:0] = [sys.argv[1]]
from test_store import *
from biofuse.core.errors import DiskError
store = EmbeddingStore(sys.argv[2])
folder = store.open(card(256))
kept = 0
try:
    for start in itertools.count(0, 200):
        folder.write(*rows(range(start, start + 200), 256))
        kept = start + 200
except DiskError as error:
    assert "is full" in error.message and "kept" in error.remedy, error
again = EmbeddingStore(sys.argv[2]).open(card(256))
assert 0 < kept and again.check() == [] and not again.temporary_paths()
contents, expected = rows(range(kept), 256)
np.testing.assert_array_equal(again.read(contents), expected)
try:
    again.read(contents, memory="map")
except DiskError as error:
    assert "is full" in error.message
else:
    raise AssertionError("a block was mapped that does not fit")
assert not again.temporary_paths()
print("kept", kept)
"""

READ_ONLY = """
import sys
sys.path[:0] = [sys.argv[1]]
from test_store import *
from biofuse.core.errors import DiskError
store = EmbeddingStore(sys.argv[2])
folder = store.open(card())
contents, expected = rows(range(20))
np.testing.assert_array_equal(folder.read(contents), expected)
np.testing.assert_array_equal(folder.read(contents, memory="map"), expected)
assert folder.check() == []
for attempt in (store.check_writable, lambda: folder.write(*rows([99]))):
    try:
        attempt()
    except DiskError as error:
        assert "ead-only" in error.message, error
    else:
        raise AssertionError("wrote to a read-only store")
print("read only")
"""


def in_a_mount(script, tmp_path, before):
    """Run a script in a mount namespace of its own; skip where that is not allowed."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare")
    store = tmp_path / "store"
    store.mkdir(exist_ok=True)
    own = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    mount = before.format(store=store)
    if subprocess.run([*own, mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    path = tmp_path / "script.py"
    path.write_text(script)
    command = f'{mount} && exec "$@"'
    arguments = ["sh", sys.executable, str(path), str(Path(__file__).parent), str(store)]
    done = subprocess.run([*own, command, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_full_disk_loses_nothing_that_was_written(tmp_path):
    said = in_a_mount(IN_A_SMALL_DISK, tmp_path, "mount -t tmpfs -o size=2m tmpfs {store}")
    assert int(said.split()[1]) >= 1000


@pytest.mark.slow
def test_a_read_only_store_is_read_and_says_that_it_cannot_be_written(tmp_path):
    folder = EmbeddingStore(tmp_path / "store").open(card())
    folder.write(*rows(range(10)))
    folder.write(*rows(range(10, 20)))
    assert "read only" in in_a_mount(
        READ_ONLY, tmp_path, "mount --bind {store} {store} && mount -o remount,ro,bind {store}"
    )


WRITER = """
import sys
sys.path[:0] = [sys.argv[1]]
from test_store import *
folder = EmbeddingStore(sys.argv[2]).open(card())
for n in range(0, 60, 20):
    folder.write(*rows(range(n, n + 20 + int(sys.argv[3]))))
    folder.merge(at_least=2)
"""


@pytest.mark.slow
def test_a_reader_beside_two_writers_never_sees_a_wrong_row(tmp_path):
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    command = [sys.executable, str(script), str(Path(__file__).parent), str(tmp_path / "store")]
    runs = [subprocess.Popen([*command, str(extra)]) for extra in range(2)]
    everything, expected = rows(range(60))
    for _ in itertools.count():
        ended = all(run.poll() is not None for run in runs)
        folder = EmbeddingStore(tmp_path / "store").open(card())
        there = ~folder.missing(everything)
        np.testing.assert_array_equal(folder.read(everything[there]), expected[there])
        if ended:
            break
    assert [run.returncode for run in runs] == [0, 0]
    assert there.all()
    assert folder.n_embeddings() == 61


def test_many_small_parts_are_merged_and_each_row_keeps_its_values(folder):
    contents, values = rows(range(40))
    for row in range(40):
        folder.write(contents[[row]], values[[row]])
    torn = folder.part_paths()[0]
    torn.write_bytes(torn.read_bytes()[:-300])
    reader = EmbeddingStore(folder.path.parent).open(card())
    reader.check()
    lost = reader.missing(contents)
    assert lost.sum() == 1
    assert folder.merge() == 39
    assert len(folder.part_paths()) == 1
    for each in (folder, reader, EmbeddingStore(folder.path.parent).open(card())):
        np.testing.assert_array_equal(each.read(contents[~lost]), values[~lost])
        assert each.missing(contents).tolist() == lost.tolist()
    assert folder.merge(at_least=2) == 0
    assert verify_store(EmbeddingStore(folder.path.parent))[0].parts == 1


def test_parts_that_another_process_has_merged_meanwhile_are_left_to_it(folder, monkeypatch):
    contents, values = rows(range(4))
    for row in range(4):
        folder.write(contents[[row]], values[[row]])
    held = folder.small_parts()
    other = EmbeddingStore(folder.path.parent).open(card())
    assert other.merge(at_least=2) == 4
    monkeypatch.setattr(folder, "small_parts", lambda: held)
    assert folder.merge(at_least=2) == 0
    np.testing.assert_array_equal(other.read(contents), values)


def test_a_store_that_is_only_read_holds_what_it_is_given(folder):
    contents, values = rows(range(6))
    folder.write(contents[:3], values[:3])
    before = sorted(folder.path.iterdir())
    store = EmbeddingStore(folder.path.parent).without_keeping()
    reader = store.open(card())
    reader.write(contents[3:5], values[3:5])
    assert reader.missing(contents).tolist() == [False] * 5 + [True]
    for order in ([4, 0, 3], [3, 4], range(5)):
        for found in every_way(store.open(card()), contents[list(order)]):
            np.testing.assert_array_equal(found, values[list(order)])
    store.check_writable()
    assert sorted(folder.path.iterdir()) == before
    assert folder.missing(contents).sum() == 3


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_stands_in_place_of_a_part_is_set_aside(folder, kind):
    contents, values = rows(range(3))
    path = folder.write(contents, values)
    path.unlink()
    path.mkdir() if kind == "folder" else os.mkfifo(path)
    assert len(folder.check()) == 1
    assert folder.missing(contents).all()
    clean_store(EmbeddingStore(folder.path.parent))
    assert not folder.part_paths()


def test_parts_that_are_not_needed_are_not_hashed(folder, monkeypatch):
    hashed, real = [], parts.digest_file
    monkeypatch.setattr(parts, "digest_file", lambda path: hashed.append(path.name) or real(path))
    written = [folder.write(*rows([number])) for number in range(5)]
    store = EmbeddingStore(folder.path.parent)
    for _ in range(2):
        assert store.open(card()).check(rows([3, 7])[0]) == []
        assert hashed == [written[3].name]
