"""Images in memory, lists of paths, torch and Hugging Face data sets."""

import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from biofuse.core.errors import DataError, LeakageError
from biofuse.core.target import Task
from biofuse.data.decoding import DecodePolicy, content_hash, decode
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples


def picture(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), level).save(path)
    return path


def names(samples: Samples) -> list[str]:
    return [samples.classes[label] for label in samples.labels]


def test_arrays_lists_and_pillow_images_agree() -> None:
    stack = np.random.default_rng(0).integers(0, 256, size=(4, 6, 5, 3), dtype=np.uint8)
    labels = [0, 1, 1, 0]
    for data in (stack, list(stack), [Image.fromarray(image) for image in stack]):
        samples = load_samples(data, labels=labels, group=["a", "a", "b", "c"])
        assert samples.ids.tolist() == ["000000", "000001", "000002", "000003"]
        assert samples.classes == ("0", "1")
        assert [content_hash(source.read(), samples.decode) for source in samples.sources] == [
            content_hash(image, DecodePolicy()) for image in stack
        ]
    assert load_samples(stack).labels is None
    assert load_samples(stack, id=list("wxyz")).ids.tolist() == list("wxyz")


def test_a_list_of_paths(tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{number}.png") for number in range(2)]
    samples = load_samples(paths, labels=["no", "yes"])
    assert samples.ids.tolist() == [path.as_posix() for path in paths]
    assert load_samples(pd.Series(["0.png", "1.png"]), root=tmp_path).ids.tolist() == ["0.png", "1.png"]
    with pytest.raises(DataError, match="more than once"):
        load_samples([paths[0], paths[0]])


def test_labels_in_memory_take_many_forms() -> None:
    stack = np.zeros((3, 6, 5), dtype=np.uint8)
    named = load_samples(stack, labels=[1, 0, 1], classes=["benign", "malignant"])
    assert names(named) == ["malignant", "benign", "malignant"]
    for labels in ([[1, 0], [0, 1], [1, 1]], np.array([[1, 0], [0, 1], [1, 1]])):
        multi = load_samples(stack, labels=labels)
        assert (multi.task, multi.classes) == (Task.MULTILABEL, ("0", "1"))
    sets = load_samples(stack, labels=[["a", "b"], ["a", "c"], ["c", "b"]])
    assert sets.task is Task.MULTILABEL
    assert sets.classes == ("a", "b", "c")
    column = load_samples(stack, labels=np.array([[1], [0], [2]]))
    assert (column.task, column.classes) == (Task.MULTICLASS, ("0", "1", "2"))


class Pairs:
    """A torch-style data set over a list of (image, label)."""

    def __init__(self, items: list[object]) -> None:
        self.items = items
        self.reads = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> object:
        self.reads += 1
        return self.items[row]


def test_torch_data_sets_of_tensors_arrays_and_images_agree() -> None:
    import torch

    pixels = np.random.default_rng(0).integers(0, 256, size=(4, 6, 5, 3), dtype=np.uint8)
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    kinds = [
        Pairs([(Image.fromarray(image), label) for label, image in enumerate(pixels)]),
        Pairs([(image, np.int64(label)) for label, image in enumerate(pixels)]),
        torch.utils.data.TensorDataset(channels_first, torch.arange(4)),
        torch.utils.data.TensorDataset(channels_first / 255, torch.arange(4)[:, None]),
    ]
    for data in kinds:
        samples = load_samples(data)
        assert names(samples) == ["0", "1", "2", "3"]
        for source, image in zip(samples.sources, pixels, strict=True):
            np.testing.assert_array_equal(decode(source.read(), samples.decode, description="x"), image)
    bare = load_samples(channels_first)
    assert bare.labels is None
    assert bare.ids.tolist() == ["000000", "000001", "000002", "000003"]


def test_a_torchvision_image_folder_keeps_its_classes(make_images, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    make_images(tmp_path)
    theirs, ours = load_samples(ImageFolder(tmp_path)), load_samples(tmp_path)
    assert theirs.classes == ours.classes == ("blue", "red")
    np.testing.assert_array_equal(theirs.labels, ours.labels)


def test_targets_spare_reading_every_row_for_its_label() -> None:
    data = Pairs([(np.zeros((4, 4), np.uint8), label) for label in [0, 1] * 10])
    load_samples(data)
    full = data.reads
    data.targets = [0, 1] * 10  # type: ignore[attr-defined]
    data.reads = 0
    samples = load_samples(data)
    assert data.reads <= full - 20
    assert samples.labels.tolist() == [0, 1] * 10


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda torch: torch.randn(3, 8, 8) * 3, "Take Normalize out"),
        (lambda torch: torch.zeros(8, 9, 3), r"not \[channels, height, width\]"),
        (lambda torch: torch.zeros(3, 8, 8, dtype=torch.int64), "must be uint8, or float"),
        (lambda torch: torch.full((3, 8, 8), float("nan")), "must be uint8, or float within 0-1"),
    ],
)
def test_tensors_that_are_no_pictures(make, why) -> None:
    import torch

    with pytest.raises(DataError, match=why):
        load_samples(Pairs([(make(torch), 0), (make(torch), 1)]))


