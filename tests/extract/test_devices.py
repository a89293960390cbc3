"""Several devices of one machine; on a CPU, the processes share its cores."""

import os
import signal

import numpy as np
import pytest

from biofuse.blocks.reader import read_blocks
from biofuse.core.errors import BioFuseError
from biofuse.encoders.function import register_encoder
from biofuse.encoders.registry import get_card
from biofuse.extract.device_process import DeviceProcesses
from biofuse.extract.engine import extract
from biofuse.extract.local import MachineEngine, device_names
from biofuse.extract.options import ExtractOptions
from biofuse.store.store import EmbeddingStore

ONE = ExtractOptions(workers=0, batch_size=8, device="cpu")
TWO = ExtractOptions(workers=0, batch_size=8, device="cpu,cpu")


@register_encoder("test_devices_mean", dim=3, size=8, replace=True)
def mean_of_channels(images):
    return images.mean(axis=(1, 2))


MEAN = get_card("test_devices_mean")


@pytest.fixture
def started(monkeypatch):
    """Collect the processes that are started."""
    processes = []
    start = DeviceProcesses.start

    def watch(self, share, options):
        start(self, share, options)
        processes.append(list(self._running.values())[-1][1])

    monkeypatch.setattr(DeviceProcesses, "start", watch)
    return processes


class Interrupting:
    """Does something when the first batch is finished."""

    def __init__(self, act):
        self.act = act
        self.done = 0

    def begin(self, task, total):
        pass

    def advance(self, task, units):
        if task != "reading":
            self.done += units
            act, self.act = self.act, lambda: None
            act()


def rows_of(store, card):
    return sum(len(part) for part in store.open(card).parts())


@pytest.mark.slow
def test_two_devices_give_what_one_gives_and_progress_is_that_of_both(pictures, network, store, tmp_path, started):
    cards, samples = (network("test_devices_network"), MEAN), pictures(50)
    progress = Interrupting(lambda: None)
    two = extract(samples, cards, store=store, options=TWO, progress=progress)
    assert len(started) == 2
    assert progress.done == 100
    assert [work.computed for work in two.work] == [50, 50]
    assert rows_of(store, MEAN) == 50
    other = EmbeddingStore(tmp_path / "other")
    one = extract(samples, cards, store=other, options=ONE)
    assert len(started) == 2
    blocks = [
        read_blocks(each, cards, ids=done.samples.ids, contents=done.contents)
        for each, done in ((store, two), (other, one))
    ]
    for name in blocks[0]:
        np.testing.assert_allclose(blocks[0][name], blocks[1][name], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_an_image_that_cannot_be_read_is_named_from_whatever_process_met_it(pictures, network, store):
    card, samples = network("test_devices_network"), pictures(20)
    path = samples.sources[17].path
    path.write_bytes(path.read_bytes()[:-30])
    options = ExtractOptions(workers=0, batch_size=4, device="cpu,cpu", on_error="quarantine")
    done = extract(samples, [card], store=store, options=options)
    assert [entry.id for entry in done.quarantined] == ["0017.png"]
    assert done.computed == 19


@pytest.mark.slow
def test_an_encoder_that_fails_in_a_process_is_named(pictures, network, store, started):
    with pytest.raises(BioFuseError, match=r"process of cpu failed: RuntimeError.*allocate memory"):
        extract(pictures(4), [network("test_devices_room", room=0)], store=store, options=TWO)
    assert not any(process.is_alive() for process in started)


@pytest.mark.slow
def test_a_killed_process_is_an_error_that_says_so_and_the_next_run_goes_on(pictures, network, store, started):
    card, samples = network("test_devices_network"), pictures(600)
    options = ExtractOptions(workers=0, batch_size=1, device="cpu,cpu")
    kill = Interrupting(lambda: os.kill(started[-1].pid, signal.SIGKILL))
    with pytest.raises(BioFuseError, match=r"process of cpu was killed \(exit code -9\)") as caught:
        extract(samples, [card], store=store, options=options, progress=kill)
    assert "kept" in caught.value.remedy
    assert not any(process.is_alive() for process in started)
    kept = rows_of(store, card)
    done = extract(samples, [card], store=store, options=ONE)
    assert done.computed == 600 - kept < 600


@pytest.mark.slow
def test_ctrl_c_stops_all_processes_and_keeps_what_came_back(pictures, network, store, started):
    def stop():
        raise KeyboardInterrupt

    card = network("test_devices_network")
    with pytest.raises(KeyboardInterrupt):
        extract(pictures(40), [card], store=store, options=TWO, progress=Interrupting(stop))
    assert len(started) == 2
    assert not any(process.is_alive() for process in started)
    assert rows_of(store, card) >= 8


def test_without_a_network_no_process_is_started(pictures, store, started):
    extract(pictures(10), [MEAN], store=store, options=TWO)
    assert started == []


def test_auto_takes_all_cuda_devices_where_there_are_several(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert device_names("auto") == ("cuda:0", "cuda:1", "cuda:2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_names("auto") == ("auto",)
    assert device_names("cuda:1, cpu") == ("cuda:1", "cpu")


def test_no_device_is_an_error():
    with pytest.raises(BioFuseError, match="No device"):
        MachineEngine(ExtractOptions(device=","))
