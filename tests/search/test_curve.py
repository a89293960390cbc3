"""Training sets of growing size, what is said of their scores, and that the interval of a doubling holds the truth."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score

from biofuse.core.errors import SearchError
from biofuse.core.target import Task
from biofuse.evaluation.intervals import corrected_t
from biofuse.search.curve import (
    CurveModel,
    CurvePoint,
    LearningCurve,
    TrainingSet,
    measure_curve,
    models_to_fit,
    numbers_per_class,
    plan_curve,
)
from biofuse.search.runner import SearchContext


def drawn(planned):
    """Return the folds draw by draw."""
    folds, size = planned.plan.folds, len(planned.sets)
    return [folds[start : start + size] for start in range(0, len(folds), size)]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("task", [Task.MULTICLASS, Task.MULTILABEL])
def test_larger_training_sets_contain_the_smaller_and_share_no_group_with_what_is_scored(plant, posed, task, grouped):
    groups = [f"g{row // 3:02d}" for row in range(96)] if grouped else None
    problem = posed(plant(96, task=task, groups=groups), folds=3)
    planned = plan_curve(problem, repeats=2, per_class=[2, 5])
    assert [(each.per_class, each.share) for each in planned.sets] == [
        (None, 0.5), (None, 1.0), (None, 0.25), (2, None), (5, None)
    ]  # fmt: skip
    assert len(drawn(planned)) == 6
    indicators = problem.target.indicators(problem.labels)
    for draw in drawn(planned):
        half, whole, quarter, two, five = (set(fit.tolist()) for fit, _ in draw)
        held_out = {tuple(rows.tolist()) for _, rows in draw}
        assert len(held_out) == 1
        assert two < five <= whole
        assert quarter < half < whole
        assert whole == set(range(96)) - set(held_out.pop())
        counts = indicators[sorted(two)].sum(axis=0)
        assert (counts >= 2).all() if task is Task.MULTILABEL else (counts == 2).all()
        if grouped:
            inside = [{groups[row] for row in rows} for rows in (five, set(range(96)) - whole)]
            assert not inside[0] & inside[1]
    if grouped:
        assert planned.sets[1].groups == pytest.approx(32 * 2 / 3, abs=1.5)


def test_groups_come_in_whole_one_after_the_other(plant, posed):
    groups = [f"g{row // 8:02d}" for row in range(96)]  # each with two rows of each of four classes
    planned = plan_curve(posed(plant(96, groups=groups), folds=3), repeats=1, per_class=[4])
    by_name = {each.per_class: each for each in planned.sets}
    assert (by_name[4].rows, by_name[4].groups) == (16, 2)


def test_another_order_of_the_rows_draws_the_same_samples(plant, posed):
    from dataclasses import replace

    embeddings = plant(60)
    order = np.random.default_rng(0).permutation(60)
    shuffled = replace(embeddings, samples=embeddings.samples.take(order), blocks=embeddings.blocks.take(order))
    first, second = (plan_curve(posed(each), repeats=1, per_class=[3]).plan for each in (embeddings, shuffled))
    assert first.key() == second.key()


def test_numbers_per_class_end_where_the_largest_class_does():
    assert numbers_per_class(2000) == (5, 10, 20, 50, 100, 200, 500, 1000)
    assert numbers_per_class(5) == ()


@pytest.mark.parametrize("numbers", [[], [0], [3, 3]])
def test_numbers_that_cannot_be_are_refused(plant, posed, numbers):
    with pytest.raises(SearchError, match="cannot be numbers"):
        plan_curve(posed(plant()), per_class=numbers)


def test_scores_are_those_of_the_drawn_samples_alone(plant, posed, tmp_path):
    problem = posed(plant(96, task=Task.BINARY), folds=3, head="ridge")
    planned = plan_curve(problem, repeats=1, per_class=[6])
    pool = problem.blocks.encoders
    fits = models_to_fit(problem, {"chosen": pool[:2], "all": pool, "lean": pool[:2]})
    told = []

    def measured():
        context = SearchContext(folder=tmp_path, workers=1, tell=told.append)
        return measure_curve(problem, planned, fits, kind=["ridge"], context=context)

    found = measured()
    assert [each.text for each in found.sets] == ["6 per class", "25% of all", "50% of all", "all"]
    assert list(found.models) == ["chosen", "all"]  # lean is the chosen
    matrix = np.hstack([problem.blocks[name] for name in pool[:2]]).astype(np.float64)
    place = next(number for number, each in enumerate(planned.sets) if each.per_class == 6)
    for draw, value in zip(drawn(planned), found.models["chosen"].points[0].values, strict=True):
        fit, held_out = draw[place]
        scaled = (matrix - matrix[fit].mean(axis=0)) / matrix[fit].std(axis=0)
        candidates = [
            roc_auc_score(
                problem.labels[held_out],
                RidgeClassifier(alpha).fit(scaled[fit], problem.labels[fit]).decision_function(scaled[held_out]),
            )
            for alpha in np.geomspace(1e-3, 1e5, 81)
        ]  # the head chooses its penalty itself
        assert np.abs(np.array(candidates) - value).min() < 1e-9
    point = found.models["all"].points[-1]
    assert point.mean == pytest.approx(np.mean(point.values))
    assert point.low == pytest.approx(corrected_t(point.values, 64, 32)[1])
    assert measured().models == found.models
    assert len(told) == 1  # the second time everything was there
    assert LearningCurve.model_validate_json(found.model_dump_json()) == found


def made(models, *, numbers=(5, 10), n_train=80.0, n_test=20.0):
    """Make a curve from values of shape [sets, draws]; the last three sets are a quarter, half, and all."""
    sets = [TrainingSet(per_class=number, rows=2.0 * number) for number in numbers]
    sets += [TrainingSet(share=share, rows=80 * share) for share in (0.25, 0.5, 1.0)]

    def model(name, values):
        points = [
            CurvePoint(mean=np.mean(row), low=np.nan, high=np.nan, values=tuple(row)) for row in np.asarray(values)
        ]
        return CurveModel(subset=(name,), points=tuple(points))

    return LearningCurve(
        metric="auroc", predictor="fused", head="ridge", sets=tuple(sets),
        models={n: model(n, v) for n, v in models.items()}, n_folds=5, n_repeats=2, n_train=n_train, n_test=n_test,
    )  # fmt: skip


def test_the_gain_of_a_doubling_is_a_paired_t_and_shrinks_as_it_did():
    random = np.random.default_rng(0)
    noise = random.normal(0, 0.004, (5, 10))
    values = np.array([0.6, 0.7, 0.84, 0.88, 0.90])[:, None] + noise
    found = made({"chosen": values})
    doubling, expected = found.doubling(), ttest_1samp(values[4] - values[3], 0)
    ends = expected.confidence_interval(0.95)
    assert (doubling.gain, doubling.p_value) == pytest.approx((np.mean(values[4] - values[3]), expected.pvalue))
    assert (doubling.low, doubling.high) == pytest.approx((ends.low, ends.high))
    assert doubling.expected == pytest.approx(doubling.gain**2 / np.mean(values[3] - values[2]))
    assert found.sentences()[1].startswith(f"Doubling the labels is expected to add {doubling.expected:.4f} AUROC")
    flat = made({"chosen": values[3] + random.normal(0, 0.004, (5, 10))})
    assert "may be chance" in flat.sentences()[1]
    assert "do not help" in made({"chosen": values[[0, 1, 3, 4, 2]]}).sentences()[1]


def test_what_serves_better_when_labels_are_few_is_named_and_noise_is_not():
    random = np.random.default_rng(1)
    chosen = np.array([0.7, 0.8, 0.85, 0.88, 0.90])[:, None] + random.normal(0, 0.01, (5, 10))
    other = chosen + np.array([0.08, 0.0, 0, 0, -0.01])[:, None] + random.normal(0, 0.004, (5, 10))
    found = made({"chosen": chosen, "best_single": other})
    assert found.best(0) == "best_single"
    assert found.sentences()[0].startswith("With few labels best single (best_single) serve better")
    assert "(at 5 per class)" in found.sentences()[0]
    first = found.advantages()[0]
    assert (first.difference, first.low) == pytest.approx(corrected_t(other[0] - chosen[0], 80, 20)[:2])
    same = made({"chosen": chosen, "all": chosen + random.normal(0, 0.01, (5, 10))})
    assert "nothing does better beyond noise" in same.sentences()[0]


def test_the_interval_of_a_doubling_holds_the_truth_as_often_as_it_says():
    random = np.random.default_rng(2)
    columns, mean = 8, np.r_[1.0, np.zeros(7)]

    def fitted(rows, labels):
        centred = rows - np.where(labels[:, None] == 1, rows[labels == 1].mean(axis=0), rows[labels == 0].mean(axis=0))
        spread = centred.T @ centred / len(rows) + 0.2 * np.eye(columns)
        return np.linalg.solve(spread, rows[labels == 1].mean(axis=0) - rows[labels == 0].mean(axis=0))

    def sample(n):
        labels = np.arange(n) % 2
        return random.normal(size=(n, columns)) + np.outer(labels, mean), labels

    def area(scores, labels):
        return (scores[labels == 1][:, None] > scores[labels == 0]).mean()

    def gain(rows, labels, order, held_out, truth):
        halves = order, order[: len(order) // 2]
        return np.subtract(*(area(held_out @ fitted(rows[part], labels[part]), truth) for part in halves))

    far, far_labels = sample(2000)
    truth = np.mean([gain(*sample(80), np.arange(80), far, far_labels) for _ in range(150)])
    held = 0
    for _ in range(120):
        rows, labels = sample(100)
        values = []
        for _ in range(2):
            fold = np.repeat(random.permutation(5), 20)[np.argsort(random.permutation(50).repeat(2), kind="stable")]
            for each in range(5):
                order = np.flatnonzero(fold != each)
                order = order.reshape(-1, 2)[random.permutation(40)].ravel()  # pairs of both classes
                values.append(gain(rows, labels, order, rows[fold == each], labels[fold == each]))
        doubling = made({"chosen": np.vstack([np.zeros((4, 10)), values])}).doubling()
        held += doubling.low <= truth <= doubling.high
    assert 0.88 <= held / 120 <= 0.99  # 0.95 within three standard errors of 120 repetitions