def test_random_transforms_are_found() -> None:
    class Jittered(Pairs):
        def __getitem__(self, row: int) -> object:
            self.reads += 1
            return np.full((4, 4), self.reads, dtype=np.uint8), row % 2

    with pytest.raises(DataError, match="gives other pixels each time"):
        load_samples(Jittered([0, 1]))


def test_a_data_loader_is_refused_with_the_remedy() -> None:
    import torch

    loader = torch.utils.data.DataLoader(Pairs([(np.zeros((4, 4)), 0)]))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"Pass loader.dataset instead"):
        load_samples(loader)


@pytest.mark.slow
def test_hugging_face_data_sets_hash_the_original_bytes(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [picture(tmp_path / f"{number}.png", number) for number in range(3)]
    data = datasets.Dataset.from_dict(
        {"image": [str(path) for path in paths], "label": [1, 0, 1], "group": ["a", "b", "c"]},
        features=datasets.Features({
            "image": datasets.Image(), "label": datasets.ClassLabel(names=["ok", "ill"]),
            "group": datasets.Value("string"),
        }),
    )  # fmt: skip
    samples = load_samples(data)
    assert names(samples) == ["ill", "ok", "ill"]
    assert samples.classes == ("ok", "ill")
    assert [source.read() for source in samples.sources] == [path.read_bytes() for path in paths]
    again = pickle.loads(pickle.dumps(samples.sources[2]))  # noqa: S301
    assert again.read() == paths[2].read_bytes()


def test_hugging_face_groups_in_two_splits_are_leakage(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    path = str(picture(tmp_path / "1.png"))
    features = datasets.Features({
        "image": datasets.Image(), "label": datasets.Value("string"), "patient": datasets.Value("string")
    })  # fmt: skip
    columns = {"image": [path] * 2, "label": ["x", "y"], "patient": ["p", "q"]}
    data = datasets.Dataset.from_dict(columns, features=features)
    parts = datasets.DatasetDict({"train": data, "test": data})
    samples = load_samples(parts)
    assert samples.ids.tolist() == ["train/000000", "train/000001", "test/000000", "test/000001"]
    with pytest.raises(LeakageError, match="p "):
        load_samples(parts, group="patient")


def test_columns_of_hugging_face_are_recognised_like_those_of_a_table(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {
        "image": [str(picture(tmp_path / f"{number}.png", number)) for number in range(3)],
        "dx": ["ill", "ok", "ill"],
        "split": ["train", "train", "test"],
    }
    data = datasets.Dataset.from_dict(columns).cast_column("image", datasets.Image())
    for given in (data, data.with_transform(lambda batch: {"image": batch["image"]})):
        samples = load_samples(given)
        assert (names(samples), samples.splits.tolist()) == (["ill", "ok", "ill"], ["train", "train", "test"])
        assert "column 'dx' holds the labels" in samples.notes[0]
    assert load_samples(data, use_splits=False).splits is None
