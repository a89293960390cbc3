import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, DataError, SearchError
from biofuse.core.hashing import derive_seed
from biofuse.core.target import Target, Task
from biofuse.data.splits import make_folds
from biofuse.heads.base import CERTAIN
from biofuse.heads.logistic import Logistic
from biofuse.predictors.combined import META_C, average, fit_late_fusion, log_odds, meta_features
from biofuse.predictors.fused import FusedPredictor, fit_predictor

DIMS = {"wide": 40, "narrow": 3, "middle": 11}
POOL = ("other", *DIMS)
TASKS = [(Task.BINARY, 2), (Task.MULTICLASS, 4), (Task.MULTILABEL, 3)]
MULTICLASS = {"target": Target.numbered(Task.MULTICLASS, 4)}


def make_data(n: int = 60, *, task: Task = Task.MULTICLASS, n_classes: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes).astype(np.int64)
    if task is Task.MULTILABEL:
        labels = rng.integers(0, 2, (n, n_classes))
    signal = labels.sum(axis=1) if task is Task.MULTILABEL else labels
    matrices = {
        name: (rng.standard_normal((n, dim)) * 4 + signal[:, None]).astype(np.float32) for name, dim in DIMS.items()
    }
    return Blocks(ids=rng.permutation([f"case {i}.png" for i in range(n)]).astype(object), matrices=matrices), labels


def make_members(*, task: Task = Task.MULTICLASS, n_classes: int = 4) -> list[FusedPredictor]:
    blocks, labels = make_data(task=task, n_classes=n_classes)
    choices = [(["middle"], "logistic"), (["wide", "narrow"], "ridge"), (["wide"], "knn")]
    return [
        fit_predictor(blocks, labels, encoders=names, head=head, target=Target.numbered(task, n_classes))
        for names, head in choices
    ]


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_equals_the_average_by_hand(task: Task, n_classes: int) -> None:
    members = make_members(task=task, n_classes=n_classes)
    new, _ = make_data(20, task=task, n_classes=n_classes, seed=3)
    ensemble = average(members, pool=POOL)
    by_hand = sum(member.predict_proba(new) for member in members) / 3
    np.testing.assert_allclose(ensemble.predict_proba(new), by_hand, rtol=1e-12)
    assert (ensemble.encoders, ensemble.task, ensemble.n_classes) == (tuple(DIMS), task, n_classes)
    if task is not Task.MULTILABEL:
        np.testing.assert_allclose(ensemble.predict_proba(new).sum(axis=1), 1)


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_decisions_rank_as_the_probabilities_and_are_their_log_odds(task: Task, n_classes: int) -> None:
    ensemble = average(make_members(task=task, n_classes=n_classes), pool=POOL)
    new, _ = make_data(50, task=task, n_classes=n_classes, seed=3)
    decision, probability = ensemble.decision(new), ensemble.predict_proba(new)
    np.testing.assert_allclose(decision, np.log(probability / (1 - probability)), rtol=1e-6, atol=1e-9)
    if task is Task.BINARY:
        np.testing.assert_allclose(decision[:, 0], -decision[:, 1])


def test_one_member_predicts_as_by_itself() -> None:
    member = make_members()[1]
    new, _ = make_data(20, seed=3)
    ensemble = average([member], pool=POOL)
    assert np.array_equal(ensemble.predict_proba(new), member.predict_proba(new))
    assert ensemble.encoders == member.encoders


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_saved_and_loaded_predicts_the_same_bit_for_bit(task: Task, n_classes: int, kept) -> None:
    ensemble = average(make_members(task=task, n_classes=n_classes), pool=POOL)
    new, _ = make_data(17, task=task, n_classes=n_classes, seed=5)
    kept.check_round_trip(ensemble, new)


def test_an_average_of_averages_can_be_saved(kept) -> None:
    members = make_members()
    blocks, labels = make_data()
    late = fit_late_fusion(blocks, labels, encoders=["narrow", "middle"], how="stacking", **MULTICLASS)
    nested = average([average(members[:2], pool=POOL), members[2], late], pool=POOL)
    kept.check_round_trip(nested, blocks)


def test_notes_say_whom_they_are_about_and_common_ones_are_said_once() -> None:
    blocks, labels = make_data()
    few = labels.copy()
    few[few == 3] = 0
    fit = {"target": Target.numbered(Task.MULTICLASS, 4)}
    both = [fit_predictor(blocks, few, encoders=[name], **fit) for name in ("wide", "narrow")]
    assert average(both, pool=POOL).notes == ("No training row is of class 3: probability 0.",)
    mixed = [both[0], fit_predictor(blocks, labels, encoders=["narrow"], **fit)]
    assert average(mixed, pool=POOL).notes == ("wide: No training row is of class 3: probability 0.",)


