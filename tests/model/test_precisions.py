"""What a model's encoders computed in when it was fitted is what they compute in for new images."""

import json
import warnings

import numpy as np
import pytest

from biofuse import BioFuse, ExtractOptions
from biofuse.core.errors import ArtifactError, BioFuseWarning
from biofuse.encoders import EncoderCard, Preprocessing, TorchEncoder
from biofuse.encoders.registry import ENCODERS
from biofuse.extract import plan as precision
from biofuse.model.model import BioFuseModel
from biofuse.store.store import EmbeddingStore

ALONE = ExtractOptions(workers=0, device="cpu")
SIDE = 8


def build(card, *, device, precision, weights_path):
    import torch

    del weights_path
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIDE * SIDE, card.dim))
    return TorchEncoder(card, network, device=device, precision=precision)


@pytest.fixture
def encoder():
    with ENCODERS.temporary():
        card = EncoderCard(
            name="m_network", title="m", loader="test_network", dim=6, output="pooled", licence="MIT", modality="none",
            preprocessing=Preprocessing(resize="squash", size=SIDE), source="a test", advised_precision="bf16",
        )  # fmt: skip
        ENCODERS.register(card, build)
        yield card.name


@pytest.fixture
def has(monkeypatch):
    """Return a function that says which precisions the device has."""

    def set_to(*names):
        monkeypatch.setattr(precision, "native", lambda name, _: name in {"fp32", *names})

    return set_to


@pytest.fixture
def fitted(encoder, has, pictures, tmp_path):
    has("bf16")
    fuse = BioFuse([encoder], search="all", head="ridge", folds=2, repeats=1, store=tmp_path / "s", options=ALONE)
    return fuse.fit(pictures[0].parents[1], test=None, out=tmp_path / "run", progress=False).result_


def test_model_and_run_say_what_the_encoders_computed_in(fitted, tmp_path):
    assert fitted.embeddings.precisions == {"m_network": "bf16"}
    assert fitted.model.precisions == {"m_network": "bf16"}
    assert BioFuseModel.load(tmp_path / "run").precisions == {"m_network": "bf16"}
    (encoder,) = json.loads((tmp_path / "run" / "run.json").read_text())["encoders"]
    (folder,) = EmbeddingStore(tmp_path / "s").folders()
    assert (encoder["precision"], encoder["fingerprint"]) == ("bf16", folder.path.name)


def test_new_images_are_embedded_at_the_same(fitted, pictures, tmp_path):
    loaded = BioFuseModel.load(tmp_path / "run")
    with warnings.catch_warnings():
        warnings.simplefilter("error", BioFuseWarning)
        done = loaded.embed_blocks(pictures[:3], store=tmp_path / "new", options=ALONE, progress=False)
    assert (done.computed, done.precisions) == (3, {"m_network": "bf16"})
    again = loaded.embed_blocks(pictures[:3], store=tmp_path / "s", options=ALONE, progress=False)
    assert again.computed == 0  # even the user's wish for another precision does not change that
    asked = ExtractOptions(workers=0, device="cpu", precision="fp32")
    again = loaded.embed_blocks(pictures[:3], store=tmp_path / "s", options=asked, progress=False)
    assert (again.computed, again.precisions) == (0, {"m_network": "bf16"})


def test_a_device_without_that_precision_takes_fp32_and_warns(fitted, has, pictures, tmp_path):
    has()
    loaded = BioFuseModel.load(tmp_path / "run")
    with pytest.warns(BioFuseWarning, match="m_network is run at fp32: this device has no bf16"):
        matrix = loaded.embed(pictures[:3], store=tmp_path / "new", options=ALONE, progress=False)
    expected = fitted.model.embed(pictures[:3], store=tmp_path / "s", options=ALONE, progress=False)
    assert not np.array_equal(matrix, expected)
    np.testing.assert_allclose(matrix, expected, atol=0.05)


def test_evaluation_finds_the_embeddings_at_that_precision(fitted, pictures, tmp_path):
    before = sorted((tmp_path / "s").rglob("*.arrow"))
    evaluation = fitted.evaluate(pictures[0].parents[1], progress=False)
    assert evaluation.n == 36
    assert sorted((tmp_path / "s").rglob("*.arrow")) == before
    from biofuse.api.report import write_report

    page = write_report(tmp_path / "run", store=EmbeddingStore(tmp_path / "s")).read_text()
    assert "The embeddings are not in this store" not in page


def test_models_of_before_are_fp32_and_unknown_precisions_are_refused(fitted, tmp_path):
    from biofuse.core.seals import seal, unseal

    folder = tmp_path / "run" / "model"
    content = unseal(folder, name="model.json").content
    del content["precisions"]
    seal(folder, name="model.json", content=content)
    assert BioFuseModel.load(folder).precisions == {}
    seal(folder, name="model.json", content=content | {"precisions": {"m_network": "fp4"}})
    with pytest.raises(ArtifactError, match="precision"):
        BioFuseModel.load(folder)
