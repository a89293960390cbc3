import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biofuse.core.errors import BioFuseError, DiskError, EncoderError, UnreadableImageError
from biofuse.data.decoding import ArraySource, FileSource
from biofuse.data.samples import Samples
from biofuse.encoders.function import register_encoder
from biofuse.encoders.registry import get_card
from biofuse.extract import engine
from biofuse.extract.engine import FIRST_ROWS, QUEUE, RowBuffer, Writer, extract
from biofuse.extract.options import ExtractOptions
from biofuse.extract.prepare import Stages
from biofuse.store.parts import Part
from biofuse.store.store import EmbeddingStore

ALONE = ExtractOptions(workers=0, batch_size=4)


@register_encoder("test_mean", dim=3, size=8, replace=True)
def test_mean_encoder(images):
    return images.mean(axis=(1, 2))


@register_encoder("test_corner", dim=2, size=4, replace=True)
def test_corner_encoder(images):
    return images[:, 0, :2, 0]


test_mean_encoder.__test__ = test_corner_encoder.__test__ = False
CARDS = (get_card("test_mean"), get_card("test_corner"))


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(20):
        pixels = generator.integers(0, 256, size=(9 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    return sorted(folder.iterdir())


def samples_of(paths):
    return Samples(ids=np.array([p.name for p in paths], dtype=object), sources=tuple(FileSource(p) for p in paths))


def by_hand(path, card, function):
    image = np.asarray(Image.open(path).convert("RGB"))
    return np.asarray(function(card.preprocessing.apply(image)[None]), dtype=np.float32)[0]


def test_every_row_is_its_own_images_embedding(files, store):
    done = extract(samples_of(files), CARDS, store=store, options=ALONE)
    blocks = done
    for row, path in enumerate(files):
        np.testing.assert_array_equal(blocks["test_mean"][row], by_hand(path, CARDS[0], test_mean_encoder))
        np.testing.assert_array_equal(blocks["test_corner"][row], by_hand(path, CARDS[1], test_corner_encoder))


def test_worker_processes_give_the_same_rows(files, store, tmp_path):
    alone = extract(samples_of(files), CARDS, store=store, options=ALONE)
    other = EmbeddingStore(tmp_path / "other")
    options = ExtractOptions(workers=2, batch_size=3)
    together = extract(samples_of(files), CARDS, store=other, options=options)
    for name in alone:
        np.testing.assert_array_equal(alone[name], together[name])


def test_style_bug_2_shuffling_the_source_changes_only_the_order(files, store, tmp_path):
    first = extract(samples_of(files), CARDS, store=store, options=ALONE)
    shuffled = random.Random(1).sample(files, len(files))
    other = EmbeddingStore(tmp_path / "other")
    second = extract(samples_of(shuffled), CARDS, store=other, options=ALONE)
    assert second.ids.tolist() == [path.name for path in shuffled]
    for name in first:
        np.testing.assert_array_equal(second.blocks.join(first.ids)[name], first[name])


def test_nothing_is_computed_twice(files, store):
    extract(samples_of(files[:15]), CARDS[:1], store=store, options=ALONE)
    done = extract(samples_of(files), CARDS, store=store, options=ALONE)
    assert [(work.computed, work.reused) for work in done.work] == [(5, 15), (20, 0)]
    again = extract(samples_of(files), CARDS, store=store, options=ALONE)
    assert (again.computed, [work.reused for work in again.work]) == (0, [20, 20])


def test_identical_files_are_embedded_once(files, store):
    twin = files[0].with_name("twin.png")
    shutil.copy(files[0], twin)
    done = extract(samples_of([*files, twin]), CARDS, store=store, options=ALONE)
    assert done.work[0].computed == 20
    matrix = done["test_mean"]
    np.testing.assert_array_equal(matrix[0], matrix[-1])


def test_style_bug_7_a_truncated_image_is_an_error_that_names_it_and_what_is_done_is_kept(files, store):
    bad = files[13]
    bad.write_bytes(bad.read_bytes()[:-40])
    with pytest.raises(UnreadableImageError, match=r"13\.png") as caught:
        extract(samples_of(files), CARDS, store=store, options=ALONE)
    assert "quarantine" in caught.value.remedy
    done = extract(samples_of(files[:12]), CARDS, store=store, options=ALONE)
    assert done.computed == 0


def test_style_bug_7_quarantine_leaves_no_row_and_never_a_black_image(files, store):
    files[3].write_bytes(b"")
    files[7].write_text("not an image")
    files[11].unlink()
    shutil.copy(files[7], files[7].with_name("07b.png"))
    paths = [*files, files[7].with_name("07b.png")]
    options = ExtractOptions(workers=0, batch_size=4, on_error="quarantine")
    done = extract(samples_of(paths), CARDS, store=store, options=options)
    assert {entry.id for entry in done.quarantined} == {"03.png", "07.png", "07b.png", "11.png"}
    assert all(entry.reason and entry.id in entry.source for entry in done.quarantined)
    assert not set(done.samples.ids) & {entry.id for entry in done.quarantined}
    matrix = done["test_mean"]
    kept = [path for path in paths if path.name in set(done.samples.ids)]
    assert len(kept) == len(matrix) == 17
    for row, path in enumerate(kept):
        np.testing.assert_array_equal(matrix[row], by_hand(path, CARDS[0], test_mean_encoder))


def test_a_flipped_byte_is_healed_by_the_next_run(files, store):
    extract(samples_of(files), CARDS, store=store, options=ALONE)
    part = store.open(CARDS[0]).part_paths()[0]
    data = bytearray(part.read_bytes())
    data[-200] ^= 4
    part.write_bytes(data)
    done = extract(samples_of(files), CARDS, store=store, options=ALONE)
    assert [work.computed for work in done.work] == [20, 0]
    assert len(done.recomputed) == 1
    matrix = done["test_mean"]
    np.testing.assert_array_equal(matrix[5], by_hand(files[5], CARDS[0], test_mean_encoder))


def test_arrays_are_embedded_like_files_of_the_same_pixels(files, store):
    arrays = [np.asarray(Image.open(path)) for path in files]
    samples = Samples(
        ids=np.array([path.name for path in files], dtype=object),
        sources=tuple(ArraySource(array, f"row {row}") for row, array in enumerate(arrays)),
    )
    from_arrays = extract(samples, CARDS, store=store, options=ALONE)
    from_files = extract(samples_of(files), CARDS, store=store, options=ALONE)
    np.testing.assert_array_equal(from_arrays["test_mean"], from_files["test_mean"])


def test_parts_are_written_along_the_way(files, store, monkeypatch):
    monkeypatch.setattr(engine, "PART_ROWS", 8)
    extract(samples_of(files), CARDS[:1], store=store, options=ALONE)
    assert len(store.open(CARDS[0]).part_paths()) == 3


def gives_nan(images):
    return np.full((len(images), 3), np.nan)


def gives_two_columns(images):
    return images.mean(axis=(1, 2))[:, :2]


def raises(images):
    return images.no_such_attribute


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (gives_nan, "finite"),
        (gives_two_columns, "3"),
        (raises, "test_broken"),
    ],
)
def test_style_bug_11_an_encoder_that_breaks_its_card_is_refused(files, store, function, words):
    register_encoder("test_broken", dim=3, size=8, replace=True)(function)
    with pytest.raises(EncoderError, match=words):
        extract(samples_of(files), [get_card("test_broken")], store=store, options=ALONE)
    assert not store.open(get_card("test_broken")).part_paths()


