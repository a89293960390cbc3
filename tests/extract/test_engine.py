import contextlib
import itertools
import multiprocessing
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
from biofuse.data.decoding import FileSource
from biofuse.data.samples import Samples
from biofuse.encoders.function import register_encoder
from biofuse.encoders.registry import get_card
from biofuse.extract import engine
from biofuse.extract.engine import FIRST_ROWS, QUEUE, RowBuffer, Writer, extract
from biofuse.extract.local import LocalEngine, device_names
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


@pytest.mark.slow
def test_worker_processes_give_the_same_rows_also_from_another_folder(files, store, tmp_path, monkeypatch):
    alone = extract(samples_of(files), CARDS, store=store, options=ALONE)
    other = EmbeddingStore(tmp_path / "other")
    options = ExtractOptions(workers=2, batch_size=3)
    together = extract(samples_of(files), CARDS, store=other, options=options)
    for name in alone:
        np.testing.assert_array_equal(alone[name], together[name])
    monkeypatch.chdir(files[0].parent)  # the workers that are there were started elsewhere
    relative = samples_of([Path(path.name) for path in files])
    moved = extract(relative, CARDS, store=EmbeddingStore(tmp_path / "third"), options=options)
    for name in alone:
        np.testing.assert_array_equal(alone[name], moved[name])


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
        image = CARDS[0].preprocessing.apply(np.asarray(Image.open(path).convert("RGB")))
        np.testing.assert_array_equal(matrix[row], test_mean_encoder(image[None])[0].astype(np.float32))


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


