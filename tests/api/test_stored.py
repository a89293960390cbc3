import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from biofuse import ExtractOptions, embed
from biofuse.core.errors import AlignmentError, DependencyError, EncoderError, StoreError, UnreadableImageError
from biofuse.data.load import load_samples
from biofuse.encoders.registry import get_card
from biofuse.extract import embeddings as stored
from biofuse.extract.embeddings import read_stored, recompute
from biofuse.store.exchange import save_embeddings
from biofuse.store.store import EmbeddingStore

NAMES = ["t_colour", "t_edge"]
ALONE = ExtractOptions(workers=0)


@pytest.fixture
def files(tmp_path, draw):
    return draw(tmp_path / "images", each=3)


@pytest.fixture
def filled(files, tmp_path):
    """A store with the embeddings of nine images, and their samples."""
    store = EmbeddingStore(tmp_path / "store")
    embed(files[0].parents[1], NAMES, workers=0, progress=False, store=store)
    return store, load_samples(files[0].parents[1])


def test_what_is_stored_is_what_embed_gives(filled):
    store, samples = filled
    expected = embed(samples, NAMES, workers=0, progress=False, store=store)
    found = read_stored(samples, ["t_edge", "t_colour"], store=EmbeddingStore(store.root))
    assert list(found) == ["t_edge", "t_colour"]
    assert found.ids.tolist() == expected.ids.tolist()
    for name in NAMES:
        np.testing.assert_array_equal(found[name], expected[name])
    assert sorted(read_stored(samples, store=store)) == NAMES


def test_nothing_is_computed_for_an_image_that_is_missing(filled, draw, tmp_path):
    store, _ = filled
    draw(tmp_path / "images", each=4)
    samples = load_samples(tmp_path / "images")
    before = sorted(store.root.rglob("*"))
    with pytest.raises(AlignmentError, match=r"\d of 12 samples have no t_edge") as caught:
        read_stored(samples, ["t_edge"], store=store)
    assert "biofuse embed" in caught.value.remedy
    with pytest.raises(StoreError, match=r"No encoder .* has an embedding of every sample"):
        read_stored(samples, store=store)
    assert sorted(store.root.rglob("*")) == before


def test_two_kinds_of_embeddings_under_one_name_have_to_be_told_apart(filled):
    store, samples = filled
    card = get_card("t_edge").model_copy(update={"version": 2})
    first = read_stored(samples, ["t_edge"], store=store)
    store.open(card).write(first.contents, first["t_edge"] + 1)
    with pytest.raises(StoreError, match="2 kinds of embeddings of t_edge"):
        read_stored(samples, ["t_edge"], store=store)
    with pytest.raises(StoreError, match="several kinds of embeddings of t_edge"):
        read_stored(samples, store=store)
    found = read_stored(samples, [card.fingerprint()], store=store)
    np.testing.assert_array_equal(found["t_edge"], first["t_edge"] + 1)


def test_an_unreadable_file_is_an_error(filled, files):
    store, samples = filled
    files[0].unlink()
    with pytest.raises(UnreadableImageError, match=r"000\.png"):
        read_stored(samples, store=store)


def spoil(store, name, rows, factor, precision="fp32"):
    """Replace an encoder's embeddings by ones that are wrong in some rows, with valid checksums."""
    (folder,) = [each for each in store.folders() if each.card.name == name]
    contents = np.concatenate([part.contents for part in folder.parts()])
    values = np.array(folder.read(contents))
    values[rows] *= factor
    for path in folder.part_paths():
        path.unlink()
    target = EmbeddingStore(store.root).open(folder.card, precision=precision)
    target.write(contents, values)
    return contents[rows]


def test_rows_that_are_not_what_the_encoder_gives_are_named(filled):
    store, samples = filled
    contents = read_stored(samples, ["t_edge"], store=store).contents
    wrong = spoil(store, "t_edge", [2, 5], 1.001)
    ids = {str(samples.ids[row]) for row in np.flatnonzero(np.isin(contents, wrong))}
    colour, edge = recompute(samples, store=EmbeddingStore(store.root), rows=9, options=ALONE)
    assert set(edge.differing) == ids
    assert edge.difference == pytest.approx(1e-3, rel=1e-2)
    assert colour.differing == ()


def test_the_sample_is_random_and_the_same_for_the_same_seed(filled):
    store, samples = filled
    spoil(store, "t_edge", list(range(9)), 2)
    fresh = EmbeddingStore(store.root)

    def drawn(seed, data=samples):
        return set(recompute(data, store=fresh, rows=3, encoder="t_edge", seed=seed, options=ALONE)[0].differing)

    assert drawn(0) == drawn(0, samples.take(np.arange(9)[::-1]))
    assert len(drawn(0)) == 3
    assert len({frozenset(drawn(seed)) for seed in range(6)}) > 1


