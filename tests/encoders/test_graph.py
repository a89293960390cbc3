"""Networks as graphs: the same embeddings, where it is worth it."""

import numpy as np
import pytest
import torch
from torch import nn

from biofuse import register_torch
from biofuse.encoders import Preprocessing
from biofuse.encoders import graph as graphs
from biofuse.encoders.encoder import probe_images
from biofuse.encoders.graph import in_onnx_runtime
from biofuse.encoders.registry import load_encoder

pytest.importorskip("onnxruntime")

TINY = Preprocessing(size=32, crop=32)
ALWAYS = {"images": 1, "batch_size": 4, "threads": 1, "worth": 0.0}


def loaded(name, network):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return load_encoder(register_torch(name, network(), TINY, replace=True))


def depthwise():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU6(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU6(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(),
    )  # fmt: skip


@pytest.fixture
def any_gain(monkeypatch):
    monkeypatch.setattr(graphs, "GAIN", 0.0)


@pytest.mark.slow
def test_embeddings_are_those_of_torch_for_any_number_of_images(any_gain):
    encoder = loaded("test_graph_depthwise", depthwise)
    found = in_onnx_runtime(encoder, **ALWAYS)
    assert found.gain > 0
    assert found.difference < 1e-6
    images = np.concatenate([probe_images(32), probe_images(32)[:, ::-1]])
    for some in (images, images[:1], images[:0]):
        wanted = encoder.encode(some)
        np.testing.assert_allclose(
            found.encoder.encode(some), wanted, rtol=0, atol=1e-6 * max(1, np.abs(wanted).max(initial=0))
        )
    assert found.encoder.card == encoder.card


@pytest.mark.slow
def test_one_that_is_no_quicker_stays_in_torch(monkeypatch):
    monkeypatch.setattr(graphs, "GAIN", float("inf"))
    assert in_onnx_runtime(loaded("test_graph_depthwise", depthwise), **ALWAYS) is None


@pytest.mark.parametrize(("factor", "taken"), [(1.0, True), (1.01, False), (float("nan"), False)])
def test_one_that_gives_something_else_stays_in_torch(factor, taken, any_gain, monkeypatch):
    monkeypatch.setattr(graphs, "_session", lambda encoder, *_, **__: lambda images: factor * encoder.embed(images))
    found = in_onnx_runtime(loaded("test_graph_depthwise", depthwise), **ALWAYS)
    assert (found is not None) == taken


@pytest.mark.parametrize("why", ["no depthwise convolution", "few images", "no library", "cannot be written"])
def test_what_is_not_converted(why, any_gain, monkeypatch):
    tried = []

    def write(*_, **__):
        tried.append(why)
        raise ValueError("not this one")

    def plain():
        return nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())

    monkeypatch.setattr(graphs, "write_graph", write)
    if why == "no library":
        monkeypatch.setattr(graphs, "NEEDED", ("onnx", "surely_not_installed"))
    options = ALWAYS | ({"worth": 60.0} if why == "few images" else {})
    network = plain if why == "no depthwise convolution" else depthwise
    assert in_onnx_runtime(loaded("test_graph_other", network), **options) is None
    assert tried == (["cannot be written"] if why == "cannot be written" else [])


def test_threads_are_left_as_they_were(any_gain, monkeypatch):
    monkeypatch.setattr(graphs, "write_graph", lambda *_, **__: 1 / 0)
    before = torch.get_num_threads()
    in_onnx_runtime(loaded("test_graph_depthwise", depthwise), **(ALWAYS | {"threads": before + 1}))
    assert torch.get_num_threads() == before
