import threading
import time

import numpy as np
import pytest

from biofuse.blocks.reader import read_blocks
from biofuse.core.errors import EncoderError
from biofuse.extract import forward, local
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.store.store import EmbeddingStore


@pytest.fixture
def cores(monkeypatch):
    """Four cores, whatever this machine has."""
    for module in (forward, local):
        monkeypatch.setattr(module, "usable_cores", lambda: 4)


def embedded(samples, cards, store, **options):
    done = extract(samples, cards, store=store, options=ExtractOptions(**{"workers": 0, "device": "cpu"} | options))
    return read_blocks(store, cards, ids=done.samples.ids, contents=done.contents)


def test_batches_run_side_by_side_each_on_one_core(network, pictures, store, cores, tmp_path):
    import torch

    card, before = network("f_one"), torch.get_num_threads()
    samples = pictures(80)
    many = embedded(samples, [card], store, batch_size=4)["f_one"]
    lanes = [entry for entry in network.log if entry.thread.startswith("biofuse-lane")]
    assert sum(entry.images for entry in lanes) == 80
    assert {entry.threads for entry in lanes} == {1}
    assert len({entry.thread for entry in lanes}) > 1
    assert torch.get_num_threads() == before
    network.log.clear()
    alone = embedded(samples, [card], EmbeddingStore(tmp_path / "alone"), batch_size=80)["f_one"]
    np.testing.assert_allclose(many, alone, atol=1e-6)


def test_a_job_of_one_batch_has_all_cores(network, pictures, store, cores):
    embedded(pictures(3), [network("f_one")], store, batch_size=4)
    lanes = [entry for entry in network.log if entry.thread.startswith("biofuse-lane")]
    assert [(entry.images, entry.threads) for entry in lanes] == [(3, 4)]


def test_an_encoder_of_another_package_is_never_run_by_two_threads(network, pictures, store, cores):
    cards = [network("f_own"), network("f_foreign", foreign=True)]
    embedded(pictures(40), cards, store, batch_size=4)
    threads = {entry.thread for entry in network.log if entry.encoder == "f_foreign" and "lane" in entry.thread}
    assert len(threads) == 1


def test_parts_are_written_in_the_order_of_the_samples(network, pictures, store, cores):
    card, samples = network("f_one"), pictures(60)
    done = extract(samples, [card], store=store, options=ExtractOptions(workers=0, device="cpu", batch_size=2))
    written = np.concatenate([part.contents for part in store.open(card).parts()])
    np.testing.assert_array_equal(written, done.contents)


def test_lanes_are_gone_when_the_work_is_done(network, pictures, store, cores):
    embedded(pictures(40), [network("f_one")], store, batch_size=4)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("biofuse")]


class StopError(Exception):
    """The user's."""


def test_a_stop_keeps_what_the_lanes_have_finished(network, pictures, store, cores, monkeypatch):
    from biofuse.extract import engine

    card, taken = network("f_one"), []
    real = engine._Kept.take

    def take(self, outcome):
        taken.append(len(outcome.rows))
        if len(taken) == 3:
            time.sleep(0.5)  # what is under way is finished meanwhile
            raise StopError
        real(self, outcome)

    monkeypatch.setattr(engine._Kept, "take", take)
    with pytest.raises(StopError):
        embedded(pictures(80), [card], store, batch_size=4)
    assert store.open(card).n_embeddings() >= 2 * 4


def test_the_error_of_a_lane_names_the_encoder(network, pictures, store, cores, monkeypatch):
    card = network("f_bad")
    monkeypatch.setattr(
        "biofuse.extract.forward.encode", lambda *_: (_ for _ in ()).throw(EncoderError("Encoder f_bad failed"))
    )
    with pytest.raises(EncoderError, match="f_bad"):
        embedded(pictures(20), [card], store, batch_size=4)


def test_decode_workers_start_before_a_network_is_loaded(network, pictures, store, monkeypatch):
    """What is forked or started after a device runtime may hang; and decoding need not wait for weights."""
    from biofuse.extract import prepare as pool

    order = []
    real_fill, real_load = pool.Decoder._fill, local.load_encoder
    monkeypatch.setattr(pool.Decoder, "_fill", lambda self: order.append("decode") or real_fill(self))
    monkeypatch.setattr(local, "load_encoder", lambda *a, **k: order.append("load") or real_load(*a, **k))
    embedded(pictures(5), [network("f_one")], store)
    assert order.index("decode") < order.index("load")


@pytest.mark.skipif("not __import__('torch').cuda.is_available()", reason="needs a CUDA device")
@pytest.mark.parametrize("room", [10**9, 3])
def test_cuda_gives_the_rows_of_the_cpu(room, network, pictures, store, tmp_path):
    cards = [network("f_one"), network("f_two", room=room)]
    samples = pictures(70)
    here = embedded(samples, cards, store, batch_size=8)
    there = embedded(samples, cards, EmbeddingStore(tmp_path / "cuda"), batch_size=8, device="cuda", workers=1)
    for name in here:
        np.testing.assert_allclose(here[name], there[name], atol=1e-5)


@pytest.mark.parametrize("set_by_user", [False, True])
def test_freed_memory_is_kept_only_meanwhile_and_not_against_the_users_will(set_by_user, monkeypatch):
    from biofuse.core import machine as allocator

    calls = []

    class Library:
        def mallopt(self, option, value):
            calls.append((option, value))

        def malloc_trim(self, _):
            calls.append("trim")

    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Library())
    for name in list(allocator.os.environ):
        if name.startswith(("MALLOC_", "GLIBC_TUNABLES")):
            monkeypatch.delenv(name)
    if set_by_user:
        monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    with allocator.keep_freed_memory():
        with allocator.keep_freed_memory():
            inside = len(calls)
        assert len(calls) == inside  # the outer one still wants it
    if set_by_user:
        assert calls == []
    else:
        assert dict(calls[:3]) == allocator.MEANWHILE
        assert dict(calls[-5:-1]) == allocator.AFTERWARDS
        assert calls[-1] == "trim"
