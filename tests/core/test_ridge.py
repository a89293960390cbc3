import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from biofuse.core import ridge
from biofuse.core.errors import SearchError
from biofuse.core.ridge import (
    SMALLEST,
    Path,
    Workspace,
    column_path,
    generalised_path,
    resolvents,
    ridge_path,
    row_path,
)

RELATIVE = 10.0 ** np.arange(-3, 4.5, 0.5)
GROUPS = (slice(0, 1), slice(1, 3))


def make_problem(n, d, *, signal=1.0, seed=0, weighted=False):
    random = np.random.default_rng(seed)
    X = random.normal(size=(n, d)) * np.geomspace(3, 0.1, d)
    X -= X.mean(axis=0)
    raw = signal * X @ random.normal(size=(d, 3)) / np.sqrt((X**2).sum(axis=1).mean()) + random.normal(size=(n, 3))
    weights = random.uniform(0.2, 3, n) if weighted else np.ones(n)
    return X, np.sign(raw), weights


def all_errors(X, targets, weights):
    """Every leave-one-out error, from the hat matrix of each penalty."""
    share, root = weights / weights.sum(), np.sqrt(weights)[:, None]
    A, y = root * (X - share @ X), root * (targets - share @ targets)
    alphas = RELATIVE * (A**2).sum() / len(A)
    errors = []
    for alpha in alphas:
        hat = A @ np.linalg.solve(A.T @ A + alpha * np.eye(A.shape[1]), A.T)
        errors.append((((y - hat @ y) / (1 - share - np.diag(hat))[:, None]) ** 2).sum(axis=0))
    return alphas, np.array(errors)


def solve(way, X, targets, weights, *, relative=RELATIVE, **options):
    if way == "rows":
        return row_path(X @ X.T, targets=targets, weights=weights, relative=relative, **options)
    mean, offset = weights @ X / weights.sum(), weights @ targets / weights.sum()
    weighted = weights[:, None] * (X - mean)
    known = {
        "mean": mean,
        "products": weighted.T @ (X - mean),
        "crossed": weighted.T @ (targets - offset),
        "targets": targets,
        "weights": weights,
        "relative": relative,
    }
    if way == "generalised":
        return generalised_path(**known, **options)
    return column_path(
        np.hstack([X[:, :2], np.full((len(X), 1), 7.0), X[:, 2:]]),  # a column between that is not used
        columns=[slice(0, 2), slice(3, X.shape[1] + 1)],
        **known,
        **options,
    )


@pytest.mark.parametrize("way", ["rows", "columns"])
@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(5, 40), st.integers(3, 60)),
    signal=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 10_000),
    weighted=st.booleans(),
)
def test_bounds_never_rule_out_the_best_penalty(way, size, signal, seed, weighted):
    X, targets, weights = make_problem(*size, signal=signal, seed=seed, weighted=weighted)
    alphas, expected = all_errors(X, targets, weights)
    found = solve(way, X, targets, weights, groups=GROUPS)
    assert np.allclose(found.alphas, alphas, rtol=1e-10)
    known = np.isfinite(found.errors)
    assert np.allclose(found.errors[known], expected[known], rtol=1e-6, atol=1e-9)
    for place, columns in zip(found.best(GROUPS), GROUPS, strict=True):
        own = expected[:, columns].sum(axis=1)
        assert own[place] <= own.min() * (1 + 1e-6) + 1e-12  # a target that never varies leaves rounding errors


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(5, 80), st.integers(3, 200)),
    signal=st.sampled_from([0.0, 0.5, 3.0]),
    seed=st.integers(0, 10_000),
    weighted=st.booleans(),
    twice=st.booleans(),
)
def test_single_precision_finds_the_penalty_and_the_solution_of_double_precision(size, signal, seed, weighted, twice):
    X, targets, weights = make_problem(*size, signal=signal, seed=seed, weighted=weighted)
    if twice:  # rows with a copy, whose errors fall towards the smallest penalty
        X, targets, weights = np.vstack([X, X]), np.vstack([targets, targets]), np.concatenate([weights, weights])
    long = solve("rows", X, targets, weights, groups=GROUPS)
    quick = solve("rows", X, targets, weights, groups=GROUPS, quick=True)
    for place, other, columns in zip(long.best(GROUPS), quick.best(GROUPS), GROUPS, strict=True):
        assert quick.alphas[other] == pytest.approx(long.alphas[place])
        # A group of which nothing can be learnt has coefficients of nothing but rounding.
        close = {"rtol": 1e-7, "atol": 1e-12 * np.abs(targets).max() / long.alphas[place]}
        assert np.allclose(quick.coef[other][:, columns], long.coef[place][:, columns], **close)


