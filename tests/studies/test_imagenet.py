"""ImageNet's layout with 200 classes of tiny images, and the streamed discriminant against scikit-learn's."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import top_k_accuracy_score

from biofuse import ExtractOptions, register_encoder
from biofuse.core.errors import AlignmentError, DataError, SearchError, UnreadableImageError
from biofuse.encoders.registry import ENCODERS, resolve
from biofuse.store.store import EmbeddingStore
from biofuse.studies import imagenet
from biofuse.studies.imagenet import (
    FUSION,
    BlockProgress,
    ClassFolders,
    Moments,
    StreamedDiscriminant,
    benchmark_imagenet,
)

CLASSES = 200
ALONE = ExtractOptions(workers=0)


def wnid(index):
    return f"n{index:08d}"


def draw(index, generator):
    """Colour tells 20 groups of classes apart, brightness of the two halves the 10 within a group: none is enough."""
    group, within = divmod(index, 10)
    colour = np.array([20 + 10 * group, 230 - 10 * group, 100])
    pixels = np.tile(colour, (8, 8, 1)) + generator.normal(0, 2, (8, 8, 3))
    pixels[:4] += 4 * within
    pixels[4:] -= 4 * within
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imagenet")
    generator = np.random.default_rng(0)
    for split, each in (("train", 6), ("val", 2)):
        for index in range(CLASSES):
            place = folder / split / wnid(index)
            place.mkdir(parents=True)
            for number in range(each):
                # The real data set's suffix; PNG inside, so that nothing is lost.
                draw(index, generator).save(place / f"{wnid(index)}_{number}.JPEG", format="PNG")
    (folder / "test").mkdir()  # lies flat and without labels in the real one; nothing of it is read
    (folder / "test" / "x.JPEG").write_bytes(b"")
    return folder


@pytest.fixture(scope="module", autouse=True)
def encoders():
    with ENCODERS.temporary():

        @register_encoder("i_colour", dim=3, size=8)
        def i_colour(images):
            return images.mean(axis=(1, 2))

        @register_encoder("i_halves", dim=2, size=8)
        def i_halves(images):
            grey = images.astype(float).mean(axis=3)
            return np.stack([grey[:, :4].mean(axis=(1, 2)), grey[:, 4:].mean(axis=(1, 2))], axis=1)

        yield ("i_colour", "i_halves")


@pytest.fixture
def store(tmp_path_factory):
    return EmbeddingStore(tmp_path_factory.mktemp("store"))


def run(root, store, *, pool=("i_colour", "i_halves"), **options):
    return benchmark_imagenet(resolve(list(pool)), root, store=store, progress=False, **{"options": ALONE, **options})


def test_200_classes_run_through_single_encoders_and_the_fusion(root, store):
    said = []
    outcome = run(root, store, files_at_once=500, tell=said.append)
    assert (outcome.classes, outcome.n_train, outcome.n_val) == (CLASSES, 6 * CLASSES, 2 * CLASSES)
    assert list(outcome.scores) == ["i_colour", "i_halves", FUSION]
    fused, colour = outcome.scores[FUSION], outcome.scores["i_colour"]
    assert fused.top_1 > 0.7 > colour.top_1 > 1 / CLASSES
    for score in outcome.scores.values():
        assert score.low_1 < score.top_1 <= score.high_1
        assert score.top_1 <= score.top_5
    assert fused.dim == 5
    assert any("held out" in line for line in said)
    found = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert found["scores"]["all"]["encoders"] == ["i_colour", "i_halves"]
    assert f"{fused.top_1:.4f}" in outcome.to_html()


def test_blocks_change_nothing_but_memory(root, store, monkeypatch):
    whole = run(root, store)
    sizes = []
    add = imagenet.Moments.add

    def watched(self, rows, labels):
        sizes.append(len(rows))
        return add(self, rows, labels)

    monkeypatch.setattr(imagenet.Moments, "add", watched)
    monkeypatch.setattr(imagenet, "ROWS_AT_ONCE", 64)
    blocks = run(root, store, files_at_once=130)
    assert max(sizes) <= 64
    assert blocks.scores.keys() == whole.scores.keys()
    for name, score in blocks.scores.items():
        assert score == whole.scores[name]


def test_the_second_time_no_embedding_is_computed(root, store, monkeypatch):
    first = run(root, store, files_at_once=700)

    def refuse(*_, **__):
        raise AssertionError("an encoder was loaded")

    monkeypatch.setattr("biofuse.extract.local.load_encoder", refuse)
    assert run(root, store, files_at_once=700).scores == first.scores


def test_one_encoder_has_no_fusion(root, store):
    assert list(run(root, store, pool=["i_colour"]).scores) == ["i_colour"]


@pytest.fixture
def small(tmp_path):
    generator = np.random.default_rng(1)
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(8):
                draw(100 * (name == "b"), generator).save(tmp_path / split / name / f"{number}.png")
    return tmp_path


def test_fewer_than_five_classes(small, store):
    outcome = run(small, store)
    assert outcome.scores[FUSION].top_1 == 1
    assert "top-2" in [column.title for column in outcome.tables()[0].columns]


def test_an_unreadable_image_is_named_or_set_aside(small, store):
    (small / "val" / "a" / "0.png").write_bytes(b"broken")
    with pytest.raises(UnreadableImageError, match=r"0\.png"):
        run(small, store)
    outcome = run(small, store, options=ExtractOptions(workers=0, on_error="quarantine"))
    assert outcome.n_val == 15
    assert [entry.id for entry in outcome.quarantined] == ["a/0.png"]
    assert any("could not be read" in line for line in outcome.notes)


def test_layouts_that_are_not_imagenets(small, store):
    with pytest.raises(DataError, match="is no folder") as caught:
        run(small / "train", store)
    assert "train/<class>" in caught.value.remedy
    (small / "val" / "loose.JPEG").write_bytes(b"")
    with pytest.raises(DataError, match=r"loose\.JPEG, so they have no class"):
        run(small, store)
    (small / "val" / "loose.JPEG").unlink()
    (small / "val" / "b").rename(small / "val" / "c")
    with pytest.raises(DataError, match=r"no training images, e\.g\. c"):
        run(small, store)
    (small / "train" / "b").rename(small / "elsewhere")
    with pytest.raises(DataError, match="images of 1 classes"):
        run(small, store)


def test_blocks_of_files_cross_classes_and_lose_none(small):
    folders = ClassFolders.read(small / "train")
    blocks = list(folders.blocks(5))
    assert [len(block) for block in blocks] == [5, 5, 5, 1]
    ids = [name for block in blocks for name in block.ids.tolist()]
    assert ids == [f"{name}/{number}.png" for name in "ab" for number in range(8)]
    assert [label for block in blocks for label in block.labels.tolist()] == [0] * 8 + [1] * 8


def test_progress_over_blocks_is_one_piece():
    class Record:
        def __init__(self):
            self.begun, self.done = {}, {}

        def begin(self, task, total):
            assert task not in self.begun
            self.begun[task], self.done[task] = total, 0

        def advance(self, task, units):
            self.done[task] += units

    record = Record()
    whole = BlockProgress(record, 30)
    for missing in (10, 0, 4):  # of blocks of 10 images, as many as an encoder has yet to see
        whole.begin("reading", 10)
        whole.advance("reading", 10)
        if missing:
            whole.begin("encoder", missing)
            whole.advance("encoder", missing)
    assert record.begun == {"reading": 30, "encoder": 30}
    assert record.done == {"reading": 30, "encoder": 30}


LEARNED = 7


@pytest.fixture(scope="module")
def rows():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, LEARNED, 600)
    mixing = generator.normal(size=(9, 9))
    X = (generator.normal(size=(600, 9)) + labels[:, None] * np.linspace(0, 0.6, 9)) @ mixing + 1000
    return X.astype(np.float32), labels


def moments(X, labels, *, blocks=1, order=None, n_classes=LEARNED):
    found = Moments(X.shape[1], n_classes)
    order = np.arange(len(X)) if order is None else order
    for part in np.array_split(order, blocks):
        found.add(X[part], labels[part])
    return found


def decision(head, X):
    return X.astype(np.float64) @ head.coef + head.intercept


def test_without_shrinkage_it_is_scikit_learns_discriminant(rows):
    X, labels = rows
    head = StreamedDiscriminant.fit(moments(X, labels, blocks=4), slice(None), shrinkage=0)
    reference = LinearDiscriminantAnalysis(solver="lsqr").fit(X.astype(np.float64), labels)
    # Of several classes scikit-learn's scores have the same differences between classes.
    theirs = reference.decision_function(X.astype(np.float64))
    mine = decision(head, X)
    np.testing.assert_allclose(mine - mine[:, :1], theirs - theirs[:, :1], rtol=1e-5, atol=1e-5)


def test_shrinkage_shrinks_correlations(rows):
    X, labels = rows
    head = StreamedDiscriminant.fit(moments(X, labels), slice(None), shrinkage=0.3)
    X = X.astype(np.float64)
    means = np.stack([X[labels == code].mean(axis=0) for code in range(LEARNED)])
    centred = X - means[labels]
    within = centred.T @ centred / len(X)
    shrunk = 0.7 * within + 0.3 * np.diag(np.diag(within))
    centre = X.mean(axis=0)  # around which the direct formula loses no precision
    coef = np.linalg.solve(shrunk, (means - centre).T)
    direct = (X - centre) @ coef - 0.5 * np.einsum("ij,ji->i", means - centre, coef)
    direct += np.log(np.bincount(labels) / len(X))
    mine = decision(head, X)
    np.testing.assert_allclose(mine - mine[:, :1], direct - direct[:, :1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("blocks", [1, 3, 50])
def test_neither_blocks_nor_order_matter(rows, blocks):
    X, labels = rows
    one = StreamedDiscriminant.fit(moments(X, labels), slice(None), shrinkage=0.01)
    order = np.random.default_rng(1).permutation(len(X))
    other = StreamedDiscriminant.fit(moments(X, labels, blocks=blocks, order=order), slice(None), shrinkage=0.01)
    np.testing.assert_allclose(decision(other, X), decision(one, X), rtol=1e-6, atol=1e-5)


def test_an_encoders_head_is_a_principal_submatrix_of_all(rows):
    X, labels = rows
    whole = moments(X, labels)
    part = StreamedDiscriminant.fit(whole, slice(3, 7), shrinkage=0.05)
    alone = StreamedDiscriminant.fit(moments(X[:, 3:7], labels), slice(None), shrinkage=0.05)
    np.testing.assert_allclose(part.coef, alone.coef, rtol=1e-7)
    np.testing.assert_allclose(part.intercept, alone.intercept, rtol=1e-7)


def test_moments_add_up(rows):
    X, labels = rows
    first = moments(X[:400], labels[:400])
    second = Moments(9, LEARNED, shift=first.shift)
    second.add(X[400:], labels[400:])
    first.merge(second)
    whole = StreamedDiscriminant.fit(moments(X, labels), slice(None), shrinkage=0.05)
    np.testing.assert_allclose(StreamedDiscriminant.fit(first, slice(None), shrinkage=0.05).coef, whole.coef, rtol=1e-6)
    with pytest.raises(AlignmentError, match="different points"):
        first.merge(moments(X[5:], labels[5:]))


def test_ranks_give_scikit_learns_top_k(rows):
    X, labels = rows
    head = StreamedDiscriminant.fit(moments(X, labels), slice(None), shrinkage=0.05)
    ranks, scores = head.ranks(X, labels), decision(head, X)
    for k in (1, 2, 5):
        assert (ranks < k).mean() == pytest.approx(top_k_accuracy_score(labels, scores, k=k, labels=range(LEARNED)))
    np.testing.assert_array_equal(ranks == 0, scores.argmax(axis=1) == labels)


def test_ties_go_to_the_first_class():
    head = StreamedDiscriminant(coef=np.zeros((2, 3)), intercept=np.zeros(3), shrinkage=0)
    assert head.ranks(np.zeros((3, 2)), np.array([0, 1, 2])).tolist() == [0, 1, 2]


def test_a_class_without_rows_is_never_named(rows):
    X, labels = rows
    head = StreamedDiscriminant.fit(moments(X, labels, n_classes=LEARNED + 1), slice(None), shrinkage=0.05)
    assert np.isneginf(head.intercept[LEARNED])
    np.testing.assert_array_equal(
        head.ranks(X, labels),
        StreamedDiscriminant.fit(moments(X, labels), slice(None), shrinkage=0.05).ranks(X, labels),
    )


def test_constant_columns_change_nothing(rows):
    X, labels = rows
    wider = np.concatenate([X, np.full((len(X), 2), 5, np.float32)], axis=1)
    head = StreamedDiscriminant.fit(moments(wider, labels), slice(None), shrinkage=0.05)
    plain = StreamedDiscriminant.fit(moments(X, labels), slice(None), shrinkage=0.05)
    np.testing.assert_allclose(decision(head, wider), decision(plain, X), rtol=1e-6, atol=1e-5)


def test_columns_that_depend_on_one_another_need_shrinkage(rows):
    X, labels = rows
    twice = np.concatenate([X, X], axis=1)
    with pytest.raises(SearchError, match="depend on one another"):
        StreamedDiscriminant.fit(moments(twice, labels), slice(None), shrinkage=0)
    assert np.isfinite(StreamedDiscriminant.fit(moments(twice, labels), slice(None), shrinkage=1e-3).coef).all()


def test_nothing_to_learn_from():
    with pytest.raises(SearchError, match="no training row"):
        StreamedDiscriminant.fit(Moments(3, 2), slice(None), shrinkage=0.1)
    with pytest.raises(AlignmentError):
        Moments(3, 2).add(np.zeros((4, 3)), np.zeros(5, dtype=np.int64))
