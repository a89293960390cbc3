"""Samples of several images, from a table to a prediction."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import biofuse
from biofuse.core.errors import LeakageError

ENCODERS = ["colour", "lbp"]
N = 24


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Return 24 patients of two or three images, of which those of one finding are brighter."""
    folder, random = tmp_path_factory.mktemp("bags"), np.random.default_rng(0)
    rows = []
    for patient in range(N):
        ill = patient % 2
        for number in range(2 + patient % 2):
            pixels = random.integers(30 * ill, 200 + 30 * ill, (16, 16, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{patient:02d}_{number}.png")
            rows.append((str(folder / f"{patient:02d}_{number}.png"), f"p{patient:02d}", "ill" if ill else "well"))
    return pd.DataFrame(rows, columns=["path", "patient", "finding"])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module", params=["mean", "mean+std"])
def result(request: pytest.FixtureRequest, table: pd.DataFrame, store: Path) -> biofuse.FitResult:
    return biofuse.fit(
        table, encoders=ENCODERS, bag="patient", label="finding", head="ridge", pooling=request.param, store=store,
        progress=False,
    )  # fmt: skip


def test_blocks_are_the_means_of_the_stored_images(table: pd.DataFrame, store: Path) -> None:
    whole = biofuse.embed(table, ENCODERS, bag="patient", label="finding", store=store, progress=False)
    alone = biofuse.embed(table, ENCODERS, label="finding", group="patient", store=store, progress=False)
    assert alone.computed == 0  # the store is per image
    owners = table["patient"].to_numpy()
    for encoder in ENCODERS:
        by_numpy = np.stack([alone[encoder][owners == name].astype(np.float64).mean(axis=0) for name in whole.ids])
        np.testing.assert_allclose(whole[encoder], by_numpy, rtol=1e-6, atol=1e-7)


def test_a_model_of_bags_answers_for_bags_in_any_order(
    result: biofuse.FitResult, table: pd.DataFrame, tmp_path: Path
) -> None:
    model = biofuse.BioFuseModel.load(result.model.save(tmp_path / "model"))
    images = table[["path", "patient"]]
    frame, found = model.predict_frame(images, store=result.store, progress=False)
    again, _ = model.predict_frame(images.sample(frac=1, random_state=0), store=result.store, progress=False)
    pd.testing.assert_frame_equal(frame, again.set_index("id").loc[frame["id"]].reset_index())
    assert len(frame) == N
    assert model.embed(images, store=result.store, progress=False).shape == (N, model.dim)
    assert found.pooling == model.pooling == result.embeddings.pooling
    with model.resident() as predictor:  # of one image after another, each is a sample
        one = table["path"].iloc[0]
        alone = model.predict_proba([one], store=result.store, progress=False)
        assert predictor.predict([one])["p_ill"].to_numpy() == pytest.approx(
            alone[:, result.model.classes.index("ill")]
        )


def test_test_samples_that_share_an_image_with_development_data_are_said(
    result: biofuse.FitResult, table: pd.DataFrame
) -> None:
    development = result.embeddings.samples
    test = sorted(set(table["patient"]) - set(development.ids.tolist()))
    known = table[table["patient"] == development.ids[0]].iloc[0]
    shared = pd.DataFrame([(known["path"], test[0], table.set_index("patient")["finding"][test[0]].iloc[0])])
    shared.columns = table.columns
    mixed = pd.concat([table[table["patient"].isin(test)], shared])
    assert result.evaluate(table[table["patient"].isin(test)], progress=False).leak.samples == 0
    assert result.evaluate(mixed, progress=False).leak.samples == 1


def test_two_bags_that_differ_in_one_image_are_two_samples(table: pd.DataFrame, store: Path) -> None:
    names = table["path"].tolist()[:4]
    frame = pd.DataFrame({"path": [*names[:3], *names[1:]], "patient": ["a"] * 3 + ["b"] * 3, "finding": "ill"})
    whole = biofuse.embed(frame, ENCODERS, bag="patient", labelled=False, store=store, progress=False)
    assert whole.contents[0] != whole.contents[1]
    for encoder in ENCODERS:
        assert not np.array_equal(whole[encoder][0], whole[encoder][1])


def test_a_bag_in_train_and_test_is_refused(table: pd.DataFrame) -> None:
    with pytest.raises(LeakageError, match="p00"):
        biofuse.fit(table, test=table.head(5), encoders=ENCODERS, bag="patient", label="finding", progress=False)
