"""Encoders of other packages and of functions: the weights that a fit belongs to, and the way to a worker."""

from dataclasses import replace

import numpy as np
import pytest

from biofuse import BioFuseModel, ExtractOptions, embed
from biofuse.core.errors import BioFuseError, EncoderError, WeightsError
from biofuse.core.hashing import digest_file
from biofuse.data.load import load_samples
from biofuse.encoders import EncoderCard, Preprocessing, Weights, pin, register
from biofuse.encoders.registry import ENCODERS, get_card


class TableEncoder:
    """Multiplies mean colours by the numbers in its weight file."""

    def __init__(self, table_card):
        self.card = table_card
        self.table = np.array([float(number) for number in open(table_card.weights.file).read().split()])  # noqa: PTH123, SIM115

    def encode(self, images):
        return (images.mean(axis=(1, 2)) * self.table).astype(np.float32)


def build_table(table_card, *, device, precision, weights_path):
    return TableEncoder(table_card)


@pytest.fixture
def table_card(tmp_path):
    """Register an encoder of another package, whose table_card leaves the hash of its weights open."""
    path = tmp_path / "weights.txt"
    path.write_text("1 2 3")
    made = EncoderCard(
        name="t_table",
        title="Table",
        loader="some-package",
        weights=Weights(repository="local", revision="1", file=str(path)),
        preprocessing=Preprocessing(resize="squash", size=8),
        output="descriptor",
        dim=3,
        runtime="numpy",
        licence="MIT",
        modality="none",
        source="a test",
    )
    with ENCODERS.temporary():
        register(made, build_table)
        yield made


def test_pinning_fills_in_the_hash_of_the_file_and_only_that(table_card, tmp_path):
    pinned = pin(table_card)
    assert pinned.weights.sha256 == digest_file(tmp_path / "weights.txt", algorithm="sha256")
    assert pin(pinned) is pinned
    assert pinned.weights.model_copy(update={"sha256": None}) == table_card.weights
    assert pin(get_card("lbp")) is get_card("lbp")
    odd = Weights(repository="known only to its own loader", revision="abc", file="x.bin")
    assert pin(table_card.model_copy(update={"weights": odd})).weights is odd
    far = Weights(repository="somebody/model", revision="abc", file="x.bin")
    with pytest.raises(WeightsError, match="somebody/model"):
        pin(table_card.model_copy(update={"weights": far}))
    (tmp_path / "weights.txt").unlink()
    with pytest.raises(WeightsError, match=r"weights\.txt"):
        pin(table_card)


def test_a_model_keeps_the_weights_it_was_fitted_with(table_card, quick, study, tmp_path):
    test = study.images / "test"
    model = quick(["t_table"], store=tmp_path / "store").fit(study.images, progress=False).result_.model
    assert model.cards == (pin(table_card),)
    loaded = BioFuseModel.load(model.save(tmp_path / "model"))
    before = loaded.predict_proba(test, store=tmp_path / "store", keep=True, options=ExtractOptions(workers=0))
    (tmp_path / "weights.txt").write_text("3 2 1")
    # What was embedded with the old weights is still found; what was not, cannot be made any more.
    np.testing.assert_array_equal(loaded.predict_proba(test, store=tmp_path / "store"), before)
    with pytest.raises(EncoderError, match="not the one asked for"):
        loaded.predict_proba(test, store=tmp_path / "other", options=ExtractOptions(workers=0))
    other = embed(test, ["t_table"], store=tmp_path / "store", workers=0, progress=False)
    assert other.work[0].computed == 21


def test_a_model_put_together_by_hand_is_pinned_when_it_embeds(table_card, quick, study, tmp_path):
    model = quick(["t_table"], store=tmp_path / "store").fit(study.images, progress=False).result_.model
    loose = replace(model, cards=(table_card,))
    options = ExtractOptions(workers=0)
    first = loose.embed(study.images / "test", store=tmp_path / "store", options=options)
    (tmp_path / "weights.txt").write_text("3 2 1")
    second = loose.embed(study.images / "test", store=tmp_path / "store", options=options)
    np.testing.assert_allclose(second, first * [3, 1, 1 / 3], rtol=1e-5)


def test_a_run_with_other_weights_is_another_run(table_card, quick, study, tmp_path):
    fuse = quick(["t_table"], store=tmp_path / "store")
    fuse.fit(study.images, out=tmp_path / "run", progress=False)
    assert fuse.fit(study.images, out=tmp_path / "run", progress=False).result_.reused
    (tmp_path / "weights.txt").write_text("3 2 1")
    with pytest.raises(BioFuseError, match="other data or with other options"):
        fuse.fit(study.images, out=tmp_path / "run", progress=False)


def test_style_bug_11_a_function_that_fails_is_an_error_that_names_it_and_says_why(study):
    from biofuse import register_encoder

    @register_encoder("t_broken", dim=3, size=8)
    def t_broken(images):
        return {"no": "embedding"}["mean"]

    for workers in (0, 1):
        with pytest.raises(EncoderError, match=r"t_broken failed on 3 images: KeyError: 'mean'"):
            embed(study.images, ["t_broken"], workers=workers, progress=False)


def test_functions_of_a_module_that_workers_cannot_import_travel_by_value(study, tmp_path):
    """This file is imported by path, so that no other process knows its name; neither does one know a notebook's."""
    names = ["t_colour", "t_edge"]
    alone = embed(study.images, names, store=tmp_path / "one", workers=0, progress=False)
    ahead = embed(study.images, names, store=tmp_path / "two", workers=2, batch_size=7, progress=False)
    np.testing.assert_array_equal(alone.matrix, ahead.matrix)
    assert ahead.work[0].computed == 72


class Unsendable:
    """An image source that cannot leave its process."""

    description = "an open connection"

    def read(self):
        return np.zeros((9, 9), np.uint8) + 7

    def __reduce__(self):
        raise TypeError("an open connection cannot be pickled")


def test_what_cannot_be_sent_to_a_worker_is_one_clear_error():
    samples = load_samples(np.zeros((2, 9, 9), np.uint8))
    samples = type(samples)(ids=samples.ids, sources=(Unsendable(), Unsendable()))
    with pytest.raises(BioFuseError, match="cannot be sent to a worker process") as caught:
        embed(samples, ["t_colour"], workers=1, progress=False)
    assert "`workers=0`" in caught.value.remedy
    assert embed(samples, ["t_colour"], workers=0, progress=False).matrix.shape == (2, 3)
