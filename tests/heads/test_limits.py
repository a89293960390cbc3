import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import SearchError
from biofuse.core.target import Task
from biofuse.heads.base import FittedHead, Limits, check_limits, within_limits
from biofuse.heads.logistic import Logistic
from biofuse.heads.registry import CHEAP_HEADS, OWN_HEADS, make_head
from biofuse.predictors.fused import fit_predictor

PAPER = {"features": 8704, "classes": 9}
"""All nine encoders of the paper, and the classes of PathMNIST."""


@pytest.mark.parametrize("name", OWN_HEADS)
@pytest.mark.parametrize("rows", [200, 89_996])
def test_no_head_refuses_the_problems_of_the_paper(name: str, rows: int) -> None:
    check_limits(make_head(name), rows=rows, **PAPER)


@pytest.mark.parametrize("name", CHEAP_HEADS)
def test_no_cheap_head_refuses_the_largest_set_or_many_encoders(name: str) -> None:
    assert within_limits(make_head(name), rows=189_106, features=8704, classes=8)  # TissueMNIST, train and val
    assert within_limits(make_head(name), rows=1_000, features=60_000, classes=14)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("xgboost", {"rows": 5_000, "features": 768, "classes": 1_000}),
        ("lightgbm", {"rows": 5_000, "features": 768, "classes": 1_000}),
        ("ridge", {"rows": 30_000, "features": 30_000, "classes": 2}),
        ("lda", {"rows": 30_000, "features": 30_000, "classes": 2}),
        ("logistic", {"rows": 150_000, "features": 60_000, "classes": 2}),
        ("knn", {"rows": 1_281_167, "features": 768, "classes": 1_000}),
    ],
)
def test_what_cannot_work_is_refused_with_reason_and_remedy(name: str, problem: dict[str, int]) -> None:
    head = make_head(name)
    assert not within_limits(head, **problem)
    with pytest.raises(SearchError, match=f"head {name} is not meant for") as caught:
        check_limits(head, **problem)
    assert "limit " in caught.value.message
    assert head.limits.reason in caught.value.message
    able = [other for other in OWN_HEADS if within_limits(make_head(other), **problem)]
    assert all(other in caught.value.remedy for other in able)
    assert name not in caught.value.remedy
    assert able or "fewer rows" in caught.value.remedy


def test_a_thousand_classes_are_for_linear_heads_and_neighbours() -> None:
    with pytest.raises(SearchError) as caught:
        check_limits(make_head("xgboost"), rows=5_000, features=768, classes=1_000)
    assert caught.value.message.startswith("The head xgboost is not meant for 1,000 classes (limit 100):")
    assert caught.value.remedy == "Choose another head: logistic, ridge, lda, knn."


class Small(Logistic):
    """Takes three columns."""

    limits = Limits(features=3, reason="more are tedious")  # type: ignore[assignment]

    def fit(self, *_: object, **__: object) -> FittedHead:
        raise AssertionError("fitted beyond its limits")


def test_a_predictor_checks_the_fused_matrix_before_fitting() -> None:
    rng = np.random.default_rng(0)
    matrices = {name: rng.standard_normal((12, 2)).astype(np.float32) for name in ("a", "b")}
    blocks = Blocks(ids=np.array([f"s{i:02}" for i in range(12)]), matrices=matrices)
    options = {"head": Small(), "task": Task.BINARY, "n_classes": 2}
    with pytest.raises(SearchError, match=r"4 features \(limit 3\): more are tedious"):
        fit_predictor(blocks, np.arange(12) % 2, **options)
    with pytest.raises(AssertionError, match="beyond"):
        fit_predictor(blocks, np.arange(12) % 2, encoders=["a"], **options)
