"""Golden vectors: the starter pool gives what it gave, and anything else is noticed."""

import dataclasses

import numpy as np
import pytest

from biofuse.core.errors import ArtifactError, DependencyError
from biofuse.encoders import get_card, load_encoder, resolve
from biofuse.encoders.reference import IMAGES, compare, fixed_images, make_golden, proof_of, read_golden, write_golden


@pytest.fixture(scope="module")
def hog():
    return make_golden(load_encoder("hog"), device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", [card.name for card in resolve("starter")])
def test_the_starter_pool_gives_its_golden_vectors(name):
    golden = read_golden(name)
    result = compare(make_golden(load_encoder(name), device="cpu"), golden)
    assert result.agrees, result.problem
    assert golden.embeddings.shape == (6, get_card(name).dim)
    assert {"pillow", "numpy", "device"} <= golden.made_with.keys()


def test_images_are_real_and_of_several_kinds():
    images = fixed_images()
    assert list(images) == list(IMAGES)
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in images.values())
    grey = [bool((image == image[..., :1]).all()) for image in images.values()]
    assert 0 < sum(grey) < len(images)
    assert min(min(image.shape[:2]) for image in images.values()) < 128
    assert len({image.shape[0] / image.shape[1] > 1 for image in images.values()}) == 2


def test_another_image_than_the_one_meant_is_refused(monkeypatch):
    monkeypatch.setitem(IMAGES, "cell.png", "0" * 32)
    with pytest.raises(DependencyError, match=r"cell\.png"):
        fixed_images()


@pytest.mark.parametrize(
    ("change", "agrees"),
    [
        (lambda x: x * 1.005, True),
        (lambda x: x * 1.02, False),
        (lambda x: -x, False),
        (lambda x: x[::-1].copy(), False),
        (lambda x: np.where(np.arange(len(x))[:, None] == 3, x + 0.05 * np.abs(x).max(), x), False),
        (lambda x: x * np.nan, False),
    ],
)
def test_what_differs_is_noticed(hog, change, agrees):
    other = dataclasses.replace(hog, embeddings=change(hog.embeddings).astype(np.float32))
    result = compare(other, hog)
    assert result.agrees is agrees
    assert (result.problem == "") is agrees


def test_vectors_of_another_card_or_of_other_images_are_not_compared(hog):
    for other, why in (
        (dataclasses.replace(hog, fingerprint="hog-0"), "another card: hog-0"),
        (dataclasses.replace(hog, images={**IMAGES, "cell.png": "0"}), "other images"),
    ):
        result = compare(hog, other)
        assert not result.agrees
        assert result.cosine is None
        assert why in result.problem


def test_written_vectors_are_read_back(hog, tmp_path):
    write_golden("hog", hog, tmp_path / "new")
    again = read_golden("hog", folder=tmp_path / "new")
    np.testing.assert_array_equal(again.embeddings, hog.embeddings)
    assert (again.fingerprint, dict(again.images), dict(again.made_with)) == (
        hog.fingerprint,
        dict(hog.images),
        dict(hog.made_with),
    )
    assert read_golden("hog", folder=tmp_path) is None
    assert read_golden("no_such_encoder") is None


def test_a_proof_says_who_when_and_with_which_weights_and_holds_for_that_card_only():
    card = get_card("efficientnet_lite0")
    proof = proof_of(card)
    assert (proof.by, proof.date, proof.holds) == ("BioFuse", "2026-11-24", True)
    assert proof.sha256 == card.weights.sha256
    assert not proof_of(card.model_copy(update={"version": 2})).holds
    assert proof_of(get_card("uni")) is None


@pytest.mark.slow
def test_a_contributed_proof_is_one_file_with_the_name_of_who_made_it(tmp_path):
    made = make_golden(load_encoder("efficientnet_lite0"), device="cpu", by="A. Person")
    path = write_golden("h0_mini:cls", made, tmp_path)
    assert path.name == "h0_mini-cls.safetensors"
    again = read_golden("h0_mini:cls", folder=tmp_path)
    assert (again.by, again.date) == ("A. Person", made.date)
    assert again.weights["sha256"] == get_card("efficientnet_lite0").weights.sha256
    assert {"biofuse", "torch", "timm"} <= set(again.made_with)


def test_a_damaged_file_is_named(hog, tmp_path):
    path = write_golden("hog", hog, tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match=r"hog\.safetensors"):
        read_golden("hog", folder=tmp_path)
