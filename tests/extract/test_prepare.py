import copy
import os
import threading
from dataclasses import replace

import numpy as np
import pytest

from biofuse.data.decoding import content_hash
from biofuse.encoders import Preprocessing
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.extract.prepare import STAGES, Chunk, Decoder, SharedMemory, Stages, prepare


def test_the_slowest_stage_is_named_with_its_encoder_and_the_shares_of_all():
    stages = Stages()
    stages.add("forward", 4.0, encoder="small")
    stages.add("forward", 57.0, encoder="large")
    stages.add("decode", 30.0)
    stages.add("read", 9.0)
    assert stages.sentence() == "Slowest stage: forward, 61% of 100.0 s of work (large alone 57%); decode 30%; read 9%."
    assert stages.by_encoder() == {"small": 4.0, "large": 57.0}
    stages.add("decode", 70.0)
    assert stages.sentence().startswith("Slowest stage: decode, 59% of 170.0 s of work; forward 36%")


def test_nothing_counted_is_nothing_said():
    assert Stages().sentence() == ""


def test_counts_travel_between_processes_and_add_up():
    one = Stages()
    one.add("decode", 1.5)
    two = copy.deepcopy(one)  # by the same methods as pickle
    two.merge(one)
    two.add("forward", 2.0, encoder="a")
    assert (two.seconds("decode"), two.total) == (3.0, 5.0)
    assert two.to_json() == {
        "seconds": {stage: {"decode": 3.0, "forward": 2.0}.get(stage, 0) for stage in STAGES},
        "forward": {"a": 2.0},
    }


def test_threads_count_together():
    stages = Stages()
    threads = [threading.Thread(target=lambda: [stages.add("decode", 0.5) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stages.seconds("decode") == 1000.0


@pytest.mark.parametrize("workers", [0, 1])
def test_an_extraction_counts_every_stage(workers, network, pictures, store):
    card = network("s_one")
    done = extract(pictures(8), [card], store=store, options=ExtractOptions(workers=workers))
    for stage in ("read", "decode", "resize", "forward", "write"):
        assert done.stages.seconds(stage) > 0, stage
    assert done.work[0].seconds == pytest.approx(done.stages.by_encoder()["s_one"])
    assert done.stages.total < 60


RESIZES = {side: Preprocessing(resize="squash", size=side, interpolation="bilinear") for side in (8, 12)}


def chunk_of(samples, rows):
    return Chunk(
        names=("any",),
        rows=tuple(rows),
        sources=tuple(samples.sources[row] for row in rows),
        contents=tuple(content_hash(samples.sources[row].read(), samples.decode) for row in rows),
        decode=samples.decode,
        resizes=RESIZES,
        encoders={},
    )


def decoded(chunks, workers, *, threads=False):
    with Decoder(chunks, workers=workers, threads=threads) as decoder:
        return list(decoder)


@pytest.mark.parametrize("way", ["shared memory", "a pipe", "threads"])
def test_images_from_workers_are_those_decoded_here_however_many_are_held(pictures, way, monkeypatch):
    """All batches are held at once: more than there is shared memory for, and none may be written over."""
    if way == "a pipe":
        monkeypatch.delattr("os.memfd_create")
    samples = pictures(60)
    samples.sources[7].path.write_bytes(b"no image")
    rows = [range(4), range(4, 10), *([row, row + 1] for row in range(10, 58)), range(58, 59), range(7, 8)]
    chunks = [chunk_of(samples, each) for each in rows]
    here, there = decoded(chunks, 0), decoded(chunks, 2, threads=way == "threads")
    assert [batch.rows for batch in there] == [batch.rows for batch in here]
    assert [batch.failures.keys() for batch in there] == [batch.failures.keys() for batch in here]
    assert here[-1].images == there[-1].images == {}
    for mine, theirs in zip(here[:-1], there[:-1], strict=True):
        assert mine.images.keys() == theirs.images.keys() == RESIZES.keys()
        for side in RESIZES:
            assert theirs.images[side].shape == (len(mine.rows), side, side, 3)
            assert np.array_equal(mine.images[side], theirs.images[side])


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="memory without a name is to be had on Linux only")
def test_a_slot_of_shared_memory_is_taken_again_when_nobody_has_its_images(pictures):
    chunk = chunk_of(pictures(2), [0, 1])
    memory = SharedMemory.of(chunk, slots=1)
    placed = replace(chunk, place=memory.place(chunk))
    assert memory.place(chunk) is None
    batch = memory.fetch(placed, prepare(placed))
    part = batch.images[8][1:, ::2]
    del batch
    assert memory.place(chunk) is None
    assert np.array_equal(part, prepare(chunk).images[8][1:, ::2])
    del part
    again = replace(chunk, place=memory.place(chunk))
    assert again.place is not None
    memory.close()
    assert not prepare(replace(again, place=replace(again.place, token=0))).placed  # memory that is gone
