import contextlib
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

import biofuse
from biofuse.core.errors import DataError, EncoderError, option
from biofuse.encoders import Preprocessing, graph
from biofuse.encoders.function import register_encoder
from biofuse.encoders.registry import ENCODERS, get_card
from biofuse.extract import local
from biofuse.extract.engine import extract
from biofuse.extract.local import N_PASSES, BatchSizes, measure_latency, out_of_memory
from biofuse.extract.options import ExtractOptions
from biofuse.extract.prepare import encode
from biofuse.store.store import EmbeddingStore


@pytest.fixture
def cores(monkeypatch):
    """Four cores, whatever this machine has."""
    monkeypatch.setattr(local, "usable_cores", lambda: 4)


def embedded(samples, cards, store, *, progress=False, **options):
    options = ExtractOptions(**{"workers": 0, "device": "cpu"} | options)
    return extract(samples, cards, store=store, options=options, progress=progress)


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


class StopsAtTheThird:
    def __init__(self):
        self.left = 3

    def begin(self, task, total):
        pass

    def advance(self, task, units):
        self.left -= task != "reading" and units > 0
        if not self.left:
            time.sleep(0.5)  # what is under way is finished meanwhile
            raise StopError


def test_a_stop_keeps_what_the_lanes_have_finished(network, pictures, store, cores, monkeypatch):
    def slowly(encoder, images):
        time.sleep(0.05)  # decoding is ahead, so that some batches wait when the third is taken
        return encode(encoder, images)

    monkeypatch.setattr("biofuse.extract.local.encode", slowly)
    card = network("f_one")
    with pytest.raises(StopError):
        embedded(pictures(80), [card], store, batch_size=4, progress=StopsAtTheThird())
    assert store.open(card).n_embeddings() > 3 * 4


def test_the_error_of_a_lane_names_the_encoder(network, pictures, store, cores, monkeypatch):
    card = network("f_bad")
    monkeypatch.setattr(
        "biofuse.extract.local.encode", lambda *_: (_ for _ in ()).throw(EncoderError("Encoder f_bad failed"))
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


@pytest.mark.slow
def test_depthwise_convolutions_run_in_onnx_runtime_where_that_is_asked_for(pictures, cores, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )
    card = biofuse.register_torch("f_depthwise", network, Preprocessing(size=32, crop=32), replace=True)
    monkeypatch.setattr(graph, "GAIN", 0.0)  # whether it is quicker is nothing to rely on
    found, told = {}, []
    for runtime in ("torch", "auto", "onnx"):
        options = ExtractOptions(workers=0, device="cpu", batch_size=4, runtime=runtime)
        store = EmbeddingStore(tmp_path / runtime)
        found[runtime] = extract(pictures(12), [card], store=store, options=options, tell=told.append)["f_depthwise"]
    assert np.array_equal(found["torch"], found["auto"])  # far too few images
    np.testing.assert_allclose(found["onnx"], found["torch"], rtol=0, atol=1e-5)
    assert sum(line.startswith("f_depthwise runs in ONNX Runtime: ") for line in told) == 1


def limited(room, seen, error=RuntimeError):
    def encode(images):
        seen.append(len(images))
        if len(images) > room:
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return images * 2

    return encode


def test_a_batch_is_halved_until_it_fits_and_that_is_remembered_and_said_once():
    said, seen, freed = [], [], []
    sizes = BatchSizes({"a": 16}, tell=said.append, free=lambda: freed.append(True))
    images = np.arange(20)
    np.testing.assert_array_equal(np.concatenate(sizes.run("a", images, limited(5, seen))), images * 2)
    assert seen == [16, 8, 4, 4, 4, 4, 4]
    assert said == [
        "Memory ran out: a goes on with batches of 8.",
        "Memory ran out: a goes on with batches of 4.",
    ]
    assert len(freed) == 2
    seen.clear()
    sizes.run("a", images, limited(5, seen))
    assert seen == [4] * 5
    assert len(said) == 2


def test_one_image_too_many_is_an_error_that_says_what_to_do():
    sizes = BatchSizes({"a": 4})
    with pytest.raises(EncoderError, match="a runs out of memory with a single image") as caught:
        sizes.run("a", np.arange(4), limited(0, []))
    assert option("device", "cpu") in caught.value.remedy


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(images):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        BatchSizes({"a": 4}).run("a", np.arange(4), broken)


def chained(inner):
    try:
        try:
            raise inner
        except BaseException as error:
            raise EncoderError("Encoder a failed on a batch") from error
    except EncoderError as error:
        return error


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (OutOfMemoryError("?"), True),
        (chained(OutOfMemoryError("?")), True),
        (chained(ValueError("out of memory of last year")), False),
        (ValueError("out of memory"), False),
        (RuntimeError("shape"), False),
    ],
)
def test_what_counts_as_a_lack_of_memory(error, expected):
    assert out_of_memory(error) is expected


