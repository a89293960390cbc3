"""Several devices of one machine; on a CPU, the processes share its cores."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from biofuse.core.errors import BioFuseError, UnreadableImageError
from biofuse.encoders.function import register_encoder
from biofuse.encoders.registry import get_card
from biofuse.extract.engine import extract
from biofuse.extract.local import LocalEngine, device_names
from biofuse.extract.options import ExtractOptions
from biofuse.store.store import EmbeddingStore

ONE = ExtractOptions(workers=0, batch_size=8, device="cpu")
TWO = ExtractOptions(workers=0, batch_size=8, device="cpu,cpu")


@register_encoder("test_devices_mean", dim=3, size=8, replace=True)
def mean_of_channels(images):
    return images.mean(axis=(1, 2))


MEAN = get_card("test_devices_mean")


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
    cards, samples = (network("test_devices_network"), MEAN), pictures(51)
    path = samples.sources[17].path
    path.write_bytes(path.read_bytes()[:-30])
    progress = Interrupting()
    two = extract(samples, cards, store=store, options=TWO.but(on_error="quarantine"), progress=progress)
    assert [entry.id for entry in two.quarantined] == ["0017.png"]
    assert progress.done == 102
    assert progress.ended()
    assert [work.computed for work in two.work] == [50, 50]
    assert rows_of(store, MEAN) == 50
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
        extract(pictures(4), [network("test_devices_room", room=0)], store=store, options=TWO)
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
    extract(pictures(10), [MEAN], store=store, options=TWO, progress=progress)
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
