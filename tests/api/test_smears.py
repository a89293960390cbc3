"""Blood smears as bags of cells: a property of the smear is predicted from its crops."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

import biofuse
from biofuse.core.errors import BioFuseError, DataError, SearchError
from biofuse.core.target import Target, Task
from biofuse.heads.ridge import RELATIVE_PENALTIES
from biofuse.report.bags import AGAINST, FOR, LEAST
from biofuse.search.problem import suited

SMEARS = 90
"""Enough for folds with both classes, few enough for seconds."""

FOLDS = {"encoders": ["colour"], "folds": 3, "repeats": 1, "progress": False}


@pytest.fixture(scope="module")
def smears(shared_data):
    """A row per crop, with the smear it is from and whether platelets were marked in that smear."""
    folder = shared_data / "blood-cells"
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    there = {row["smear"] for row in rows if row["label"] == "platelets"}
    kept = sorted({row["smear"] for row in rows})[:SMEARS]
    table = pd.DataFrame(
        {
            "path": str(folder / row["path"]),
            "smear": row["smear"],
            "split": "test" if row["split"] == "test" else "train",
            "platelets": "seen" if row["smear"] in there else "none",
        }
        for row in rows
        if row["smear"] in kept
    )
    return table.sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def weighed(smears, store, tmp_path_factory):
    """The result of a fit by attention, and the run that it wrote."""
    folder = tmp_path_factory.mktemp("weighed")
    smears.to_csv(folder / "smears.csv", index=False)
    given = {"bag": "smear", "label": "platelets", "predictor": "attention", "pooling": "auto"}
    return biofuse.fit(folder / "smears.csv", store=store, out=folder / "run", **given, **FOLDS), folder / "run"


@pytest.mark.slow
def test_mean_pooling_and_ridge_score_as_scikit_learn_on_the_exported_embeddings(smears, store) -> None:
    result = biofuse.fit(smears, store=store, bag="smear", label="platelets", head="ridge", **FOLDS)
    evaluation = result.evaluate(progress=False)
    cells = biofuse.embed(smears, ["colour"], label="platelets", store=store, progress=False)
    assert all(work.computed == 0 for work in cells.work)  # the store is per image, whatever images make up
    frame = pd.DataFrame(cells["colour"].astype(np.float64)).groupby(smears["smear"].to_numpy()).mean()
    rows = smears.drop_duplicates("smear").set_index("smear").loc[frame.index]
    train, truth = (rows["split"] == "train").to_numpy(), (rows["platelets"] == "seen").to_numpy()
    scaler = StandardScaler().fit(frame[train])
    X = scaler.transform(frame)
    grid = np.array(RELATIVE_PENALTIES) * np.square(X[train]).sum() / train.sum()
    ridge = RidgeClassifierCV(alphas=grid).fit(X[train], truth[train])
    scores = ridge.decision_function(X[~train])
    assert evaluation["auroc"] == pytest.approx(roc_auc_score(truth[~train], scores), abs=1e-6)
    assert evaluation["accuracy"] == pytest.approx(accuracy_score(truth[~train], scores > 0), abs=1e-6)
    assert evaluation.n == (~train).sum()
    interval = evaluation.models["chosen"].intervals["auroc"]
    assert interval.low < evaluation["auroc"] < interval.high
    pooled = result.embeddings.blocks.join(frame.index[train].tolist())["colour"]
    np.testing.assert_allclose(pooled, frame[train], rtol=1e-6, atol=1e-6)


def test_attention_is_chosen_saved_scored_and_says_which_crops_decide(weighed, smears, store) -> None:
    result, out = weighed
    assert result.evaluate(progress=False)["auroc"] > 0.8
    said = [note for note in result.notes if note.startswith("Images of a sample are pooled by")]
    assert len(said) == 1
    assert f"pooled by {result.model.pooling}:" in said[0]
    assert result.run.record.pooling == result.model.pooling
    assert said[0] in result.run.record.plan.notes
    loaded = biofuse.BioFuseModel.load(out)
    frame, embeddings = loaded.predict_frame(smears, bag="smear", store=store, progress=False)
    images = loaded.tabulate_images(embeddings)
    assert images.columns.tolist() == ["id", "image", "weight", "for_none", "for_seen"]
    assert sorted(images["image"]) == sorted(smears["path"])
    assert images.groupby("id")["weight"].sum().to_numpy() == pytest.approx(1)
    owner = dict(zip(smears["path"], smears["smear"], strict=True))
    assert [owner[image] for image in images["image"]] == images["id"].tolist()
    turned, _ = loaded.predict_frame(smears.iloc[::-1], bag="smear", store=store, progress=False)
    turned = turned.set_index("id").loc[frame["id"]]
    np.testing.assert_allclose(frame["p_seen"], turned["p_seen"], atol=1e-6)


def test_attention_without_bags_or_of_values_is_refused(weighed, smears, store) -> None:
    options = {"label": "platelets", "store": store, "predictor": "attention", **FOLDS}
    with pytest.raises(DataError, match="every sample is one image"):
        biofuse.fit(smears, **options)
    with pytest.raises(SearchError, match="Attention predicts classes"):
        suited(biofuse.SearchConfig(predictor="attention"), Target(Task.VALUE, ("age",)))
    with pytest.raises(BioFuseError, match="which only a fit makes"):
        biofuse.embed(smears, ["colour"], bag="smear", pooling="auto", store=store, progress=False)
    frame, alone = weighed[0].model.predict_frame(smears["path"].tolist()[:2], store=store, progress=False)
    assert len(frame) == 2  # an image by itself is a bag of one
    with pytest.raises(DataError, match="Every sample is one image"):
        weighed[0].model.tabulate_images(alone)


def test_the_report_shows_the_crops_that_argue_most_for_and_against(weighed, smears, store, parse) -> None:
    result, out = weighed
    biofuse.evaluate(out, store=store, report=lambda _: None, progress=False)
    page = parse((out / "report.html").read_text(encoding="utf-8"))
    shown = page.table("bag-list")
    frame, embeddings = result.model.predict_frame(smears, bag="smear", store=store, progress=False)
    images = result.model.tabulate_images(embeddings)
    images["name"] = [Path(image).name for image in images["image"]]
    said = frame.set_index("id")["prediction"]
    for name, rows in pd.DataFrame(shown).groupby("sample"):
        called = said[name]  # a mistake is about what was predicted, too
        assert set(rows["class"]) == {called}
        own = images[images["id"] == name].sort_values(f"for_{called}", ascending=False, kind="stable")
        argue = own[own[f"for_{called}"].abs() >= LEAST]
        expected = pd.concat(
            [argue[argue[f"for_{called}"] > 0].head(FOR), argue[argue[f"for_{called}"] < 0].tail(AGAINST)]
        )
        assert rows["image"].tolist() == expected["name"].tolist()
        np.testing.assert_allclose(rows["adds to the log-odds"].astype(float), expected[f"for_{called}"], atol=1e-4)
        np.testing.assert_allclose(rows["weight"].astype(float), expected["weight"], atol=1e-4)
    assert 2 <= len({row["sample"] for row in shown}) <= 4
