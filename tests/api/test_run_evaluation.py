import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from biofuse import BioFuse, ExtractOptions
from biofuse.api.evaluate import evaluate as evaluate_run
from biofuse.core.errors import ArtifactError, BioFuseError, DataError
from biofuse.store.store import EmbeddingStore

POOL = ["t_colour", "t_edge"]
ALONE = ExtractOptions(workers=0)


@pytest.fixture
def evaluate(study):
    def call(path, data=None, **options):
        return evaluate_run(
            path, data, store=EmbeddingStore(study.store), progress=False, **{"options": ALONE, **options}
        )

    return call


def test_the_runs_own_test_split_is_the_default(fitted, study, evaluate):
    found = evaluate(fitted.path)
    assert found.n == 21
    assert found.predictions["id"].tolist() == study.samples.in_split("test").ids.tolist()
    again = replace(fitted.evaluate(progress=False), data=found.data, split=found.split)
    assert found.to_json() == again.to_json()
    metrics = json.loads((fitted.path / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert metrics["n"] == 21
    assert metrics["split"] == "test"
    assert metrics["models"]["chosen"]["metrics"]["auroc"] == found["auroc"]
    written = pd.read_parquet(fitted.path / "predictions.parquet")
    pd.testing.assert_frame_equal(written, found.predictions)
    test = study.samples.in_split("test")
    np.testing.assert_array_equal(
        written[["p_ctl", "p_mid", "p_sev"]], fitted.model.predict_proba(test, store=study.store)
    )
    assert written["label"].tolist() == [test.classes[label] for label in test.labels]
    assert written["prediction"].tolist() == fitted.model.predict(test, store=study.store).tolist()


def test_another_split_is_scored_and_called_what_it_is(fitted, evaluate):
    found = evaluate(fitted.path, split="val")
    assert found.n == found.leak.samples == 15
    assert found.predictions["in_development"].all()
    with pytest.raises(DataError, match="no nonsense samples"):
        evaluate(fitted.path, split="nonsense")


def test_other_data(fitted, study, evaluate, tmp_path, draw):
    draw(tmp_path / "new", each=4, seed=9)
    found = evaluate(fitted.path, tmp_path / "new")
    assert found.n == 12
    assert found.leak.samples == 0
    assert evaluate(fitted.path, study.samples).n == 21
    assert evaluate(fitted.path, study.samples.in_split("val")).n == 15
    assert evaluate(fitted.path, study.images, split="train").n == 36
    with pytest.raises(DataError, match="no test samples, only train, val"):
        evaluate(fitted.path, study.samples.in_split("train", "val"))
    draw(tmp_path / "fewer", classes=("mid",), each=3)
    assert np.isnan(evaluate(fitted.path, tmp_path / "fewer")["auroc"])
    json.loads((fitted.path / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_a_table_is_read_with_the_columns_of_the_run(run, study, evaluate, tmp_path):
    table = pd.DataFrame(
        {
            "path": [str(source.path) for source in study.samples.sources],
            "grade": [study.samples.classes[label] for label in study.samples.labels],
            "split": study.samples.splits,
            "patient": [
                f"p{row // 2}" if split == "test" else f"d{row}" for row, split in enumerate(study.samples.splits)
            ],
        }
    )
    table.to_csv(tmp_path / "table.csv", index=False)
    fuse = BioFuse(POOL, folds=3, repeats=1, store=study.store, options=ExtractOptions(workers=0))
    result = fuse.fit(tmp_path / "table.csv", label="grade", group="patient", out=tmp_path / "run", progress=False)
    own = evaluate(tmp_path / "run")
    assert own.models["chosen"].intervals["auroc"].unit == "groups"
    table[table["split"] == "test"].to_csv(tmp_path / "other.csv", index=False)
    other = evaluate(tmp_path / "run", tmp_path / "other.csv")
    assert other.n == 21
    assert other["auroc"] == own["auroc"] == result.evaluate(progress=False)["auroc"]
    # The folder of the same images names no columns, so those of the run do not apply.
    assert evaluate(tmp_path / "run", study.images)["auroc"] == own["auroc"]


def test_data_that_moved_or_shrank_are_named(run, study, evaluate, tmp_path):
    shutil.copytree(study.images, tmp_path / "images")
    run(data=tmp_path / "images")
    (tmp_path / "images" / "test" / "mid" / "003.png").unlink()
    with pytest.raises(DataError, match=r"1 test samples .* no longer .*mid/003\.png"):
        evaluate(tmp_path / "run")
    (tmp_path / "images").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="does not exist"):
        evaluate(tmp_path / "run")
    assert evaluate(tmp_path / "run", tmp_path / "moved").n == 20


def test_data_in_memory_must_be_given_again(run, study, evaluate, tmp_path):
    run(data=study.samples)
    with pytest.raises(DataError, match="data in memory"):
        evaluate(tmp_path / "run")
    assert evaluate(tmp_path / "run", study.images).n == 21


def test_train_and_val_given_apart_are_found_again(quick, study, evaluate, tmp_path):
    result = quick(POOL).fit(
        study.images / "train", study.images / "val", out=tmp_path / "run", test=None, progress=False
    )
    assert evaluate(tmp_path / "run", split="val").predictions["id"].tolist() == result.val_embeddings.ids.tolist()
    with pytest.raises(DataError, match="no test samples"):
        evaluate(tmp_path / "run")


def test_test_samples_that_were_added_later_are_scored(run, study, evaluate, tmp_path, draw):
    shutil.copytree(study.images, tmp_path / "images")
    run(data=tmp_path / "images")
    draw(tmp_path / "images" / "test", each=9, seed=2)
    assert run(data=tmp_path / "images").reused
    assert evaluate(tmp_path / "run").n == 27


def test_quarantined_test_images_are_listed_and_have_no_row(run, study, evaluate, tmp_path):
    shutil.copytree(study.images, tmp_path / "images")
    run(data=tmp_path / "images")
    (tmp_path / "images" / "test" / "sev" / "002.png").write_text("not an image")
    with pytest.raises(BioFuseError, match=r"sev/002\.png"):
        evaluate(tmp_path / "run")
    found = evaluate(tmp_path / "run", options=ExtractOptions(workers=0, on_error="quarantine"))
    assert found.n == 20
    assert pd.read_csv(tmp_path / "run" / "quarantine-evaluate.csv")["id"].tolist() == ["test/sev/002.png"]
    assert "test/sev/002.png" not in set(pd.read_parquet(tmp_path / "run" / "predictions.parquet")["id"])
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["quarantined"] == 1


def test_a_missing_table_of_samples_is_one_clear_error(run, evaluate, tmp_path):
    run()
    (tmp_path / "run" / "samples.parquet").write_bytes(b"PAR1")
    with pytest.raises(ArtifactError, match=r"samples\.parquet cannot be read"):
        evaluate(tmp_path / "run")
    (tmp_path / "run" / "samples.parquet").unlink()
    with pytest.raises(ArtifactError, match=r"samples\.parquet is missing"):
        evaluate(tmp_path / "run")
    run()
    assert evaluate(tmp_path / "run").n == 21


def test_a_replaced_model_is_noticed(run, evaluate, tmp_path, quick, study):
    run()
    other = quick(["t_spread"]).fit(study.images, progress=False).model
    shutil.rmtree(tmp_path / "run" / "model")
    other.save(tmp_path / "run" / "model")
    with pytest.raises(ArtifactError, match=r"is not the model that run\.json describes"):
        evaluate(tmp_path / "run")
