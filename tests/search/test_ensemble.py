from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from biofuse.core.errors import SearchError
from biofuse.core.target import Target, Task
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.rules import SIZES, choose_ensemble

POOL = ("a", "b", "c", "d")
SUBSETS = [("a",), ("b",), ("c",), ("d",), ("a", "b"), ("a", "c"), ("b", "c"), ("a", "b", "c")]
FOLDS = (np.arange(0, 30), np.arange(30, 60))


def made(task=Task.MULTICLASS, *, seed=0, strength=None, metric="auroc", subsets=SUBSETS):
    """Make a leaderboard of noisy probabilities for two folds, scored by scikit-learn, and the labels."""
    random = np.random.default_rng(seed)
    labels = np.tile(np.arange(3), 20)
    truth = np.eye(3)[labels]
    if task is Task.MULTILABEL:
        labels = truth = np.column_stack([labels == 0, labels != 1, np.arange(60) % 2]).astype(np.int64)
    rows, kept = [], {}
    for place, subset in enumerate(subsets):
        power = 0.6 if strength is None else strength[place]
        logits = power * truth + random.normal(0, 1, truth.shape)
        found = 1 / (1 + np.exp(-logits)) if task is Task.MULTILABEL else softmax(logits)
        kept[subset] = tuple(found[fold].astype(np.float32) for fold in FOLDS)
        values = tuple(by_hand(labels[fold], found[fold], metric) for fold in FOLDS)
        rows.append(Row(subset=subset, n_dims=len(subset), folds={metric: values}))
    board = Leaderboard(
        encoders=POOL, metrics=(metric,), rows=tuple(rows), n_train=(30, 30), n_test=(30, 30), out_of_fold=kept
    )
    return board, labels


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def by_hand(labels, probability, metric):
    if metric == "accuracy":
        return accuracy_score(labels, probability.argmax(axis=1))
    return roc_auc_score(labels, probability, multi_class="ovr", average="macro")


def choose(board, labels, *, task=Task.MULTICLASS, metric="auroc", **options):
    classes = ("x", "y", "z")
    return choose_ensemble(board, labels, rows=FOLDS, target=Target(task, tuple(classes)), metric=metric, **options)


@pytest.mark.parametrize(
    ("task", "metric"), [(Task.MULTICLASS, "auroc"), (Task.MULTICLASS, "accuracy"), (Task.MULTILABEL, "auroc")]
)
def test_every_number_of_members_is_scored_as_the_mean_of_their_probabilities(task, metric):
    board, labels = made(task, metric=metric)
    found = choose(board, labels, task=task, metric=metric)
    ranked = [row.subset for row in board.best_first(metric)]
    assert tuple(found.scores) == SIZES
    for size in SIZES:
        for fold, held in enumerate(FOLDS):
            mean = np.mean([board.out_of_fold[subset][fold].astype(np.float64) for subset in ranked[:size]], axis=0)
            mean = mean if task is Task.MULTILABEL else mean / mean.sum(axis=1, keepdims=True)
            assert found.scores[size][fold] == pytest.approx(by_hand(labels[held], mean, metric), abs=1e-12)
    means = {size: np.mean(values) for size, values in found.scores.items()}
    assert found.mean == max(means.values())
    assert found.members == tuple(ranked[: len(found.members)])


def test_averaging_independent_noise_takes_many_members_and_one_good_one_stays_alone():
    many = choose(*made(seed=1))
    assert len(many.members) == 8
    alone = choose(*made(strength=[30, *[0] * 7]))
    assert (alone.members, alone.encoders) == ((("a",),), ("a",))


def test_ties_go_to_fewer_members():
    board, labels = made(strength=[50] * 8)  # every average ranks every sample right
    found = choose(board, labels)
    assert set(found.scores.values()) == {(1.0, 1.0)}
    assert len(found.members) == 1


def test_the_encoders_are_those_of_all_members_in_pool_order():
    found = choose(*made(seed=1, subsets=[("d",), ("b", "c"), ("a",), ("b",)]), sizes=(4,))
    assert set(found.members) == {("d",), ("b", "c"), ("a",), ("b",)}
    assert found.encoders == POOL


def test_members_and_their_union_keep_to_what_is_eligible():
    board, labels = made(seed=1)

    def few(subset):
        return len(subset) <= 2

    found = choose(board, labels, eligible=few)
    ranked = [row.subset for row in board.best_first("auroc") if few(row.subset)]
    unions = {size: {name for subset in ranked[:size] for name in subset} for size in SIZES}
    allowed = []
    for size in SIZES:
        if len(unions[size]) > 2:
            break
        allowed.append(size)
    assert list(found.scores) == allowed
    assert len(allowed) < len(SIZES)
    assert len(found.encoders) <= 2
    without_a = choose(board, labels, eligible=lambda subset: "a" not in subset)
    assert "a" not in without_a.encoders
    assert 8 not in without_a.scores  # only four subsets are left
    with pytest.raises(SearchError):
        choose(board, labels, eligible=lambda _: False)


def test_subsets_without_their_predictions_cannot_be_averaged():
    board, labels = made()
    bare = replace(board, out_of_fold={("a",): board.out_of_fold[("a",)]})
    with pytest.raises(SearchError, match="out-of-fold predictions"):
        choose(bare, labels)


def test_what_is_said_names_the_members_the_numbers_tried_and_the_price():
    found = choose(*made(seed=1))
    said = str(found)
    assert said.startswith(f"The average of the best {len(found.members)} subsets has mean AUROC {found.mean:.4f}")
    for size, values in found.scores.items():
        assert f"{size}: {np.mean(values):.4f}" in said
    assert f"It needs {len(found.encoders)} encoders" in said
