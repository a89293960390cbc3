"""ImageNet's layout with 200 classes of tiny images: blocks, resumption, refusals."""

import json

import numpy as np
import pytest
from PIL import Image

from biofuse import ExtractOptions, register_encoder
from biofuse.core.errors import DataError, UnreadableImageError
from biofuse.encoders.registry import ENCODERS, resolve
from biofuse.store.store import EmbeddingStore
from biofuse.studies import imagenet
from biofuse.studies.imagenet import FUSION, ClassFolders, Whole, benchmark_imagenet

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
    whole = Whole(record, 30)
    for missing in (10, 0, 4):  # of blocks of 10 images, as many as an encoder has yet to see
        whole.begin("reading", 10)
        whole.advance("reading", 10)
        if missing:
            whole.begin("encoder", missing)
            whole.advance("encoder", missing)
    assert record.begun == {"reading": 30, "encoder": 30}
    assert record.done == {"reading": 30, "encoder": 30}
