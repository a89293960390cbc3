import dataclasses
import json
import subprocess
import sys

import pytest

from biofuse.core.errors import SearchError
from biofuse.heads.base import CHEAP_HEADS, OWN_HEADS, check_limits, head_registry, make_head, within_limits
from biofuse.heads.logistic import Logistic
from biofuse.testing import assert_head_contract


@pytest.mark.parametrize("name", OWN_HEADS)
def test_heads_by_name(name: str) -> None:
    head = make_head(name, class_weight="balanced")
    assert head.name == name
    assert head.options["class_weight"] == "balanced"
    assert make_head(head) is head
    assert name in head_registry().names()
    json.dumps(make_head(name, class_weight={0: 2.0}).options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.class_weight = None  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", OWN_HEADS)
def test_every_own_head_keeps_the_contract(name: str) -> None:
    assert_head_contract(lambda: make_head(name, class_weight="balanced"))


def test_own_heads_are_registered_in_order_and_the_cheap_ones_begin_with_the_default() -> None:
    assert head_registry().names()[: len(OWN_HEADS)] == OWN_HEADS
    assert OWN_HEADS == ("logistic", "ridge", "lda", "knn", "xgboost")
    assert CHEAP_HEADS == ("logistic", "ridge", "lda")


def test_class_weights_beside_a_head_are_refused() -> None:
    with pytest.raises(SearchError, match="class_weight"):
        make_head(Logistic(), class_weight="balanced")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(SearchError, match="'logistic'"):
        make_head("logistics")


def test_a_head_that_was_removed_says_what_to_use() -> None:
    with pytest.raises(SearchError, match="lightgbm was removed") as caught:
        make_head("lightgbm")
    assert "xgboost, with column_share" in caught.value.remedy
    assert "fitted again" in caught.value.remedy


def test_importing_the_package_loads_no_model_library() -> None:
    code = (
        "import sys, biofuse.predictors.combined, biofuse.heads.base, biofuse.fusion.base\n"
        "assert not {'sklearn', 'xgboost', 'torch', 'scipy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
