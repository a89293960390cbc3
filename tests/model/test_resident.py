from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from biofuse import ExtractOptions
from biofuse.core.errors import BioFuseError, DataError, UndefinedMetricError, UnreadableImageError

ALONE = ExtractOptions(workers=0)


@pytest.fixture(scope="module")
def resident(made):
    with made.model.resident(batch_size=5) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def table(made):
    paths = [str(path) for path in made.pictures]
    return made.model.predict_frame(paths, coverage=0.9, options=ALONE, store=made.store, progress=False)[0]


def test_paths_bytes_arrays_and_pictures_get_the_answers_of_files(made, resident, table):
    paths = made.pictures
    same = resident.predict(paths, coverage=0.9)
    assert same.columns.tolist() == table.columns.tolist()
    numbers = table.select_dtypes("number")
    words = table.columns.difference(numbers.columns)
    assert same[words].equals(table[words])
    np.testing.assert_allclose(same[numbers.columns], numbers, atol=1e-6)
    mixed = [
        path.read_bytes() if row % 3 == 0 else Image.open(path) if row % 3 == 1 else np.asarray(Image.open(path))
        for row, path in enumerate(paths)
    ]
    other = resident.predict(mixed, coverage=0.9)
    assert other["id"].tolist() == [f"{row:06d}" for row in range(len(paths))]
    np.testing.assert_allclose(other[numbers.columns], numbers, atol=1e-6)
    stack = np.stack([np.asarray(Image.open(path)) for path in paths])
    np.testing.assert_allclose(resident.predict_proba(stack), numbers.filter(like="p_"), atol=1e-6)
    expected = made.model.embed([str(path) for path in paths], store=made.store, progress=False)
    np.testing.assert_allclose(resident.embed(paths), expected, atol=1e-6)


def test_thresholds_are_those_of_the_model(made, resident):
    paths = [str(path) for path in made.pictures]
    expected = made.model.predict(paths, threshold="youden", store=made.store, options=ALONE, progress=False)
    assert resident.predict(paths, threshold="youden")["prediction"].tolist() == expected.tolist()
    with pytest.raises(UndefinedMetricError):
        resident.predict(["is not read"], sensitivity=2.0)


def test_eight_threads_get_the_same_answers(made, resident):
    alone = resident.predict_proba(made.pictures)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda path: resident.predict_proba([path])[0], made.pictures * 3))
    np.testing.assert_allclose(found, np.tile(alone, (3, 1)), atol=1e-6)


def test_nothing_is_written_and_a_file_may_come_twice(made, resident, biofuse_home):
    path = made.pictures[0]
    assert resident.predict([path, path])["id"].tolist() == [path.as_posix()] * 2
    assert list(biofuse_home.iterdir()) == []


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        ([b"no picture"], UnreadableImageError, "image 0 of the list"),
        (["absent.png"], UnreadableImageError, "absent.png"),
        ([np.zeros((3, 3)), "a"], UnreadableImageError, "a: does not exist"),
        ("absent.png", DataError, "not a list"),
        (np.zeros((9, 9, 3), np.uint8), DataError, "one image, not a stack"),
        ([], DataError, "no image"),
    ],
)
def test_what_cannot_be_read_is_named(resident, images, error, words):
    with pytest.raises(error, match=words):
        resident.predict(images)


def test_a_closed_one_refuses(made):
    predictor = made.model.resident()
    predictor.close()
    predictor.close()
    with pytest.raises(BioFuseError, match="closed"):
        predictor.predict(made.pictures[:1])


def test_a_list_of_images_is_one_sample_whatever_their_order(made, resident):
    first, second, third = made.pictures[:3]
    single = resident.embed([first, second, third])
    pooled = resident.embed([[first, second.read_bytes(), third], third, (second, third)])
    expected = [single.mean(axis=0), single[2], single[1:].mean(axis=0)]
    np.testing.assert_allclose(pooled, expected, atol=1e-6)
    np.testing.assert_allclose(resident.embed([[third, first, second]])[0], pooled[0], atol=1e-6)
    assert resident.predict([[first, second], third])["id"].tolist() == ["000000", third.as_posix()]
    with pytest.raises(UnreadableImageError, match="image 1 of sample 0 of the list"):
        resident.predict([[first, b"no image"]])
    with pytest.raises(DataError, match="Sample 1 of the list holds no image"):
        resident.predict([first, []])
