"""The named weights are the weights loaded, and a weight file can run no code."""

import argparse
import hashlib
import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from biofuse.core.errors import UnavailableWeightsError, UnsafeWeightsError, WeightsError
from biofuse.encoders import Weights, load_encoder, pin
from biofuse.encoders.loaders.timm import build_architecture
from biofuse.encoders.weights import load_weights, locate, read_state, unfilled


def with_weights(make_vit_card, path, **changes):
    card = make_vit_card(path)
    return card.model_copy(update={"weights": card.weights.model_copy(update=changes)})


def test_hash_is_recorded_and_checked(make_vit_card, vit_file):
    sha256 = hashlib.sha256(vit_file.read_bytes()).hexdigest()
    loaded = load_encoder(make_vit_card(vit_file)).card
    assert loaded.weights.sha256 == sha256
    load_encoder(with_weights(make_vit_card, vit_file, sha256=sha256))
    with pytest.raises(WeightsError, match="SHA-256") as caught:
        load_encoder(with_weights(make_vit_card, vit_file, sha256="0" * 64))
    assert sha256 in caught.value.message
    assert "small_vit" in caught.value.message


def test_weights_path_replaces_the_place_but_not_the_hash(make_vit_card, vit_file, tmp_path):
    sha256 = hashlib.sha256(vit_file.read_bytes()).hexdigest()
    card = with_weights(make_vit_card, "elsewhere.safetensors", sha256=sha256)
    load_encoder(card, weights_path=vit_file)
    other = tmp_path / "other.safetensors"
    save_file({key: value + 1 for key, value in load_file(vit_file).items()}, other)
    with pytest.raises(WeightsError, match="SHA-256"):
        load_encoder(card, weights_path=other)


def test_what_a_file_is_its_first_bytes_tell_and_not_its_name(vit_file, tmp_path):
    state = load_file(vit_file)
    tensors, checkpoint = tmp_path / "tensors.pt", tmp_path / "checkpoint.safetensors"
    tensors.write_bytes(vit_file.read_bytes())
    torch.save({"state_dict": state}, checkpoint)
    for found in (read_state(tensors), read_state(checkpoint, entry="state_dict")):
        assert found.keys() == state.keys()
        assert all(torch.equal(found[name], state[name]) for name in state)


@pytest.mark.parametrize("suffix", [".pth", ".bin", ".pt"])
def test_torch_checkpoints_give_the_same_embedding(make_vit_card, vit_file, tmp_path, images, suffix):
    path = tmp_path / f"vit{suffix}"
    torch.save(load_file(vit_file), path)
    expected = load_encoder(make_vit_card(vit_file)).encode(images)
    assert (load_encoder(make_vit_card(path)).encode(images) == expected).all()


def test_entry_and_prefix_find_nested_weights(make_vit_card, vit_file, tmp_path, images):
    state = load_file(vit_file)
    path = tmp_path / "nested.pth"
    torch.save(
        {"epoch": 3, "model": {f"trunk.{key}": value for key, value in state.items()} | {"text.w": state["cls_token"]}},
        path,
    )
    card = with_weights(make_vit_card, path, entry="model", prefix="trunk.")
    expected = load_encoder(make_vit_card(vit_file)).encode(images)
    assert (load_encoder(card).encode(images) == expected).all()
    with pytest.raises(WeightsError, match="does not hold a plain table of weights, but epoch, model"):
        load_encoder(with_weights(make_vit_card, path, entry=""))
    with pytest.raises(WeightsError, match="no entry 'state_dict'; it has epoch, model"):
        load_encoder(with_weights(make_vit_card, path, entry="state_dict"))
    with pytest.raises(WeightsError, match=r"begins with 'visual\.'"):
        load_encoder(with_weights(make_vit_card, path, entry="model", prefix="visual."))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda state: state.pop("norm.weight"), r"1 missing \(norm\.weight\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (lambda state: state.update({"norm.bias": torch.zeros(47)}), r"norm\.bias: \(47,\) in the file, \(48,\)"),
    ],
)
def test_every_weight_must_find_its_place(make_vit_card, vit_file, edit, message):
    state = load_file(vit_file)
    edit(state)
    save_file(state, vit_file)
    with pytest.raises(WeightsError, match=message):
        load_encoder(make_vit_card(vit_file))


def test_classifier_is_left_out_only_where_the_card_says_so(make_vit_card, vit_file):
    with pytest.raises(WeightsError, match=r"2 unexpected \(head\.bias, head\.weight\)"):
        load_encoder(with_weights(make_vit_card, vit_file, ignore=()))


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize(
    ("writer", "message"),
    [
        (torch.save, "could run code"),
        (lambda value, path: path.write_bytes(pickle.dumps(value)), "could run code|not a whole torch checkpoint"),
    ],
)
def test_code_in_a_checkpoint_is_refused_and_not_run(make_vit_card, tmp_path, writer, message):
    target, path = tmp_path / "owned", tmp_path / "vit.pth"
    writer({"norm.weight": Malicious(target)}, path)
    with pytest.raises(WeightsError, match=message):
        load_encoder(make_vit_card(path))
    assert not target.exists()