def test_what_cannot_be_averaged_is_refused() -> None:
    members = make_members()
    other = make_members(task=Task.BINARY, n_classes=2)
    with pytest.raises(SearchError, match="no predictors"):
        average([], pool=POOL)
    with pytest.raises(SearchError, match="different tasks"):
        average([members[0], other[0]], pool=POOL)
    for pool in (("wide", "narrow"), (*POOL, "wide"), ()):
        with pytest.raises(AlignmentError, match="pool"):
            average(members, pool=pool)


def test_a_missing_block_is_named() -> None:
    blocks, _ = make_data()
    with pytest.raises(AlignmentError, match="middle"):
        average(make_members(), pool=POOL).predict_proba(blocks.only(["wide", "narrow"]))


@pytest.fixture
def saved(kept):
    kept.save(average(make_members(), pool=POOL))
    return kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 0}, "other members"),
        ({"members": 2}, "other members"),
        ({"members": 4}, "other members"),
        ({"members": "all"}, "malformed"),
        ({"encoders": ["wide"]}, "belong together"),
        ({"encoders": ["middle", "unknown", "wide", "narrow"]}, "belong together"),
        ({"encoders": None}, "belong together"),
    ],
)
def test_what_does_not_fit_the_members_is_refused(saved, changes: dict, message: str) -> None:
    saved.change(**changes)
    with pytest.raises(ArtifactError, match=message):
        saved.load()


def test_members_of_another_are_refused(saved) -> None:
    members = saved.folder / "p" / "members"
    (members / "0").rename(members / "9")
    (members / "1").rename(members / "0")
    (members / "9").rename(members / "1")
    with pytest.raises(ArtifactError, match="not opened"):
        saved.load()
    shutil.rmtree(members)
    saved.seal()
    with pytest.raises(ArtifactError, match="other members"):
        saved.load()


# --- late fusion

ENCODERS = {"noise": 30, "signal": 6, "weak": 10}
STRENGTH = {"noise": 0.0, "signal": 1.5, "weak": 0.5}
LATE_TASKS = [(Task.BINARY, 2), (Task.MULTICLASS, 3), (Task.ORDINAL, 3), (Task.MULTILABEL, 3)]
THREE_CLASSES = {"target": Target.numbered(Task.MULTICLASS, 3)}


def make_late_data(n: int = 90, *, task: Task = Task.MULTICLASS, n_classes: int = 3, seed: int = 0):
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
        for name, dim in ENCODERS.items()
    }
    return Blocks(ids=rng.permutation([f"case {i}.png" for i in range(n)]).astype(object), matrices=matrices), labels


def by_hand(blocks: Blocks, labels: np.ndarray, *, target: Target, groups=None) -> np.ndarray:
    """Out-of-fold log-probabilities, written down plainly."""
    plan = make_folds(labels, ids=blocks.ids, groups=groups, n_folds=5, n_repeats=1, seed=derive_seed(0, "stacking"))
    probability = np.zeros((len(ENCODERS), len(labels), target.n_columns))
    for train, test in plan.folds:
        for number, name in enumerate(ENCODERS):
            member = fit_predictor(blocks.take(train), labels[train], encoders=[name], target=target)
            probability[number, test] = member.predict_proba(blocks.take(test))
    return meta_features(probability, target.kind)


@pytest.mark.parametrize(("task", "n_classes"), LATE_TASKS, ids=str)
def test_average_is_the_average_of_single_encoders(task: Task, n_classes: int) -> None:
    blocks, labels = make_late_data(task=task, n_classes=n_classes)
    new, _ = make_late_data(20, task=task, n_classes=n_classes, seed=3)
    late = fit_late_fusion(blocks, labels, target=Target.numbered(task, n_classes))
    members = [
        fit_predictor(blocks, labels, encoders=[name], target=Target.numbered(task, n_classes)) for name in ENCODERS
    ]
    expected = average(members, pool=tuple(ENCODERS))
    assert (late.how, late.encoders, late.task, late.n_classes) == ("average", tuple(ENCODERS), task, n_classes)
    assert np.array_equal(late.predict_proba(new), expected.predict_proba(new))
    assert np.array_equal(late.decision(new), expected.decision(new))


