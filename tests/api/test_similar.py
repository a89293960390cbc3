"""The nearest development images of an image, the sheet of them, and all of them as vectors."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial.distance import cdist

import biofuse
from biofuse import BioFuse
from biofuse.core.errors import DataError, StoreError

from .conftest import ALONE


@pytest.fixture(scope="module")
def vectors(fitted, study, tmp_path_factory):
    path = biofuse.export_vectors(fitted.path, tmp_path_factory.mktemp("vectors"), store=study.store)
    return pq.read_table(path)


def test_vectors_read_back_as_a_matrix_in_the_order_of_the_table(vectors, fitted):
    development = fitted.run.samples[fitted.run.samples["split"] != "test"]
    assert vectors["id"].to_pylist() == development["id"].tolist()
    assert vectors["label"].to_pylist() == development["label"].tolist()
    assert set(vectors["split"].to_pylist()) == {"train", "val"}
    X = vectors["vector"].combine_chunks().flatten().to_numpy().reshape(len(vectors), -1)
    blocks = fitted.embeddings.blocks.only(fitted.model.encoders)
    # Each encoder by itself: centred, and of about one in all, whatever its number of columns.
    start = 0
    for name in fitted.model.encoders:
        part = X[:, start : start + blocks.dims[name]]
        start += blocks.dims[name]
        np.testing.assert_allclose(np.corrcoef(part[:, 0], blocks[name][:, 0])[0, 1], 1, atol=1e-5)
        assert 0.5 < np.square(part).sum(axis=1).mean() < 2
    assert start == X.shape[1]


def test_the_nearest_are_those_of_the_vectors(vectors, fitted, study):
    image = next((study.images / "test" / "mid").glob("*.png"))
    found = biofuse.similar(fitted.path, image, k=5, store=study.store, options=ALONE, progress=False)
    X = vectors["vector"].combine_chunks().flatten().to_numpy().reshape(len(vectors), -1)
    new = biofuse.vectors(fitted.path, image, store=study.store, options=ALONE, progress=False)
    distances = cdist(new, X)[0]
    order = np.argsort(distances)[:5]
    assert [each.id for each in found.nearest] == [vectors["id"][int(row)].as_py() for row in order]
    np.testing.assert_allclose([each.distance for each in found.nearest], distances[order], rtol=1e-5)
    assert not any(each.identical for each in found.nearest)


def test_a_development_image_finds_itself_first(fitted, study):
    image = next((study.images / "train" / "sev").glob("*.png"))
    first = biofuse.similar(fitted.path, image, k=1, store=study.store, options=ALONE, progress=False).nearest[0]
    assert (first.identical, first.distance, first.label) == (True, pytest.approx(0, abs=1e-6), "sev")


def test_the_sheet_has_a_picture_of_each_and_says_which_are_gone(fitted, quick, study, tmp_path, parse):
    shutil.copytree(study.images, tmp_path / "images")
    run = BioFuse(["t_colour", "t_edge"], folds=2, repeats=1, store=study.store, options=ALONE)
    run.fit(tmp_path / "images", out=tmp_path / "run", progress=False)
    image = next((study.images / "test" / "mid").glob("*.png"))
    options = {"k": 4, "store": study.store, "options": ALONE, "progress": False}
    found = biofuse.similar(tmp_path / "run", image, **options)
    page = parse(found.to_html())
    assert len(list(page.tree.iter("img"))) == 5
    assert [row["label"] for row in page.table("nearest-development-images")] == [e.label for e in found.nearest]
    levels = [element.tag for element in page.tree.iter() if element.tag in {"h1", "h2", "h3"}]
    assert levels == ["h1", "h2", "h2", "h2"]

    gone = found.nearest[1].id
    for path in (tmp_path / "images").rglob("*.png"):
        if path.relative_to(tmp_path / "images").as_posix() == gone or path.as_posix().endswith(gone):
            path.unlink()
    fewer = biofuse.similar(tmp_path / "run", image, **options)
    assert [each.id for each in fewer.nearest] == [each.id for each in found.nearest]
    assert any(gone in line for line in fewer.remarks)
    shutil.rmtree(tmp_path / "images")
    bare = biofuse.similar(tmp_path / "run", image, **options)
    assert len(list(parse(bare.to_html()).tree.iter("img"))) == 1
    assert "no pictures" in bare.remarks[0]


def test_what_cannot_be_answered_says_what_to_do(fitted, study, tmp_path):
    with pytest.raises(DataError, match="holds 21 images"):
        biofuse.similar(fitted.path, study.images / "test", store=study.store, options=ALONE, progress=False)
    image = next((study.images / "test" / "mid").glob("*.png"))
    with pytest.raises(StoreError, match="not in this store") as refused:
        biofuse.similar(fitted.path, image, store=tmp_path / "empty", options=ALONE, progress=False)
    assert "`store=`" in refused.value.remedy
