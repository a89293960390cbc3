import numpy as np
import pytest

from biofuse.core.errors import BioFuseError
from biofuse.encoders.registry import get_card
from biofuse.extract import precision
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.extract.precision import Choice, advised, choose_precision, least_cosine, native


@pytest.fixture
def bf16(monkeypatch):
    """A processor with bfloat16 instructions, whatever this one has."""
    monkeypatch.setattr(precision, "native", lambda name, _: name in {"fp32", "bf16"})


@pytest.fixture
def plain(monkeypatch):
    """A processor without."""
    monkeypatch.setattr(precision, "native", lambda name, _: name == "fp32")


def run(samples, cards, store, said=None, **options):
    options = ExtractOptions(**{"workers": 0} | options)
    return extract(samples, cards, store=store, options=options, tell=None if said is None else said.append)


def test_a_card_that_advises_fp32_runs_at_fp32(network, pictures, store, bf16):
    card = network("p_full")
    done = run(pictures(3), [card], store)
    assert done.precisions == {"p_full": "fp32"}
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


def test_a_processor_without_bf16_runs_at_fp32(network, pictures, store, plain):
    card = network("p_low", advised_precision="bf16")
    assert run(pictures(3), [card], store).precisions == {"p_low": "fp32"}


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


def test_what_is_asked_for_and_not_there_is_fp32_with_a_reason(network, pictures, store, plain):
    done = run(pictures(2), [network("p_any")], store, precision="bf16")
    assert (done.work[0].precision, done.work[0].reason) == ("fp32", "this device has no bf16")


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


def test_a_fixed_precision_that_the_device_lacks_is_fp32_with_a_reason(network, pictures, store, plain):
    done = run(pictures(2), [network("p_any")], store, precisions={"p_any": "fp16"})
    assert (done.work[0].precision, done.work[0].reason) == (
        "fp32",
        "this device has no fp16, which it was run at before",
    )


def test_the_decision_does_not_hang_on_what_is_left_to_do(network, pictures, store, bf16):
    """A run killed after the comparison compares the same images again."""
    card = network("p_odd", advised_precision="bf16", breaks_at="bfloat16")
    run(pictures(30).take(np.arange(5)), [card], store)
    done = run(pictures(30), [card], store)
    assert (done.precisions, done.computed) == ({"p_odd": "fp32"}, 25)


def test_the_images_compared_do_not_hang_on_their_order(network, pictures, store, bf16):
    from biofuse.data.samples import hash_samples
    from biofuse.extract.plan import plan_job

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
