from types import SimpleNamespace

import numpy as np
import pytest

from biofuse.core.errors import DataError
from biofuse.data.decoding import ArraySource
from biofuse.data.samples import Samples
from biofuse.encoders.function import register_encoder
from biofuse.encoders.registry import ENCODERS, get_card
from biofuse.extract import local as latency
from biofuse.extract.local import REPEATS, measure_latency
from biofuse.extract.options import ExtractOptions

SECONDS = {"l_slow": 0.4, "l_quick": 0.02}


@pytest.fixture
def cards():
    with ENCODERS.temporary():

        @register_encoder("l_slow", dim=3, size=8)
        def l_slow(images):
            return images.mean(axis=(1, 2))

        @register_encoder("l_quick", dim=3, size=4)
        def l_quick(images):
            return images.mean(axis=(1, 2))

        yield [get_card(name) for name in ("l_slow", "l_quick")]


@pytest.fixture
def clock(monkeypatch):
    """Let time pass in the encoders alone; their first pass, which loads libraries, takes ten times as long."""
    now = {"time": 0.0}
    seen = {}
    encode = latency.encode

    def timed(encoder, images):
        name = encoder.card.name
        passes = seen.setdefault(name, [])
        now["time"] += SECONDS[name] * (1 if passes else 10) + 0.1 * len(passes)
        passes.append(images)
        return encode(encoder, images)

    monkeypatch.setattr(latency, "encode", timed)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: now["time"]))
    return seen


def samples(n):
    generator = np.random.default_rng(0)
    return Samples(
        ids=np.array([f"s{row:02d}" for row in range(n)], dtype=object),
        sources=tuple(
            ArraySource(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8), f"s{row}") for row in range(n)
        ),
    )


@pytest.mark.parametrize(("batch_size", "n_timed"), [(32, 16), (4, 4)])
def test_the_quickest_pass_counts_per_image_and_the_first_does_not(cards, clock, batch_size, n_timed):
    found = measure_latency(samples(20), cards, options=ExtractOptions(workers=0, batch_size=batch_size))
    # The second pass is the first that is timed, and each pass after it is a tenth of a second slower.
    expected = {name: 1000 * (seconds + 0.1) / n_timed for name, seconds in SECONDS.items()}
    assert found == pytest.approx(expected)
    for name, size in (("l_slow", 8), ("l_quick", 4)):
        assert [images.shape for images in clock[name]] == [(n_timed, size, size, 3)] * (1 + REPEATS)


def test_few_images_are_all_timed_and_the_order_of_rows_does_not_decide_which(cards, clock):
    some = samples(5)
    measure_latency(some, cards, options=ExtractOptions(workers=0))
    assert {len(images) for passes in clock.values() for images in passes} == {5}
    timed = clock["l_quick"][0]
    clock.clear()
    backwards = some.take(np.arange(5)[::-1])
    measure_latency(backwards, cards, options=ExtractOptions(workers=0))
    np.testing.assert_array_equal(clock["l_quick"][0], timed)


def test_real_time_is_positive_and_of_every_encoder(cards):
    found = measure_latency(samples(3), cards)
    assert list(found) == ["l_slow", "l_quick"]
    assert all(0 < value < 1000 for value in found.values())


def test_without_images_there_is_nothing_to_time(cards):
    with pytest.raises(DataError, match="no image to time"):
        measure_latency(samples(3).take(np.array([], dtype=np.int64)), cards)
