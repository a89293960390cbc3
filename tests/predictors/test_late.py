import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, DataError, SearchError
from biofuse.core.hashing import derive_seed
from biofuse.core.seals import seal
from biofuse.core.target import Task
from biofuse.data.splits import make_folds
from biofuse.heads.logistic import Logistic
from biofuse.predictors.combined import META_C, LateFusion, average, fit_late_fusion, load_predictor, meta_features
from biofuse.predictors.fused import fit_predictor

DIMS = {"noise": 30, "signal": 6, "weak": 10}
STRENGTH = {"noise": 0.0, "signal": 1.5, "weak": 0.5}
TASKS = [(Task.BINARY, 2), (Task.MULTICLASS, 3), (Task.ORDINAL, 3), (Task.MULTILABEL, 3)]
MULTICLASS = {"task": Task.MULTICLASS, "n_classes": 3}


def make_data(n: int = 90, *, task: Task = Task.MULTICLASS, n_classes: int = 3, seed: int = 0):
    """One encoder of noise, one with a clear signal, one with a weak one; the same in every draw."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(42)
    labels = rng.permutation(np.arange(n) % n_classes).astype(np.int64)
    if task is Task.MULTILABEL:
        labels = rng.integers(0, 2, (n, n_classes))
    known = labels if task is Task.MULTILABEL else np.eye(n_classes)[labels]
    matrices = {
        name: (rng.standard_normal((n, dim)) + STRENGTH[name] * known @ shape.standard_normal((n_classes, dim))).astype(
            np.float32
        )
        for name, dim in DIMS.items()
    }
    return Blocks(ids=rng.permutation([f"case {i}.png" for i in range(n)]).astype(object), matrices=matrices), labels


def by_hand(blocks: Blocks, labels: np.ndarray, *, task: Task, n_classes: int, groups=None) -> np.ndarray:
    """Out-of-fold log-probabilities, written down plainly."""
    plan = make_folds(labels, ids=blocks.ids, groups=groups, n_folds=5, n_repeats=1, seed=derive_seed(0, "stacking"))
    probability = np.zeros((len(DIMS), len(labels), n_classes))
    for train, test in plan.folds:
        for number, name in enumerate(DIMS):
            member = fit_predictor(blocks.take(train), labels[train], encoders=[name], task=task, n_classes=n_classes)
            probability[number, test] = member.predict_proba(blocks.take(test))
    return meta_features(probability, task)


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_average_is_the_average_of_single_encoders(task: Task, n_classes: int) -> None:
    blocks, labels = make_data(task=task, n_classes=n_classes)
    new, _ = make_data(20, task=task, n_classes=n_classes, seed=3)
    late = fit_late_fusion(blocks, labels, task=task, n_classes=n_classes)
    members = [fit_predictor(blocks, labels, encoders=[name], task=task, n_classes=n_classes) for name in DIMS]
    expected = average(members, pool=tuple(DIMS))
    assert (late.how, late.encoders, late.task, late.n_classes) == ("average", tuple(DIMS), task, n_classes)
    assert np.array_equal(late.predict_proba(new), expected.predict_proba(new))
    assert np.array_equal(late.decision(new), expected.decision(new))


def test_the_meta_learner_is_scikit_learns_on_the_out_of_fold_matrix() -> None:
    blocks, labels = make_data()
    new, _ = make_data(40, seed=3)
    late = fit_late_fusion(blocks, labels, how="stacking", **MULTICLASS)
    expected = LogisticRegression(C=META_C, tol=1e-10, max_iter=10_000)
    expected.fit(by_hand(blocks, labels, **MULTICLASS), labels)
    given_new = meta_features(np.stack([member.predict_proba(new) for member in late.members]), Task.MULTICLASS)
    np.testing.assert_allclose(late.predict_proba(new), expected.predict_proba(given_new), atol=1e-4)


@pytest.mark.parametrize(("task", "n_classes"), [(Task.BINARY, 2), (Task.MULTILABEL, 3)], ids=str)
def test_the_meta_learner_of_two_classes_and_of_several_labels_is_scikit_learns(task: Task, n_classes: int) -> None:
    blocks, labels = make_data(task=task, n_classes=n_classes)
    new, _ = make_data(40, task=task, n_classes=n_classes, seed=3)
    late = fit_late_fusion(blocks, labels, how="stacking", task=task, n_classes=n_classes)
    features = by_hand(blocks, labels, task=task, n_classes=n_classes)
    given_new = meta_features(np.stack([member.predict_proba(new) for member in late.members]), task)
    columns = labels.T if task is Task.MULTILABEL else labels[None]
    for place, column in enumerate(columns):
        expected = LogisticRegression(C=META_C, tol=1e-10, max_iter=10_000).fit(features, column)
        found = late.predict_proba(new)[:, place if task is Task.MULTILABEL else 1]
        np.testing.assert_allclose(found, expected.predict_proba(given_new)[:, 1], atol=1e-4)


def test_stacking_beats_the_average_where_one_encoder_is_noise() -> None:
    blocks, labels = make_data(200)
    new, truth = make_data(500, seed=3)
    scores = {}
    for how in ("average", "stacking"):
        probability = fit_late_fusion(blocks, labels, how=how, **MULTICLASS).predict_proba(new)  # type: ignore[arg-type]
        scores[how] = roc_auc_score(truth, probability, multi_class="ovr"), -log_loss(truth, probability)
    assert scores["stacking"][0] > scores["average"][0]
    assert scores["stacking"][1] > scores["average"][1] + 0.05


def test_the_meta_learner_never_sees_predictions_of_rows_fitted_on() -> None:
    # Many columns of noise: fitted rows look perfect, and a meta-learner fed with them would trust the noise.
    blocks, labels = make_data(60)
    wide = np.random.default_rng(8).standard_normal((60, 400)).astype(np.float32)
    blocks = Blocks(ids=blocks.ids, matrices={**blocks.matrices, "noise": wide})
    late = fit_late_fusion(blocks, labels, how="stacking", **MULTICLASS)
    assert late.meta is not None
    noise, signal = np.abs(late.meta.coef[:3]).max(), np.abs(late.meta.coef[3:6]).max()
    assert noise < signal / 2


@pytest.mark.parametrize("how", ["average", "stacking"])
@settings(max_examples=4, deadline=None)
@given(order=st.permutations(list(DIMS)), seed=st.integers(0, 2**16))
def test_order_of_encoders_and_of_rows_changes_nothing(how, order: list[str], seed: int) -> None:
    blocks, labels = make_data(60)
    groups = np.array([f"patient {row // 2}" for row in range(60)], dtype=object)
    rows = np.random.default_rng(seed).permutation(60)
    plain = fit_late_fusion(blocks, labels, encoders=list(DIMS), how=how, groups=groups, **MULTICLASS)
    again = fit_late_fusion(
        blocks.take(rows), labels[rows], encoders=order, how=how, groups=groups[rows].tolist(), **MULTICLASS
    )
    assert again.encoders == plain.encoders
    assert np.array_equal(again.predict_proba(blocks), plain.predict_proba(blocks))
    assert np.array_equal(again.decision(blocks), plain.decision(blocks))


def test_groups_stay_whole_in_the_inner_folds() -> None:
    blocks, labels = make_data(60)
    groups = [f"patient {label}-{row % 4}" for row, label in enumerate(labels)]
    late = fit_late_fusion(blocks, labels, how="stacking", groups=groups, **MULTICLASS)
    assert late.notes == ("stacking: 4 folds instead of 5: class 0 has only 4 groups.",)
    features = by_hand(blocks, labels, groups=groups, **MULTICLASS)
    expected = Logistic(C=META_C).fit(features, labels, **MULTICLASS)
    assert late.meta is not None
    np.testing.assert_allclose(late.meta.coef, expected.coef, atol=1e-3)


def test_too_few_rows_for_inner_folds_are_said_or_refused() -> None:
    blocks, labels = make_data(60)
    scarce = np.where((labels == 2) & (np.cumsum(labels == 2) > 3), 0, labels)
    late = fit_late_fusion(blocks, scarce, how="stacking", **MULTICLASS)
    assert "stacking: 3 folds instead of 5: class 2 has only 3 samples." in late.notes
    alone = np.where((labels == 2) & (np.cumsum(labels == 2) > 1), 0, labels)
    with pytest.raises(DataError, match="1 sample"):
        fit_late_fusion(blocks, alone, how="stacking", **MULTICLASS)
    assert fit_late_fusion(blocks, alone, how="average", **MULTICLASS).predict_proba(blocks).shape == (60, 3)


def test_an_absent_class_has_probability_zero() -> None:
    blocks, labels = make_data(60)
    late = fit_late_fusion(blocks, labels % 2, how="stacking", **MULTICLASS)
    assert not late.predict_proba(blocks)[:, 2].any()
    np.testing.assert_allclose(late.predict_proba(blocks).sum(axis=1), 1)
    assert np.isfinite(late.decision(blocks)).all()
    assert "No training row is of class 2: probability 0." in late.notes


def test_heads_that_give_probabilities_of_zero_can_be_stacked() -> None:
    blocks, labels = make_data()
    late = fit_late_fusion(blocks, labels, head="knn", how="stacking", **MULTICLASS)
    assert np.isfinite(late.predict_proba(blocks)).all()


def test_sample_and_class_weights_reach_the_meta_learner() -> None:
    blocks, labels = make_data()
    rare = np.where((labels == 2) & (np.cumsum(labels == 2) > 6), 0, labels)
    fit = {"how": "stacking", **MULTICLASS}
    plain, balanced, weighted = (
        fit_late_fusion(blocks, rare, **fit, **extra).predict_proba(blocks)  # type: ignore[arg-type]
        for extra in ({}, {"class_weight": "balanced"}, {"sample_weight": np.where(rare == 2, 10.0, 1.0)})
    )
    assert balanced[:, 2].mean() > plain[:, 2].mean()
    assert weighted[:, 2].mean() > plain[:, 2].mean()


def test_bad_arguments_are_refused() -> None:
    blocks, labels = make_data()
    with pytest.raises(SearchError, match="majority"):
        fit_late_fusion(blocks, labels, how="majority", **MULTICLASS)  # type: ignore[arg-type]
    with pytest.raises(AlignmentError, match="3 groups for 90"):
        fit_late_fusion(blocks, labels, how="stacking", groups=["a"] * 3, **MULTICLASS)
    with pytest.raises(AlignmentError, match="89 labels for 90"):
        fit_late_fusion(blocks, labels[:-1], **MULTICLASS)
    for encoders in ([], ["signal", "signal"], ["unknown"]):
        with pytest.raises(AlignmentError):
            fit_late_fusion(blocks, labels, encoders=encoders, **MULTICLASS)
    with pytest.raises(DataError, match="1 folds"):
        fit_late_fusion(blocks, labels, how="stacking", n_folds=1, **MULTICLASS)


@pytest.mark.parametrize("how", ["average", "stacking"])
@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_saved_and_loaded_predicts_the_same_bit_for_bit(how, task: Task, n_classes: int, tmp_path: Path) -> None:
    blocks, labels = make_data(task=task, n_classes=n_classes)
    new, _ = make_data(17, task=task, n_classes=n_classes, seed=5)
    late = fit_late_fusion(
        blocks, labels, encoders=["signal", "noise"], fusion="pca", how=how, task=task, n_classes=n_classes
    )
    late.save(tmp_path / "p")
    loaded = load_predictor(tmp_path / "p")
    assert isinstance(loaded, LateFusion)
    assert np.array_equal(loaded.predict_proba(new), late.predict_proba(new))
    assert np.array_equal(loaded.decision(new), late.decision(new))
    assert (loaded.encoders, loaded.how, loaded.task, loaded.n_classes, loaded.notes) == (
        ("noise", "signal"),
        how,
        task,
        n_classes,
        late.notes,
    )
    assert late.predict_proba(new.take(np.arange(0))).shape == (0, n_classes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    fit_late_fusion(*make_data(), how="stacking", **MULTICLASS).save(tmp_path / "p")
    return tmp_path / "p"


@pytest.mark.parametrize(
    "name", ["predictor.json", "arrays.safetensors", "members/0/predictor.json", "members/2/arrays.safetensors"]
)
def test_a_missing_or_changed_file_is_refused(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(ArtifactError):
        load_predictor(saved)
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=Path(name).name):
        load_predictor(saved)


def reseal(folder: Path, **changes) -> None:
    """Change a predictor with a valid checksum, as only someone who knows how can."""
    content = json.loads((folder / "predictor.json").read_text())
    content = {key: value for key, value in content.items() if key not in {"checksum", "files", "format"}}
    seal(folder, name="predictor.json", content=content | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"how": "vote"}, "malformed"),
        ({"how": ["stacking"]}, "malformed"),
        ({"meta": {}}, "malformed"),
        ({"remarks": 3}, "malformed"),
        ({"encoders": ["signal", "noise", "weak"]}, "belong together"),
        ({"encoders": ["noise", "signal"]}, "belong together"),
    ],
)
def test_what_this_version_cannot_read_is_refused(saved: Path, changes: dict, message: str) -> None:
    reseal(saved, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_predictor(saved)


def test_a_meta_learner_of_another_width_is_refused(saved: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(saved / "arrays.safetensors")
    save_file(arrays | {"meta.coef": arrays["meta.coef"][:-1]}, saved / "arrays.safetensors")
    reseal(saved)
    with pytest.raises(ArtifactError, match="belong together"):
        load_predictor(saved)
