import pickle

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import r2_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.gram import ColumnBlocks, GramBlocks
from biofuse.core.errors import AlignmentError, SearchError
from biofuse.core.target import Target, Task
from biofuse.data.splits import ValidationPlan
from biofuse.evaluation.metrics import board_metrics, score
from biofuse.heads.ridge import RELATIVE_PENALTIES
from biofuse.heads.ridge import Ridge as RidgeHead
from biofuse.predictors.fused import fit_predictor
from biofuse.search.closed_form import MANY_ROWS, ClosedFormScorer, Size, cheapest, choice_of_penalty
from biofuse.search.leaderboard import all_subsets
from biofuse.search.runner import run_search
from biofuse.search.scorers import FoldwiseScorer, RefitScorer
from biofuse.search.strategies import make_strategy

N, FOLDS = 90, 3
EVERY_ROW = np.ones(N, dtype=bool)
DIMS = {"a": 20, "b": 150, "c": 9, "d": 40}
BALANCED = "balanced"


def make_data(task=Task.MULTICLASS, *, n=N, seed=0, dims=None):
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(n, 4))
    matrices = {
        name: (hidden @ random.normal(size=(4, d)) + 3 * random.normal(size=(n, d)) + 2).astype(np.float32)
        for name, d in (dims or DIMS).items()
    }
    noisy = hidden + random.normal(size=(n, 4))
    labels = {
        Task.BINARY: noisy[:, 0] > 0.6,
        Task.MULTICLASS: (noisy[:, :3] + [0.8, 0, 0]).argmax(axis=1),
        Task.ORDINAL: np.digitize(noisy[:, 0], [-0.5, 1]),
        Task.MULTILABEL: noisy > [0.8, 0, -0.4, 0.3],
    }[task].astype(np.int64)
    return Blocks(ids=np.array([f"s{i:03d}" for i in range(n)], dtype=object), matrices=matrices), labels


def make_plan(ids):
    where = np.array([int(name[1:]) % FOLDS for name in ids])
    folds = [(np.flatnonzero(where != f), np.flatnonzero(where == f)) for f in range(FOLDS)]
    return ValidationPlan.cross_validation(folds, ids=ids)


def make_scorer(blocks, labels, task, **options):
    n_classes = {Task.BINARY: 2, Task.MULTILABEL: 4, Task.VALUE: 2}.get(task, 3)
    return ClosedFormScorer(
        blocks, labels, plan=make_plan(blocks.ids), task=task, classes=[f"c{i}" for i in range(n_classes)], **options
    )


def row_weights(codes, class_weight):
    if class_weight is None:
        return np.ones(len(codes))
    if class_weight == BALANCED:
        counts = np.bincount(codes)
        return len(codes) / (np.count_nonzero(counts) * counts[codes])
    return np.array([class_weight.get(int(code), 1.0) for code in codes])


def concatenated(blocks, subset, fit, held, *, scaling="none", reduce_to=None):
    """What scikit-learn makes of a subset, from scratch."""
    parts = []
    for name in subset:
        matrix = blocks[name].astype(np.float64)
        scaler = StandardScaler().fit(matrix[fit])
        divisor = np.sqrt(matrix.shape[1]) if scaling == "block" else 1
        train, test = scaler.transform(matrix[fit]) / divisor, scaler.transform(matrix[held]) / divisor
        if reduce_to is not None and reduce_to < matrix.shape[1]:
            pca = PCA(reduce_to, svd_solver="full").fit(train)
            train, test = pca.transform(train), pca.transform(test)
        parts.append((train, test))
    return tuple(np.hstack(side) for side in zip(*parts, strict=True))


def problems(labels, task, class_weight):
    """Yield the columns of the decision values, targets and row weights of each ridge problem."""
    if task is Task.MULTILABEL:
        for label in range(labels.shape[1]):
            yield [label], 2.0 * labels[:, [label]] - 1, row_weights(labels[:, label], class_weight)
    elif task is Task.BINARY:
        yield [1], 2.0 * labels[:, None] - 1, row_weights(labels, class_weight)
    else:
        yield [0, 1, 2], 2.0 * (labels[:, None] == np.arange(3)) - 1, row_weights(labels, class_weight)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize("scaling", ["none", "block"])
