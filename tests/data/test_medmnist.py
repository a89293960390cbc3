"""MedMNIST: names, sizes, checksums, labels; equality with the medmnist package."""

import io
import pickle
import re
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import numpy as np
import pytest

from biofuse.core.errors import DataError
from biofuse.core.hashing import digest_file
from biofuse.core.target import Task
from biofuse.data.decoding import MappedRowSource
from biofuse.data.load import load_samples
from biofuse.data.medmnist import MedMNISTInfo, medmnist_catalogue, medmnist_file, medmnist_path

RNG = np.random.default_rng(0)


def archive(
    path: Path,
    *,
    size: int = 28,
    channels: int | None = None,
    n_labels: int = 1,
    compressed: bool = False,
    classes: int = 2,
) -> dict[str, np.ndarray]:
    arrays = {}
    for split, n in (("train", 5), ("val", 3), ("test", 4)):
        shape = (n, size, size) if channels is None else (n, size, size, channels)
        arrays[f"{split}_images"] = RNG.integers(0, 256, size=shape, dtype=np.uint8)
        labels = np.arange(n)[:, None] % classes if n_labels == 1 else RNG.integers(0, 2, size=(n, n_labels))
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return arrays


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, MedMNISTInfo]:
    """Let tests set the checksums of small stand-ins."""
    pattern, catalogue = medmnist_catalogue()
    copy = dict(catalogue)
    monkeypatch.setattr("biofuse.data.medmnist.medmnist_catalogue", lambda: (pattern, copy))
    return copy


def publish(catalogue: dict[str, MedMNISTInfo], flag: str, size: int, path: Path) -> None:
    checksums = {**catalogue[flag].md5, size: digest_file(path, algorithm="md5")}
    catalogue[flag] = catalogue[flag].model_copy(update={"md5": checksums})


def test_the_catalogue_is_that_of_the_medmnist_package() -> None:
    info = pytest.importorskip("medmnist").INFO
    pattern, catalogue = medmnist_catalogue()
    assert set(catalogue) == set(info)
    for flag, facts in catalogue.items():
        theirs = info[flag]
        assert facts.task == theirs["task"]
        assert list(facts.classes) == [theirs["label"][str(index)] for index in range(len(facts.classes))]
        assert facts.n_samples == theirs["n_samples"]
        for size, md5 in facts.md5.items():
            suffix = "" if size == 28 else f"_{size}"
            assert md5 == theirs[f"MD5{suffix}"]
            assert pattern.format(file=f"{flag}{suffix}.npz") == theirs[f"url{suffix}"]
        assert len(facts.md5) == sum(key.startswith("MD5") for key in theirs)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("channels", [None, 3])
def test_archives_give_their_rows(tmp_path: Path, compressed: bool, channels: int | None) -> None:
    path = tmp_path / "mine.npz"
    arrays = archive(path, channels=channels, compressed=compressed)
    samples = load_samples(path)
    assert samples.ids[:2].tolist() == ["train/000000", "train/000001"]
    assert samples.splits.tolist() == ["train"] * 5 + ["val"] * 3 + ["test"] * 4
    assert samples.task is Task.BINARY
    for split in ("train", "val", "test"):
        part = samples.in_split(split)
        np.testing.assert_array_equal(np.stack([source.read() for source in part.sources]), arrays[f"{split}_images"])
        np.testing.assert_array_equal(part.labels, arrays[f"{split}_labels"][:, 0])
    assert isinstance(samples.sources[0], MappedRowSource) is not compressed


def test_bug_17_stored_archives_stay_on_disk_and_rows_travel_light(tmp_path: Path) -> None:
    path = tmp_path / "big.npz"
    archive(path, size=224, channels=3)
    samples = load_samples(path)
    assert len(pickle.dumps(samples.sources[0])) < 1000
    path.unlink()
    with pytest.raises(DataError, match=r"big.npz: train_images, row 0: cannot be read"):
        samples.sources[0].read()


def test_bug_9_the_size_asked_for_is_the_size_loaded(tmp_path: Path, published: dict[str, MedMNISTInfo]) -> None:
    for size in (28, 64, 128, 224):
        path = tmp_path / ("breastmnist.npz" if size == 28 else f"breastmnist_{size}.npz")
        archive(path, size=size)
        publish(published, "breastmnist", size, path)
    for size in (28, 64, 128, 224):
        by_name = load_samples("breastmnist" if size == 28 else f"breastmnist_{size}", root=tmp_path)
        by_option = load_samples("BreastMNIST", size=size, root=tmp_path)
        assert by_name.sources[0].read().shape == by_option.sources[0].read().shape == (size, size)
    with pytest.raises(DataError, match="contradict"):
        load_samples("breastmnist_64", size=128, root=tmp_path)
    with pytest.raises(DataError, match="no size 32"):
        load_samples("breastmnist", size=32, root=tmp_path)