def test_what_is_not_finite_when_computed_again_does_not_pass_for_equal(filled, monkeypatch):
    store, samples = filled
    broken = SimpleNamespace(
        card=get_card("t_edge"), encode=lambda images: np.full((len(images), get_card("t_edge").dim), np.nan)
    )
    monkeypatch.setattr(stored, "load_encoder", lambda *_, **__: broken)
    with pytest.raises(EncoderError, match="not finite"):
        recompute(samples, store=store, rows=3, encoder="t_edge", options=ALONE)


def test_lower_precisions_are_compared_by_direction(filled, monkeypatch):
    store, samples = filled
    real = stored.load_encoder
    networks = {}
    for name, noise in (("t_colour", 0.001), ("t_edge", 0.3)):
        card = get_card(name).model_copy(update={"runtime": "torch"})
        first = read_stored(samples, [name], store=store)
        random = np.random.default_rng(0).normal(size=first[name].shape)
        other = first[name] * (1 + noise * random)
        store.open(card, precision="bf16").write(first.contents, other.astype(np.float32))
        networks[card.fingerprint(precision="bf16")] = name
    monkeypatch.setattr(stored, "load_encoder", lambda card, **_: real(get_card(card.name)))
    by_name = {
        each.encoder: each
        for each in recompute(samples, store=store, rows=9, options=ExtractOptions(device="cpu"))
        if each.precision == "bf16"
    }
    assert by_name["t_colour"].differing == ()
    assert by_name["t_colour"].difference > 1e-4
    assert by_name["t_edge"].differing
    assert by_name["t_edge"].cosine < 0.999


def test_an_encoder_that_cannot_be_loaded_is_skipped_unless_it_was_named(filled, monkeypatch):
    store, samples = filled
    real = stored.load_encoder

    def load(card, **options):
        if card.name == "t_edge":
            raise DependencyError("edges are not installed.")
        return real(card, **options)

    monkeypatch.setattr(stored, "load_encoder", load)
    colour, edge = recompute(samples, store=store, rows=3, options=ALONE)
    assert (colour.rows, edge.rows, edge.cosine) == (3, 0, None)
    assert "edges are not installed" in edge.skipped
    with pytest.raises(DependencyError):
        recompute(samples, store=store, rows=3, encoder="t_edge", options=ALONE)


def test_anndata_has_a_matrix_per_encoder_and_the_samples_as_observations(filled, tmp_path):
    anndata = pytest.importorskip("anndata")
    store, samples = filled
    samples = replace(
        samples,
        splits=np.array(["train", "val", "test"] * 3, dtype=object),
        groups=np.array([f"p{row // 2}" for row in range(9)], dtype=object),
    )
    found = read_stored(samples, NAMES, store=store)
    path = save_embeddings(samples, found.blocks, tmp_path / "e.h5ad", cards=found.cards, precisions=found.precisions)
    table = anndata.read_h5ad(path)
    assert table.obs_names.tolist() == samples.ids.tolist()
    assert table.obs["label"].tolist() == [samples.classes[label] for label in samples.labels]
    assert table.obs["label"].cat.categories.tolist() == list(samples.classes)
    assert table.obs["split"].tolist() == samples.splits.tolist()
    assert table.obs["group"].tolist() == samples.groups.tolist()
    for name in NAMES:
        np.testing.assert_array_equal(table.obsm[f"X_{name}"], found[name])
        kept = table.uns["biofuse"]["encoders"][name]
        assert kept["fingerprint"] == store.open(get_card(name)).path.name
        assert json.loads(kept["card"])["name"] == name


def test_unlabelled_samples_are_written_to_anndata_too(filled, tmp_path):
    anndata = pytest.importorskip("anndata")
    store, samples = filled
    plain = replace(samples, labels=None, classes=(), task=None)
    path = read_stored(plain, ["t_edge"], store=store).save(tmp_path / "e.h5ad")
    table = anndata.read_h5ad(path)
    assert table.shape == (9, 0)
    assert list(table.obs) == []
    assert table.obsm["X_t_edge"].shape == (9, 4)


def test_without_anndata_it_is_said_before_any_work(filled, tmp_path, monkeypatch):
    import importlib.util

    from biofuse.store.exchange import check_format

    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match="anndata is not installed") as caught:
        check_format(tmp_path / "e.h5ad")
    assert "biofuse-embed[anndata]" in caught.value.remedy
