from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.linear_model import LogisticRegression, RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError, SearchError
from biofuse.core.target import Target, Task
from biofuse.fusion.concatenation import Concatenation
from biofuse.heads.base import cheap_heads
from biofuse.heads.logistic import LOGIT_VARIANCE
from biofuse.heads.ridge import RELATIVE_PENALTIES, Ridge
from biofuse.predictors.fused import fit_predictor
from biofuse.predictors.mean import MeanFits, MeanPredictor

CHEAP_HEADS = cheap_heads(Target.numbered(Task.BINARY, 2))

DIMS = {"wide": 40, "narrow": 3, "middle": 11}
TASKS = [(Task.BINARY, 2), (Task.MULTICLASS, 4), (Task.MULTILABEL, 3)]
WEIGHTS = {("wide",): 1 / 6, ("narrow",): 1 / 6, ("middle",): 1 / 6, tuple(DIMS): 1 / 2}


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


def fit_mean(
    blocks: Blocks, labels: np.ndarray, *, encoders: Sequence[str] | None = None, **options: Any
) -> MeanPredictor:
    return MeanFits(blocks, labels, **options).predictor(encoders)


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_one_map_per_head_is_the_average_of_its_members(task: Task, n_classes: int) -> None:
    blocks, labels = make_data(task=task, n_classes=n_classes)
    new, _ = make_data(20, task=task, n_classes=n_classes, seed=3)
    options = {"target": Target.numbered(task, n_classes)}
    found = []
    for head in CHEAP_HEADS:
        logits = 0.0
        for names, weight in WEIGHTS.items():
            member = fit_predictor(
                blocks, labels, encoders=names, fusion=Concatenation(scaling="block"), head=head, **options
            )
            slope = 1 if member.head.slope is None else member.head.slope
            logits = logits + weight * slope * member.head.margins(member.transform(new))
        by_hand = softmax(logits, axis=1) if logits.shape[1] > 1 and task is not Task.MULTILABEL else expit(logits)
        found.append(np.hstack([1 - by_hand, by_hand]) if task is Task.BINARY else by_hand)
    mean = fit_mean(blocks, labels, **options)
    np.testing.assert_allclose(mean.predict_proba(new), np.mean(found, axis=0), atol=2e-6)  # fusions are float32
    assert tuple(mean.heads) == CHEAP_HEADS
    assert {head.coef.shape for head in mean.heads.values()} == {(54, n_classes if task is not Task.BINARY else 1)}


def test_ridge_and_logistic_are_those_of_scikit_learn_refitted_on_each_view() -> None:
    blocks, labels = make_data()
    new, _ = make_data(20, seed=3)
    mean = fit_mean(blocks, labels, heads=["ridge", "logistic"], target=Target.numbered(Task.MULTICLASS, 4))
    logistic = np.zeros((20, 4))
    for names, weight in WEIGHTS.items():
        scaler = StandardScaler().fit(np.hstack([blocks[name].astype(np.float64) for name in names]))
        scaler.scale_ *= np.repeat(np.sqrt([DIMS[name] for name in names]), [DIMS[name] for name in names])
        X, Z = (
            scaler.transform(np.hstack([part[name].astype(np.float64) for name in names])) for part in (blocks, new)
        )
        spread = np.square(X).sum(axis=1).mean()
        model = LogisticRegression(C=LOGIT_VARIANCE / spread, tol=1e-10, max_iter=10_000).fit(X, labels)
        logistic += weight * model.decision_function(Z)
        ridge = RidgeClassifierCV(alphas=np.array(RELATIVE_PENALTIES) * spread).fit(X, labels)
        alone = fit_mean(
            blocks, labels, encoders=names[:1], heads=["ridge"], target=Target.numbered(Task.MULTICLASS, 4)
        )
        if len(names) == 1:  # up to the slope that turns decision values into logits
            margins = alone.heads["ridge"].margins(alone.fusion.transform(new))
            expected = ridge.decision_function(Z)
            slope = np.vdot(margins, expected) / np.vdot(expected, expected)
            np.testing.assert_allclose(margins, slope * expected, rtol=0, atol=2e-6 * slope)
    ours = mean.heads["logistic"].margins(mean.fusion.transform(new))
    np.testing.assert_allclose(softmax(ours, axis=1), softmax(logistic, axis=1), atol=1e-4)


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_saved_and_loaded_predicts_the_same_bit_for_bit(task: Task, n_classes: int, kept) -> None:
    blocks, labels = make_data(task=task, n_classes=n_classes)
    kept.check_round_trip(fit_mean(blocks, labels, target=Target.numbered(task, n_classes)), blocks)