def slow_run(workers, store, files, out):
    script = out.with_suffix(".py")
    script.write_text(SLOW_SCRIPT.format(here=str(Path(__file__).parent), workers=workers))
    command = [sys.executable, str(script), str(store), str(files[0].parent), str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to see other processes")
@pytest.mark.slow
def test_workers_do_not_outlive_a_killed_parent(files, tmp_path):
    run = slow_run(2, tmp_path / "store", files, tmp_path / "out.npy")

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
    store, out = tmp_path / "store", tmp_path / "out.npy"
    calm = extract(samples_of(files), CARDS[:1], store=EmbeddingStore(tmp_path / "calm"), options=ALONE)
    generator = random.Random(workers)
    for _ in range(3):
        run = slow_run(workers, store, files, out)
        time.sleep(generator.uniform(0.3, 2.0))
        run.send_signal(signal.SIGKILL)
        run.wait()
    done = [len(part.contents) for folder in EmbeddingStore(store).folders() for part in folder.parts()]
    run = slow_run(workers, store, files, out)
    computed = int(run.communicate()[0])
    assert run.returncode == 0
    assert computed == 20 - sum(done)
    np.testing.assert_allclose(np.load(out), calm["test_mean"], atol=1e-5)


@pytest.mark.slow
def test_two_processes_at_once_end_with_one_correct_store(files, tmp_path):
    store = tmp_path / "store"
    outs = [tmp_path / "a.npy", tmp_path / "b.npy"]
    runs = [slow_run(0, store, files, out) for out in outs]
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


def fill(buffer, rows, *name, step=64):
    for start in range(0, rows, step):
        keys = np.array([(start + row).to_bytes(16, "big") for row in range(step)], dtype="S16")
        buffer.add(*name, keys, np.zeros((step, 2), np.float32))


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


def test_encoders_go_on_while_a_part_is_written():
    gate = threading.Event()
    folder = Slow(gate)
    with Writer({"a": folder}, max_rows=64, max_seconds=1e9) as writer:
        fill(writer, 3 * 64, "a")  # returns although nothing can be written yet
        assert folder.parts == []
        gate.set()
    assert folder.parts == [64, 64, 64]


def test_a_queue_that_is_full_holds_encoders_back():
    gate, done = threading.Event(), threading.Event()
    folder = Slow(gate)

    def produce(writer):
        fill(writer, (QUEUE + 4) * 64, "a")
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
        fill(writer, 64, "a")
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
                fill(writer, 64, "a")
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
            fill(writer, 128, "a")
            raise stop

    with pytest.raises(stop):
        embed_until_stopped()
    assert folder.parts == [128]


def test_a_writer_thread_does_not_outlive_its_work():
    with Writer({"a": Folder()}, max_rows=64, max_seconds=1e9) as writer:
        fill(writer, 64, "a")
    assert not any(thread.name == "biofuse-writer" for thread in threading.enumerate())


def test_the_time_is_counted():
    stages = Stages()

    class Lazy(Folder):
        def write(self, *_):
            time.sleep(0.05)

    with Writer({"a": Lazy()}, max_rows=64, max_seconds=1e9, stages=stages) as writer:
        fill(writer, 64, "a")
    assert 0.05 <= stages.seconds("write") < 1


# --- several devices of one machine; on a CPU, the processes share its cores

ONE = ExtractOptions(workers=0, batch_size=8, device="cpu")
TWO = ExtractOptions(workers=0, batch_size=8, device="cpu,cpu")


def do_nothing(_):
    pass


class Interrupting:
    """Does something when the first batch is finished; knows the processes that were there then."""

    def __init__(self, act=do_nothing):
        self.act = act
        self.done = 0
        self.before = set(multiprocessing.active_children())
        self.processes = []

    def begin(self, task, total):
        pass

    def advance(self, task, units):
        if task != "reading":
            self.done += units
            self.processes = self.processes or list(set(multiprocessing.active_children()) - self.before)
            act, self.act = self.act, do_nothing
            act(self.processes)

    def ended(self):
        return len(self.processes) == 2 and not any(process.is_alive() for process in self.processes)


def rows_of(store, card):
    return sum(len(part) for part in store.open(card).parts())


@pytest.mark.slow
def test_two_devices_give_what_one_gives_and_progress_is_that_of_both(pictures, network, store, tmp_path):
    cards, samples = (network("test_devices_network"), CARDS[0]), pictures(51)
    path = samples.sources[17].path
    path.write_bytes(path.read_bytes()[:-30])
    progress = Interrupting()
    two = extract(samples, cards, store=store, options=TWO.but(on_error="quarantine"), progress=progress)
    assert [entry.id for entry in two.quarantined] == ["0017.png"]
    assert progress.done == 102
    assert progress.ended()
    assert [work.computed for work in two.work] == [50, 50]
    assert rows_of(store, CARDS[0]) == 50
    other = EmbeddingStore(tmp_path / "other")
    one = extract(samples, cards, store=other, options=ONE.but(on_error="quarantine"))
    for name in one:
        np.testing.assert_allclose(one[name], two[name], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_unreadable_image_in_one_process_stops_all_with_the_same_error(pictures, network, store):
    samples = pictures(20)
    path = samples.sources[17].path
    path.write_bytes(path.read_bytes()[:-30])
    before = set(multiprocessing.active_children())
    with pytest.raises(UnreadableImageError, match=r"0017\.png"):
        extract(samples, [network("test_devices_network")], store=store, options=TWO)
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.slow
def test_an_encoder_that_fails_in_a_process_is_named(pictures, network, store):
    before = set(multiprocessing.active_children())
    with pytest.raises(BioFuseError, match=r"process of cpu failed: RuntimeError.*allocate memory"):
        extract(pictures(1), [network("test_devices_room", room=0)], store=store, options=TWO)  # one process, then
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.slow
def test_a_killed_process_is_an_error_that_says_so_and_the_next_run_goes_on(pictures, network, store):
    card, samples = network("test_devices_network"), pictures(600)
    options = ExtractOptions(workers=0, batch_size=1, device="cpu,cpu")
    kill = Interrupting(lambda processes: os.kill(processes[-1].pid, signal.SIGKILL))
    with pytest.raises(BioFuseError, match="process of cpu was killed") as caught:
        extract(samples, [card], store=store, options=options, progress=kill)
    assert "kept" in caught.value.remedy
    assert kill.ended()
    kept = rows_of(store, card)
    done = extract(samples, [card], store=store, options=ONE)
    assert done.computed == 600 - kept < 600


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_and_keeps_what_came_back(pictures, network, store):
    def stop(_):
        raise KeyboardInterrupt

    card, progress = network("test_devices_network"), Interrupting(stop)
    with pytest.raises(KeyboardInterrupt):
        extract(pictures(40), [card], store=store, options=TWO, progress=progress)
    assert progress.ended()
    assert rows_of(store, card) >= 8


KILLED = """
import multiprocessing, os, pathlib, signal, sys
sys.path.insert(0, {here!r})
import conftest
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.store.store import EmbeddingStore

class Dying:
    def begin(self, task, total):
        pass

    def advance(self, task, units):
        if task != "reading":
            print(*(process.pid for process in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)

root = pathlib.Path(sys.argv[1])
with conftest.networks() as network:
    options = ExtractOptions(workers=0, batch_size=1, device="cpu,cpu")
    samples, store = conftest.pictures_in(root / "pictures", 400), EmbeddingStore(root / "store")
    extract(samples, [network("test_devices_network")], store=store, options=options, progress=Dying())
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to see other processes")
def test_a_killed_parent_leaves_no_process(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(here=str(Path(__file__).parent)))
    run = subprocess.run([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == -signal.SIGKILL
    processes = run.stdout.split()
    assert len(processes) == 2
    until = time.monotonic() + 30
    while any(Path(f"/proc/{process}").exists() for process in processes) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


def test_without_a_network_no_process_is_started(pictures, store):
    progress = Interrupting()
    extract(pictures(10), [CARDS[0]], store=store, options=TWO, progress=progress)
    assert (progress.done, progress.processes) == (10, [])


def test_auto_takes_all_cuda_devices_where_there_are_several(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert device_names("auto") == ("cuda:0", "cuda:1", "cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_names("auto") == ("auto",)
    assert device_names("cuda:1, cpu") == ("cuda:1", "cpu")


def test_no_device_is_an_error():
    with pytest.raises(BioFuseError, match="No device"):
        LocalEngine(ExtractOptions(device=","))


def test_without_a_store_nothing_is_looked_up_or_written_and_rows_are_the_same(files, store, tmp_path):
    kept = extract(samples_of(files), CARDS, store=store, options=ALONE)
    before = sorted((path, path.stat().st_mtime_ns) for path in store.root.rglob("*"))
    found = extract(samples_of(files), CARDS, store=store, options=ALONE.but(use_store=False))
    assert [work.reused for work in found.work] == [0] * len(CARDS)
    assert (kept.kept, found.kept) == (True, False)
    for name in kept:
        np.testing.assert_array_equal(found[name], kept[name])
    absent = EmbeddingStore(tmp_path / "absent")
    extract(samples_of(files), CARDS, store=absent, options=ALONE.but(use_store=False))
    assert not absent.root.exists()
    assert sorted((path, path.stat().st_mtime_ns) for path in store.root.rglob("*")) == before
