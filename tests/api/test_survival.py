"""Times to an event from a table of images to a report, with the scores of scikit-survival on the same embeddings."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.preprocessing import StandardScaler
from sksurv.linear_model import CoxPHSurvivalAnalysis
from sksurv.metrics import concordance_index_censored
from sksurv.util import Surv

import biofuse
from biofuse.api.report import write_report
from biofuse.core.errors import ArtifactError, SearchError, UndefinedMetricError
from biofuse.core.target import Target
from biofuse.model.card import model_card
from biofuse.search.config import SearchConfig

pytestmark = pytest.mark.slow

N = 120
READ = {"time": "days", "event": "died", "horizon": [100.0, 250.0]}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose hazard grows with their brightness."""
    folder, rng = tmp_path_factory.mktemp("survival"), np.random.default_rng(0)
    bright = rng.uniform(60, 190, N)
    for number, level in enumerate(bright):
        pixels = rng.normal(level, 25, (16, 16, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03d}.png")
    time = 200 * rng.exponential(np.exp(-(bright - 125) / 25))
    end = rng.uniform(50, 600, N)
    frame = pd.DataFrame({"path": [f"{number:03d}.png" for number in range(N)], "days": np.minimum(time, end)})
    frame = frame.assign(died=(time <= end).astype(int), split=np.where(np.arange(N) % 4 == 0, "test", "train"))
    frame.to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    biofuse.fit(table, encoders="colour,lbp", head="cox", repeats=1, folds=3, out=out, progress=False, yes=True, **READ)
    return out


def test_scores_are_those_of_scikit_survival_on_the_exported_embeddings(table: Path, run: Path) -> None:
    found = biofuse.evaluate(run, progress=False)
    model = biofuse.BioFuseModel.load(run / "model")
    frame = pd.read_csv(table)
    embeddings = biofuse.embed(table, model.encoders, progress=False, **READ)
    rows = [embeddings.ids.tolist().index(name) for name in frame.path]
    X = np.hstack([embeddings[name] for name in model.encoders])[rows].astype(np.float64)
    train, test = (frame.split == "train").to_numpy(), (frame.split == "test").to_numpy()
    scaler = StandardScaler().fit(X[train])
    y = Surv.from_arrays(frame.died == 1, frame.days)
    (alpha,) = model.predictor.head.penalty
    theirs = CoxPHSurvivalAnalysis(alpha=alpha, ties="efron", tol=1e-12).fit(scaler.transform(X[train]), y[train])
    risk = theirs.predict(scaler.transform(X[test]))
    expected = concordance_index_censored(y[test]["event"], y[test]["time"], risk)[0]
    assert expected > 0.65
    assert found.models["chosen"].metrics["harrell_c"] == pytest.approx(expected, abs=1e-6)


def test_the_page_and_the_card_speak_of_events_not_of_classes(table: Path, run: Path) -> None:
    biofuse.embed(table, "colour,lbp", progress=False, **READ)  # the map is drawn from the store
    biofuse.evaluate(run, progress=False)
    page = write_report(run).read_text(encoding="utf-8")
    assert "event is the most frequent with" in page or "censored is the most frequent with" in page
    assert "coloured by the first horizon by which the event came" in page
    assert "event by 100" in page
    assert not [said for said in ("Class balance", "coloured by class", "Each has 0 samples") if said in page]
    record = json.loads((run / "run.json").read_text(encoding="utf-8"))
    card = model_card(biofuse.BioFuseModel.load(run / "model"), run=record)
    assert "| samples with |" in card
    target = Target.until(READ["horizon"])
    assert "the mean over fits of that head" in SearchConfig(encoders=("colour",)).compared("cox", target)


def test_options_about_classes_are_refused_where_times_are_evaluated(run: Path) -> None:
    for chosen in ({"sensitivity": 0.9}, {"prevalence": 0.1}):
        with pytest.raises(UndefinedMetricError, match="about classes") as caught:
            biofuse.evaluate(run, progress=False, **chosen)
        assert f"{next(iter(chosen))}=" in caught.value.remedy
    for rule in (0.5, "youden", "sensitivity"):
        with pytest.raises(ArtifactError, match="decide about classes"):
            biofuse.BioFuseModel.load(run / "model").thresholds(rule)


def test_predictions_of_new_images_are_risks_by_each_horizon(table: Path, run: Path) -> None:
    model = biofuse.BioFuseModel.load(run / "model")
    frame, _ = model.predict_frame(sorted(table.parent.glob("*.png")), progress=False)
    risks = frame[["p_by 100", "p_by 250"]].to_numpy()
    assert len(risks) == N
    assert ((risks >= 0) & (risks <= 1)).all()
    assert (risks[:, 0] <= risks[:, 1]).all()
    np.testing.assert_allclose(frame["prediction"], risks.mean(axis=1))


def test_a_head_for_classes_is_refused_before_anything_is_embedded(table: Path) -> None:
    with pytest.raises(SearchError, match="head logistic does not predict a time") as caught:
        biofuse.fit(table, encoders="colour", head="logistic", progress=False, yes=True, **READ)
    assert "head='cox'" in caught.value.remedy
