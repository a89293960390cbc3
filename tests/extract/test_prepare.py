import copy
import threading

import pytest

from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.extract.prepare import STAGES, Stages


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
