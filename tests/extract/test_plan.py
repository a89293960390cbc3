import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from biofuse.core.errors import BioFuseError
from biofuse.data.cuts import StampedFile
from biofuse.data.decoding import ArraySource, DecodePolicy
from biofuse.data.samples import hash_samples
from biofuse.data.volumes import VolumeSlice
from biofuse.encoders.registry import get_card
from biofuse.extract import plan as planning
from biofuse.extract import prepare
from biofuse.extract.engine import extract, plan_extraction
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import (
    ACTIVATION_VALUES,
    CPU_BATCH,
    DEVICE_BATCH,
    MAX_THREADS,
    Choice,
    Hardware,
    advised,
    choose_precision,
    first_part,
    least_cosine,
    make_plan,
    native,
    plan_job,
)
from biofuse.store.store import EmbeddingStore

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


def test_who_may_see_images_enlarged_is_named(network, pictures, store):
    samples = pictures(3).decoded_by(DecodePolicy(draft=100))
    said = planned(samples, [network("p_small"), get_card("colour")], store, Hardware()).notes
    assert [note for note in said if "enlarged" in note] == [
        "`draft=100` may decode JPEG files smaller than encoders take them, which then see them enlarged: colour (128)."
    ]


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


@pytest.mark.parametrize(
    ("gflops", "part"),
    [
        ({"a": 1.0, "b": 60.0, "c": 39.0}, "ac"),
        ({"a": 50.0, "b": 50.0}, "a"),
        ({"a": 1.0, "b": None}, "a"),
        ({"a": 1.0}, ""),
        ({"a": None, "b": None}, ""),
    ],
)
def test_a_first_part_is_the_cheapest_half_of_the_arithmetic(gflops, part, network):
    cards = [network(f"p_{name}", gflops=cost) for name, cost in gflops.items()]
    assert first_part(cards) == tuple(f"p_{name}" for name in part)
    descriptor = get_card("hog")
    assert first_part([descriptor, *cards]) == (("hog", *first_part(cards)) if first_part(cards) else ("hog",))


@pytest.mark.parametrize(
    "case",
    [
        ({}, "2 threads decode"),
        ({"cores": MAX_THREADS + 1}, f"{MAX_THREADS + 1} processes decode"),
        ({"device": "cuda"}, "2 processes decode"),
        ({"workers": 2}, "2 processes decode"),
        ({"workers": 0}, "this process decodes"),
        ({"descriptor": True}, "2 processes decode"),
        ({"sources": ArraySource(np.zeros((8, 8, 3), np.uint8), "it")}, "2 processes decode"),
        ({"sources": VolumeSlice(StampedFile(Path("a.nii"), 9, 9), 0, "axial", 0, None, False)}, "2 threads decode"),
    ],
)
def test_threads_decode_plain_files_for_networks_on_a_few_cores(case, network, pictures, store, monkeypatch):
    change, said = case
    for module in ("plan", "options"):
        monkeypatch.setattr(f"biofuse.extract.{module}.usable_cores", lambda: change.get("cores", 2))
    samples = pictures(200)
    if "sources" in change:
        samples = replace(hash_samples(samples)[0], sources=(change["sources"],) * 200)
    cards = [network("p_one"), *([get_card("hog")] if "descriptor" in change else [])]
    options = {"workers": change["workers"]} if "workers" in change else {}
    plan = planned(samples, cards, store, Hardware(device=change.get("device", "cpu")), **options)
    assert f"; {said};" in plan.lines()[0]


def test_a_dry_run_decodes_nothing_and_writes_nothing_and_tells_what_is_missing(network, pictures, store, monkeypatch):
    cards = [network("p_one", gflops=1.0), network("p_two", gflops=2.0)]
    extract(pictures(4), cards[:1], store=store, options=ExtractOptions(workers=0))
    before = sorted(store.root.rglob("*"))
    monkeypatch.setattr("biofuse.extract.local.load_encoder", lambda *_, **__: pytest.fail("an encoder was loaded"))
    monkeypatch.setattr(
        "biofuse.extract.prepare.decode_with_facts", lambda *_, **__: pytest.fail("an image was decoded")
    )
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


@pytest.fixture
def decoded(monkeypatch):
    """What the images are called that are decoded."""
    calls, real = [], prepare.decode_with_facts
    monkeypatch.setattr(prepare, "decode_with_facts", lambda *a, **k: calls.append(k["description"]) or real(*a, **k))
    return calls