def test_solutions_of_single_precision_are_refined_to_those_of_double(monkeypatch):
    problem = make_problem(150, 400, signal=3.0, weighted=True)
    long = solve("rows", *problem)
    place = long.best(GROUPS[:1])[0]
    with monkeypatch.context() as patched:
        patched.setattr(ridge, "_factored", lambda *_, **__: pytest.fail("decomposed in double precision"))
        quick = solve("rows", *problem, quick=True)
    assert quick.alphas == pytest.approx(long.alphas[[place]])
    assert np.allclose(quick.coef[0], long.coef[place], rtol=0, atol=1e-11 * np.abs(long.coef[place]).max())
    monkeypatch.setattr(ridge, "REFINEMENTS", 1)  # which does not do
    assert np.array_equal(solve("rows", *problem, quick=True).coef, long.coef)


def test_single_precision_leaves_few_penalties_and_gives_way_where_it_confuses_many():
    assert len(solve("rows", *make_problem(150, 400, signal=3.0), quick=True).alphas) == 1
    X, targets, weights = make_problem(30, 5)
    assert len(solve("rows", np.zeros_like(X), targets, weights, quick=True).alphas) == len(RELATIVE)


@pytest.mark.parametrize(("way", "n", "d", "least"), [("rows", 150, 400, 4), ("columns", 2500, 12, 5)])
def test_bounds_spare_work_where_there_is_something_to_learn(way, n, d, least):
    X, targets, weights = make_problem(n, d, signal=3.0)
    found = solve(way, X, targets, weights)
    assert np.isinf(found.errors).all(axis=1).sum() >= least


@pytest.mark.parametrize("way", ["rows", "columns"])
def test_constant_rows_leave_nothing_to_choose(way):
    X, targets, weights = make_problem(20, 5)
    found = solve(way, np.zeros_like(X), targets, weights)
    assert np.allclose(found.errors, found.errors[0])  # whichever is taken
    assert np.allclose(found.intercept, targets.mean(axis=0))


def test_errors_that_differ_by_rounding_alone_are_tied():
    nothing = np.empty(0)
    errors = np.array([[1.1, 3.0], [1 + 4e-16, 2.0], [1.0, 2 - 8e-16], [1.0, np.inf]])
    path = Path(alphas=np.arange(4.0), errors=errors, leaving=nothing, coef=nothing, intercept=nothing)
    assert path.best([slice(0, 1), slice(1, 2), slice(0, 2)]) == [1, 1, 1]


def test_a_workspace_used_again_changes_nothing():
    space = Workspace()
    for seed, n in ((0, 30), (1, 30), (2, 17)):
        X, targets, weights = make_problem(n, 40, seed=seed)
        one, other = (solve("rows", X, targets, weights, workspace=w) for w in (space, None))
        assert np.array_equal(one.coef, other.coef)
        assert np.array_equal(one.errors, other.errors)


def test_products_that_are_none_are_refused():
    X, targets, weights = make_problem(10, 4)
    for relative in ([1.0], [SMALLEST, 1.0]):
        with pytest.raises(SearchError, match="not positive"):
            row_path(-10 * (X @ X.T) + np.eye(10) * 1e3, targets=targets, weights=weights, relative=-np.array(relative))


@pytest.mark.parametrize("way", ["rows", "columns"])
@pytest.mark.parametrize(("d", "weighted"), [(1, False), (9, False), (9, True), (60, False), (60, True)])
def test_generalised_cross_validation_divides_by_the_mean_of_what_remains(way, d, weighted):
    X, targets, weights = make_problem(40, d, signal=2.0, weighted=weighted)
    weights[:3] *= 0 if weighted else 1
    rows = np.flatnonzero(weights)
    options = {"rows": ("rows", {"choice": "generalised"}), "columns": ("generalised", {})}[way]
    found = solve(options[0], X, targets, weights, groups=GROUPS, **options[1])
    coef = np.stack([X.T @ each for each in found.coef]) if way == "rows" else found.coef
    mean = weights @ X / weights.sum()
    alphas = RELATIVE * (weights @ (X - mean) ** 2).sum() / len(rows)
    models = [Ridge(alpha, solver="svd").fit(X[rows], targets[rows], sample_weight=weights[rows]) for alpha in alphas]
    residuals = np.array([weights @ (targets - model.predict(X)) ** 2 for model in models])
    A = np.sqrt(weights)[:, None] * (X - mean)
    degrees = np.array([1 + np.trace(np.linalg.solve(A.T @ A + alpha * np.eye(d), A.T @ A)) for alpha in alphas])
    expected = residuals / (1 - degrees / len(rows))[:, None] ** 2
    for place, columns in zip(found.best(GROUPS), GROUPS, strict=True):
        best = expected[:, columns].sum(axis=1).argmin()
        assert found.alphas[place] == pytest.approx(alphas[best])
        assert np.allclose(found.errors[place], expected[best], rtol=1e-9)
        assert np.allclose(coef[place][:, columns].T, models[best].coef_[columns], rtol=0, atol=1e-9)
        assert np.allclose(found.intercept[place][columns], models[best].intercept_[columns], rtol=0, atol=1e-9)


