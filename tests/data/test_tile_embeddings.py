"""Embeddings of tiles that TRIDENT, CLAM and slide2vec write are read as bags, and joined on slide and place."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from biofuse.core.errors import AlignmentError, DataError, UnreadableImageError
from biofuse.data import tile_embeddings
from biofuse.data.check import check_samples
from biofuse.data.config import DataConfig
from biofuse.data.decoding import DecodePolicy
from biofuse.data.load import load_samples
from biofuse.extract.embeddings import read_stored
from biofuse.store.exchange import import_embeddings
from biofuse.store.store import EmbeddingStore

h5py = pytest.importorskip("h5py")

PLACES = np.stack(np.meshgrid(np.arange(4) * 512, np.arange(3) * 512), axis=-1).reshape(-1, 2)


def features(seed: int, columns: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(len(PLACES), columns)).astype(np.float32)


def trident(path: Path, values: np.ndarray, places: np.ndarray = PLACES, size: int = 512) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("features", data=values, maxshape=(None, *values.shape[1:]), chunks=True)
        file.create_dataset("coords", data=places).attrs["patch_size_level0"] = size


def clam(root: Path, name: str, values: np.ndarray, places: np.ndarray = PLACES) -> None:
    for folder in ("h5_files", "pt_files"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    with h5py.File(root / "h5_files" / f"{name}.h5", "w") as file:
        file.create_dataset("features", data=values)
        file.create_dataset("coords", data=places)
    torch.save(torch.from_numpy(values), root / "pt_files" / f"{name}.pt")


def slide2vec(root: Path, name: str, values: np.ndarray, places: np.ndarray = PLACES) -> None:
    for folder in ("tile_embeddings", "tiles"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    torch.save(torch.from_numpy(values).half(), root / "tile_embeddings" / f"{name}.pt")
    np.savez(root / "tiles" / f"{name}.coordinates.npz", x=places[:, 0], y=places[:, 1], tile_index=range(len(places)))


def opened(path: Path, **options: Any) -> tuple[tile_embeddings.EmbeddedTile, ...]:
    return tile_embeddings.open_file(path, DataConfig(**options)).images  # type: ignore[return-value]


def test_each_program_writes_the_same_tiles(tmp_path: Path) -> None:
    trident(tmp_path / "trident" / "s.h5", features(0)[None], size=0)
    clam(tmp_path / "clam", "s", features(1))
    slide2vec(tmp_path / "slide2vec", "s", features(2))
    files = ["trident/s.h5", "clam/h5_files/s.h5", "clam/pt_files/s.pt", "slide2vec/tile_embeddings/s.pt"]
    named = [[tile.content(DecodePolicy()) for tile in opened(tmp_path / file)] for file in files]
    assert named[0] == named[1] == named[2] == named[3]
    assert len(set(named[0])) == len(PLACES)
    assert [list(tile.place.values()) for tile in opened(tmp_path / files[3])] == PLACES.tolist()
    assert set(opened(tmp_path / files[0], tiles=3)) < set(opened(tmp_path / files[0], tiles=7))


def test_rows_come_by_place_whatever_their_order(tmp_path: Path) -> None:
    trident(tmp_path / "s.h5", features(0))
    order = np.random.default_rng(1).permutation(len(PLACES))
    trident(tmp_path / "other" / "s.h5", features(0)[order], PLACES[order])
    tiles = opened(tmp_path / "s.h5")
    np.testing.assert_array_equal(tile_embeddings.read_embedded(tmp_path / "other" / "s.h5", tiles), features(0))
    trident(tmp_path / "other" / "s.h5", features(0), size=256)
    with pytest.raises(AlignmentError, match="no embedding of 12 of 12 tiles"):
        tile_embeddings.read_embedded(tmp_path / "other" / "s.h5", tiles)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"coords": PLACES}, "no array called 'features'; it has coords"),
        ({"features": np.ones(5)}, "holds no embeddings of tiles but an array of shape"),
        ({"features": np.ones((0, 5)), "coords": np.ones((0, 2))}, "an array of shape"),
        ({"features": np.ones((12, 5)), "coords": PLACES[:3]}, "12 embeddings for places of shape"),
        ({"features": np.ones((2, 5)), "coords": np.zeros((2, 2))}, "several tiles have the same place"),
    ],
    ids=["coordinates", "one slide", "none", "other places", "twice"],
)
def test_other_hdf5_files_are_refused(arrays: dict[str, np.ndarray], said: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "it.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
    with pytest.raises(UnreadableImageError, match=said):
        opened(tmp_path / "it.h5")


def test_other_tensors_and_damage_are_refused_and_nothing_is_unpickled(tmp_path: Path) -> None:
    ran = []

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return ran.append, (1,)

    torch.save(Evil(), tmp_path / "evil.pt")
    torch.save({"weights": torch.ones(3, 3)}, tmp_path / "weights.pt")
    trident(tmp_path / "cut.h5", features(0))
    (tmp_path / "cut.h5").write_bytes((tmp_path / "cut.h5").read_bytes()[:600])
    for name in ("evil.pt", "weights.pt", "cut.h5"):
        with pytest.raises(UnreadableImageError, match=name):
            opened(tmp_path / name)
    assert not ran


@pytest.fixture
def slides_table(tmp_path: Path) -> Path:
    """Return a table of two slides whose tiles two encoders have embedded, the second in another order."""
    for number in range(2):
        trident(tmp_path / "uni" / f"s{number}.h5", features(number))
        trident(tmp_path / "virchow" / f"s{number}.h5", features(10 + number, 7)[::-1], PLACES[::-1])
    table = pd.DataFrame({"slide": ["s0", "s1"], "label": ["a", "b"]})
    table.to_csv(tmp_path / "slides.csv", index=False)
    return tmp_path / "slides.csv"


def test_imported_tiles_are_pooled_and_joined(slides_table: Path) -> None:
    folder, store = slides_table.parent, EmbeddingStore(slides_table.parent / "store")
    samples = load_samples(slides_table, path="slide", root=folder / "uni", extension=".h5", labelled=False)
    assert samples.sizes.tolist() == [12, 12]
    for name in ("uni", "virchow"):
        done = import_embeddings(folder / name, samples, encoder=f"{name}-tiles", store=store)
        assert (done.written, done.known, done.unused) == (24, 0, 0)
        assert import_embeddings(folder / name, samples, encoder=f"{name}-tiles", store=store).known == 24
    stored = read_stored(samples, ["uni-tiles", "virchow-tiles"], store=store)
    for seed, name in ((0, "uni-tiles"), (10, "virchow-tiles")):
        columns = 5 if name == "uni-tiles" else 7
        expected = [features(seed + number, columns).mean(axis=0) for number in range(2)]
        np.testing.assert_allclose(stored[name], expected, rtol=1e-5, atol=1e-6)


def test_a_folder_that_does_not_fit_is_refused(slides_table: Path, tmp_path: Path) -> None:
    folder, store = slides_table.parent, EmbeddingStore(tmp_path / "store")
    samples = load_samples(slides_table, path="slide", root=folder / "uni", extension=".h5", labelled=False)
    (folder / "virchow" / "s1.h5").unlink()
    with pytest.raises(AlignmentError, match="no file of embeddings of slide 's1'"):
        import_embeddings(folder / "virchow", samples, encoder="v", store=store)
    with pytest.raises(AlignmentError, match="several files of embeddings of slide 's0'"):
        import_embeddings(folder, samples, encoder="v", store=store)
    with pytest.raises(DataError, match="no tile of a file of embeddings"):
        import_embeddings(folder, load_samples([np.zeros((8, 8), np.uint8)]), encoder="v", store=store)


def test_the_check_looks_for_no_pixels_where_there_are_none(slides_table: Path) -> None:
    trident(slides_table.parent / "uni" / "s1.h5", features(1), PLACES[:, ::-1])
    samples = load_samples(slides_table, path="slide", root=slides_table.parent / "uni", extension=".h5")
    report = check_samples(samples)
    assert report.unreadable == report.flat == ()
    assert report.n_images == 24
    assert report.files["embedded slide"].n == 2