def test_groups_decode_once_each_and_end_with_the_same_rows(network, pictures, store, tmp_path, decoded):
    cards = [network(f"p_{number}", dim=5000, gflops=float(number + 1)) for number in range(3)]
    samples = pictures(10)
    whole = extract(samples, cards, store=store, options=ExtractOptions(workers=0))
    assert len(whole.plan.groups) == 1
    assert len(decoded) == 10
    decoded.clear()
    other = EmbeddingStore(tmp_path / "other")
    parts = extract(samples, cards, store=other, options=ExtractOptions(workers=0, memory=5 * MB))
    assert len(parts.plan.groups) == 3
    assert len(decoded) == 30
    for name in whole:
        np.testing.assert_allclose(whole[name], parts[name], atol=1e-6)


def test_an_image_that_failed_is_not_tried_again_by_the_next_group(network, pictures, store, decoded):
    cards = [network(f"p_{number}", dim=5000, gflops=float(number + 1)) for number in range(2)]
    samples = pictures(6)
    samples.sources[2].path.write_bytes(b"no picture")
    done = extract(samples, cards, store=store, options=ExtractOptions(workers=0, memory=5 * MB, on_error="quarantine"))
    assert [work.computed for work in done.work] == [5, 5]
    assert [entry.id for entry in done.quarantined] == ["0002.png"]
    assert len(decoded) == 6 + 5


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


# --- precision


@pytest.fixture
def bf16(monkeypatch):
    """A processor with bfloat16 instructions, whatever this one has."""
    monkeypatch.setattr(planning, "native", lambda name, _: name in {"fp32", "bf16"})


@pytest.fixture
def plain(monkeypatch):
    """A processor without."""
    monkeypatch.setattr(planning, "native", lambda name, _: name == "fp32")


def run(samples, cards, store, said=None, **options):
    options = ExtractOptions(**{"workers": 0} | options)
    return extract(samples, cards, store=store, options=options, tell=None if said is None else said.append)


@pytest.mark.parametrize(
    "case",
    [
        ("bf16", "fp32", {}, ""),
        ("plain", "bf16", {}, ""),
        ("plain", "fp32", {"precision": "bf16"}, "this device has no bf16"),
        ("plain", "fp32", {"precisions": {"p_any": "fp16"}}, "this device has no fp16, which it was run at before"),
    ],
)
def test_what_is_not_advised_or_not_there_is_fp32(case, network, pictures, store, request):
    device, advice, options, reason = case
    request.getfixturevalue(device)
    (work,) = run(pictures(3), [network("p_any", advised_precision=advice)], store, **options).work
    assert (work.precision, work.reason) == ("fp32", reason)
    assert {entry.dtype for entry in network.log} == {"float32"}


@pytest.mark.parametrize("advice", ["bf16", "fp16"])
def test_a_processor_with_bf16_takes_it_for_either_low_precision_after_comparing(
    advice, network, pictures, store, bf16
):
    card, said = network("p_low", advised_precision=advice), []
    done = run(pictures(20), [card], store, said)
    assert done.precisions == {"p_low": "bf16"}
    assert store.open(card, precision="bf16").n_embeddings() == 20
    assert not store.open(card).part_paths()
    assert any("compared with fp32 first" in line for line in said)
    assert any("cosine to fp32 at least 0.99" in line for line in said)
    assert "bfloat16" in {entry.dtype for entry in network.log}


def test_an_encoder_that_bf16_changes_runs_at_fp32_and_that_is_said_and_nothing_lower_is_stored(
    network, pictures, store, bf16
):
    card, said = network("p_odd", advised_precision="bf16", breaks_at="bfloat16"), []
    done = run(pictures(5), [card], store, said)
    (work,) = done.work
    assert (work.precision, work.computed) == ("fp32", 5)
    assert "0.999 is asked for" in work.reason
    assert any(line.startswith("p_odd is run at fp32: bf16 changes an embedding too much") for line in said)
    assert not store.open(card, precision="bf16").part_paths()
    np.testing.assert_array_equal(done[card.name], run(pictures(5), [card], store)[card.name])


def test_what_is_asked_for_is_compared_too(network, pictures, store, bf16):
    good, odd = network("p_good"), network("p_odd", breaks_at="bfloat16")
    done = run(pictures(4), [good, odd], store, precision="bf16")
    assert done.precisions == {"p_good": "bf16", "p_odd": "fp32"}