@pytest.mark.parametrize(("task", "n_classes"), [case for case in LATE_TASKS if case[0] is not Task.ORDINAL], ids=str)
def test_the_meta_learner_is_scikit_learns_on_the_out_of_fold_matrix(task: Task, n_classes: int) -> None:
    blocks, labels = make_late_data(task=task, n_classes=n_classes)
    new, _ = make_late_data(40, task=task, n_classes=n_classes, seed=3)
    late = fit_late_fusion(blocks, labels, how="stacking", target=Target.numbered(task, n_classes))
    features = by_hand(blocks, labels, target=Target.numbered(task, n_classes))
    given_new = meta_features(np.stack([member.predict_proba(new) for member in late.members]), task)
    expected = [
        LogisticRegression(C=META_C, tol=1e-10, max_iter=10_000).fit(features, column).predict_proba(given_new)
        for column in (labels.T if task is Task.MULTILABEL else [labels])
    ]
    expected = np.column_stack([each[:, 1] for each in expected]) if task is Task.MULTILABEL else expected[0]
    np.testing.assert_allclose(late.predict_proba(new), expected, atol=1e-4)


def test_stacking_beats_the_average_where_one_encoder_is_noise() -> None:
    blocks, labels = make_late_data(200)
    new, truth = make_late_data(500, seed=3)
    scores = {}
    for how in ("average", "stacking"):
        probability = fit_late_fusion(blocks, labels, how=how, **THREE_CLASSES).predict_proba(new)  # type: ignore[arg-type]
        scores[how] = roc_auc_score(truth, probability, multi_class="ovr"), -log_loss(truth, probability)
    assert scores["stacking"][0] > scores["average"][0]
    assert scores["stacking"][1] > scores["average"][1] + 0.05


def test_the_meta_learner_never_sees_predictions_of_rows_fitted_on() -> None:
    # Many columns of noise: fitted rows look perfect, and a meta-learner fed with them would trust the noise.
    blocks, labels = make_late_data(60)
    wide = np.random.default_rng(8).standard_normal((60, 400)).astype(np.float32)
    blocks = Blocks(ids=blocks.ids, matrices={**blocks.matrices, "noise": wide})
    late = fit_late_fusion(blocks, labels, how="stacking", **THREE_CLASSES)
    assert late.meta is not None
    noise, signal = np.abs(late.meta.coef[:3]).max(), np.abs(late.meta.coef[3:6]).max()
    assert noise < signal / 2


@pytest.mark.parametrize("how", ["average", "stacking"])
@settings(max_examples=4, deadline=None)
@given(order=st.permutations(list(ENCODERS)), seed=st.integers(0, 2**16))
def test_order_of_encoders_and_of_rows_changes_nothing(how, order: list[str], seed: int) -> None:
    blocks, labels = make_late_data(60)
    groups = np.array([f"patient {row // 2}" for row in range(60)], dtype=object)
    rows = np.random.default_rng(seed).permutation(60)
    plain = fit_late_fusion(blocks, labels, encoders=list(ENCODERS), how=how, groups=groups, **THREE_CLASSES)
    again = fit_late_fusion(
        blocks.take(rows), labels[rows], encoders=order, how=how, groups=groups[rows].tolist(), **THREE_CLASSES
    )
    assert again.encoders == plain.encoders
    assert np.array_equal(again.predict_proba(blocks), plain.predict_proba(blocks))
    assert np.array_equal(again.decision(blocks), plain.decision(blocks))


def test_groups_stay_whole_in_the_inner_folds() -> None:
    blocks, labels = make_late_data(60)
    groups = [f"patient {label}-{row % 4}" for row, label in enumerate(labels)]
    late = fit_late_fusion(blocks, labels, how="stacking", groups=groups, **THREE_CLASSES)
    assert late.notes == ("stacking: 4 folds instead of 5: class 0 has only 4 groups.",)
    features = by_hand(blocks, labels, groups=groups, **THREE_CLASSES)
    expected = Logistic(C=META_C).fit(features, labels, **THREE_CLASSES)
    assert late.meta is not None
    np.testing.assert_allclose(late.meta.coef, expected.coef, atol=1e-3)


def test_too_few_rows_for_inner_folds_are_said_or_refused() -> None:
    blocks, labels = make_late_data(60)
    scarce = np.where((labels == 2) & (np.cumsum(labels == 2) > 3), 0, labels)
    late = fit_late_fusion(blocks, scarce, how="stacking", **THREE_CLASSES)
    assert "stacking: 3 folds instead of 5: class 2 has only 3 samples." in late.notes
    alone = np.where((labels == 2) & (np.cumsum(labels == 2) > 1), 0, labels)
    with pytest.raises(DataError, match="1 sample"):
        fit_late_fusion(blocks, alone, how="stacking", **THREE_CLASSES)
    assert fit_late_fusion(blocks, alone, how="average", **THREE_CLASSES).predict_proba(blocks).shape == (60, 3)


