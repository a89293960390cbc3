import shutil

import numpy as np
import pandas as pd
import pytest

from biofuse import BioFuse, ExtractOptions, embed
from biofuse.core.errors import AlignmentError, DataError, EncoderError, UnknownEncoderError
from biofuse.data.load import load_samples
from biofuse.encoders.registry import load_encoder, resolve
from biofuse.extract.embeddings import read_stored, recompute
from biofuse.store.exchange import import_embeddings
from biofuse.store.store import EmbeddingStore, list_store

ALONE = ExtractOptions(workers=0)
DIM = 5


@pytest.fixture
def samples(tmp_path, draw):
    draw(tmp_path / "images", each=3)
    return load_samples(tmp_path / "images")


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore(tmp_path / "store")


def vectors(samples, seed=0):
    return np.random.default_rng(seed).normal(size=(len(samples), DIM)).astype(np.float32)


def shuffled(samples):
    return np.random.default_rng(1).permutation(len(samples))


def write_npz(path, ids, matrix):
    np.savez(path, ids=ids.astype(str), mine=matrix, label=np.zeros(len(ids)))


def write_lists(path, ids, matrix):
    pd.DataFrame({"id": ids, "label": "x", "mine": list(matrix)}).to_parquet(path)


def write_table(path, ids, matrix):
    frame = pd.DataFrame(matrix, columns=[f"v{number}" for number in range(DIM)])
    frame.insert(0, "id", ids)
    (frame.to_csv if path.suffix == ".csv" else frame.to_parquet)(path, index=False)


@pytest.mark.parametrize(
    ("name", "write"),
    [("e.npz", write_npz), ("e.parquet", write_lists), ("t.parquet", write_table), ("t.csv", write_table)],
)
def test_rows_are_matched_by_id_whatever_their_order(samples, store, tmp_path, name, write):
    matrix, order = vectors(samples), shuffled(samples)
    write(tmp_path / name, samples.ids[order], matrix[order])
    done = import_embeddings(tmp_path / name, samples, encoder="mine", store=store, title="My own")
    assert (done.written, done.known, done.unused) == (9, 0, 0)
    found = read_stored(samples, ["imported:mine"], store=EmbeddingStore(store.root))
    np.testing.assert_allclose(found["mine"], matrix, rtol=1e-6)
    assert done.card.title == "My own"


def test_what_biofuse_has_saved_can_be_imported(samples, store, tmp_path):
    saved = embed(samples, ["t_colour", "t_edge"], workers=0, progress=False)
    for suffix in (".npz", ".parquet"):
        file = saved.save(tmp_path / f"e{suffix}")
        name = f"again{suffix.replace('.', '-')}"
        import_embeddings(file, samples, encoder=name, store=store, column="t_edge")
        np.testing.assert_array_equal(read_stored(samples, [name], store=store)[name], saved["t_edge"])


def test_the_card_says_where_they_come_from_and_that_nothing_is_verified(samples, store, tmp_path):
    from biofuse.core.hashing import digest_file
    from biofuse.encoders.card import describe, origins

    write_npz(tmp_path / "e.npz", samples.ids, vectors(samples))
    card = import_embeddings(tmp_path / "e.npz", samples, encoder="mine", store=store).card
    sha256 = digest_file(tmp_path / "e.npz", algorithm="sha256")
    assert card.loader == "imported"
    assert not card.selectable_by_default
    assert card.pools == ()
    assert "e.npz" in card.notes[0]
    assert sha256 in card.notes[0]
    assert sha256 in describe(card)["weights"]
    assert {source for _, source, _ in origins(card)} == {"unverified"}
    (entry,) = list_store(store)
    assert entry.imported == card.notes
    with pytest.raises(UnknownEncoderError):
        resolve("mine")