@pytest.mark.parametrize("reduce_to", [None, 6])
@pytest.mark.parametrize(
    ("task", "class_weight"),
    [
        (Task.BINARY, None),
        (Task.MULTICLASS, BALANCED),
        (Task.ORDINAL, {0: 3.0, 2: 0.2}),
        (Task.MULTILABEL, None),
        (Task.MULTILABEL, BALANCED),
    ],
)
def test_decision_values_are_those_of_scikit_learn_refitted_from_scratch(mode, scaling, reduce_to, task, class_weight):
    blocks, labels = make_data(task)
    options = {"mode": mode, "scaling": scaling, "reduce_to": reduce_to, "class_weight": class_weight}
    scorer = make_scorer(blocks, labels, task, **options)
    random = np.random.default_rng(3)
    subsets = all_subsets(blocks.encoders)
    for number in random.choice(len(subsets), 5, replace=False):
        subset, fold = subsets[number], int(random.integers(FOLDS))
        fit, held = make_plan(blocks.ids).folds[fold]
        X, X_held = concatenated(blocks, subset, fit, held, scaling=scaling, reduce_to=reduce_to)
        found = scorer.solve(subset, fold)
        for (columns, targets, weights), alpha in zip(
            problems(labels[fit], task, class_weight), found.alphas, strict=True
        ):
            expected = Ridge(alpha, solver="svd").fit(X, targets, sample_weight=weights).predict(X_held)
            assert np.allclose(found.decision[:, columns], expected.reshape(len(held), -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize(("task", "class_weight"), [(Task.BINARY, None), (Task.MULTILABEL, BALANCED)])
def test_penalties_of_generalised_cross_validation_give_the_decision_values_of_scikit_learn(mode, task, class_weight):
    blocks, labels = make_data(task)
    options = {"class_weight": class_weight, "choice": "generalised", "reduce_to": 6}
    scorer = make_scorer(blocks, labels, task, mode=mode, **options)
    if mode == "primal":
        assert not sum(len(fold.algebra.train) for fold in scorer.folds)  # no training row is kept
    fit, held = make_plan(blocks.ids).folds[1]
    for subset in [("a", "c"), blocks.encoders]:
        X, X_held = concatenated(blocks, subset, fit, held, reduce_to=6)
        found = scorer.solve(subset, 1)
        for (columns, targets, weights), alpha in zip(
            problems(labels[fit], task, class_weight), found.alphas, strict=True
        ):
            expected = Ridge(alpha, solver="svd").fit(X, targets, sample_weight=weights).predict(X_held)
            assert np.allclose(found.decision[:, columns], expected.reshape(len(held), -1), rtol=0, atol=1e-6)


def test_many_unreduced_rows_are_those_of_scikit_learn_refitted():
    blocks, labels = make_data(n=3 * MANY_ROWS // 2 + 30)
    scorer = make_scorer(blocks, labels, Task.MULTICLASS)
    assert (scorer.mode, scorer.choice) == ("primal", "generalised")
    fit, held = make_plan(blocks.ids).folds[1]
    for subset in [("a", "d"), blocks.encoders]:
        X, X_held = concatenated(blocks, subset, fit, held)
        found = scorer.solve(subset, 1)
        targets = 2.0 * (labels[fit][:, None] == np.arange(3)) - 1
        expected = Ridge(found.alphas[0], solver="svd").fit(X, targets).predict(X_held)
        assert np.allclose(found.decision, expected, rtol=0, atol=1e-6)


def test_many_rows_of_few_columns_are_not_left_out_one_by_one():
    def choice(way, rows, columns):
        return choice_of_penalty(way, n_train=(rows, rows + 1), kept=(columns, 1))

    assert choice("primal", MANY_ROWS, 10) == "generalised"
    assert choice("primal", MANY_ROWS - 1, 10) == "leave_one_out"
    assert choice("primal", MANY_ROWS, MANY_ROWS // 2) == "leave_one_out"
    assert choice("dual", MANY_ROWS, 10) == "leave_one_out"


@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize(("task", "class_weight"), [(Task.BINARY, None), (Task.MULTICLASS, BALANCED)])
def test_sample_weights_are_those_of_scikit_learn_refitted_from_scratch(mode, task, class_weight):
    blocks, labels = make_data(task)
    given = np.random.default_rng(4).uniform(0.2, 5, len(labels))
    scorer = make_scorer(blocks, labels, task, mode=mode, class_weight=class_weight, sample_weight=given)
    fit, held = make_plan(blocks.ids).folds[1]
    X, X_held = concatenated(blocks, blocks.encoders, fit, held)
    ((columns, targets, _),) = problems(labels[fit], task, None)
    weights = given[fit]
    if class_weight:  # every class then counts as much as any other
        totals = np.bincount(labels[fit], weights=weights)
        weights = weights * weights.sum() / (len(totals) * totals[labels[fit]])
    found = scorer.solve(blocks.encoders, 1)
    expected = Ridge(found.alphas[0], solver="svd").fit(X, targets, sample_weight=weights).predict(X_held)
    assert np.allclose(found.decision[:, columns], expected.reshape(len(held), -1), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_predicted_as_by_ridge_regression_refitted_from_scratch(mode, weighted):
    blocks, _ = make_data(Task.BINARY)
    random = np.random.default_rng(5)
    scale, centre = np.array([8.0, 1e-3]), np.array([60.0, -5.0])
    values = np.column_stack([blocks["a"][:, 0], blocks["b"][:, 0]]) + random.standard_normal((blocks.n_samples, 2))
    values = centre + scale * values
    given = random.uniform(0.2, 5, len(values)) if weighted else None
    target = Target(Task.VALUE, ("age", "size"))
    scorer = ClosedFormScorer(
        blocks, values, plan=make_plan(blocks.ids), task=target.kind, classes=target.classes, mode=mode,
        sample_weight=given, metrics=board_metrics(target, closed_form=True),
    )  # fmt: skip
    for subset in all_subsets(blocks.encoders):
        fit, held = make_plan(blocks.ids).folds[1]
        X, X_held = concatenated(blocks, subset, fit, held)
        weights = np.ones(len(fit)) if given is None else given[fit]
        spread = (weights @ np.square(X - np.average(X, axis=0, weights=weights))).sum() / len(fit)
        found = scorer.solve(subset, 1)
        for column, alpha in enumerate(found.alphas):
            chosen = RidgeCV(alphas=spread * scorer.relative).fit(X, values[fit, column], sample_weight=weights)
            assert chosen.alpha_ == pytest.approx(alpha)
            expected = Ridge(alpha, solver="svd").fit(X, values[fit, column], sample_weight=weights).predict(X_held)
            np.testing.assert_allclose(found.estimates[:, column] / scale[column], expected / scale[column], atol=1e-6)
        score = r2_score(values[held], found.estimates)
        assert scorer.score_fold(subset, 1).values["r2"] == pytest.approx(score, abs=1e-6)


SIX = {"a": 12, "b": 90, "c": 5, "d": 30, "e": 64, "f": 17}


def pipeline(subset, dims, alpha, reduce_to):
    """The pipeline that a user of scikit-learn would write for concatenated blocks."""
    if reduce_to is None:
        return make_pipeline(StandardScaler(), Ridge(alpha, solver="svd"))
    ends = np.cumsum([dims[name] for name in subset])
    parts = [
        (name, PCA(min(reduce_to, dims[name]), svd_solver="full"), slice(end - dims[name], end))
        for name, end in zip(subset, ends, strict=True)
    ]
    return make_pipeline(StandardScaler(), ColumnTransformer(parts), Ridge(alpha, solver="svd"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize("reduce_to", [None, 10])
def test_fifty_random_subsets_on_all_folds_are_those_of_pipelines_refitted(mode, reduce_to):
    blocks, labels = make_data(Task.BINARY, dims=SIX)
    plan = make_plan(blocks.ids)
    scorer = make_scorer(blocks, labels, Task.BINARY, mode=mode, reduce_to=reduce_to)
    subsets = all_subsets(blocks.encoders)
    for number in np.random.default_rng(11).choice(len(subsets), 50, replace=False):
        subset = subsets[number]
        X = np.hstack([blocks[name] for name in subset]).astype(np.float64)
        for fold, (fit, held) in enumerate(plan.folds):
            found = scorer.solve(subset, fold)
            model = pipeline(subset, SIX, found.alphas[0], reduce_to).fit(X[fit], 2.0 * labels[fit] - 1)
            assert np.allclose(found.decision[:, 1], model.predict(X[held]), rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS, Task.MULTILABEL])
@pytest.mark.parametrize("class_weight", [None, BALANCED])
def test_penalties_are_those_of_ridge_cv(mode, task, class_weight):
    blocks, labels = make_data(task, seed=1)
    scorer = make_scorer(blocks, labels, task, mode=mode, class_weight=class_weight)
    chosen = set()
    for subset in all_subsets(blocks.encoders):
        fit, held = make_plan(blocks.ids).folds[0]
        X, X_held = concatenated(blocks, subset, fit, held)
        found = scorer.solve(subset, 0)
        for (columns, targets, weights), alpha in zip(
            problems(labels[fit], task, class_weight), found.alphas, strict=True
        ):
            centre = np.average(X, axis=0, weights=weights)
            spread = float(weights @ ((X - centre) ** 2).sum(axis=1)) / len(X)
            reference = RidgeCV(np.array(RELATIVE_PENALTIES) * spread).fit(X, targets, sample_weight=weights)
            assert alpha == pytest.approx(reference.alpha_, rel=1e-9)
            expected = reference.predict(X_held).reshape(len(held), -1)
            assert np.allclose(found.decision[:, columns], expected, rtol=0, atol=1e-6)
            chosen.add(round(np.log10(alpha / spread), 1))
    assert len(chosen) > 1  # the data do not push every choice to the same place


@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize("class_weight", [None, BALANCED])
def test_a_single_penalty_is_used_as_it_is(mode, class_weight):
    blocks, labels = make_data()
    options = {"mode": mode, "class_weight": class_weight}
    alone, among = (
        make_scorer(blocks, labels, Task.MULTICLASS, alphas=alphas, **options) for alphas in ([3.0], [1e-6, 3.0])
    )
    for subset in all_subsets(blocks.encoders)[::5]:
        one, other = alone.solve(subset, 1), among.solve(subset, 1)
        assert one.alphas == pytest.approx(other.alphas, rel=1e-12)
        assert np.allclose(one.decision, other.decision, rtol=0, atol=1e-10)


@pytest.mark.parametrize("task", [Task.BINARY, Task.MULTICLASS, Task.MULTILABEL])
def test_decisions_are_those_of_the_ridge_head_refitted(task):
    blocks, labels = make_data(task)
    classes = ["x", "y", "z", "t"][: {Task.BINARY: 2, Task.MULTILABEL: 4}.get(task, 3)]
    closed = make_scorer(blocks, labels, task, keep=EVERY_ROW, class_weight=BALANCED)

    def fit(taken, truth, *, encoders, seed, threads):
        return fit_predictor(
            taken,
            truth,
            encoders=encoders,
            fusion="concatenation",
            head=RidgeHead(class_weight=BALANCED),
            target=Target.numbered(task, len(classes)),
            seed=seed,
            threads=threads,
        )

    refit = RefitScorer(
        blocks, labels, plan=make_plan(blocks.ids), fit=fit, task=task, classes=classes, metrics=closed.metrics
    )
    for subset in [("a",), ("b", "d"), blocks.encoders]:
        found, expected = closed.score(subset), refit.score(subset)
        fit_rows, held = make_plan(blocks.ids).folds[0]
        predictor = fit(blocks.take(fit_rows), labels[fit_rows], encoders=subset, seed=0, threads=1)
        margins = predictor.head.margins(predictor.transform(blocks.take(held)))
        margins = np.hstack([-margins, margins]) if task is Task.BINARY else margins
        assert np.allclose(closed.solve(subset, 0).decision, margins, rtol=0, atol=1e-4)  # the fusion is float32
        # Of three classes the head ranks by the softmax of all values, the closed form by each class's own.
        metrics = ("balanced_accuracy",) if task is Task.MULTICLASS else ("auroc",)
        for metric in metrics:
            assert found.folds[metric] == pytest.approx(expected.folds[metric], abs=1e-9)
        estimates = found.out_of_fold[0]
        assert score(task, labels[held], estimates)["auroc"] == found.folds["auroc"][0]
        assert score(task, labels[held], estimates)["accuracy"] == found.folds["accuracy"][0]


def test_classes_are_decided_by_the_largest_or_the_sign():
    for task in (Task.BINARY, Task.MULTICLASS, Task.MULTILABEL):
        blocks, labels = make_data(task)
        scorer = make_scorer(blocks, labels, task)
        decision = scorer.solve(("a", "b"), 0).decision
        truth = labels[make_plan(blocks.ids).folds[0][1]]
        right = (decision > 0) == truth if task is Task.MULTILABEL else decision.argmax(axis=1) == truth
        assert scorer.score(("a", "b")).folds["accuracy"][0] == pytest.approx(right.mean())


def test_dual_and_primal_agree():
    blocks, labels = make_data(n=150)
    for reduce_to in (None, 8):
        dual, primal = (
            make_scorer(blocks, labels, Task.MULTICLASS, mode=mode, reduce_to=reduce_to) for mode in ("dual", "primal")
        )
        for subset in all_subsets(blocks.encoders)[::4]:
            one, other = dual.solve(subset, 2), primal.solve(subset, 2)
            assert one.alphas == pytest.approx(other.alphas, rel=1e-9)
            assert np.allclose(one.decision, other.decision, rtol=0, atol=1e-8)


def test_products_of_rows_leave_subsets_of_few_columns_to_those_of_columns():
    blocks, labels = make_data()
    scorer = make_scorer(blocks, labels, Task.MULTICLASS, mode="dual")
    by_columns = [s for s in all_subsets(blocks.encoders) if isinstance(scorer.folds[1].algebra_of(s), ColumnBlocks)]
    assert by_columns == [("a",), ("c",), ("a", "c")]  # 20 and 9 columns, of 60 rows
    for options in ({"reduce_to": 8}, {"alphas": [1.0]}):
        other = make_scorer(blocks, labels, Task.MULTICLASS, mode="dual", **options)
        assert isinstance(other.folds[1].algebra_of(("a",)), GramBlocks)


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("task", "class_weight"),
    [(Task.BINARY, BALANCED), (Task.MULTICLASS, None), (Task.MULTILABEL, BALANCED), (Task.VALUE, None)],
)
def test_subsets_of_few_and_of_many_columns_are_alike_by_either_products(task, class_weight, weighted):
    blocks, labels = make_data(Task.BINARY if task is Task.VALUE else task)
    random = np.random.default_rng(8)
    common = {"class_weight": class_weight, "sample_weight": random.uniform(0.2, 5, N) if weighted else None}
    if task is Task.VALUE:
        labels = np.array([3.0, 1e-2]) * (blocks["a"][:, :2] + 4 * random.normal(size=(N, 2)))
        common["metrics"] = ("r2",)
    dual, primal = (make_scorer(blocks, labels, task, mode=mode, **common) for mode in ("dual", "primal"))
    for subset in all_subsets(blocks.encoders):
        one, other = dual.solve(subset, 2), primal.solve(subset, 2)
        assert one.alphas == pytest.approx(other.alphas, rel=1e-9)
        assert np.allclose(one.decision, other.decision, rtol=0, atol=1e-9)
        scores = primal.score(subset).folds
        assert dual.score(subset).folds == {name: pytest.approx(values) for name, values in scores.items()}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["dual", "primal"])
def test_order_of_encoders_and_rows_does_not_matter(mode):
    blocks, labels = make_data()
    order = np.random.default_rng(4).permutation(N)
    turned = Blocks(ids=blocks.ids[order], matrices={name: blocks[name][order] for name in reversed(blocks.encoders)})
    one, other = (make_scorer(b, y, Task.MULTICLASS, mode=mode) for b, y in ((blocks, labels), (turned, labels[order])))
    for subset in all_subsets(blocks.encoders)[::4]:
        assert np.allclose(one.solve(subset, 1).decision, other.solve(subset[::-1], 1).decision, rtol=0, atol=1e-9)
        found, expected = other.score(subset[::-1]).folds, one.score(subset).folds
        assert {name: pytest.approx(values) for name, values in found.items()} == expected


@pytest.mark.parametrize("mode", ["dual", "primal"])
@pytest.mark.parametrize("reduce_to", [None, 5])
def test_a_constant_block_changes_nothing_and_knows_nothing(mode, reduce_to):
    blocks, labels = make_data()
    matrices = dict(blocks) | {"flat": np.full((N, 12), 0.3, dtype=np.float32)}
    with_flat = Blocks(ids=blocks.ids, matrices=matrices)
    scorer = make_scorer(with_flat, labels, Task.MULTICLASS, mode=mode, reduce_to=reduce_to)
    without, within = scorer.solve(("a", "c"), 0), scorer.solve(("a", "c", "flat"), 0)
    assert within.alphas == pytest.approx(without.alphas, rel=1e-12)
    assert np.allclose(within.decision, without.decision, rtol=0, atol=1e-10)
    alone = scorer.score(("flat",))
    assert alone.folds["auroc"] == pytest.approx((0.5,) * FOLDS)


def test_absent_and_only_classes_are_as_in_the_heads():
    blocks, labels = make_data()
    fit, held = make_plan(blocks.ids).folds[0]
    labels[fit] = np.where(labels[fit] == 2, 1, labels[fit])
    found = make_scorer(blocks, labels, Task.MULTICLASS).score(("a",))
    assert "fold 1: No training row is of class 2: probability 0." in found.notes
    labels[fit] = 1
    scorer = make_scorer(blocks, labels, Task.MULTICLASS, keep=EVERY_ROW)
    assert scorer.solve(("a",), 0).alphas == ()
    assert np.array_equal(scorer.score(("a",)).out_of_fold[0], np.tile([0.0, 1.0, 0.0], (len(held), 1)))


def test_it_is_a_scorer_for_searches_in_one_process_and_in_several():
    blocks, labels = make_data(Task.BINARY)
    scorer = make_scorer(blocks, labels, Task.BINARY, keep=EVERY_ROW)
    assert isinstance(scorer, FoldwiseScorer)
    assert scorer.n_dims(("a", "c")) == 29
    assert scorer.n_train == (60, 60, 60)
    board = run_search(blocks.encoders, make_strategy("exhaustive"), scorer, workers=1)
    assert len(board) == 15
    sent = pickle.loads(pickle.dumps(scorer))  # noqa: S301 (to a worker and back)
    for row in board:
        found = scorer.score(row.subset)
        assert found.folds == row.folds
        assert np.array_equal(found.out_of_fold[1].astype(np.float32), board.out_of_fold[row.subset][1])
        assert sent.score(row.subset).folds == row.folds


def test_predictions_are_those_of_the_rows_that_are_kept():
    blocks, labels = make_data()
    assert make_scorer(blocks, labels, Task.MULTICLASS).score(("a",)).out_of_fold is None
    whole = make_scorer(blocks, labels, Task.MULTICLASS, keep=EVERY_ROW).score(("a", "c"))
    chosen = np.zeros(N, dtype=bool)
    chosen[[3, 4, 50]] = True
    found = make_scorer(blocks, labels, Task.MULTICLASS, keep=chosen).score(("a", "c"))
    assert found.folds == whole.folds  # scores are those of all rows
    for (_, held), some, every in zip(make_plan(blocks.ids).folds, found.out_of_fold, whole.out_of_fold, strict=True):
        assert len(every) == len(held)
        assert np.array_equal(some, every[chosen[held]])


def size(n_train, n_test, **options):
    common = {"dims": [512] * 9, "n_columns": 1, "n_weightings": 1, "n_subsets": 511}
    return Size(n_train=n_train, n_test=n_test, **common | options)


def test_the_way_with_fewer_operations_that_fits_into_memory_is_taken():
    few, many = size((400,) * 5, (100,) * 5).works(None), size((40_000,), (10_000,)).works(64)
    assert cheapest(few, memory_limit=10**12) == "dual"
    assert cheapest(many, memory_limit=10**12) == "primal"
    # What costs more operations is taken where only that fits, and nothing where nothing does.
    slower = size((1500,) * 5, (300,) * 5, dims=[300] * 9).works(None)
    best = cheapest(slower, memory_limit=10**15)
    other = next(way for way in slower if way != best)
    assert slower[other].bytes() < slower[best].bytes()
    assert cheapest(slower, memory_limit=slower[best].bytes() - 1) == other
    assert cheapest(slower, memory_limit=1000) is None


def test_subsets_of_few_columns_need_fewer_operations():
    narrow, wide = (
        size((400,) * 5, (100,) * 5, dims=[512, few, few, few], n_subsets=15).works(None)["dual"] for few in (20, 201)
    )
    assert narrow.scoring == pytest.approx(8 / 15 * wide.scoring, rel=0.1)  # the other 7 have up to 60 columns


def test_memory_is_what_is_held_and_room_to_work_for_each_worker():
    work = size((400,) * 5, (100,) * 5).works(None)["dual"]
    assert work.held == 8 * 5 * 9 * 400 * 500  # the products of all rows, per block and fold
    beside = size((400,) * 5, (100,) * 5, dims=[512] * 9 + [80, 120]).works(None)["dual"]
    assert beside.held == 8 * 5 * 500 * (11 * 400 + 200)  # and the columns of narrow blocks
    assert work.bytes(1) == work.held + work.scratch
    assert work.bytes(4) == 2 * work.held + 4 * work.scratch  # workers share one copy


@pytest.mark.slow
@pytest.mark.parametrize("way", ["dual", "primal"])
def test_the_memory_bound_holds(way):
    import tracemalloc

    blocks, labels = make_data(n=1500, dims={"a": 200, "b": 150, "c": 40})
    bound = size((1000,) * 3, (500,) * 3, dims=(200, 150, 40), n_columns=3).works(None)[way].bytes()
    tracemalloc.start()
    try:
        scorer = make_scorer(blocks, labels, Task.MULTICLASS, mode=way)
        scorer.score(blocks.encoders)
        assert tracemalloc.get_traced_memory()[1] < bound
    finally:
        tracemalloc.stop()


def test_threads_change_nothing():
    blocks, labels = make_data()
    for reduce_to in (None, 5):
        one, other = (
            make_scorer(blocks, labels, Task.MULTICLASS, reduce_to=reduce_to, threads=threads) for threads in (1, 2)
        )
        assert one.score(("a", "b")).folds == other.score(("a", "b")).folds


def test_what_cannot_be_is_refused():
    blocks, labels = make_data()
    with pytest.raises(AlignmentError):
        make_scorer(blocks, labels[:-1], Task.MULTICLASS)
    for options, match in (
        ({"memory_limit": 1000}, "memory"),
        ({"memory_limit": 1000, "mode": "primal"}, "memory"),
        ({"metrics": ("auroc", "log_loss")}, "calibrated"),
        ({"alphas": []}, "penalties"),
        ({"alphas": [1, 0]}, "penalties"),
        ({"reduce_to": 0}, "reduced to 0"),
    ):
        with pytest.raises(SearchError, match=match):
            make_scorer(blocks, labels, Task.MULTICLASS, **options)
    with pytest.raises(SearchError, match="unknown"):
        make_scorer(blocks, labels, Task.MULTICLASS).score(("x",))
