"""Images in, aligned embeddings out: at once, batch by batch, shard by shard."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import biofuse
from biofuse import ExtractOptions, embed, embed_batches, load_samples
from biofuse.cli.app import app
from biofuse.core.errors import AlignmentError, BioFuseError, DataError, EncoderError
from biofuse.encoders import EncoderCard, Preprocessing, Weights, pin
from biofuse.encoders.registry import ENCODERS, load_encoder
from biofuse.extract.local import LocalEngine
from biofuse.store.store import EmbeddingStore

NAMES = ["t_colour", "t_edge"]


def quiet(data, encoders=NAMES, **options):
    return embed(data, encoders, workers=0, progress=False, **options)


def by_hand(path, name):
    encoder = load_encoder(name)
    image = np.asarray(Image.open(path).convert("RGB"))
    return encoder.encode(encoder.card.preprocessing.apply(image)[None])[0]


@pytest.fixture
def files(tmp_path, draw):
    return draw(tmp_path / "images", each=3)


def test_every_row_is_the_embedding_of_its_own_file(files):
    found = quiet(files[0].parents[1])
    assert len(found) == 2
    assert list(found) == NAMES
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    for row, path in enumerate(files):
        assert found.ids[row] == f"{path.parent.name}/{path.name}"
        for name in NAMES:
            np.testing.assert_allclose(found[name][row], by_hand(path, name), rtol=1e-6)
    np.testing.assert_array_equal(found.matrix, np.hstack([found["t_colour"], found["t_edge"]]))
    assert found.matrix.dtype == np.float32


class TorchLike:
    def __init__(self, images, labels):
        self.images, self.targets = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        return self.images[row], self.targets[row]


def test_every_kind_of_data_gives_the_same_rows(files, tmp_path):
    root = files[0].parents[1]
    names = [path.parent.name for path in files]
    arrays = [np.asarray(Image.open(path)) for path in files]
    table = pd.DataFrame({"path": [str(path.relative_to(root)) for path in files], "label": names})
    table.to_csv(root / "table.csv", index=False)
    table.to_parquet(root / "table.parquet")
    splits = {"train": [0, 1, 3, 4, 6, 7], "val": [2], "test": [5, 8]}
    stacked, digits = np.stack(arrays), np.array([["ctl", "mid", "sev"].index(name) for name in names])
    parts = {f"{split}_images": stacked[rows] for split, rows in splits.items()}
    parts |= {f"{split}_labels": digits[rows][:, None] for split, rows in splits.items()}
    np.savez(tmp_path / "medmnist.npz", **parts)
    expected = quiet(root).matrix
    kinds = {
        "csv": quiet(root / "table.csv"),
        "parquet": quiet(root / "table.parquet"),
        "samples": quiet(load_samples(root)),
        "paths": quiet([str(path) for path in files], labels=names),
        "arrays": quiet(arrays, labels=names),
        "stack": quiet(stacked, labels=names),
        "pillow": quiet([Image.open(path) for path in files], labels=names),
        "frame": quiet(table.assign(path=[str(path) for path in files])),
        "torch": quiet(TorchLike(arrays, names)),
    }
    for kind, found in kinds.items():
        np.testing.assert_array_equal(found.matrix, expected, err_msg=kind)
        assert [found.samples.classes[label] for label in found.labels] == names, kind
    medmnist = quiet(tmp_path / "medmnist.npz")
    order = [row for rows in splits.values() for row in rows]
    np.testing.assert_array_equal(medmnist.matrix, expected[order])
    np.testing.assert_array_equal(medmnist.labels, digits[order])
    assert medmnist.splits.tolist() == [split for split, rows in splits.items() for _ in rows]


@pytest.mark.slow
def test_style_bug_9_a_hugging_face_and_a_torch_data_set_need_no_size_or_transform(files):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ctl", "mid", "sev"])})
    rows = {"image": [str(path) for path in files], "label": [path.parent.name for path in files]}
    found = quiet(datasets.Dataset.from_dict(rows, features=features))
    np.testing.assert_array_equal(found.matrix, quiet(files[0].parents[1]).matrix)


def test_several_labels_are_written_in_words(files, tmp_path):
    table = pd.DataFrame({"path": [str(path) for path in files], "a": [1, 0, 1] * 3, "b": [0, 0, 1] * 3})
    found = quiet(table, label=["a", "b"])
    assert found.labels.tolist() == [[1, 0], [0, 0], [1, 1]] * 3
    assert found.to_frame()["label"].tolist() == ["a", "", "a|b"] * 3


def test_an_encoder_named_like_a_column_cannot_overwrite_it(files, tmp_path):
    def mean(images):
        return images.mean(axis=(1, 2, 3))[:, None]

    with ENCODERS.temporary():
        biofuse.register_encoder("label", dim=1, size=8)(mean)
        with pytest.raises(BioFuseError, match="cannot be called label"):
            quiet(files[0].parents[1], ["label"]).save(tmp_path / "e.parquet")


def test_it_prints_and_shows_well(files):
    found = quiet(files[0].parents[1])
    assert repr(found) == "<EmbeddingSet of 9 samples from images (t_colour: 3, t_edge: 4)>"
    html = found._repr_html_()
    assert "<b>9</b> samples under 2 encoders" in html
    assert "t_colour" in html
    assert found.work[0].computed == 9
    assert quiet(files[0].parents[1]).work[0].reused == 9


def test_everything_quarantined_is_an_empty_table(files):
    for path in files:
        path.write_bytes(b"")
    found = quiet(files[0].parents[1], on_error="quarantine")
    assert found.matrix.shape == (0, 7)
    assert len(found.quarantined) == 9
    assert "9 quarantined" in found._repr_html_()


# A checkpoint on this disk whose card does not say which file it means.


@pytest.fixture
def loose_card(tmp_path):
    """Return the card of a small network whose hash nobody has filled in."""
    path = tmp_path / "net.safetensors"
    write_network(path, seed=0)
    return EncoderCard(
        name="t_net",
        title="Small network",
        loader="timm",
        architecture="resnet10t",
        weights=Weights(repository="local", revision="1", file=str(path), ignore=("fc.*",)),
        preprocessing=Preprocessing(resize="squash", size=32),
        output="pooled",
        dim=512,
        licence="MIT",
        modality="none",
        source="a test",
    )


def write_network(path, *, seed):
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    save_file(timm.create_model("resnet10t", num_classes=2).state_dict(), path)


@pytest.mark.slow
def test_a_changed_checkpoint_at_the_same_path_is_another_encoder(files, tmp_path, loose_card):
    with ENCODERS.temporary():
        ENCODERS.register(loose_card)
        first = quiet(files[0].parents[1], ["t_net"])
        assert first.cards[0] == pin(loose_card)
        again = quiet(files[0].parents[1], ["t_net"])
        assert again.work[0].computed == 0
        write_network(tmp_path / "net.safetensors", seed=1)
        other = quiet(files[0].parents[1], ["t_net"])
    assert other.work[0].computed == 9
    assert other.cards[0].fingerprint() != first.cards[0].fingerprint()
    assert np.abs(other.matrix - first.matrix).max() > 1e-3
    assert {folder.path.name for folder in EmbeddingStore().folders()} == {
        first.cards[0].fingerprint(),
        other.cards[0].fingerprint(),
    }


def test_the_engine_refuses_a_card_that_leaves_its_weights_open(loose_card):
    with pytest.raises(EncoderError, match="other weights than its card names"):
        LocalEngine(ExtractOptions()).load(loose_card, "fp32")


ALONE = ExtractOptions(workers=0)


@pytest.fixture
def twelve(tmp_path, draw):
    return draw(tmp_path / "images", each=4)


def batches(data, encoders=NAMES, **options):
    return embed_batches(data, encoders, options=ALONE, progress=False, **options)


def test_batches_are_what_embed_gives_cut_in_pieces(twelve, tmp_path):
    whole = embed(twelve[0].parents[1], NAMES, workers=0, progress=False)
    found = list(batches(twelve[0].parents[1], rows=5, store=tmp_path / "other"))
    assert [len(batch.samples) for batch in found] == [5, 5, 2]
    assert np.concatenate([batch.ids for batch in found]).tolist() == whole.ids.tolist()
    assert np.concatenate([batch.labels for batch in found]).tolist() == whole.labels.tolist()
    for name in NAMES:
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in found]), whole[name])
    assert all(batch.samples.classes == whole.samples.classes for batch in found)


def test_a_batch_is_stored_before_it_is_handed_out_and_a_stopped_loop_goes_on(twelve, tmp_path):
    store = EmbeddingStore(tmp_path / "store")
    loop = batches(twelve[0].parents[1], rows=5, store=store)
    next(loop)
    loop.close()
    assert {folder.card.name: folder.n_embeddings() for folder in EmbeddingStore(store.root).folders()} == {
        "t_colour": 5,
        "t_edge": 5,
    }
    again = list(batches(twelve[0].parents[1], rows=12, store=store))
    assert [(work.computed, work.reused) for work in again[0].work] == [(7, 5)] * 2


def test_mistakes_are_found_before_the_first_batch_is_asked_for(twelve):
    with pytest.raises(BioFuseError, match="rows"):
        batches(twelve[0].parents[1], rows=0)
    with pytest.raises(BioFuseError, match="nobody"):
        batches(twelve[0].parents[1], ["nobody"])
    with pytest.raises(DataError):
        batches(twelve[0].parents[1] / "nowhere")


def test_pieces_of_an_iterator_are_embedded_one_after_the_other(twelve, tmp_path):
    whole = load_samples(twelve[0].parents[1])
    taken = []

    def pieces():
        for rows in (range(5), range(5, 12)):
            taken.append(len(rows))
            yield whole.take(rows)

    loop = batches(pieces(), rows=4, store=tmp_path / "store")
    first = next(loop)
    assert taken == [5]
    found = [first, *loop]
    assert [len(batch.samples) for batch in found] == [4, 1, 4, 3]
    expected = embed(whole, NAMES, workers=0, progress=False)
    np.testing.assert_array_equal(np.concatenate([batch.matrix for batch in found]), expected.matrix)


def test_pieces_that_do_not_belong_together_are_refused(twelve, tmp_path):
    whole = load_samples(twelve[0].parents[1])
    with pytest.raises(AlignmentError, match="occurs in two pieces"):
        list(batches(iter([whole.take(range(3)), whole.take([2])])))
    few = load_samples(twelve[:8], labels=["a"] * 4 + ["b"] * 4)
    with pytest.raises(DataError, match="has the classes a, b, the first piece ctl, mid, sev"):
        list(batches(iter([whole, few])))
    with pytest.raises(DataError, match="must be Samples"):
        list(batches(iter(twelve)))
    with pytest.raises(DataError, match="`label=` cannot be given"):
        batches(iter([whole]), label="x")


def test_the_precision_of_the_first_batch_is_kept(twelve, monkeypatch):
    from dataclasses import replace

    from biofuse.api import embed as streaming

    asked = []

    def embedded(samples, cards, *, options, **rest):
        asked.append(dict(options.precisions))
        return replace(real(samples, cards, options=options, **rest), precisions={"t_colour": "bf16"})

    real = streaming.extract
    monkeypatch.setattr(streaming, "extract", embedded)
    list(batches(twelve[0].parents[1], ["t_colour"], rows=6))
    assert asked == [{}, {"t_colour": "bf16"}]


def test_the_number_of_rows_is_bounded_by_their_size():
    from biofuse.api.embed import _rows_for
    from biofuse.encoders.registry import get_card

    card = get_card("lbp")
    wide = [card.model_copy(update={"name": f"w{n}", "dim": 1536}) for n in range(9)]
    assert _rows_for([card.model_copy(update={"dim": 2})]) == 65_536
    assert _rows_for(wide) * 4 * 9 * 1536 <= 512 << 20
    assert _rows_for(wide * 10) == 1_024


def embed_lbp(folder, store, **options):
    return biofuse.embed(folder, ["lbp"], store=store, workers=0, progress=False, **options)


def test_shards_together_are_the_whole_which_then_computes_nothing(make_images, tmp_path):
    make_images(tmp_path / "images", per_class=5)
    whole = embed_lbp(tmp_path / "images", tmp_path / "other")
    parts = [embed_lbp(tmp_path / "images", tmp_path / "store", shard=f"{index}/3") for index in (1, 2, 3)]
    assert [name for part in parts for name in part.ids] == whole.ids.tolist()
    assert [part.work[0].computed for part in parts] == [3, 3, 4]
    after = embed_lbp(tmp_path / "images", tmp_path / "store")
    assert after.work[0].computed == 0
    assert (after["lbp"] == whole["lbp"]).all()


def test_a_shard_reads_only_its_own_rows(make_images, tmp_path):
    paths = make_images(tmp_path / "images", per_class=4)
    for path in paths[4:]:
        path.write_bytes(b"not an image")
    assert len(embed_lbp(tmp_path / "images", tmp_path / "store", shard="1/2").ids) == 4
    with pytest.raises(DataError):
        embed_lbp(tmp_path / "images", tmp_path / "store", shard="2/2")


def test_a_shard_without_rows_has_nothing_to_do(make_images, tmp_path):
    make_images(tmp_path / "images", per_class=1)
    assert len(embed_lbp(tmp_path / "images", tmp_path / "store", shard="1/5").ids) == 0


def test_embed_shard_on_the_command_line_fills_the_store_and_writes_nothing_else(make_images, tmp_path):
    make_images(tmp_path / "images", per_class=3)
    common = ["embed", str(tmp_path / "images"), "-e", "lbp", "--store", str(tmp_path / "store"), "--workers", "0"]
    for index in (1, 2):
        done = CliRunner().invoke(app, [*common, "--shard", f"{index}/2"])
        assert done.exit_code == 0, done.output
        assert f"Shard {index}/2: 3 of 6 samples." in done.output
    done = CliRunner().invoke(app, [*common, "--out", str(tmp_path / "e.npz")])
    assert "No embedding had to be computed" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npz", "images", "store"]
    wrong = CliRunner().invoke(app, [*common, "--shard", "0/2"])
    assert wrong.exit_code != 0
