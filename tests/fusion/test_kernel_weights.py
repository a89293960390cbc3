import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from biofuse.fusion.weighted import SPREAD, kernel_weights, objective


def make_problem(n: int = 40, *, seed: int = 0):
    rng = np.random.default_rng(seed)
    parts = [rng.standard_normal((n, dim)) / np.sqrt(dim) for dim in (5, 60, 12)]
    parts = [part - part.mean(axis=0) for part in parts]
    targets = parts[0] @ rng.standard_normal((5, 2)) + 0.3 * rng.standard_normal((n, 2))
    return parts, np.stack([part @ part.T for part in parts]), targets - targets.mean(axis=0)


def test_the_objective_is_the_leave_one_out_error_of_scikit_learns_ridge() -> None:
    parts, kernels, targets = make_problem()
    for logs in (np.zeros(3), np.array([1.5, -2.0, 0.3])):
        X = np.hstack([part * np.exp(log / 2) for part, log in zip(parts, logs, strict=True)])
        left_out = cross_val_predict(Ridge(alpha=1.0), X, targets, cv=LeaveOneOut())
        error = np.square(targets - left_out).sum()
        prior = np.square(logs - logs.mean()).sum() / (2 * SPREAD**2)
        value, _ = objective(logs, kernels, targets)
        assert value == pytest.approx(0.5 * len(targets) * np.log(error) + prior, rel=1e-9)


def test_the_gradient_is_that_of_the_objective() -> None:
    _, kernels, targets = make_problem()
    logs = np.array([0.3, -1.0, -2.0])
    _, gradient = objective(logs, kernels, targets)
    for place, step in enumerate(np.eye(3) * 1e-5):
        above, below = objective(logs + step, kernels, targets)[0], objective(logs - step, kernels, targets)[0]
        assert gradient[place] == pytest.approx((above - below) / 2e-5, rel=1e-6)


def test_no_other_weights_predict_left_out_rows_better() -> None:
    _, kernels, targets = make_problem(80)
    found = kernel_weights(kernels, targets)
    rng = np.random.default_rng(1)
    totals = np.log(np.logspace(-2, 4, 25))

    def best(weights) -> float:
        return min(objective(np.log(weights) + total, kernels, targets)[0] for total in totals)

    least = best(found)
    others = [
        best(np.maximum(weights, 1e-6)) for weights in [*np.eye(3), np.ones(3) / 3, *rng.dirichlet(np.ones(3), 20)]
    ]
    assert least < min(others) + 0.05


def test_weights_are_a_partition_of_one() -> None:
    _, kernels, targets = make_problem()
    found = kernel_weights(kernels, targets)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()


def test_the_size_of_the_targets_plays_no_part() -> None:
    _, kernels, targets = make_problem()
    np.testing.assert_allclose(kernel_weights(kernels, targets * 1e6), kernel_weights(kernels, targets), rtol=1e-3)


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_rows_to_learn_from_leave_weights_equal(n: int) -> None:
    assert kernel_weights(np.zeros((4, n, n)), np.zeros((n, 2))).tolist() == [0.25] * 4


def test_targets_without_variance_leave_weights_equal() -> None:
    _, kernels, targets = make_problem()
    assert kernel_weights(kernels, np.zeros_like(targets)).tolist() == [1 / 3] * 3
