"""Scores on test data: of a fit, of a run, of single encoders."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss, roc_auc_score

from biofuse import BioFuse, BioFuseModel, ExtractOptions
from biofuse.api.fit import evaluate as evaluate_run
from biofuse.api.report import write_card, write_report
from biofuse.core.errors import ArtifactError, BioFuseError, DataError, UnreadableImageError
from biofuse.core.target import Target, Task
from biofuse.data.decoding import DecodePolicy
from biofuse.data.load import load_samples
from biofuse.evaluation.metrics import score
from biofuse.model.evaluate import Evaluation, _never_predicted
from biofuse.runs.run import Run
from biofuse.store.store import EmbeddingStore


def strict(value):
    return json.loads(json.dumps(value, allow_nan=False))


def test_scores_equal_scikit_learns(fitted, study):
    found = fitted.evaluate(progress=False)
    test = study.samples.in_split("test")
    assert list(found.models) == list(fitted.models)
    for name, model in fitted.models.items():
        proba = model.predict_proba(test, store=study.store)
        metrics = found.models[name].metrics
        decided = proba.argmax(axis=1)
        assert metrics["auroc"] == pytest.approx(roc_auc_score(test.labels, proba, multi_class="ovr"), abs=1e-9)
        assert metrics["accuracy"] == pytest.approx(accuracy_score(test.labels, decided))
        assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(test.labels, decided))
        assert metrics["f1"] == pytest.approx(f1_score(test.labels, decided, average="macro"))
        assert metrics["log_loss"] == pytest.approx(log_loss(test.labels, proba), rel=1e-6)
        interval = found.models[name].intervals["auroc"]
        assert interval.low <= interval.estimate == metrics["auroc"] <= interval.high
    assert found["auroc"] == found.models["chosen"].metrics["auroc"]


def test_comparisons_stand_beside_the_chosen_subset(fitted):
    found = fitted.evaluate(progress=False)
    different = {name for name, model in fitted.models.items() if model.encoders != fitted.model.encoders}
    assert set(found.comparisons) == different
    assert different
    for name, comparison in found.comparisons.items():
        gap = found["auroc"] - found.models[name].metrics["auroc"]
        assert comparison.difference == pytest.approx(gap, abs=1e-12)
        assert str(comparison) in found.sentences()


def test_it_prints_shows_and_writes_well(fitted):
    found = fitted.evaluate(progress=False)
    assert repr(found).startswith("<Evaluation on 21 samples: auroc 0.")
    assert found.to_frame()["model"].tolist() == list(fitted.models)
    assert "<table" in found._repr_html_()
    assert strict(found.to_json())["models"]["chosen"]["encoders"] == list(fitted.model.encoders)


def test_predictions_are_the_models_row_by_row(fitted, study):
    test = study.samples.in_split("test").take(np.random.default_rng(2).permutation(21))
    rows = fitted.evaluate(test, progress=False).predictions
    assert rows["id"].tolist() == test.ids.tolist()
    assert rows["label"].tolist() == [test.classes[label] for label in test.labels]
    proba = fitted.model.predict_proba(test, store=study.store)
    np.testing.assert_array_equal(rows[["p_ctl", "p_mid", "p_sev"]], proba)
    assert rows["prediction"].tolist() == fitted.model.predict(test, store=study.store).tolist()
    assert rows["prediction"].tolist() == [test.classes[column] for column in proba.argmax(axis=1)]
    assert not rows["in_development"].any()


def test_the_order_of_test_rows_changes_no_score(fitted, study):
    test = study.samples.in_split("test")
    found = fitted.evaluate(test, progress=False)
    first = found.to_json()
    read = Evaluation.from_json(json.loads(json.dumps(first)), found.predictions, found.quarantined)
    assert (read.models, read.comparisons, read.leak, read.singles) == (
        found.models, found.comparisons, found.leak, found.singles
    )  # fmt: skip
    assert read.to_json() == first
    second = fitted.evaluate(test.take(np.arange(21)[::-1]), progress=False).to_json()
    for name, model in first["models"].items():
        assert second["models"][name]["metrics"] == pytest.approx(model["metrics"])
        for metric, interval in model["intervals"].items():
            assert second["models"][name]["intervals"][metric]["low"] == pytest.approx(interval["low"])


# --- leaks


@pytest.fixture
def leaky(tmp_path, draw):
    """Return class folders in which three test files are copies of development files, under other names."""
    draw(tmp_path / "train", each=10)
    draw(tmp_path / "val", each=4, seed=1)
    draw(tmp_path / "test", each=6, seed=2)
    for source, target in {
        "train/ctl/002.png": "test/ctl/copy-a.png",
        "train/mid/003.png": "test/mid/000.png",
        "val/mid/001.png": "test/mid/001.png",
    }.items():
        shutil.copy(tmp_path / source, tmp_path / target)
    return tmp_path


def test_a_leak_is_reported_and_scores_given_with_and_without_it(quick, leaky):
    result = quick().fit(leaky, progress=False).result_
    found = result.evaluate(progress=False)
    assert (found.n, found.leak.samples) == (19, 3)
    assert found.leak.per_class == {"ctl": 1, "mid": 2}
    rows = found.predictions
    leaking = ["test/ctl/copy-a.png", "test/mid/000.png", "test/mid/001.png"]
    assert sorted(rows.loc[rows["in_development"], "id"]) == leaking
    rest = rows[~rows["in_development"]]
    labels = rest["label"].map({"ctl": 0, "mid": 1, "sev": 2})
    ranked_by = result.model.probabilities(found.embeddings.blocks)[~rows["in_development"]]
    expected = roc_auc_score(labels, ranked_by, multi_class="ovr")
    assert found.leak.without["chosen"]["auroc"] == pytest.approx(expected, abs=1e-9)
    assert found.leak.without["chosen"].n == 16
    assert set(found.leak.without) == set(result.models)
    assert found.leak.without["chosen"]["log_loss"] != found["log_loss"]
    assert any("3 of 19 test samples are also development data" in sentence for sentence in found.sentences())
    assert strict(found.to_json())["leak"]["samples"] == 3


def test_nothing_is_left_where_everything_leaks(fitted, study):
    found = fitted.evaluate(study.samples.in_split("val"), progress=False)
    assert found.leak.samples == found.n == 15
    assert found.leak.without == {}


def test_no_leak_is_no_news(fitted):
    found = fitted.evaluate(progress=False)
    assert (found.leak.samples, found.leak.per_class, found.leak.without, found.leak.groups) == (0, {}, {}, 0)
    assert not any("development data" in sentence for sentence in found.sentences())


def test_groups_on_both_sides_are_reported(quick, study):
    development, test = study.samples.in_split("train", "val"), study.samples.in_split("test")
    name = np.array([f"p{row // 2}" for row in range(len(development))], dtype=object)
    result = quick(["t_colour"]).fit(replace(development, groups=name), test=None, progress=False).result_
    other = np.array([f"p{row}" if row < 2 else f"q{row}" for row in range(21)], dtype=object)
    found = result.evaluate(replace(test, groups=other), progress=False)
    assert found.leak.groups == 2
    assert found.models["chosen"].intervals["auroc"].unit == "groups"
    assert any("2 groups are in both" in sentence for sentence in found.sentences())
    few = np.array([f"q{row % 3}" for row in range(21)], dtype=object)
    doubted = result.evaluate(replace(test, groups=few), progress=False).sentences()
    assert "There are only 3 groups: no interval of these scores can be trusted." in doubted
    assert not any("trusted" in sentence for sentence in found.sentences())


def test_scores_are_broken_down_by_columns_that_nothing_is_learned_from(quick, study, tmp_path):
    samples = study.samples
    frame = pd.DataFrame(
        {
            "path": [str(source.path) for source in samples.sources],
            "label": [samples.classes[label] for label in samples.labels],
            "split": samples.splits,
            "sex": ["f", "m"] * (len(samples) // 2),
            "age": range(len(samples)),
            "scanner": ["a", "b", "b"] * (len(samples) // 3),
        }
    )
    frame.to_csv(tmp_path / "table.csv", index=False)
    result = quick().fit(tmp_path / "table.csv", by="sex", out=tmp_path / "run", progress=False).result_
    assert result.evidence.robustness is None
    again = quick().fit(tmp_path / "table.csv", by="sex", site="scanner", out=tmp_path / "run", progress=False).result_
    assert again.reused  # columns that nothing is learned from make no other run
    assert Run.open(tmp_path / "run").record.evidence == again.evidence
    indices = {each.name: each.index for each in again.evidence.robustness.embeddings}
    assert list(indices) == [*again.search.leaderboard.encoders, "the chosen encoders together"]
    assert all(0 <= index <= 1 for index in indices.values())
    (own, _) = again.evaluate(progress=False).subgroups
    assert [each.value for each in own.subgroups] == ["f", "m"]
    found = evaluate_run(tmp_path / "run", by=["sex", "age"], store=study.store, progress=False)
    assert [each.column for each in found.subgroups] == ["sex", "age", "scanner"]
    rows = found.predictions["by_sex"] == "f"
    right = (found.predictions["label"] == found.predictions["prediction"])[rows]
    assert found.subgroups[0].subgroup("f").intervals["accuracy"].estimate == pytest.approx(right.mean())
    assert str(found.subgroups[1]) in found.sentences()
    assert Run.open(tmp_path / "run").evaluation.subgroups == found.subgroups
    page = write_report(tmp_path / "run", store=study.store).read_text()
    assert "Scores by sex, with 95 % intervals" in page
    assert "By age: " in page
    assert "Robustness to scanner" in page
    assert str(found.subgroups[0]) in write_card(tmp_path / "run").read_text().replace("\\", "")
    apart = quick(["t_colour"], select="site").fit(tmp_path / "table.csv", site="scanner", progress=False).result_
    assert (apart.leaderboard.n_folds, apart.leaderboard.best_first("auroc")[0].values("auroc").shape) == (2, (2,))
    with pytest.raises(DataError, match="no sites to leave out"):
        quick(["t_colour"], select="site").fit(tmp_path / "table.csv", progress=False)


def test_weights_decide_fits_and_no_scores(quick, study, tmp_path):
    samples = study.samples
    frame = pd.DataFrame(
        {
            "path": [str(source.path) for source in samples.sources],
            "label": [samples.classes[label] for label in samples.labels],
            "split": samples.splits,
            "w": np.where(samples.splits == "test", np.nan, 10.0 ** (np.arange(len(samples)) % 3)),
        }
    )
    frame.to_csv(tmp_path / "table.csv", index=False)
    run = tmp_path / "run"
    found = quick(["t_colour", "t_edge"]).fit(tmp_path / "table.csv", weight="w", out=run, progress=False).result_
    record = Run.open(run).record
    assert record.data.config.weight == "w"
    assert any("scores count all samples alike" in note for note in record.reading)
    plain = quick(["t_colour", "t_edge"]).fit(tmp_path / "table.csv", out=tmp_path / "plain", progress=False).result_
    assert record.key != Run.open(tmp_path / "plain").record.key
    blocks = found.embeddings.blocks
    given, other = (each.model.predictor.predict_proba(blocks) for each in (found, plain))
    assert np.abs(given - other).max() > 0.01
    again = quick(["t_colour", "t_edge"]).fit(tmp_path / "table.csv", weight="w", out=run, progress=False).result_
    assert again.reused
    frame.drop(columns="w")[samples.splits == "test"].to_csv(tmp_path / "new.csv", index=False)
    scores = evaluate_run(run, tmp_path / "new.csv", store=study.store, progress=False)
    assert scores["accuracy"] == evaluate_run(run, store=study.store, progress=False)["accuracy"]
    assert found.model.predict([frame["path"][0]], store=study.store, progress=False).shape[0] == 1


# --- test data that do not fit


def test_samples_of_an_unknown_class_are_left_out_and_counted(fitted, tmp_path, draw):
    draw(tmp_path, classes=("ctl", "MID", "new"), each=3)
    for data in (tmp_path, load_samples(tmp_path)):
        found = fitted.evaluate(data, progress=False)
        assert found.n == 6
        assert "3 of 9 samples are left out, of classes that the model does not know: new (3)." in found.sentences()
        assert "MID is read as the model's mid." in found.notes
        assert Evaluation.from_json(strict(found.to_json()), found.predictions).notes == found.notes


def test_the_column_of_splits_is_named_as_an_evaluation_does(fitted, study):
    test = study.samples.in_split("test")
    paths, names = [str(source.path) for source in test.sources], [study.samples.classes[at] for at in test.labels]
    halves = ["train", "test"] * len(paths)
    frame = pd.DataFrame({"path": paths, "label": names, "cohort": halves[: len(paths)]}).assign(
        usage=halves[1 : len(paths) + 1]
    )
    with pytest.raises(DataError, match="hold different splits") as caught:
        fitted.evaluate(frame, progress=False)
    assert "`split_column='cohort'` or `split_column='usage'`" in caught.value.remedy


def test_labels_are_never_positions_unless_that_is_asked_for(fitted, study, tmp_path):
    test = study.samples.in_split("test")
    frame = pd.DataFrame({"path": [str(source.path) for source in test.sources], "label": test.labels})
    with pytest.raises(DataError, match=r"no class that the model knows, but 0 \(7\), 1 \(7\), 2 \(7\)"):
        fitted.evaluate(frame, progress=False)
    asked = load_samples(frame, classes=("ctl", "mid", "sev"))
    assert fitted.evaluate(asked, progress=False)["accuracy"] == fitted.evaluate(progress=False)["accuracy"]


def test_numbers_of_which_the_model_knows_only_some_are_refused(quick, study):
    train = study.samples.in_split("train")
    graded = quick(["t_colour"]).fit(replace(train, classes=("1", "2", "3")), test=None, progress=False).result_
    test = study.samples.in_split("test")
    paths = [str(source.path) for source in test.sources]
    with pytest.raises(DataError, match=r"numbers that are no class of the model: 0 \(7\)"):
        graded.evaluate(paths, labels=test.labels, progress=False)
    same = [graded.evaluate(paths, labels=test.labels + one, progress=False)["accuracy"] for one in (1, 1.0)]
    assert same[0] == same[1]


def test_unlabelled_test_data_cannot_be_scored(fitted, study):
    paths = [str(source.path) for source in study.samples.in_split("test").sources]
    with pytest.raises(DataError, match="no labels"):
        fitted.evaluate(paths, progress=False)
    assert fitted.evaluate(paths, labels=["ctl"] * 7 + ["mid"] * 7 + ["sev"] * 7, progress=False).n == 21


def test_a_task_of_another_kind_is_refused(fitted, study):
    paths = [str(source.path) for source in study.samples.in_split("test").sources]
    several = load_samples(paths, labels=np.tile([[1, 0, 1], [0, 1, 0], [1, 1, 0]], (7, 1)))
    assert several.task is Task.MULTILABEL
    with pytest.raises(DataError, match="any number of labels per sample, but the model was fitted for one class"):
        fitted.evaluate(several, progress=False)


def test_fewer_classes_and_another_order_of_classes_are_the_models_own(fitted, study):
    test = study.samples.in_split("test")
    proba = fitted.model.predict_proba(test, store=study.store)
    some = test.take(test.labels > 0)
    renumbered = replace(some, labels=2 - some.labels, classes=("sev", "mid"))
    found = fitted.evaluate(renumbered, progress=False)
    decided = proba[test.labels > 0].argmax(axis=1)
    assert found["accuracy"] == pytest.approx((decided == some.labels).mean())
    scores = found.models["chosen"].metrics
    assert found["auroc"] == np.mean([scores.per_class[name]["auroc"] for name in ("mid", "sev")])
    assert scores.partial["auroc"] == "no sample of ctl"
    strict(found.to_json())


def test_data_without_a_test_split_must_be_given(quick, study):
    result = quick(["t_colour"]).fit(study.samples.in_split("train"), test=None, progress=False).result_
    with pytest.raises(DataError, match="without a test split"):
        result.evaluate(progress=False)


def test_labels_without_test_data_are_refused(fitted):
    with pytest.raises(DataError, match="go with test data of their own"):
        fitted.evaluate(labels=["ctl"], progress=False)


def test_unreadable_test_images(quick, study, tmp_path):
    shutil.copytree(study.images / "test", tmp_path / "new")
    (tmp_path / "new" / "ctl" / "001.png").write_bytes(b"")
    result = quick(["t_colour"]).fit(study.images, progress=False).result_
    with pytest.raises(UnreadableImageError, match=r"ctl/001\.png"):
        result.evaluate(tmp_path / "new", progress=False)
    careful = replace(result, options=ExtractOptions(workers=0, on_error="quarantine"))
    found = careful.evaluate(tmp_path / "new", progress=False)
    assert (found.n, [entry.id for entry in found.quarantined]) == (20, ["ctl/001.png"])
    assert found.to_json()["quarantined"] == 1
    for path in (tmp_path / "new").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="No image of new could be read"):
        careful.evaluate(tmp_path / "new", progress=False)


def test_test_images_are_decoded_as_the_development_images_were(quick):
    generator = np.random.default_rng(0)
    level = np.array([4000, 9000] * 10)
    images = (level[:, None, None] + generator.integers(0, 3000, (20, 9, 9))).astype(np.uint16)
    policy = DecodePolicy(sixteen_bit="full")
    samples = load_samples(images, labels=["low", "high"] * 10, decode=policy)
    result = quick(["t_colour"], folds=2).fit(samples, test=None, progress=False).result_
    assert result.model.decode == policy
    for data in (images, load_samples(images, labels=["low", "high"] * 10)):
        found = result.evaluate(data, labels=None if data is not images else ["low", "high"] * 10, progress=False)
        assert found["accuracy"] == 1.0
        assert found.leak.samples == 20
        np.testing.assert_array_equal(result.model.embed(data), result.embeddings.matrix)


def test_several_labels(quick, study):
    development, test = study.samples.in_split("train", "val"), study.samples.in_split("test")

    def table(samples):
        paths = [str(source.path) for source in samples.sources]
        return pd.DataFrame({"path": paths, "high": samples.labels > 0, "odd": samples.labels != 1}).astype(
            {"high": int, "odd": int}
        )

    result = (
        quick(["t_colour", "t_edge"], folds=2).fit(table(development), label=["high", "odd"], progress=False).result_
    )
    found = result.evaluate(table(test), label=["high", "odd"], progress=False)
    proba = result.model.predict_proba(test, store=study.store)
    assert (result.model.task, proba.shape) == (Task.MULTILABEL, (21, 2))
    for row, name in zip(proba, result.model.predict(test, store=study.store), strict=True):
        assert name == "|".join(label for label, p in zip(("high", "odd"), row, strict=True) if p > 0.5)
    expected = roc_auc_score(table(test)[["high", "odd"]], proba, average="macro")
    assert found["auroc"] == pytest.approx(expected, abs=1e-9)
    assert found.leak.per_class == {}
    assert found.predictions["label"].tolist() == [["odd", "high", "high|odd"][label] for label in test.labels]
    strict(found.to_json())


@pytest.mark.slow
def test_the_leak_of_the_brain_slices_is_found_as_published(quick, shared_data, tmp_path):
    """The folder's README counts 251 of 394 test files that are training files; every class is known."""
    result = (
        quick(["t_colour", "t_spread"], store=tmp_path, folds=2).fit(shared_data / "brain-mri", progress=False).result_
    )
    found = result.evaluate(progress=False)
    assert (found.n, found.leak.samples) == (394, 251)
    counts = {name.split("_")[0]: count for name, count in found.leak.per_class.items()}
    assert counts == {"glioma": 18, "meningioma": 106, "no": 105, "pituitary": 22}
    assert found.leak.without["chosen"].n == 394 - 251
    strict(found.to_json())


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
    for frame in (pd.read_parquet(fitted.path / "predictions.parquet"), fitted.evaluate(progress=False).predictions):
        pd.testing.assert_frame_equal(frame, found.predictions)


