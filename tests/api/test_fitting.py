import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from biofuse import BioFuseModel
from biofuse.api.evaluate import evaluate
from biofuse.api.fit import fit_models
from biofuse.blocks.blocks import Blocks
from biofuse.runs.run import Run
from biofuse.search.search import encoders_to_fit, fit_predictors, singles_to_fit
from biofuse.store.store import EmbeddingStore

PLANTED = ("a", "b", "c", "d")


def test_the_chosen_predictor_and_its_companions_are_fitted_on_the_rows_given(plant, posed, searched):
    embeddings = plant()
    problem, search = posed(embeddings, head="ridge"), searched(embeddings, head="ridge")
    rows = np.arange(0, 48, 2)
    found = fit_predictors(problem, search, rows, threads=1)
    assert list(found) == ["chosen", "best_single", "all", "greedy"]
    assert {name: predictor.encoders for name, predictor in found.items()} == encoders_to_fit(search)
    assert found["all"].encoders == PLANTED
    # Rows that were not given change nothing.
    blocks = problem.blocks
    other = {name: blocks[name] + np.isin(np.arange(48), rows, invert=True)[:, None] * 9 for name in blocks}
    changed = plant()
    changed = type(changed)(**{**vars(changed), "blocks": Blocks(ids=blocks.ids, matrices=other)})
    again = fit_predictors(posed(changed, head="ridge"), search, rows, threads=1)
    for name, predictor in found.items():
        np.testing.assert_array_equal(again[name].predict_proba(blocks), predictor.predict_proba(blocks))


def test_every_encoder_is_fitted_by_itself_and_none_twice(plant, posed, searched):
    embeddings = plant()
    problem, search = posed(embeddings, head="ridge"), searched(embeddings, head="ridge")
    assert singles_to_fit(search) == {name: (name,) for name in PLANTED}
    best = search.selection.best_single.subset
    models, singles = fit_models(problem, search, embeddings, threads=1)
    assert {name: model.encoders for name, model in models.items()} == encoders_to_fit(search)
    assert {name: single.encoders for name, single in singles.items()} == singles_to_fit(search)
    assert singles[best[0]] is models["best_single"]
    assert singles_to_fit(searched(embeddings, head="ridge", search="all")) == {}


@pytest.mark.parametrize(
    "options",
    [
        {"predictor": "ensemble"},
        {"predictor": "average"},
        {"fusion": "pca"},
        {"fusion": "whitening"},
        {"fusion": "weighted"},
        {"fusion": "mean"},
        {"predictor": "stacking", "fusion": "pca", "class_weight": "balanced"},
        {"head": "lda"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_what_was_asked_for_is_searched_fitted_saved_loaded_and_evaluated(quick, study, tmp_path, options):
    fuse = quick(folds=2, finalists=1, **{"head": "ridge", **options})
    result = fuse.fit(study.images, out=tmp_path / "run", progress=False)
    test = study.samples.in_split("test")
    proba = result.model.predict_proba(test, store=study.store)
    assert proba.shape == (21, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    loaded = BioFuseModel.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.predict_proba(test, store=study.store), proba)
    assert loaded.predict(test, store=study.store).tolist() == result.model.predict(test, store=study.store).tolist()
    assert loaded.encoders == result.model.encoders == result.search.chosen
    np.testing.assert_array_equal(
        loaded.embed(study.samples.in_split("train"), store=study.store), result.train_embeddings.matrix
    )
    config = loaded.facts["config"]
    assert {name: config[name] for name in options} == options

    found = evaluate(tmp_path / "run", store=EmbeddingStore(study.store), options=fuse.options, progress=False)
    again = replace(result.evaluate(progress=False), data=found.data, split=found.split)
    assert found.to_json() == again.to_json()
    written = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    np.testing.assert_array_equal(written[["p_ctl", "p_mid", "p_sev"]], proba)
    record = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    assert Run.open(tmp_path / "run").record.chosen == result.model.encoders
    assert record["head"] == result.search.head
    assert fuse.fit(study.images, out=tmp_path / "run", progress=False).reused


def test_an_ensemble_says_what_it_is_made_of(quick, study, tmp_path):
    fuse = quick(folds=2, head="ridge", predictor="ensemble")
    result = fuse.fit(study.images, out=tmp_path / "run", progress=False)
    ensemble = result.search.ensemble
    record = Run.open(tmp_path / "run").record
    assert record.ensemble == ensemble
    assert (record.members, record.mean, record.chosen) == (ensemble.members, ensemble.mean, result.model.encoders)
    assert result.model.facts["selection"] == str(ensemble)
    assert repr(result) == f"<FitResult: {ensemble}>"


def test_the_paper_preset_refits_xgboost_on_every_subset_of_the_train_split_alone(quick, tmp_path, draw):
    for seed, (split, each) in enumerate({"train": 8, "val": 5}.items()):
        draw(tmp_path / "images" / split, classes=("ctl", "sev"), each=each, seed=seed)
    fuse = quick(["t_colour", "t_edge"], preset="paper")
    result = fuse.fit(tmp_path / "images", out=tmp_path / "run", test=None, progress=False)
    assert result.screen is None
    assert [row.subset for row in result.leaderboard] == [("t_colour",), ("t_edge",), ("t_colour", "t_edge")]
    assert (result.leaderboard.n_train, result.leaderboard.n_test) == ((16,), (10,))
    assert result.leaderboard.metrics[0] == "accuracy"
    assert result.search.head == "xgboost"
    assert result.search.heads == {}
    best = max(row.mean("accuracy") for row in result.leaderboard)
    first = next(row for row in result.leaderboard if row.mean("accuracy") == best)
    assert result.model.encoders == first.subset  # the first in combination order, among ties
    assert result.model.predictor.head_name == "xgboost"
    assert result.model.facts["n_samples"] == 16
    record = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    assert record["plan"]["kind"] == "holdout"
    assert record["evidence"]["optimism"]["rule"] == "first_best"
