"""ONNX files of the user's own give what the network they were exported from gives."""

import builtins

import numpy as np
import pytest
import torch

from biofuse.core.errors import DependencyError, EncoderError, WeightsError
from biofuse.encoders import Preprocessing, register_onnx
from biofuse.testing import assert_encoder_contract

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

PREPROCESSING = Preprocessing(size=36, crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(6, 3, 3, 3)).astype(np.float32)
LINEAR = RNG.normal(size=(6, 5)).astype(np.float32)


def graph(path, *, batch="n", side=32, extra=False, channels=3, pooled=True):
    """Write a convolution, an activation, the mean over positions and a projection."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["images", "kernel"], ["convolved"], strides=[2, 2]),
        helper.make_node("Relu", ["convolved"], ["map"]),
        helper.make_node("GlobalAveragePool", ["map"], ["square"]),
        helper.make_node("Flatten", ["square"], ["flat"]),
        helper.make_node("MatMul", ["flat", "linear"], ["embedding"]),
    ]
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 5])]
    if not pooled:
        outputs = [helper.make_tensor_value_info("map", TensorProto.FLOAT, [batch, 6, None, None])]
    if extra:
        outputs.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, [batch, 6]))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, channels, side, side])
    kernel = KERNEL if channels == 3 else KERNEL[:, :1]
    weights = [numpy_helper.from_array(kernel, "kernel"), numpy_helper.from_array(LINEAR, "linear")]
    model = helper.make_model(
        helper.make_graph(nodes, "small", [images], outputs, weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def expected(images, *, flat=False):
    pixels = PREPROCESSING.normalise(torch.from_numpy(images))
    pooled = torch.nn.functional.conv2d(pixels, torch.from_numpy(KERNEL), stride=2).relu().mean((2, 3))
    return (pooled if flat else pooled @ torch.from_numpy(LINEAR)).numpy()


@pytest.fixture
def images():
    return np.random.default_rng(3).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def register(path, registry, **options):
    return register_onnx("mine", path, **{"dim": 5, "preprocessing": PREPROCESSING, "registry": registry, **options})


def test_equals_torch_and_keeps_the_contract(tmp_path, registry, images):
    card = register(graph(tmp_path / "mine.onnx"), registry, licence="MIT", modality="pathology")
    encoder = registry.load_encoder("mine")
    np.testing.assert_allclose(encoder.encode(images), expected(images), atol=1e-5, rtol=1e-5)
    assert_encoder_contract(encoder)
    assert encoder.card == card
    assert card.weights.sha256 is not None


@pytest.mark.parametrize("batch", [1, 2, 5, 8])
def test_a_graph_for_a_fixed_number_of_images_takes_any_number(tmp_path, registry, images, batch):
    register(graph(tmp_path / "mine.onnx", batch=batch), registry)
    encoder = registry.load_encoder("mine")
    np.testing.assert_allclose(encoder.encode(images), expected(images), atol=1e-5, rtol=1e-5)
    assert encoder.encode(images[:0]).shape == (0, 5)


def test_one_of_several_outputs_is_named(tmp_path, registry, images):
    path = graph(tmp_path / "mine.onnx", extra=True)
    register(path, registry, dim=6, output_name="flat")
    encoder = registry.load_encoder("mine")
    np.testing.assert_allclose(encoder.encode(images), expected(images, flat=True), atol=1e-5, rtol=1e-5)
    register(path, registry, replace=True)
    with pytest.raises(EncoderError, match="outputs embedding, flat; its card does not say which") as caught:
        registry.load_encoder("mine")
    assert "output_name" in caught.value.remedy
    register(path, registry, output_name="wheels", replace=True)
    with pytest.raises(EncoderError, match="none called 'wheels'"):
        registry.load_encoder("mine")


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ({"side": 64}, {}, r"must take one input of float32 images \(n, 3, 32, 32\); .*64"),
        ({"channels": 1}, {}, "must take one input"),
        ({}, {"dim": 9}, r"shape \(3, 5\) for 3 images; its card says \(3, 9\)"),
        ({"pooled": False}, {}, "no row per image"),
    ],
)
def test_graphs_that_contradict_the_card_are_refused(tmp_path, registry, shape, options, message):
    register(graph(tmp_path / "mine.onnx", **shape), registry, **options)
    with pytest.raises(EncoderError, match=message):
        registry.load_encoder("mine")


def test_a_file_that_changed_since_is_refused(tmp_path, registry):
    path = graph(tmp_path / "mine.onnx")
    register(path, registry)
    graph(path, extra=True)
    with pytest.raises(WeightsError, match="SHA-256"):
        registry.load_encoder("mine")


def test_a_file_that_is_no_graph_is_refused(tmp_path, registry):
    path = tmp_path / "mine.onnx"
    path.write_bytes(b"not a graph")
    register(path, registry)
    with pytest.raises(WeightsError, match="is not an ONNX file"):
        registry.load_encoder("mine")


def test_weights_outside_the_file_are_refused(tmp_path, registry):
    # They would escape the hash.
    path = graph(tmp_path / "whole.onnx")
    onnx.save_model(
        onnx.load(path), tmp_path / "mine.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    assert (tmp_path / "weights.bin").is_file()
    register(tmp_path / "mine.onnx", registry)
    with pytest.raises(WeightsError, match=r"is not an ONNX file that ONNX Runtime .* can load") as caught:
        registry.load_encoder("mine")
    assert "all weights in one file" in caught.value.remedy


def test_device_and_precision_that_cannot_be_had_are_refused(tmp_path, registry):
    register(graph(tmp_path / "mine.onnx"), registry)
    with pytest.raises(EncoderError, match="cannot run mine on 'mps'"):
        registry.load_encoder("mine", device="mps")
    with pytest.raises(EncoderError, match="fp16 cannot be had"):
        registry.load_encoder("mine", precision="fp16")


def test_without_onnx_runtime_the_extra_is_named(tmp_path, registry, monkeypatch):
    register(graph(tmp_path / "mine.onnx"), registry)
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DependencyError, match="ONNX Runtime is not installed") as caught:
        registry.load_encoder("mine")
    assert "[onnx]" in caught.value.remedy