def test_bug_9_a_file_of_another_size_than_its_name_is_refused(tmp_path: Path) -> None:
    archive(tmp_path / "breastmnist_224.npz", size=28)
    with pytest.raises(DataError, match="28 x 28 pixels, but the file name says 224"):
        load_samples(tmp_path / "breastmnist_224.npz")


def test_names_bring_classes_and_tasks(tmp_path: Path) -> None:
    archive(tmp_path / "breastmnist.npz")
    assert load_samples(tmp_path / "breastmnist.npz").classes == ("malignant", "normal, benign")
    archive(tmp_path / "retinamnist_64.npz", size=64, channels=3, classes=5)
    retina = load_samples(tmp_path / "retinamnist_64.npz")
    assert (retina.task, retina.classes) == (Task.ORDINAL, ("0", "1", "2", "3", "4"))
    archive(tmp_path / "chestmnist.npz", n_labels=14)
    chest = load_samples(tmp_path / "chestmnist.npz")
    assert chest.task is Task.MULTILABEL
    assert chest.classes[-1] == "hernia"
    assert chest.labels.shape == (12, 14)
    archive(tmp_path / "octmnist.npz", classes=5)
    with pytest.raises(DataError, match="do not fit the 4 classes"):
        load_samples(tmp_path / "octmnist.npz")


def test_loaded_labels_and_images_equal_the_medmnist_package(tmp_path: Path) -> None:
    medmnist = pytest.importorskip("medmnist")
    arrays = archive(tmp_path / "bloodmnist_64.npz", size=64, channels=3, classes=8)
    samples = load_samples(tmp_path / "bloodmnist_64.npz")
    for split in ("train", "val", "test"):
        theirs = medmnist.BloodMNIST(split=split, size=64, root=str(tmp_path))
        part = samples.in_split(split)
        np.testing.assert_array_equal(part.labels, theirs.labels[:, 0])
        np.testing.assert_array_equal(part.sources[1].read(), theirs.imgs[1])
        assert len(part) == len(arrays[f"{split}_images"])


def test_a_damaged_file_is_refused_by_its_checksum(tmp_path: Path) -> None:
    archive(tmp_path / "breastmnist.npz")
    with pytest.raises(DataError, match="published is 750601b1f35ba3300ea97c75c52ff8f6") as caught:
        load_samples("breastmnist", root=tmp_path)
    assert "Delete" in caught.value.remedy


def test_a_missing_file_is_fetched_verified_and_kept(tmp_path: Path, published: dict[str, MedMNISTInfo]) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    archive(mirror / "breastmnist_64.npz", size=64)
    publish(published, "breastmnist", 64, mirror / "breastmnist_64.npz")
    address = mirror.as_uri() + "/{file}"
    path = medmnist_file("breastmnist", 64, root=tmp_path / "new", url=address)
    assert path == tmp_path / "new" / "breastmnist_64.npz"
    assert path.read_bytes() == (mirror / "breastmnist_64.npz").read_bytes()
    (mirror / "breastmnist_64.npz").unlink()
    assert medmnist_file("breastmnist", 64, root=tmp_path / "new", url=address) == path


def test_a_cut_off_download_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "breastmnist.npz").write_bytes(b"half")
    with pytest.raises(DataError, match="The download was cut off"):
        medmnist_file("breastmnist", root=tmp_path / "new", url=tmp_path.as_uri() + "/{file}")
    assert list((tmp_path / "new").iterdir()) == []


def test_no_network_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(address: str, **_: float) -> io.BytesIO:
        asked.append(address)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(DataError, match="cannot be fetched") as caught:
        load_samples("pathmnist_224", root=tmp_path)
    assert asked == ["https://zenodo.org/records/10519652/files/pathmnist_224.npz?download=1"]
    assert str(tmp_path / "pathmnist_224.npz") in caught.value.remedy
    assert "2c51a510bcdc9cf8ddb2af93af1eadec" in caught.value.remedy
    with pytest.raises(DataError, match="does not exist"):
        load_samples("pathmnist_224", root=tmp_path, download=False)
    assert len(asked) == 1


