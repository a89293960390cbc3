"""Torch and Hugging Face data sets."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biofuse.core.errors import DataError, LeakageError
from biofuse.data.decoding import decode
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples

MakeImages = Callable[..., list[Path]]


def picture(path: Path, level: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), level).save(path)
    return path


def names(samples: Samples) -> list[str]:
    assert samples.labels is not None
    return [samples.classes[label] for label in samples.labels]


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


def test_a_torchvision_image_folder_keeps_its_classes(make_images: MakeImages, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    make_images(tmp_path)
    theirs, ours = load_samples(ImageFolder(tmp_path)), load_samples(tmp_path)
    assert theirs.classes == ours.classes == ("blue", "red")
    assert theirs.labels is not None
    assert ours.labels is not None
    np.testing.assert_array_equal(theirs.labels, ours.labels)


def test_targets_spare_reading_every_row_for_its_label() -> None:
    data = Pairs([(np.zeros((4, 4), np.uint8), label) for label in [0, 1] * 10])
    load_samples(data)
    full = data.reads
    data.targets = [0, 1] * 10  # type: ignore[attr-defined]
    data.reads = 0
    samples = load_samples(data)
    assert data.reads <= full - 20
    assert samples.labels is not None
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
def test_tensors_that_are_no_pictures(make: Callable[[object], object], why: str) -> None:
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
    assert samples.groups is not None
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
