import json

import numpy as np
import pytest

from biofuse.data.samples import hash_samples
from biofuse.encoders.registry import get_card
from biofuse.extract.engine import extract, plan_extraction
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import ACTIVATION_VALUES, CPU_BATCH, DEVICE_BATCH, Hardware, make_plan, plan_job

MB = 1 << 20
PER_IMAGE = ACTIVATION_VALUES * 64 * 4


def planned(samples, cards, store, hardware, **options):
    options = ExtractOptions(**options)
    job = plan_job(hash_samples(samples)[0], cards, store=store, options=options, device=lambda: "cpu")
    return make_plan(job, hardware, options)


def test_all_that_fits_is_one_group_cheapest_first(network, pictures, store):
    cards = [network("p_dear", gflops=9.0), get_card("colour"), network("p_cheap", gflops=1.0)]
    plan = planned(pictures(5), cards, store, Hardware(budget=None))
    assert [group.names for group in plan.groups] == [("colour", "p_cheap", "p_dear")]
    assert plan.groups[0].images == plan.images == 5


def test_a_pool_larger_than_memory_is_packed_in_order_of_cost(network, pictures, store):
    sizes = {"p_1": (4, 1.0), "p_2": (4, 2.0), "p_3": (8, 3.0), "p_4": (1, 4.0)}
    cards = [network(name, parameters=mb * MB // 4, gflops=cost) for name, (mb, cost) in sizes.items()]
    plan = planned(pictures(3), cards[::-1], store, Hardware(device="cuda", budget=10 * MB))
    assert [group.names for group in plan.groups] == [("p_1", "p_2"), ("p_3", "p_4")]
    assert all(group.bytes <= 10 * MB for group in plan.groups)
    assert any("decoded once for each of 2 groups" in line for line in plan.lines())


def test_an_encoder_that_will_not_fit_is_tried_alone_and_said_so(network, pictures, store):
    cards = [network("p_small", gflops=1.0), network("p_huge", parameters=100 * MB, gflops=2.0)]
    plan = planned(pictures(3), cards, store, Hardware(device="cuda", budget=10 * MB))
    assert [(group.names, group.batch_size) for group in plan.groups] == [(("p_small",), 3), (("p_huge",), 1)]
    assert any("p_huge may not fit: it needs about 0.4 GB" in line for line in plan.lines())


def test_weights_at_half_precision_take_half_the_room(network, pictures, store):
    card = network("p_low", parameters=4 * MB)
    whole = planned(pictures(2), [card], store, Hardware(), precision="fp32").groups[0].encoders[0]
    half = planned(pictures(2), [card], store, Hardware(), precisions={"p_low": "bf16"}).groups[0].encoders[0]
    assert (whole.weights, whole.per_image) == (16 * MB, PER_IMAGE)
    if half.precision == "bf16":  # where this processor has it
        assert (half.weights, half.per_image) == (8 * MB, PER_IMAGE // 2)


def test_a_card_that_does_not_know_its_size_is_planned_as_a_large_one(network, pictures, store):
    from biofuse.encoders import Weights

    weights = Weights(repository="local", revision="1", file="w.pt", sha256="0" * 64)
    card = network("p_unknown", parameters=None, weights=weights)
    plan = planned(pictures(2), [card], store, Hardware(device="cuda", budget=None))
    assert plan.groups[0].bytes > 4e9
    assert any("p_unknown is, its card does not say" in line for line in plan.lines())


@pytest.mark.parametrize(
    "case",
    [
        (Hardware(device="cpu", lanes=1), 200, CPU_BATCH),
        (Hardware(device="cpu", lanes=4), 200, CPU_BATCH),
        (Hardware(device="cpu", lanes=4), 10, 3),  # shared by the lanes
        (Hardware(device="cuda", lanes=1), 200, DEVICE_BATCH),
        (Hardware(device="cuda", lanes=1, budget=MB + 40 * PER_IMAGE), 200, 32),
        (Hardware(device="cpu", lanes=2, budget=MB + 21 * PER_IMAGE), 200, 8),
    ],
)
def test_the_batch_is_what_fits(case, network, pictures, store):
    hardware, n, size = case
    card = network("p_one", parameters=MB // 4)
    assert planned(pictures(n), [card], store, hardware).groups[0].batch_size == size


def test_a_batch_size_of_the_users_is_left_alone(network, pictures, store):
    card = network("p_one")
    plan = planned(pictures(9), [card], store, Hardware(device="cpu", lanes=8), batch_size=5)
    assert plan.groups[0].batch_size == 5


def test_a_dry_run_decodes_nothing_and_writes_nothing_and_tells_what_is_missing(network, pictures, store, monkeypatch):
    cards = [network("p_one", gflops=1.0), network("p_two", gflops=2.0)]
    extract(pictures(4), cards[:1], store=store, options=ExtractOptions(workers=0))
    before = sorted(store.root.rglob("*"))
    monkeypatch.setattr("biofuse.extract.local.load_encoder", lambda *_, **__: pytest.fail("an encoder was loaded"))
    monkeypatch.setattr("biofuse.extract.prepare.decode", lambda *_, **__: pytest.fail("an image was decoded"))
    plan = plan_extraction(pictures(6), cards, store=store, options=ExtractOptions(workers=0))
    assert sorted(store.root.rglob("*")) == before
    (group,) = plan.groups
    assert [(each.encoder, each.images, each.stored) for each in group.encoders] == [("p_one", 2, 4), ("p_two", 6, 0)]
    assert group.images == 6
    assert "time unknown until the first batches" in plan.lines()[0]
    assert json.loads(json.dumps(plan.to_json()))["groups"][0]["encoders"][0]["stored"] == 4


def test_a_complete_store_needs_no_plan(network, pictures, store):
    card = network("p_one")
    extract(pictures(4), [card], store=store, options=ExtractOptions(workers=0))
    plan = plan_extraction(pictures(4), [card], store=store)
    assert plan.lines() == ["The store has all embeddings of 4 images: nothing to compute."]


def test_the_plan_is_told_before_anything_is_computed(network, pictures, store):
    card, told = network("p_one"), []

    def tell(line):
        told.append((line, len(network.log)))

    extract(pictures(4), [card], store=store, options=ExtractOptions(workers=0), tell=tell)
    assert told[0][0].startswith("Plan: 4 images on ")
    assert told[1][0].startswith("One pass: 4 images to decode")
    assert told[1][1] == 0


def test_groups_decode_once_each_and_end_with_the_same_rows(network, pictures, store, tmp_path, monkeypatch):
    from biofuse.extract import prepare as worker
    from biofuse.store.store import EmbeddingStore

    cards = [network(f"p_{number}", dim=5000, gflops=float(number + 1)) for number in range(3)]
    samples, calls = pictures(10), []
    real = worker.decode
    monkeypatch.setattr(worker, "decode", lambda *a, **k: calls.append(k["description"]) or real(*a, **k))
    whole = extract(samples, cards, store=store, options=ExtractOptions(workers=0))
    assert len(whole.plan.groups) == 1
    assert len(calls) == 10
    calls.clear()
    other = EmbeddingStore(tmp_path / "other")
    parts = extract(samples, cards, store=other, options=ExtractOptions(workers=0, memory=5 * MB))
    assert len(parts.plan.groups) == 3
    assert len(calls) == 30
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-6)


def test_an_image_that_failed_is_not_tried_again_by_the_next_group(network, pictures, store, monkeypatch):
    from biofuse.extract import prepare as worker

    cards = [network(f"p_{number}", dim=5000, gflops=float(number + 1)) for number in range(2)]
    samples = pictures(6)
    samples.sources[2].path.write_bytes(b"no picture")
    calls = []
    real = worker.decode
    monkeypatch.setattr(worker, "decode", lambda *a, **k: calls.append(k["description"]) or real(*a, **k))
    done = extract(samples, cards, store=store, options=ExtractOptions(workers=0, memory=5 * MB, on_error="quarantine"))
    assert [work.computed for work in done.work] == [5, 5]
    assert [entry.id for entry in done.quarantined] == ["0002.png"]
    assert len(calls) == 6 + 5


def test_the_second_plan_knows_the_time(network, pictures, store, monkeypatch):
    monkeypatch.setattr("biofuse.extract.plan.ENOUGH_IMAGES", 4)
    card, options = network("p_one"), ExtractOptions(workers=0, device="cpu")
    assert plan_extraction(pictures(6), [card], store=store, options=options).seconds is None
    done = extract(pictures(6), [card], store=store, options=options)
    assert done.plan.seconds is None
    plan = plan_extraction(pictures(36), [card], store=store, options=options)
    each = done.stages.by_encoder()["p_one"] / 6 / plan.hardware.lanes
    assert plan.seconds == pytest.approx(30 * each)
    assert "in encoders" in plan.lines()[0]
    (store.root / ".rates.json").write_text("{not JSON")
    assert plan_extraction(pictures(36), [card], store=store, options=options).seconds is None