def refitted(X, targets, weights, alpha):
    """The prediction of every row by a fit without it."""
    found = np.empty_like(targets)
    for row in range(len(X)):
        rest = np.arange(len(X)) != row
        model = Ridge(alpha, solver="svd").fit(X[rest], targets[rest], sample_weight=weights[rest])
        found[row] = model.predict(X[[row]])[0]
    return found


@pytest.mark.parametrize("way", ["rows", "columns"])
@pytest.mark.parametrize("weighted", [False, True])
def test_leave_one_out_errors_are_those_of_leaving_one_out(way, weighted):
    X, targets, weights = make_problem(24, 9, weighted=weighted)
    path = solve(way, X, targets, weights, relative=np.array([0.01, 1, 30]))
    left_out = [refitted(X, targets, weights, alpha) for alpha in path.alphas]
    expected = np.array([weights @ (found - targets) ** 2 for found in left_out])
    known = np.isfinite(path.errors).all(axis=1)
    assert np.allclose(path.errors[known], expected[known], rtol=1e-9)
    assert known[expected.sum(axis=1).argmin()]  # what was not computed cannot be the best
    assert path.best([slice(None)]) == [expected.sum(axis=1).argmin()]


@pytest.mark.parametrize(("n", "d"), [(25, 40), (40, 12), (20, 20)])
@pytest.mark.parametrize("relative", [(0.3,), tuple(RELATIVE)])
def test_a_path_of_features_is_that_of_scikit_learn(n, d, relative):
    X, targets, weights = make_problem(n, d, weighted=True)
    X = 3 * X + 5
    path = ridge_path(X, targets=targets, weights=weights, relative=np.array(relative))
    assert np.isfinite(path.errors).any()
    for place, alpha in enumerate(path.alphas):
        model = Ridge(alpha, solver="svd").fit(X, targets, sample_weight=weights)
        assert np.allclose(path.coef[place].T, model.coef_, rtol=0, atol=1e-9)
        assert np.allclose(path.intercept[place], model.intercept_, rtol=0, atol=1e-8)
    best = path.best([slice(None)])[0]
    fitted = X @ path.coef[best] + path.intercept[best]
    expected = refitted(X, targets, weights, path.alphas[best])
    assert np.allclose(path.left_out(best, fitted=fitted, targets=targets), expected, rtol=0, atol=1e-8)


def test_a_penalty_of_its_own_is_taken_as_it_is_unless_rounding_forbids():
    for n, d in ((20, 40), (40, 8)):
        X, targets, weights = make_problem(n, d)
        options = {"targets": targets, "weights": weights, "relative": RELATIVE}
        path = ridge_path(X, alpha=0.7, **options)
        assert path.alphas == pytest.approx([0.7], rel=1e-14)
        assert np.allclose(path.coef[0].T, Ridge(0.7, solver="svd").fit(X, targets).coef_, rtol=0, atol=1e-9)
        smallest = ridge_path(X, alpha=1e-30, **options)
        assert smallest.alphas == pytest.approx(SMALLEST * (X**2).sum() / n)
        assert np.isfinite(smallest.left_out(0, fitted=X @ smallest.coef[0], targets=targets)).all()


@pytest.mark.parametrize(("n", "rank"), [(1, 1), (2, 2), (40, 40), (40, 7), (40, 0)])
def test_resolvents_are_those_of_the_inverse(n, rank):
    random = np.random.default_rng(0)
    half, targets, shifts = random.normal(size=(n, rank)), random.normal(size=(n, 3)), np.array([1e-3, 1.0, 50.0])
    solved, diagonals = resolvents(half @ half.T, targets, shifts)
    for found, diagonal, shift in zip(solved, diagonals, shifts, strict=True):
        inverse = np.linalg.inv(half @ half.T + shift * np.eye(n))
        np.testing.assert_allclose(found.T, inverse @ targets, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(diagonal, np.diag(inverse), rtol=1e-9)
