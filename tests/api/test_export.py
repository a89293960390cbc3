"""A model as an ONNX file: what lies beside it, and that it runs without torch and without BioFuse."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import biofuse
from biofuse import BioFuse, ExtractOptions
from biofuse.api import export as exporting
from biofuse.api.export import GraphInput
from biofuse.core.errors import ArtifactError, EncoderError
from biofuse.encoders import graph as graphs
from biofuse.encoders.preprocessing import Preprocessing

ALONE = ExtractOptions(workers=0, allow_random_weights=True)
NETWORKS = ("timm:test_efficientnet.r160_in1k", "timm:test_resnet.r160_in1k", "timm:test_vit.r160_in1k")
"""Three ways of preparing images: no two have both the same deviations and the same interpolation."""

WITHOUT = """
import sys
class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "biofuse", "timm", "scipy", "sklearn"}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuses())
"""


@pytest.fixture(scope="module")
def networks(study, tmp_path_factory):
    """Return a run of three small networks, and its export."""
    root = tmp_path_factory.mktemp("networks")
    fuse = BioFuse(NETWORKS, search="all", folds=2, repeats=1, store=study.store, options=ALONE)
    fuse.fit(study.images, out=root / "run", progress=False)
    return root, biofuse.export_onnx(root / "run", root / "onnx")


def run_example(folder, given):
    text = (folder / "README.md").read_text()
    program = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert len(program.splitlines()) <= 20
    command = [sys.executable, "-c", WITHOUT + program, given]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return [list(json.loads(line).values()) for line in ran.stdout.splitlines()]


@pytest.mark.slow
def test_the_program_beside_the_graph_gives_the_models_probabilities_without_torch(networks, tmp_path):
    root, done = networks
    assert len(done.inputs) == 3
    assert done.checked.rows > 3  # development images, too
    generator = np.random.default_rng(3)
    for size in ((200, 311), (40, 23)):
        Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / "new.png")
        wanted = biofuse.BioFuseModel.load(root / "run").predict_proba([tmp_path / "new.png"], progress=False)
        np.testing.assert_allclose(run_example(root / "onnx", tmp_path / "new.png"), wanted, atol=1e-4)


@pytest.mark.slow
def test_weights_beyond_two_gigabytes_lie_in_a_file_of_their_own(networks, tmp_path, monkeypatch):
    root, done = networks
    monkeypatch.setattr(graphs, "PROTOBUF", 1000)
    apart = biofuse.export_onnx(root / "run", tmp_path / "apart")
    assert apart.files == ("model.onnx", "model.onnx.data")
    assert done.files == ("model.onnx",)
    assert (tmp_path / "apart" / "model.onnx").stat().st_size < (root / "onnx" / "model.onnx").stat().st_size


@pytest.fixture(scope="module")
def embedded(fitted, study, tmp_path_factory):
    """Return the folder of a graph from embeddings."""
    folder = tmp_path_factory.mktemp("embedded") / "onnx"
    return folder, biofuse.export_onnx(fitted.path, folder, embeddings=True, store=study.store)


@pytest.mark.slow
def test_a_graph_from_embeddings_takes_a_block_per_encoder_and_any_number_of_rows(embedded, fitted, tmp_path):
    folder, done = embedded
    blocks = fitted.embeddings.blocks.only(fitted.model.encoders)
    wanted = fitted.model.probabilities(blocks)
    np.savez(tmp_path / "blocks.npz", **blocks)
    np.testing.assert_allclose(run_example(folder, tmp_path / "blocks.npz"), wanted, atol=1e-4)
    assert [each.name for each in done.inputs] == list(fitted.model.encoders)
    assert json.loads((folder / "preprocessing.json").read_text())["classes"] == list(fitted.model.classes)
    assert done.checked.rows == fitted.embeddings.blocks.n_samples
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    none = {name: np.zeros((0, matrix.shape[1]), np.float32) for name, matrix in blocks.items()}
    assert session.run(None, none)[0].shape == (0, len(done.classes))


@pytest.mark.slow
def test_a_graph_that_differs_is_an_error_and_leaves_nothing(fitted, embedded, study, tmp_path, monkeypatch):
    folder, _ = embedded
    shutil.copytree(folder, tmp_path / "kept")
    before = (tmp_path / "kept" / "model.onnx").read_bytes()
    monkeypatch.setattr(exporting, "TOLERANCE", 0.0)
    for name in ("kept", "new"):
        with pytest.raises(ArtifactError, match="differ from the model's"):
            biofuse.export_onnx(fitted.path, tmp_path / name, embeddings=True, store=study.store)
    assert (tmp_path / "kept" / "model.onnx").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


WAYS = (
    Preprocessing(size=37, crop=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
    Preprocessing(size=37, crop=32, odd_crop="floor", value_range="0-255", interpolation="bilinear"),
    Preprocessing(resize="squash", size=40, crop=33, value_range="min-max"),
    Preprocessing(resize="squash", size=32, interpolation="lanczos", value_range="standard"),
    Preprocessing(resize="squash", size=32, value_range="percentile"),
    Preprocessing(resize="longest", size=32, interpolation="box"),
    Preprocessing(resize="inner", size=32),
)


@pytest.mark.parametrize("size", [(50, 81), (91, 40), (32, 32)], ids=str)
@pytest.mark.parametrize("ways", [*((way,) for way in WAYS), WAYS], ids=len)
def test_the_program_prepares_images_as_their_encoders_do(ways, size, tmp_path, monkeypatch, capsys):
    inputs = [
        GraphInput(name=f"pixels_{n}", encoders=("a",), shape=("n", 3, 32, 32), preprocessing=way)
        for n, way in enumerate(ways)
    ]
    fed = {}

    def session(_):
        return SimpleNamespace(run=lambda _, feeds: [fed.update(feeds) or np.zeros((1, 1))])

    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "new.png")
    about = {"classes": ["a"], "inputs": [each.model_dump(mode="json") for each in inputs]}
    (tmp_path / "preprocessing.json").write_text(json.dumps(about))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(sys, "argv", ["example.py", "new.png"])
    exec(exporting.example_program(inputs), {})  # noqa: S102
    for each, way in zip(inputs, ways, strict=True):
        wanted = way.normalise(torch.from_numpy(way.apply(pixels)[None].copy())).numpy()
        assert fed[each.name].dtype == np.float32
        np.testing.assert_allclose(fed[each.name], wanted, rtol=1e-4, atol=1e-4)


def test_an_encoder_that_is_no_network_is_named_with_what_to_do(fitted, tmp_path):
    with pytest.raises(EncoderError, match=r"encoder t_\w+ has no graph") as refused:
        biofuse.export_onnx(fitted.path, tmp_path / "onnx")
    assert "`embeddings=True`" in refused.value.remedy
    assert not any(tmp_path.iterdir())


def test_another_folder_is_not_overwritten(fitted, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="is no export"):
        biofuse.export_onnx(fitted.path, tmp_path, embeddings=True)