def test_a_second_import_adds_rows_to_the_same_encoder(samples, store, tmp_path):
    matrix = vectors(samples)
    first, second = np.arange(4), np.arange(2, 9)
    for name, rows in (("a.npz", first), ("b.npz", second)):
        write_npz(tmp_path / name, samples.ids[rows], matrix[rows])
    one = import_embeddings(tmp_path / "a.npz", samples.take(first), encoder="mine", store=store)
    two = import_embeddings(tmp_path / "b.npz", samples.take(second), encoder="mine", store=store)
    assert (two.written, two.known, one.fingerprint) == (5, 2, two.fingerprint)
    assert len(two.card.notes) == 2
    again = import_embeddings(tmp_path / "b.npz", samples.take(second), encoder="mine", store=store)
    assert (again.written, again.known, len(again.card.notes)) == (0, 7, 2)
    np.testing.assert_array_equal(read_stored(samples, ["mine"], store=store)["mine"], matrix)


def test_another_embedding_of_a_known_image_is_refused_and_nothing_is_written(samples, store, tmp_path):
    write_npz(tmp_path / "a.npz", samples.ids[:4], vectors(samples)[:4])
    import_embeddings(tmp_path / "a.npz", samples.take(range(4)), encoder="mine", store=store)
    write_npz(tmp_path / "b.npz", samples.ids, vectors(samples, seed=5))
    with pytest.raises(AlignmentError, match=r"another mine embedding .* \(4 such samples\)"):
        import_embeddings(tmp_path / "b.npz", samples, encoder="mine", store=store)
    assert list_store(store)[0].embeddings == 4


def test_missing_and_repeated_ids_raise_and_rows_of_other_images_are_counted(samples, store, tmp_path):
    matrix = vectors(samples)
    write_npz(tmp_path / "short.npz", samples.ids[1:], matrix[1:])
    with pytest.raises(AlignmentError, match="1 of 9 samples") as caught:
        import_embeddings(tmp_path / "short.npz", samples, encoder="mine", store=store)
    assert repr(samples.ids[0]) in caught.value.message
    write_npz(tmp_path / "twice.npz", samples.ids[[0, *range(9)]], matrix[[0, *range(9)]])
    with pytest.raises(AlignmentError, match="1 ids occur again"):
        import_embeddings(tmp_path / "twice.npz", samples, encoder="mine", store=store)
    assert list_store(store) == []
    write_npz(tmp_path / "all.npz", samples.ids, matrix)
    done = import_embeddings(tmp_path / "all.npz", samples.take([3, 1]), encoder="mine", store=store)
    assert (done.written, done.unused) == (2, 7)


def test_copies_of_an_image_must_have_the_same_embedding(samples, store, tmp_path):
    twin = tmp_path / "images" / "ctl" / "twin.png"
    shutil.copy(twin.with_name("000.png"), twin)
    both = load_samples(tmp_path / "images")
    matrix = vectors(both)
    write_npz(tmp_path / "e.npz", both.ids, matrix)
    with pytest.raises(AlignmentError, match="the same image"):
        import_embeddings(tmp_path / "e.npz", both, encoder="mine", store=store)
    ids = both.ids.tolist()
    matrix[ids.index("ctl/twin.png")] = matrix[ids.index("ctl/000.png")]
    write_npz(tmp_path / "e.npz", both.ids, matrix)
    assert import_embeddings(tmp_path / "e.npz", both, encoder="mine", store=store).written == 9


def test_files_that_are_no_embeddings_are_refused(samples, store, tmp_path):
    ids, matrix, file = samples.ids.astype(str), vectors(samples), tmp_path / "e.npz"
    holed = np.where(np.arange(DIM) == 2, np.nan, matrix)
    write_npz(tmp_path / "whole.npz", ids, matrix)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:-100])
    for words, content in (
        ("not finite", {"ids": ids, "mine": holed}),
        ("no id column", {"mine": matrix}),
        ("cannot be read", {"ids": samples.ids, "mine": matrix}),  # pickled
        ("no embeddings called 'mine'", {"ids": ids, "a": matrix, "b": matrix}),
        (r"shape \(9,\)", {"ids": ids, "mine": matrix[:, 0]}),
        ("cannot be read", None),
    ):
        np.savez(file, **content) if content else shutil.copy(tmp_path / "cut.npz", file)
        with pytest.raises(DataError, match=words):
            import_embeddings(file, samples, encoder="mine", store=store)
    assert list_store(store) == []


