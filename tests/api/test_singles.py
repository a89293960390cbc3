"""Every encoder by itself: fitted with the run, scored with it, and watched over like the other models."""

import json
import shutil

import numpy as np
import pytest

from biofuse import BioFuseModel, ExtractOptions
from biofuse.api.evaluate import evaluate
from biofuse.core.errors import ArtifactError
from biofuse.evaluation.metrics import score
from biofuse.store.store import EmbeddingStore

ALONE = ExtractOptions(workers=0)


def evaluated(folder, study):
    return evaluate(folder, store=EmbeddingStore(study.store), options=ALONE, progress=False)


def test_every_encoder_of_the_pool_is_fitted_by_itself_and_kept(fitted):
    assert list(fitted.singles) == ["t_colour", "t_spread", "t_edge"]
    kept = sorted(path.name for path in (fitted.path / "comparators" / "singles").iterdir())
    assert kept == ["t_colour", "t_edge", "t_spread"]
    record = json.loads((fitted.path / "run.json").read_text())
    assert record["singles"] == list(fitted.singles)
    for name, model in fitted.singles.items():
        assert model.encoders == (name,)


def test_the_best_single_encoder_is_not_fitted_twice(fitted):
    best = fitted.models["best_single"]
    assert fitted.singles[best.encoders[0]] is best


def test_evaluate_scores_each_of_them_outside_the_corrected_comparisons(fitted, study):
    evaluation = evaluated(fitted.path, study)
    facts = json.loads((fitted.path / "metrics.json").read_text())
    assert set(facts["singles"]) == {"t_colour", "t_spread", "t_edge"}
    assert set(facts["comparisons"]) <= {"best_single", "all", "greedy"}
    test = study.samples.in_split("test")
    for name, entry in facts["singles"].items():
        model = BioFuseModel.load(fitted.path / "comparators" / "singles" / name)
        direct = score(model.task, test.labels, model.predict_proba(test), classes=model.classes)
        assert entry["encoders"] == [name]
        assert entry["metrics"]["auroc"] == pytest.approx(direct["auroc"])
        assert entry["metrics"]["accuracy"] == pytest.approx(direct["accuracy"])
    best = facts["models"]["best_single"]
    assert facts["singles"][best["encoders"][0]]["metrics"] == best["metrics"]
    assert fitted.evaluate(progress=False).singles["t_edge"]["auroc"] == evaluation.singles["t_edge"]["auroc"]


def test_an_ensemble_of_one_encoder_and_that_encoder_are_one_model(run):
    result = run(predictor="ensemble")
    for name, model in result.singles.items():
        assert model.encoders == (name,)


def test_without_a_search_no_encoder_is_fitted_by_itself(run, tmp_path):
    result = run(search="all")
    assert result.singles == {}
    assert not (tmp_path / "run" / "comparators" / "singles").exists()
    assert run(search="all").reused


@pytest.mark.parametrize("damage", ["gone", "changed", "swapped"])
def test_damage_is_found_and_mended(damage, run, study, tmp_path):
    first = run()
    folder = tmp_path / "run" / "comparators" / "singles"
    if damage == "gone":
        shutil.rmtree(folder / "t_edge")
    elif damage == "changed":
        path = folder / "t_edge" / "model.json"
        path.write_text(path.read_text().replace("t_edge", "t_edgy"))
    else:
        shutil.rmtree(folder / "t_edge")
        shutil.copytree(folder / "t_colour", folder / "t_edge")
    with pytest.raises(ArtifactError):
        evaluated(tmp_path / "run", study)
    second = run()
    assert not second.reused
    test = study.images / "test"
    np.testing.assert_array_equal(
        second.singles["t_edge"].predict_proba(test), first.singles["t_edge"].predict_proba(test)
    )
    assert run().reused
    assert set(evaluated(tmp_path / "run", study).singles) == {"t_colour", "t_edge"}


def test_what_a_kill_left_among_them_is_swept_away(run, tmp_path):
    run()
    left = tmp_path / "run" / "comparators" / "singles" / ".t_edge.0123abcd.tmp"
    left.mkdir()
    shutil.rmtree(tmp_path / "run" / "model")
    assert not run().reused
    assert not left.exists()