def test_another_split_is_scored_and_called_what_it_is(fitted, evaluate):
    found = evaluate(fitted.path, split="val")
    assert found.n == found.leak.samples == 15
    assert found.predictions["in_development"].all()
    with pytest.raises(DataError, match="no nonsense samples"):
        evaluate(fitted.path, split="nonsense")


def test_other_data(fitted, study, evaluate, tmp_path, draw):
    draw(tmp_path / "new", each=4, seed=9)
    own = evaluate(fitted.path)
    before = (fitted.path / "metrics.json").read_bytes()
    found = evaluate(fitted.path, tmp_path / "new")
    assert found.n == 12
    assert found.leak.samples == 0
    assert (own.folder, found.folder) == (fitted.path, fitted.path / "evaluations" / "new")
    draw(tmp_path / "elsewhere" / "new", each=5, seed=10)
    other = evaluate(fitted.path, tmp_path / "elsewhere" / "new")
    assert other.folder.name == "new-2"
    assert evaluate(fitted.path, tmp_path / "new").folder == found.folder
    assert (fitted.path / "metrics.json").read_bytes() == before
    kept = Run.open(fitted.path)
    sizes = {name: kept.evaluations[name].n for name in ("own test", "new", "new-2")}
    assert sizes == {"own test": 21, "new": 12, "new-2": 15}
    assert kept.evaluation.to_json() == own.to_json()
    page = write_report(fitted.path, store=EmbeddingStore(study.store)).read_text()
    assert "everything that it was evaluated on" in page
    assert "new-2" in page
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
    result = fuse.fit(
        tmp_path / "table.csv", label="grade", group="patient", out=tmp_path / "run", progress=False
    ).result_
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
    result = (
        quick(POOL)
        .fit(study.images / "train", validation=study.images / "val", out=tmp_path / "run", test=None, progress=False)
        .result_
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


def test_a_replaced_model_is_noticed(run, evaluate, tmp_path, quick, study):
    run()
    other = quick(["t_spread"]).fit(study.images, progress=False).result_.model
    shutil.rmtree(tmp_path / "run" / "model")
    other.save(tmp_path / "run" / "model")
    with pytest.raises(ArtifactError, match=r"model\.json has changed"):
        evaluate(tmp_path / "run")


def evaluated(folder, study):
    return evaluate_run(folder, store=EmbeddingStore(study.store), options=ALONE, progress=False)


def test_every_encoder_of_the_pool_is_fitted_by_itself_and_kept(fitted):
    assert list(fitted.singles) == ["t_colour", "t_spread", "t_edge"]
    kept = sorted(path.name for path in (fitted.path / "comparators" / "singles").iterdir())
    assert kept == ["t_colour", "t_edge", "t_spread"]
    record = json.loads((fitted.path / "run.json").read_text())
    assert record["singles"] == list(fitted.singles)
    for name, model in fitted.singles.items():
        assert model.encoders == (name,)


def test_evaluate_scores_each_of_them_outside_the_corrected_comparisons(fitted, study):
    evaluation = evaluated(fitted.path, study)
    facts = json.loads((fitted.path / "metrics.json").read_text())
    assert set(facts["singles"]) == {"t_colour", "t_spread", "t_edge"}
    assert set(facts["comparisons"]) <= {"best_single", "all", "greedy", "lean"}
    test = study.samples.in_split("test")
    for name, entry in facts["singles"].items():
        model = BioFuseModel.load(fitted.path / "comparators" / "singles" / name)
        ranked_by = model.predictor.predict_proba(evaluation.embeddings.blocks)
        direct = score(model.task, test.labels, ranked_by, classes=model.classes)
        assert entry["encoders"] == [name]
        assert entry["metrics"]["auroc"] == pytest.approx(direct["auroc"])
        assert entry["metrics"]["accuracy"] == pytest.approx(direct["accuracy"])
    best = facts["models"]["best_single"]
    assert facts["singles"][best["encoders"][0]]["metrics"] == best["metrics"]
    assert fitted.evaluate(progress=False).singles["t_edge"]["auroc"] == evaluation.singles["t_edge"]["auroc"]


def test_a_model_with_several_names_is_shown_once(fitted, study):
    evaluation = evaluated(fitted.path, study)
    encoders = {name: scores.encoders for name, scores in evaluation.models.items()}
    for name, scores in evaluation.models.items():
        assert set(scores.same) == {other for other in encoders if encoders[other] == encoders[name]} - {name}
    together = list(evaluation.distinct_models)
    assert sorted(name for names in together for name in names) == sorted(encoders)
    assert len(together) == len(set(encoders.values()))
    assert Run.open(fitted.path).evaluation.distinct_models.keys() == evaluation.distinct_models.keys()


def test_an_ensemble_of_one_encoder_and_that_encoder_are_one_model(run):
    result = run(predictor="ensemble")
    for name, model in result.singles.items():
        assert model.encoders == (name,)


def test_without_a_search_no_encoder_is_fitted_by_itself(run, tmp_path):
    result = run(search="all")
    assert result.singles == {}
    assert not (tmp_path / "run" / "comparators" / "singles").exists()
    assert run(search="all").reused


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([[0.6, 0.4, 0]] * 3 + [[0.1, 0.9, 0]], ("The model predicts no c, which 1 of 4 samples is.",)),
        ([[1, 0, 0]] * 4, ("The model predicts none of b (2), c (1); in brackets, how many samples are.",)),
        ([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], ()),
    ],
)
def test_a_class_that_is_never_predicted_is_named(scores, said):
    target = Target(Task.MULTICLASS, ("a", "b", "c"))
    assert _never_predicted(target, np.array([0, 1, 1, 2]), np.array(scores, dtype=np.float64)) == said