def test_order_of_rows_and_encoders_changes_nothing_and_weights_follow_their_rows() -> None:
    blocks, labels = make_data()
    weights = np.random.default_rng(0).uniform(0.5, 2, 60)
    options = {"target": Target.numbered(Task.MULTICLASS, 4)}
    plain = fit_mean(blocks, labels, encoders=["wide", "narrow"], sample_weight=weights, **options)
    order = np.random.default_rng(1).permutation(60)
    again = fit_mean(
        blocks.take(order), labels[order], encoders=["narrow", "wide"], sample_weight=weights[order], **options
    )
    assert np.array_equal(again.predict_proba(blocks), plain.predict_proba(blocks))
    assert plain.encoders == ("wide", "narrow")
    unweighted = fit_mean(blocks, labels, encoders=["wide", "narrow"], **options)
    assert not np.allclose(unweighted.predict_proba(blocks), plain.predict_proba(blocks))


def test_subsets_of_the_same_rows_share_their_fits_and_are_what_they_are_alone(monkeypatch) -> None:
    blocks, labels = make_data()
    options = {"target": Target.numbered(Task.MULTICLASS, 4)}
    fitted, solve = [], Ridge.solve

    def watched(self, X, setup, **how):
        fitted.append(X.shape[1])
        return solve(self, X, setup, **how)

    monkeypatch.setattr(Ridge, "solve", watched)
    fits = MeanFits(blocks, labels, **options)
    subsets = [("wide", "middle"), ("narrow",), ("middle", "wide", "narrow"), ("wide", "middle")]
    found = [fits.predictor(subset) for subset in subsets]
    assert sorted(fitted) == [3, 11, 40, 51, 54]
    for subset, shared in zip(subsets, found, strict=True):
        alone = fit_mean(blocks, labels, encoders=subset, **options)
        assert shared.encoders == alone.encoders
        assert np.array_equal(shared.predict_proba(blocks), alone.predict_proba(blocks))


def test_one_encoder_is_a_mean_over_heads_and_decisions_rank_as_probabilities() -> None:
    blocks, labels = make_data()
    mean = fit_mean(blocks, labels, encoders=["middle"], target=Target.numbered(Task.MULTICLASS, 4))
    p = mean.predict_proba(blocks)
    np.testing.assert_allclose(mean.decision(blocks), np.log(p) - np.log1p(-p), rtol=1e-9)
    np.testing.assert_allclose(p.sum(axis=1), 1)


def test_absent_classes_have_probability_zero() -> None:
    blocks, labels = make_data()
    labels[labels == 3] = 0
    mean = fit_mean(blocks, labels, target=Target.numbered(Task.MULTICLASS, 4))
    assert (mean.predict_proba(blocks)[:, 3] == 0).all()
    assert mean.notes == ("No training row is of class 3: probability 0.",)


def test_what_cannot_be_averaged_is_refused() -> None:
    blocks, labels = make_data()
    options = {"target": Target.numbered(Task.MULTICLASS, 4)}
    with pytest.raises(SearchError, match="knn is not linear"):
        fit_mean(blocks, labels, heads=["ridge", "knn"], **options)
    for heads in ([], ["ridge", "ridge"]):
        with pytest.raises(SearchError, match="at least one head, and each once"):
            fit_mean(blocks, labels, heads=heads, **options)


@pytest.mark.parametrize("changes", [{"heads": []}, {"encoders": ["wide"]}, {"task": "nonsense"}])
def test_what_does_not_belong_together_is_refused(changes: dict, kept) -> None:
    blocks, labels = make_data()
    kept.save(fit_mean(blocks, labels, target=Target.numbered(Task.MULTICLASS, 4)))
    kept.change(**changes)
    with pytest.raises(ArtifactError, match=r"belong together|malformed"):
        kept.load()