def test_other_kinds_of_files_and_ragged_vectors_are_refused(samples, store, tmp_path):
    (tmp_path / "e.pkl").write_bytes(b"x")
    with pytest.raises(DataError, match=r"\.npz, \.parquet, \.csv"):
        import_embeddings(tmp_path / "e.pkl", samples, encoder="mine", store=store)
    ragged = [[1.0, 2.0]] * 8 + [[1.0]]
    pd.DataFrame({"id": samples.ids, "mine": ragged}).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(DataError, match="different lengths"):
        import_embeddings(tmp_path / "e.parquet", samples, encoder="mine", store=store)


def test_a_name_that_is_taken_and_another_number_of_columns_are_refused(samples, store, tmp_path):
    write_npz(tmp_path / "e.npz", samples.ids, vectors(samples))
    for name in ("lbp", "starter"):
        with pytest.raises(EncoderError, match="name of an encoder or pool"):
            import_embeddings(tmp_path / "e.npz", samples, encoder=name, store=store)
    import_embeddings(tmp_path / "e.npz", samples, encoder="mine", store=store)
    write_npz(tmp_path / "f.npz", samples.ids, vectors(samples)[:, :3])
    with pytest.raises(EncoderError, match=r"has 5 columns, those in .* have 3"):
        import_embeddings(tmp_path / "f.npz", samples, encoder="mine", store=store)


def test_a_search_uses_it_and_a_model_says_which_images_it_cannot_predict(tmp_path, draw, tiny_encoders):
    draw(tmp_path / "images", each=10)
    samples = load_samples(tmp_path / "images")
    store = EmbeddingStore(tmp_path / "store")
    known = np.eye(3)[samples.labels].astype(np.float32) + 0.01 * vectors(samples)[:, :3]
    np.savez(tmp_path / "e.npz", ids=samples.ids.astype(str), oracle=known)
    import_embeddings(tmp_path / "e.npz", samples, encoder="oracle", store=store)
    fuse = BioFuse(
        ["t_spread", "imported:oracle", "oracle"], folds=3, repeats=1, rule="one_se", store=store, options=ALONE
    )
    result = fuse.fit(samples, test=None, progress=False).result_
    assert result.config.encoders == ("t_spread", "oracle")
    assert result.model.encoders == ("oracle",)
    predicted = result.model.predict(samples, store=store, options=ALONE, progress=False)
    assert (predicted == np.array(samples.classes)[samples.labels]).mean() > 0.9
    draw(tmp_path / "new", each=1, seed=8)
    with pytest.raises(EncoderError, match="oracle cannot embed images: its embeddings were made elsewhere") as caught:
        result.model.predict(tmp_path / "new", store=store, options=ALONE, progress=False)
    assert "of these images have none, e.g. " in caught.value.message
    assert "biofuse store import" in caught.value.remedy
    assert embed(samples, "imported:oracle", store=store, progress=False)["oracle"].shape == known.shape


def test_it_cannot_be_loaded_or_recomputed(samples, store, tmp_path):
    write_npz(tmp_path / "e.npz", samples.ids, vectors(samples))
    card = import_embeddings(tmp_path / "e.npz", samples, encoder="mine", store=store).card
    with pytest.raises(EncoderError, match=r"made elsewhere \(embeddings imported from e\.npz"):
        load_encoder(card)
    (only,) = recompute(samples, store=store, rows=3, options=ALONE)
    assert only.skipped.startswith("imported")


def test_an_imported_encoder_that_is_not_there_is_named(store):
    with pytest.raises(UnknownEncoderError, match="'nobody' were imported") as caught:
        BioFuse(["lbp", "imported:nobody"], store=store).fit("images/")
    assert "biofuse store import" in caught.value.remedy
    with pytest.raises(UnknownEncoderError, match="no encoder or pool 'nobody'"):
        BioFuse(["lbp", "nobody"], store=store).fit("images/")
