"""BioFuse among scikit-learn's own tools: over images, over embeddings, and as a step that is fitted already."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone, is_classifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from biofuse import BioFuse, FusionClassifier, FusionRegressor
from biofuse.api.estimators import EMBEDDING, FIRST_VERSION
from biofuse.core.errors import AlignmentError, BioFuseError, DataError, FirstVersionError, LeakageError, SearchError
from biofuse.core.target import Task
from biofuse.search.attribution import attribute

NOT_FOR_US = {
    "check_do_not_raise_errors_in_init_or_set_params": "an option that cannot be is refused where it is written, not "
    "after hours of embedding",
    "check_class_weight_classifiers": "class weights are 'balanced' or none: they are part of the search's options, "
    "which are written to files; scikit-learn's own heads take any (head=SVC(class_weight={...}))",
}
"""Checks of scikit-learn that FusionClassifier fails on purpose, and why.

None of them is run for BioFuse: they are about matrices of numbers, and it takes images. What of them applies (cloning,
parameters, no side effects, the order of classes, unfitted use) is tested below.
"""

LEAK = "y is a column of X: what was written by somebody who knew it"

ONE = {"search": "all", "head": "ridge", "predictor": "fused", "folds": 2, "repeats": 1}


@pytest.mark.slow
@parametrize_with_checks([FusionClassifier(**ONE)], expected_failed_checks=lambda _: NOT_FOR_US)
def test_scikit_learn_checks_the_estimator_over_embeddings(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks(
    [FusionRegressor(search="all", predictor="fused", folds=2, repeats=1)],
    expected_failed_checks=lambda _: NOT_FOR_US | {"check_regressors_no_decision_function": LEAK},
)
def test_scikit_learn_checks_the_regressor_over_embeddings(estimator, check):
    check(estimator)


# --- embeddings


@pytest.mark.parametrize(
    "chosen", [{}, {"predictor": "ensemble"}, {"predictor": "stacking"}, {"metric": "mae"}], ids=str
)
def test_a_regressor_predicts_values_and_scikit_learn_scores_it_as_its_own_folds(plant, chosen):
    embeddings = plant(n=96, pool=("a", "b"))
    rng = np.random.default_rng(0)
    y = 60 + 10 * embeddings.blocks["a"][:, 0] + rng.standard_normal(96)
    fitted = FusionRegressor(folds=3, repeats=1, finalists=2, **chosen).fit(embeddings.blocks, y)
    search = fitted.search_
    assert search.selection.metric == chosen.get("metric", "r2")
    assert "a" in fitted.encoders_
    held = search.out_of_fold
    assert r2_score(y[held.rows], held.probabilities[:, 0]) > 0.5
    assert fitted.predict(embeddings.blocks).shape == y.shape
    attribution = attribute(search.all_scores, metric="r2")
    assert attribution.empty == 0
    assert sum(attribution.shapley) == pytest.approx(attribution.full)
    if not chosen:
        both = FusionRegressor(folds=3, repeats=1).fit(embeddings.blocks, np.column_stack([y, -y]))
        np.testing.assert_allclose(both.predict(embeddings.blocks)[:, 0], fitted.predict(embeddings.blocks), atol=1e-6)


def test_what_is_not_for_values_is_refused(plant):
    embeddings = plant(n=48)
    y = embeddings.blocks["a"][:, 0] + embeddings.blocks["b"][:, 0]
    for options, said in (
        ({"head": "logistic"}, "logistic does not predict a number"),
        ({"metric": "auroc"}, "AUROC"),
        ({"class_weight": "balanced"}, "no classes that could be weighted"),
    ):
        with pytest.raises(SearchError, match=said):
            FusionRegressor(**options).fit(embeddings.blocks, y)
    with pytest.raises(LeakageError, match="Column 0 of encoder a is the value itself"):
        FusionRegressor().fit(embeddings.blocks, 3 - 2 * embeddings.blocks["a"][:, 0])


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS])
def test_scikit_learn_scores_an_estimator_as_our_own_folds_score_it(plant, posed, searched, task):
    embeddings = plant(n=60, task=task, pool=("c", "d"))
    options = ONE | {"folds": 3, "repeats": 2}
    board, plan = searched(embeddings, **options).leaderboard, posed(embeddings, **options).plan
    scores = cross_val_score(
        FusionClassifier(**options),
        embeddings.blocks,
        embeddings.labels,
        cv=list(plan.folds),
        scoring="roc_auc" if task is Task.BINARY else "accuracy",
    )
    row = board[embeddings.blocks.encoders]
    np.testing.assert_allclose(scores, row.folds["auroc" if task is Task.BINARY else "accuracy"], atol=1e-12)
    assert len(set(scores.tolist())) > 1


def test_every_form_of_the_same_blocks_gives_the_same_classifier(plant):
    embeddings = plant(n=48)
    blocks, y = embeddings.blocks, np.array(["n", "o", "p", "q"])[embeddings.labels]
    wide = pd.concat({name: pd.DataFrame(matrix) for name, matrix in blocks.items()}, axis=1)
    forms = {
        "blocks": blocks,
        "mapping": dict(blocks),
        "embedding set": embeddings,
        "two levels": wide,
        "flat": pd.DataFrame(np.hstack(list(blocks.values())), columns=[f"{a}_{b:04d}" for a, b in wide.columns]),
        "vectors": pd.DataFrame({name: list(matrix) for name, matrix in blocks.items()}),
    }
    plain = np.hstack(list(blocks.values()))
    made = FusionClassifier(**ONE, blocks=blocks.dims).fit(plain, y)
    expected = made.predict_proba(plain)
    assert made.encoders_ == blocks.encoders
    assert made.get_feature_names_out().tolist()[:4] == ["a_0", "a_1", "a_2", "b_0"]
    for form in forms.values():
        fitted = FusionClassifier(**ONE).fit(form, y)
        np.testing.assert_array_equal(fitted.predict_proba(form), expected)
        assert fitted.classes_.tolist() == ["n", "o", "p", "q"]
        assert (fitted.score(form, y), fitted.n_features_in_) == (made.score(plain, y), 12)
    alone = FusionClassifier(**ONE).fit(plain, y)
    assert alone.encoders_ == (EMBEDDING,)
    with pytest.raises(AlignmentError, match="No block"):
        fitted.predict(blocks.only(["a"]))
    with pytest.raises(DataError, match="name their blocks"):
        made.fit(blocks, y)
    with pytest.raises(DataError, match="12 columns"):
        FusionClassifier(blocks={"a": 5}).fit(plain, y)
    with pytest.raises(DataError, match="id hold no embeddings"):
        made.fit(forms["vectors"].assign(id="x"), y)


def test_a_search_over_blocks_leaves_the_worthless_one_out_and_grids_run_over_its_options(plant):
    embeddings = plant(n=96)
    grid = GridSearchCV(
        FusionClassifier(head="ridge", folds=2, repeats=1, finalists=2),
        {"rule": ["best", "one_se"], "max_encoders": [1, 2]},
        cv=2,
    )
    grid.fit(embeddings.blocks, embeddings.labels)
    assert grid.best_params_["max_encoders"] == 2
    assert set(grid.best_estimator_.encoders_) == {"a", "b"}


def test_several_labels_and_groups(plant):
    embeddings = plant(n=48, task=Task.MULTILABEL)
    fitted = FusionClassifier(**ONE).fit(embeddings.blocks, embeddings.labels)
    said = fitted.predict(embeddings.blocks)
    assert said.shape == embeddings.labels.shape
    assert fitted.score(embeddings.blocks, embeddings.labels) > 0.9
    y = embeddings.labels[:, 0]
    groups = np.repeat(np.arange(12), 4)
    plan = FusionClassifier(**ONE).fit(embeddings.blocks, y, groups=groups).search_.out_of_fold
    assert all(len(set(plan.fold[groups[plan.rows] == each].tolist())) == 1 for each in range(12))


def test_blocks_are_indexed_by_name_and_by_row(plant):
    blocks = plant(n=8).blocks
    mask = np.arange(8) % 2 == 0
    for key in (mask, np.flatnonzero(mask), slice(0, None, 2), (mask, ...), (np.flatnonzero(mask), slice(None))):
        assert blocks[key].ids.tolist() == blocks.ids[::2].tolist()
        np.testing.assert_array_equal(blocks[key]["b"], blocks["b"][::2])
    assert blocks.shape == (8, 12)
    with pytest.raises(KeyError):
        blocks[0, 1]


# --- images


@pytest.fixture(scope="module")
def pictures(study):
    """Paths of training images and their classes, as a notebook has them."""
    paths = sorted((study.images / "train").rglob("*.png"))
    return [str(path) for path in paths], [path.parent.name for path in paths]


SMALL = {"head": "ridge", "search": "all", "folds": 2}


def test_images_stand_in_pipelines_grids_and_cross_validation(quick, pictures, tmp_path, monkeypatch, capfd):
    paths, names = pictures
    monkeypatch.chdir(tmp_path)
    fuse = quick(["t_colour", "t_edge"], **SMALL)
    scores = cross_val_score(fuse, paths, names, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.5
    grid = GridSearchCV(make_pipeline(fuse), {"biofuse__encoders": [["t_spread"], ["t_colour", "t_edge"]]}, cv=2)
    grid.fit(np.array(paths), names)
    assert grid.best_params_ == {"biofuse__encoders": ["t_colour", "t_edge"]}
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", [int, float, str, bool])
def test_classes_are_the_values_that_y_had(quick, pictures, kind):
    paths, names = pictures
    values = {"ctl": kind(1), "mid": kind(10), "sev": kind(2)} if kind is not bool else {"ctl": True, "mid": False}
    rows = [row for row, name in enumerate(names) if name in values]
    X, y = [paths[row] for row in rows], [values[names[row]] for row in rows]
    fuse = quick(["t_colour"], **SMALL).fit(X, y)
    assert fuse.classes_.tolist() == sorted(set(y))
    probability = fuse.predict_proba(X)
    assert fuse.predict(X).tolist() == fuse.classes_[probability.argmax(axis=1)].tolist()
    assert fuse.score(X, y) > 0.5
    assert fuse.result_.held_out is None
    assert is_classifier(fuse)


def test_labels_groups_and_validation_data_by_name(quick, pictures, study):
    paths, names = pictures
    table = np.array([[name == "ctl", name != "mid"] for name in names], dtype=int)
    several = quick(["t_colour"], **SMALL).fit(paths, table)
    assert several.predict(paths[:5]).shape == (5, 2)
    assert several.score(paths, table) == (several.predict(paths) == table).all(axis=1).mean() > 1 / 4
    groups = [row // 3 for row in range(len(paths))]
    frame = pd.DataFrame({"path": paths})
    grouped = quick(["t_colour"], **SMALL).fit(frame, pd.Series(names), groups=groups).result_
    assert grouped.embeddings.samples.groups.tolist() == [str(each) for each in groups]
    apart = quick(["t_colour"], **SMALL).fit(study.images / "train", validation=study.images / "val", progress=False)
    assert set(apart.result_.embeddings.splits) == {"train", "val"}
    assert apart.classes_.tolist() == ["ctl", "mid", "sev"]


@pytest.mark.parametrize(
    "second", ["images/val", Path("images/val"), ["a/0.png", "b/1.png"], [np.zeros((4, 4, 3))] * 2]
)
def test_validation_data_are_not_taken_for_labels(second):
    with pytest.raises(DataError, match="second argument of fit is y") as caught:
        BioFuse("colour").fit(["x.png", "y.png"], second)
    assert "validation" in caught.value.remedy


def test_a_folder_has_labels_of_its_own(study):
    with pytest.raises(DataError, match="of their own"):
        BioFuse("colour").fit(str(study.images), ["a", "b"])


# --- a model


def test_a_model_is_a_step_that_is_fitted_already(fitted, study, pictures):
    model, (paths, names) = fitted.model, pictures
    assert clone(model) is model
    assert model.fit(paths, names) is model
    assert is_classifier(model)
    place = {"store": study.store}
    fused = model.transform(paths, **place)
    assert fused.shape == (len(paths), len(model.get_feature_names_out()))
    np.testing.assert_allclose(fused, model.predictor.fusion.transform(model.embed_blocks(paths, **place).blocks))
    assert model.score(paths, names, **place) == np.mean(model.predict(paths, **place) == np.array(names))
    pipeline = make_pipeline(clone(model), LogisticRegression())
    assert pipeline.fit(paths, names).score(paths, names) > 0.8
    frame = type(model).load(fitted.path).set_output(transform="pandas").transform(paths, **place)
    assert frame.columns.tolist() == model.get_feature_names_out().tolist()
    np.testing.assert_array_equal(frame.to_numpy(), fused)
    with pytest.raises(BioFuseError, match="no container"):
        model.set_output(transform="numpy")
    with pytest.raises(DataError, match="no class of the model"):
        model.score(paths[:1], ["other"], **place)


def test_calls_of_the_first_version_are_told_the_new_names():
    with pytest.raises(TypeError) as told:
        BioFuse(models=["BioMedCLIP", "rad-dino"], fusion_method="concat", projection_dim=512)
    assert "models= → encoders=" in str(told.value)
    assert 'fusion_method= → fusion="concatenation"' in str(told.value)
    with pytest.raises(FirstVersionError, match="img_size= → leave it out"):
        BioFuse(["hog"]).generate_embeddings("train", "val", task_type="binary", img_size=224)
    assert BioFuse(["hog"], batch_size=8).batch_size == 8  # an option still
    page = (Path(__file__).parents[2] / "docs" / "from-v0.1.md").read_text(encoding="utf-8")
    assert [name for name in FIRST_VERSION if name not in page] == []