def test_the_default_root_is_that_of_the_medmnist_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    with pytest.raises(DataError, match=re.escape(str(tmp_path / ".medmnist" / "breastmnist.npz"))):
        load_samples("breastmnist", download=False)


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": np.zeros(3)}, "holds x, but no train_"),
        ({"train_images": np.zeros((2, 4, 4, 4, 4))}, "Volumes are not embedded"),
        ({"train_images": np.zeros((2, 28, 28, 28))}, "Volumes are not embedded"),
        ({"train_images": np.zeros((2, 3, 8, 8))}, r"images.transpose\(0, 2, 3, 1\)"),
        ({"train_images": np.zeros((2, 4, 4)), "train_labels": np.zeros(3)}, "2 train images but 3 train labels"),
        (
            {"train_images": np.zeros((2, 4, 4)), "train_labels": np.arange(2), "test_images": np.zeros((1, 4, 4))},
            "labels for some splits only",
        ),
        ({"train_images": np.array([None, 1], dtype=object)}, "no readable .npz|Object arrays"),
    ],
)
def test_archives_that_cannot_be_used(tmp_path: Path, arrays: dict[str, np.ndarray], why: str) -> None:
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(DataError, match=why):
        load_samples(tmp_path / "mine.npz")


def test_a_file_that_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "mine.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"no readable .npz archive"):
        load_samples(tmp_path / "mine.npz")


def test_fortran_order_is_read_right(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, size=(3, 4, 5), dtype=np.uint8)
    np.savez(tmp_path / "mine.npz", test_images=np.asfortranarray(images))
    samples = load_samples(tmp_path / "mine.npz")
    np.testing.assert_array_equal(np.stack([source.read() for source in samples.sources]), images)
    assert samples.labels is None


pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


class Server:
    """Serves one file; ``breaks_after`` cuts the first answer off, ``ranges`` says whether it knows ranges."""

    def __init__(self, content):
        self.content, self.breaks_after, self.ranges, self.asked = content, None, True, []

    def answer(self, request):
        asked = request.headers.get("Range")
        self.asked.append(asked)
        start = int(asked[6:].partition("-")[0]) if asked and self.ranges else 0
        if start >= len(self.content):
            request.send_error(416)
            return
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(self.content) - start))
        request.end_headers()
        stop, self.breaks_after = self.breaks_after, None
        request.wfile.write(self.content[start:stop])


@pytest.fixture
def server(tmp_path, monkeypatch, serve):
    np.savez(tmp_path / "mirror.npz", train_images=np.arange(2 * 64 * 64, dtype=np.uint8).reshape(2, 64, 64))
    there = Server((tmp_path / "mirror.npz").read_bytes())
    pattern, catalogue = medmnist_catalogue()
    checksum = {64: digest_file(tmp_path / "mirror.npz", algorithm="md5")}
    changed = {**catalogue, "breastmnist": catalogue["breastmnist"].model_copy(update={"md5": checksum})}
    monkeypatch.setattr("biofuse.data.medmnist.medmnist_catalogue", lambda: (pattern, changed))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            there.answer(self)

    there.url = f"{serve(Handler)}/{{file}}"
    return there


def fetch(server, tmp_path, **options):
    return medmnist_file("breastmnist", 64, root=tmp_path / "root", url=server.url, **options)


def test_a_download_reports_how_far_it_is(server, tmp_path, watching):
    path = fetch(server, tmp_path, progress=watching)
    assert path == medmnist_path("breastmnist", 64, root=tmp_path / "root")
    assert path.read_bytes() == server.content
    assert list(watching.totals.values()) == list(watching.counts.values()) == [len(server.content)]
    assert [entry.name for entry in path.parent.iterdir()] == ["breastmnist_64.npz"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_lost_connection_is_taken_up_where_it_broke_if_the_server_can(server, tmp_path, ranges):
    server.breaks_after, server.ranges = 1000, ranges
    with pytest.raises(DataError, match="connection was lost") as caught:
        fetch(server, tmp_path)
    assert "goes on from there" in caught.value.remedy
    assert not medmnist_path("breastmnist", 64, root=tmp_path / "root").exists()
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert server.asked == [None, "bytes=1000-"]


def test_a_part_that_was_whole_already_is_taken(server, tmp_path):
    part = tmp_path / "root" / ".breastmnist_64.npz.part"
    part.parent.mkdir()
    part.write_bytes(server.content)
    assert fetch(server, tmp_path).read_bytes() == server.content
    assert not part.exists()


def test_an_altered_part_is_thrown_away(server, tmp_path):
    part = tmp_path / "root" / ".breastmnist_64.npz.part"
    part.parent.mkdir()
    part.write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="damaged or another file"):
        fetch(server, tmp_path)
    assert list(part.parent.iterdir()) == []
    assert fetch(server, tmp_path).read_bytes() == server.content
