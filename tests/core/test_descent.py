from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import minimize

from biofuse.core.descent import minimise_convex


def quadratic(n: int, condition: float) -> Callable:
    """A rotated bowl, ``condition`` times as steep along one direction as along another."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((n, n)))[0]
    A, b = (turn * np.geomspace(1, condition, n)) @ turn.T, rng.standard_normal(n)
    return lambda x: (0.5 * float(x @ A @ x) - float(b @ x), A @ x - b)


def separable(penalty: float, *, scale: float) -> Callable:
    """Logistic regression of classes without an error: next to no curvature far out, and a minimum that is far."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((80, 30)) * np.geomspace(1, 1e-3, 30) * scale
    X *= np.sign(X[:, :1])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margins = X @ w
        wrong = np.where(margins > 0, np.exp(-np.abs(margins)), 1) / (1 + np.exp(-np.abs(margins)))
        return float(np.logaddexp(0, -margins).sum() + penalty / 2 * w @ w), penalty * w - X.T @ wrong

    return loss


def steep(x: np.ndarray) -> tuple[float, np.ndarray]:
    """A value that is infinite a short step too far."""
    with np.errstate(over="ignore"):
        grown = np.exp(x**2)
        return float(grown.sum() + x.sum()), 2 * x * grown + 1


def kinked(x: np.ndarray) -> tuple[float, np.ndarray]:
    """Almost a sum of sizes: curved in a thousandth of its width alone."""
    root = np.sqrt((x - np.arange(len(x))) ** 2 + 1e-6)
    return float(root.sum()), (x - np.arange(len(x))) / root


HARD = {
    "round": (quadratic(40, 1.0), 40, 1e-9),
    "bowl": (quadratic(60, 1e5), 60, 1e-7),
    "separable": (separable(1e-4, scale=1.0), 30, 1e-8),
    "separable and far": (separable(1e-8, scale=1.0), 30, 1e-10),
    "separable and large": (separable(1.0, scale=1e4), 30, 1e-6),
    "steep": (steep, 5, 1e-8),
    "kinked": (kinked, 12, 1e-8),
}


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("far", [0.0, 3.0])
def test_finds_the_minimum_that_scipy_finds_in_at_most_twice_the_evaluations(name: str, far: float) -> None:
    function, n, tolerance = HARD[name]
    start = np.full(n, far)
    ours = minimise_convex(function, start, tolerance=tolerance, steps=5000)
    options = {"gtol": tolerance, "ftol": 0.0, "maxiter": 5000, "maxfun": 20_000, "maxcor": 10}
    theirs = minimize(function, start, jac=True, method="L-BFGS-B", options=options)
    assert function(ours.place)[0] <= theirs.fun + 1e-6 * abs(theirs.fun)
    np.testing.assert_array_equal(ours.gradient, function(ours.place)[1])
    assert np.abs(ours.gradient).max() <= max(tolerance, np.abs(theirs.jac).max())
    assert ours.evaluations <= 2 * theirs.nfev


def test_the_minimum_of_a_bowl_is_the_solution_of_its_equations() -> None:
    function = quadratic(30, 1e4)
    A = np.stack([function(row)[1] - function(np.zeros(30))[1] for row in np.eye(30)])
    found = minimise_convex(function, np.zeros(30), tolerance=1e-10, steps=1000)
    np.testing.assert_allclose(found.place, np.linalg.solve(A, -function(np.zeros(30))[1]), rtol=1e-6, atol=1e-9)


def test_nothing_is_tried_where_the_start_is_the_minimum() -> None:
    found = minimise_convex(lambda x: (float(x @ x), 2 * x), np.zeros(3), tolerance=0.0, steps=10)
    assert found.evaluations == 1
    assert not found.place.any()


def test_it_ends_after_the_steps_allowed() -> None:
    function = quadratic(60, 1e5)
    found = minimise_convex(function, np.zeros(60), tolerance=0.0, steps=3)
    assert 4 <= found.evaluations <= 10
    assert function(found.place)[0] < 0


def test_it_ends_where_rounding_leaves_nothing_to_descend() -> None:
    found = minimise_convex(quadratic(10, 1e3), np.ones(10), tolerance=0.0, steps=100_000)
    assert np.abs(found.gradient).max() < 1e-9
    assert found.evaluations < 5000