def test_descriptors_have_one_precision(pictures, store, bf16):
    done = run(pictures(2), [get_card("colour")], store, precision="bf16")
    assert done.precisions == {"colour": "fp32"}


def test_auto_reuses_what_the_store_has_at_fp32(network, pictures, store, bf16):
    card = network("p_low", advised_precision="bf16")
    run(pictures(4), [card], store, precision="fp32")
    network.log.clear()
    done = run(pictures(4), [card], store)
    assert (done.computed, done.precisions) == (0, {"p_low": "fp32"})
    assert not network.log


def test_auto_reuses_what_the_store_has_at_bf16_without_a_device(network, pictures, store, bf16, monkeypatch):
    card = network("p_low", advised_precision="bf16")
    first = run(pictures(4), [card], store)
    monkeypatch.setattr("biofuse.extract.local.choose_device", lambda _: pytest.fail("a device was looked for"))
    done = run(pictures(4), [card], store)
    assert (done.computed, done.precisions) == (0, {"p_low": "bf16"})
    np.testing.assert_array_equal(done[card.name], first[card.name])


def test_auto_goes_on_at_the_precision_of_most(network, pictures, store, bf16):
    card = network("p_low", advised_precision="bf16")
    run(pictures(6), [card], store, precision="fp32")
    done = run(pictures(8), [card], store)
    assert (done.computed, done.precisions) == (2, {"p_low": "fp32"})
    other = network("p_few", advised_precision="bf16")
    run(pictures(2), [other], store, precision="fp32")
    done = run(pictures(8), [other], store)
    assert (done.computed, done.precisions) == (8, {"p_few": "bf16"})


def test_a_fixed_precision_is_not_compared_again(network, pictures, store, bf16):
    card = network("p_odd", breaks_at="bfloat16")
    done = run(pictures(4), [card], store, precisions={"p_odd": "bf16"})
    assert done.precisions == {"p_odd": "bf16"}
    assert "float32" not in {entry.dtype for entry in network.log}


def test_the_decision_does_not_hang_on_what_is_left_to_do(network, pictures, store, bf16):
    """A run killed after the comparison compares the same images again."""
    card = network("p_odd", advised_precision="bf16", breaks_at="bfloat16")
    run(pictures(30).take(np.arange(5)), [card], store)
    done = run(pictures(30), [card], store)
    assert (done.precisions, done.computed) == ({"p_odd": "fp32"}, 25)


def test_the_images_compared_do_not_hang_on_their_order(network, pictures, store, bf16):
    samples, card = pictures(30), network("p_low", advised_precision="bf16")
    found = []
    for order in (np.arange(30), np.random.default_rng(0).permutation(30)):
        some = samples.take(order)
        job = plan_job(hash_samples(some)[0], [card], store=store, options=ExtractOptions(), device=lambda: "cpu")
        found.append([some.ids[job.rows[row]] for row in job.representative(16)])
    assert found[0] == found[1]
    assert len(set(found[0])) == 16


def test_least_cosine_is_the_worst_rows():
    first = np.array([[1, 0], [1, 1], [0, 2]], dtype=np.float32)
    second = np.array([[2, 0], [1, 0], [0, 1]], dtype=np.float32)
    assert least_cosine(first, second) == pytest.approx(1 / np.sqrt(2))
    assert least_cosine(first, np.zeros_like(first)) == -1
    assert least_cosine(first, np.full_like(first, np.nan)) == -1


def test_native_tells_what_torch_tells(monkeypatch):
    import torch

    assert native("fp32", "cpu")
    assert not native("fp16", "cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert native("bf16", "cpu")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True}, raising=False)
    assert not native("bf16", "cpu")
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not native("bf16", "cpu")


def test_onnx_files_have_one_precision(network, store, bf16):
    card = network("p_low", advised_precision="bf16").model_copy(update={"loader": "onnx"})
    assert advised(card, "cpu") == "fp32"
    chosen = choose_precision(card, np.zeros(0, "S16"), store=store, wanted="bf16", fixed={}, device=lambda: "cpu")
    assert chosen == Choice(reason="the precision of an ONNX file is fixed")


@pytest.mark.parametrize("bad", [{"precision": "fp8"}, {"precisions": {"a": "auto"}}])
def test_unknown_precisions_are_refused(bad):
    with pytest.raises(BioFuseError, match=r"Input should be .*fp32"):
        ExtractOptions(**bad)
