import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.core.errors import SearchError
from biofuse.search.closed_form import SMALLEST, Workspace, column_path, row_path

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


def solve(way, X, targets, weights, **options):
    if way == "rows":
        return row_path(X @ X.T, targets=targets, weights=weights, relative=RELATIVE, **options)
    mean, offset = weights @ X / weights.sum(), weights @ targets / weights.sum()
    weighted = weights[:, None] * (X - mean)
    return column_path(
        np.hstack([X[:, :2], np.full((len(X), 1), 7.0), X[:, 2:]]),  # a column between that is not used
        columns=[slice(0, 2), slice(3, X.shape[1] + 1)],
        mean=mean,
        products=weighted.T @ (X - mean),
        crossed=weighted.T @ (targets - offset),
        targets=targets,
        weights=weights,
        relative=RELATIVE,
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
        assert own[place] <= own.min() * (1 + 1e-6)


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