def test_an_absent_class_has_probability_zero() -> None:
    blocks, labels = make_late_data(60)
    late = fit_late_fusion(blocks, labels % 2, how="stacking", **THREE_CLASSES)
    assert not late.predict_proba(blocks)[:, 2].any()
    np.testing.assert_allclose(late.predict_proba(blocks).sum(axis=1), 1)
    assert np.isfinite(late.decision(blocks)).all()
    assert "No training row is of class 2: probability 0." in late.notes


def test_heads_that_give_probabilities_of_zero_can_be_stacked() -> None:
    blocks, labels = make_late_data()
    late = fit_late_fusion(blocks, labels, head="knn", how="stacking", **THREE_CLASSES)
    assert np.isfinite(late.predict_proba(blocks)).all()


def test_sample_and_class_weights_reach_the_meta_learner() -> None:
    blocks, labels = make_late_data()
    rare = np.where((labels == 2) & (np.cumsum(labels == 2) > 6), 0, labels)
    fit = {"how": "stacking", **THREE_CLASSES}
    plain, balanced, weighted = (
        fit_late_fusion(blocks, rare, **fit, **extra).predict_proba(blocks)  # type: ignore[arg-type]
        for extra in ({}, {"class_weight": "balanced"}, {"sample_weight": np.where(rare == 2, 10.0, 1.0)})
    )
    assert balanced[:, 2].mean() > plain[:, 2].mean()
    assert weighted[:, 2].mean() > plain[:, 2].mean()


def test_bad_arguments_are_refused() -> None:
    blocks, labels = make_late_data()
    with pytest.raises(SearchError, match="majority"):
        fit_late_fusion(blocks, labels, how="majority", **THREE_CLASSES)  # type: ignore[arg-type]
    with pytest.raises(AlignmentError, match="3 groups for 90"):
        fit_late_fusion(blocks, labels, how="stacking", groups=["a"] * 3, **THREE_CLASSES)
    with pytest.raises(AlignmentError, match="89 labels for 90"):
        fit_late_fusion(blocks, labels[:-1], **THREE_CLASSES)
    for encoders in ([], ["signal", "signal"], ["unknown"]):
        with pytest.raises(AlignmentError):
            fit_late_fusion(blocks, labels, encoders=encoders, **THREE_CLASSES)
    with pytest.raises(DataError, match="1 folds"):
        fit_late_fusion(blocks, labels, how="stacking", n_folds=1, **THREE_CLASSES)


@pytest.mark.parametrize("how", ["average", "stacking"])
@pytest.mark.parametrize(("task", "n_classes"), LATE_TASKS, ids=str)
def test_late_fusion_saved_and_loaded_predicts_the_same_bit_for_bit(how, task: Task, n_classes: int, kept) -> None:
    blocks, labels = make_late_data(task=task, n_classes=n_classes)
    new, _ = make_late_data(17, task=task, n_classes=n_classes, seed=5)
    late = fit_late_fusion(
        blocks, labels, encoders=["signal", "noise"], fusion="pca", how=how, target=Target.numbered(task, n_classes)
    )
    assert kept.check_round_trip(late, new).how == how
    assert late.encoders == ("noise", "signal")


@pytest.fixture
def stacked(kept):
    kept.save(fit_late_fusion(*make_late_data(), how="stacking", **THREE_CLASSES))
    return kept


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
def test_late_fusion_that_this_version_cannot_read_is_refused(stacked, changes: dict, message: str) -> None:
    stacked.change(**changes)
    with pytest.raises(ArtifactError, match=message):
        stacked.load()


def test_a_meta_learner_of_another_width_is_refused(stacked) -> None:
    from safetensors.numpy import load_file, save_file

    path = stacked.folder / "p" / "arrays.safetensors"
    arrays = load_file(path)
    save_file(arrays | {"meta.coef": arrays["meta.coef"][:-1]}, path)
    stacked.seal()
    with pytest.raises(ArtifactError, match="belong together"):
        stacked.load()


def test_log_odds_stay_fine_and_finite_where_probabilities_round() -> None:
    probability = np.array([[1.0, 1e-20, 0.0], [1.0, 1e-30, 0.0], [1.0, 0.0, 0.0]])
    odds = log_odds(probability, task=Task.MULTICLASS)
    assert odds[0, 0] == pytest.approx(20 * np.log(10))
    assert odds[1, 0] == pytest.approx(30 * np.log(10))
    assert odds[2].tolist() == [CERTAIN, -CERTAIN, -CERTAIN]
    assert np.abs(log_odds(np.array([[0.0, 1.0]]), task=Task.MULTILABEL)).tolist() == [[CERTAIN] * 2]