def test_a_read_only_or_full_disk_is_one_clear_error(files, tmp_path):
    (tmp_path / "blocked").write_text("a file, not a folder")
    with pytest.raises(DiskError, match="blocked"):
        extract(samples_of(files), CARDS, store=EmbeddingStore(tmp_path / "blocked"), options=ALONE)


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"workers": -1}, {"on_error": "ignore"}])
def test_impossible_options_are_refused(bad):
    with pytest.raises(BioFuseError):
        ExtractOptions(**bad)


def test_style_bug_16_an_absent_device_is_named_before_any_work(files, store):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(BioFuseError, match="cuda"):
        extract(samples_of(files), [get_card("efficientnet_lite0")], store=store, options=ExtractOptions(device="cuda"))


SLOW_SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
from pathlib import Path
from test_engine import *
@register_encoder("test_slow", dim=3, size=8, replace=True)
def test_slow(images):
    time.sleep(0.02 * len(images))
    return images.mean(axis=(1, 2))
engine.PART_ROWS = 4
options = ExtractOptions(workers={workers}, batch_size=2)
paths = sorted(Path(sys.argv[2]).iterdir())
done = extract(samples_of(paths), [get_card("test_slow")], store=EmbeddingStore(sys.argv[1]), options=options)
np.save(sys.argv[3], done["test_slow"])
print(done.computed)
"""


def slow_run(script, store, files, out):
    command = [sys.executable, str(script), str(store), str(files[0].parent), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to see other processes")
@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(files, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW_SCRIPT.format(here=str(Path(__file__).parent), workers=2))
    run = slow_run(script, tmp_path / "store", files, tmp_path / "out.npy")

    def workers():
        found = []
        for status in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"loky" in status.read_bytes():
                    found.append(int(status.parent.name))
        return {process for process in found if parent_of(process) == run.pid}

    def parent_of(process):
        with contextlib.suppress(OSError):
            return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        return None

    until = time.monotonic() + 60
    while len(started := workers()) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert len(started) >= 2
    run.send_signal(signal.SIGKILL)
    run.wait()
    until = time.monotonic() + 30
    while (left := {p for p in started if Path(f"/proc/{p}").exists()}) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_at_random_moments_it_resumes_and_ends_with_the_same_rows(files, tmp_path, workers):
    script = tmp_path / "slow.py"
    script.write_text(SLOW_SCRIPT.format(here=str(Path(__file__).parent), workers=workers))
    store, out = tmp_path / "store", tmp_path / "out.npy"
    slow_run(script, tmp_path / "calm", files, tmp_path / "calm.npy").wait()
    generator = random.Random(workers)
    for _ in range(4):
        run = slow_run(script, store, files, out)
        time.sleep(generator.uniform(0.3, 2.0))
        run.send_signal(signal.SIGKILL)
        run.wait()
    done = [len(part.contents) for folder in EmbeddingStore(store).folders() for part in folder.parts()]
    run = slow_run(script, store, files, out)
    computed = int(run.communicate()[0])
    assert run.returncode == 0
    assert computed == 20 - sum(done)
    np.testing.assert_allclose(np.load(out), np.load(tmp_path / "calm.npy"), atol=1e-5)


@pytest.mark.slow
def test_two_processes_at_once_end_with_one_correct_store(files, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW_SCRIPT.format(here=str(Path(__file__).parent), workers=0))
    store = tmp_path / "store"
    outs = [tmp_path / "a.npy", tmp_path / "b.npy"]
    runs = [slow_run(script, store, files, out) for out in outs]
    assert [run.wait() for run in runs] == [0, 0]
    np.testing.assert_array_equal(np.load(outs[0]), np.load(outs[1]))
    card = next(iter(EmbeddingStore(store).folders())).card
    (folder,) = EmbeddingStore(store).folders()
    assert folder.n_embeddings() == 20
    assert folder.check() == []
    assert card.name == "test_slow"
    assert not list(itertools.chain(folder.temporary_paths(), folder.broken_paths()))


@pytest.mark.skipif(os.name == "nt", reason="no ENOSPC device")
def test_a_disk_that_fills_up_keeps_what_was_written(files, store, monkeypatch):
    import errno

    real, calls = Part.write, []

    def full_after_two(folder, contents, embeddings):
        calls.append(len(contents))
        if len(calls) > 2:
            from biofuse.core.files import disk_errors

            with disk_errors(folder):
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(folder, contents, embeddings)

    monkeypatch.setattr(Part, "write", full_after_two)
    monkeypatch.setattr(engine, "PART_ROWS", 4)
    with pytest.raises(DiskError, match="is full"):
        extract(samples_of(files), CARDS[:1], store=store, options=ALONE)
    monkeypatch.undo()
    done = extract(samples_of(files), CARDS[:1], store=store, options=ALONE)
    assert (done.work[0].computed, done.work[0].reused) == (12, 8)


# --- the writer


class Folder:
    def __init__(self):
        self.parts = []

    def write(self, contents, embeddings):
        assert len(contents) == len(embeddings)
        self.parts.append(len(contents))


def fill(buffer, rows, step=64):
    for start in range(0, rows, step):
        keys = np.array([(start + row).to_bytes(16, "big") for row in range(step)], dtype="S16")
        buffer.add(keys, np.zeros((step, 2), np.float32))


def test_parts_start_small_and_double_up_to_the_limit():
    folder = Folder()
    buffer = RowBuffer(folder, max_rows=4 * FIRST_ROWS, max_seconds=1e9)
    fill(buffer, 16 * FIRST_ROWS)
    assert folder.parts == [FIRST_ROWS * size for size in (1, 2, 4, 4, 4)]
    buffer.flush()
    assert folder.parts[5:] == [FIRST_ROWS]
    buffer.flush()
    assert len(folder.parts) == 6


def test_rows_never_wait_longer_than_asked():
    folder = Folder()
    fill(RowBuffer(folder, max_rows=1 << 20, max_seconds=0.0), 192)
    assert folder.parts == [64, 64, 64]


class Slow(Folder):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def write(self, contents, embeddings):
        assert self.gate.wait(10)
        super().write(contents, embeddings)


def hand_over(writer, rows, step=64, name="a"):
    for start in range(0, rows, step):
        keys = np.array([(start + row).to_bytes(16, "big") for row in range(step)], dtype="S16")
        writer.add(name, keys, np.zeros((step, 2), np.float32))


def test_encoders_go_on_while_a_part_is_written():
    gate = threading.Event()
    folder = Slow(gate)
    with Writer({"a": folder}, max_rows=64, max_seconds=1e9) as writer:
        hand_over(writer, 3 * 64)  # returns although nothing can be written yet
        assert folder.parts == []
        gate.set()
    assert folder.parts == [64, 64, 64]


def test_a_queue_that_is_full_holds_encoders_back():
    gate, done = threading.Event(), threading.Event()
    folder = Slow(gate)

    def produce(writer):
        hand_over(writer, (QUEUE + 4) * 64)
        done.set()

    with Writer({"a": folder}, max_rows=64, max_seconds=1e9) as writer:
        thread = threading.Thread(target=produce, args=(writer,))
        thread.start()
        assert not done.wait(0.3)
        gate.set()
        assert done.wait(10)
        thread.join()
    assert sum(folder.parts) == (QUEUE + 4) * 64


def test_rows_reach_the_disk_in_time_though_no_more_come():
    folder = Folder()
    with Writer({"a": folder}, max_rows=1 << 20, max_seconds=0.1) as writer:
        hand_over(writer, 64)
        until = time.monotonic() + 10
        while not folder.parts and time.monotonic() < until:
            time.sleep(0.02)
        assert folder.parts == [64]


def test_a_disk_error_reaches_the_encoders_at_their_next_row_and_nothing_more_is_written():
    class Full(Folder):
        def write(self, contents, embeddings):
            super().write(contents, embeddings)
            raise DiskError("The disk is full.")

    folder = Full()

    def embed_for_ever():
        with Writer({"a": folder}, max_rows=64, max_seconds=1e9) as writer:
            for _ in range(10 * QUEUE):
                hand_over(writer, 64)
                time.sleep(0.001)
            pytest.fail("nobody said that the disk is full")

    with pytest.raises(DiskError, match="full"):
        embed_for_ever()
    assert folder.parts == [64]


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_a_stop_writes_what_is_finished(stop):
    folder = Folder()

    def embed_until_stopped():
        with Writer({"a": folder}, max_rows=1 << 20, max_seconds=1e9) as writer:
            hand_over(writer, 128)
            raise stop

    with pytest.raises(stop):
        embed_until_stopped()
    assert folder.parts == [128]


def test_a_writer_thread_does_not_outlive_its_work():
    with Writer({"a": Folder()}, max_rows=64, max_seconds=1e9) as writer:
        hand_over(writer, 64)
    assert not any(thread.name == "biofuse-writer" for thread in threading.enumerate())


def test_the_time_is_counted():
    stages = Stages()

    class Lazy(Folder):
        def write(self, *_):
            time.sleep(0.05)

    with Writer({"a": Lazy()}, max_rows=64, max_seconds=1e9, stages=stages) as writer:
        hand_over(writer, 64)
    assert 0.05 <= stages.seconds("write") < 1