@pytest.mark.parametrize("keep", [0, 5, 200, -100])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_files_are_named(make_vit_card, vit_file, tmp_path, suffix, keep):
    path = tmp_path / f"cut{suffix}"
    if suffix == ".pth":
        torch.save(load_file(vit_file), path)
    else:
        path.write_bytes(vit_file.read_bytes())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match="cut") as caught:
        load_encoder(make_vit_card(path))
    assert caught.value.remedy


def test_missing_file_names_encoder_and_path(make_vit_card, tmp_path):
    with pytest.raises(WeightsError, match=r"small_vit does not exist: .*nowhere"):
        load_encoder(make_vit_card(tmp_path / "nowhere.safetensors"))


def test_a_repository_that_only_its_own_loader_knows_is_left_to_it(make_vit_card):
    odd = Weights(repository="https://example.org/files", revision="abc", file="model.safetensors")
    card = make_vit_card("unused").model_copy(update={"weights": odd})
    assert pin(card) is card
    with pytest.raises(UnavailableWeightsError, match="not on this machine") as caught:
        locate(card)
    assert "weights_path" in caught.value.remedy


def test_only_the_tensors_asked_for_are_read(vit_file):
    everything = read_state(vit_file)
    blocks = read_state(vit_file, prefix="blocks.", ignore=("1.*",))
    assert set(blocks) == {key[len("blocks.") :] for key in everything if key.startswith("blocks.0.")}
    assert all(torch.equal(value, everything[f"blocks.{key}"]) for key, value in blocks.items())


def test_a_safetensors_file_holds_the_table_that_lay_under_the_entry(vit_file):
    # What the remedy of an unsafe checkpoint asks for: its weights saved alone.
    assert read_state(vit_file, entry="model").keys() == read_state(vit_file).keys()


@pytest.mark.parametrize(
    "beside",
    [
        {"args": argparse.Namespace(lr=1e-3, data_path="/data", betas=[0.9, 0.95])},
        {"best": np.float64(0.25), "step": np.int64(7), "loss": np.float32(0.5)},
        {"epoch": 50, "optimizer": {"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1}]}},
    ],
)
def test_data_that_training_scripts_put_beside_weights_is_passed_over(tmp_path, beside):
    torch.save({"model": {"w": torch.ones(2)}, **beside}, tmp_path / "run.pth")
    assert torch.equal(read_state(tmp_path / "run.pth", entry="model")["w"], torch.ones(2))


def test_what_runs_code_is_refused_within_the_options_of_a_run_too(tmp_path):
    class Runs:
        def __reduce__(self):
            return print, ("x",)

    torch.save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace(lr=Runs())}, tmp_path / "run.pth")
    with pytest.raises(UnsafeWeightsError):
        read_state(tmp_path / "run.pth", entry="model")


def as_torch_file(vit_file, path, **options):
    torch.save(load_file(vit_file), path, **options)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_are_in_memory_once_and_mapped_from_the_file(make_vit_card, vit_file, tmp_path, suffix):
    path = vit_file if suffix == ".safetensors" else as_torch_file(vit_file, tmp_path / "vit.pth")
    read = {}

    def remember(state):
        read.update(state)
        return state

    card = make_vit_card(path)
    network = unfilled(lambda: build_architecture(card))
    assert all(parameter.is_meta for parameter in network.parameters())
    load_weights(network, card, convert=remember)
    assert read
    for name, parameter in network.named_parameters():
        assert parameter.data_ptr() == read[name].data_ptr(), name
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(path) in mapped.read_text()


def test_a_checkpoint_in_the_old_format_of_torch_loads_too(make_vit_card, vit_file, tmp_path, images):
    old = as_torch_file(vit_file, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    expected = load_encoder(make_vit_card(vit_file)).encode(images)
    assert np.array_equal(load_encoder(make_vit_card(old)).encode(images), expected)


def test_weights_in_half_precision_become_single(make_vit_card, vit_file, images):
    save_file({key: value.half() for key, value in load_file(vit_file).items()}, vit_file)
    encoder = load_encoder(make_vit_card(vit_file))
    network = unfilled(lambda: build_architecture(encoder.card))
    load_weights(network, make_vit_card(vit_file))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert np.isfinite(encoder.encode(images)).all()


def test_a_network_with_memory_of_its_own_keeps_it(make_vit_card, vit_file):
    network = build_architecture(make_vit_card(vit_file))
    before = {name: parameter.data_ptr() for name, parameter in network.named_parameters()}
    load_weights(network, make_vit_card(vit_file))
    assert {name: parameter.data_ptr() for name, parameter in network.named_parameters()} == before
    assert torch.equal(network.norm.weight, load_file(vit_file)["norm.weight"])


def test_networks_of_other_threads_are_left_alone():
    built = []

    def build():
        thread = threading.Thread(target=lambda: built.append(torch.nn.Linear(2, 2)))
        thread.start()
        thread.join()
        return torch.nn.Linear(2, 2)

    assert unfilled(build).weight.is_meta
    assert not built[0].weight.is_meta
    assert not torch.nn.Linear(2, 2).weight.is_meta


def test_a_network_whose_buffers_lie_with_its_parameters_is_built_with_memory():
    class Masked(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(3))
            self.register_buffer("mask", torch.ones(3, device=self.weight.device), persistent=False)

    network = unfilled(Masked)
    assert not network.weight.is_meta
    assert not network.mask.is_meta