def test_torchs_own_error_counts():
    import torch

    assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))


def test_threads_that_run_out_together_halve_once():
    said, barrier = [], threading.Barrier(2)
    sizes = BatchSizes({"a": 8}, tell=said.append)

    def encode(images):
        if len(images) == 8:
            barrier.wait(timeout=10)
            raise MemoryError
        return images

    threads = [threading.Thread(target=sizes.run, args=("a", np.arange(8), encode)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["Memory ran out: a goes on with batches of 4."]
    assert [len(part) for part in sizes.run("a", np.arange(8), lambda images: images)] == [4, 4]


@pytest.mark.slow
def test_an_extraction_survives_a_lack_of_memory_with_every_row(network, pictures, store):
    # Three images are what an encoder is checked with when it is loaded.
    tight, roomy, said = network("b_tight", room=3), network("b_roomy"), []
    options = ExtractOptions(workers=0, batch_size=16)
    done = extract(pictures(21), [tight, roomy], store=store, options=options, tell=said.append)
    assert [work.computed for work in done.work] == [21, 21]
    blocks = done.blocks
    np.testing.assert_allclose(blocks["b_tight"], blocks["b_roomy"], atol=1e-6)
    assert "Memory ran out: b_tight goes on with batches of 2." in said
    assert max(entry.images for entry in network.log if entry.encoder == "b_roomy") == 16


# --- latency

SECONDS = {"l_slow": 0.4, "l_quick": 0.02}


def mean_of_channels(images):
    return images.mean(axis=(1, 2))


@pytest.fixture
def cards():
    with ENCODERS.temporary():
        for name, size in (("l_slow", 8), ("l_quick", 4)):
            register_encoder(name, dim=3, size=size)(mean_of_channels)
        yield [get_card(name) for name in ("l_slow", "l_quick")]


@pytest.fixture
def clock(monkeypatch):
    """Let time pass in the encoders alone; their first pass, which loads libraries, takes ten times as long."""
    now = {"time": 0.0}
    seen = {}
    encode = local.encode

    def timed(encoder, images):
        name = encoder.card.name
        passes = seen.setdefault(name, [])
        now["time"] += SECONDS[name] * (1 if passes else 10) + 0.1 * len(passes)
        passes.append(images)
        return encode(encoder, images)

    monkeypatch.setattr(local, "encode", timed)
    monkeypatch.setattr(local, "time", SimpleNamespace(perf_counter=lambda: now["time"]))
    return seen


@pytest.mark.parametrize(("batch_size", "n_timed"), [(32, 16), (4, 4)])
def test_the_quickest_pass_counts_per_image_and_the_first_does_not(cards, clock, batch_size, n_timed, pictures):
    found = measure_latency(pictures(20), cards, options=ExtractOptions(workers=0, batch_size=batch_size))
    # The second pass is the first that is timed, and each pass after it is a tenth of a second slower.
    expected = {name: 1000 * (seconds + 0.1) / n_timed for name, seconds in SECONDS.items()}
    assert found == pytest.approx(expected)
    for name, size in (("l_slow", 8), ("l_quick", 4)):
        assert [images.shape for images in clock[name]] == [(n_timed, size, size, 3)] * (1 + N_PASSES)


def test_few_images_are_all_timed_and_the_order_of_rows_does_not_decide_which(cards, clock, pictures):
    some = pictures(5)
    measure_latency(some, cards, options=ExtractOptions(workers=0))
    assert {len(images) for passes in clock.values() for images in passes} == {5}
    timed = clock["l_quick"][0]
    clock.clear()
    backwards = some.take(np.arange(5)[::-1])
    measure_latency(backwards, cards, options=ExtractOptions(workers=0))
    np.testing.assert_array_equal(clock["l_quick"][0], timed)


def test_encoders_are_timed_while_freed_memory_is_kept_as_in_an_extraction(cards, pictures, monkeypatch):
    kept, during = [], []

    @contextlib.contextmanager
    def keep_freed_memory():
        kept.append(True)
        yield
        kept.pop()

    def watched(encoder, images):
        during.append(bool(kept))
        return encode(encoder, images)

    monkeypatch.setattr(local, "keep_freed_memory", keep_freed_memory)
    monkeypatch.setattr(local, "encode", watched)
    measure_latency(pictures(3), cards)
    assert during == [True] * len(cards) * (1 + N_PASSES)
    assert not kept


def test_real_time_is_positive_and_of_every_encoder(cards, pictures):
    found = measure_latency(pictures(3), cards)
    assert list(found) == ["l_slow", "l_quick"]
    assert all(0 < value < 1000 for value in found.values())


def test_without_images_there_is_nothing_to_time(cards, pictures):
    with pytest.raises(DataError, match="no image to time"):
        measure_latency(pictures(3).take(np.array([], dtype=np.int64)), cards)
