import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from biofuse.core.errors import ArtifactError, SearchError
from biofuse.core.target import Task
from biofuse.heads.base import FittedLinear, Limits
from biofuse.heads.logistic import Logistic
from biofuse.heads.registry import CHEAP_HEADS, OWN_HEADS, head_registry, make_head
from biofuse.testing import assert_head_contract


@pytest.mark.parametrize("name", ["logistic", "ridge", "lda", "knn", "xgboost", "lightgbm"])
def test_heads_by_name(name: str) -> None:
    head = make_head(name, class_weight="balanced")
    assert head.name == name
    assert head.options["class_weight"] == "balanced"
    assert make_head(head) is head
    assert name in head_registry().names()
    json.dumps(make_head(name, class_weight={0: 2.0}).options)
    with pytest.raises(dataclasses.FrozenInstanceError):
        head.class_weight = None  # type: ignore[attr-defined]


def test_own_heads_are_registered_in_order_and_the_cheap_ones_begin_with_the_default() -> None:
    assert head_registry().names()[: len(OWN_HEADS)] == OWN_HEADS
    assert CHEAP_HEADS == ("logistic", "ridge", "lda")


def test_class_weights_beside_a_head_are_refused() -> None:
    with pytest.raises(SearchError, match="class_weight"):
        make_head(Logistic(), class_weight="balanced")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(SearchError, match="'logistic'"):
        make_head("logistics")


def test_limits_say_what_is_exceeded() -> None:
    limits = Limits(rows=10, classes=3, reason="slow")
    assert limits.exceeded_by(rows=10, features=10**9, classes=3) == ""
    assert limits.exceeded_by(rows=11, features=1, classes=4) == "11 rows (limit 10), 4 classes (limit 3): slow"
    wide = Limits(smaller=5, cells=100, reason="big")
    assert wide.exceeded_by(rows=5, features=20, classes=2) == ""
    assert wide.exceeded_by(rows=6, features=17, classes=2) == (
        "6 of both rows and features (limit 5), 102 rows times features (limit 100): big"
    )


def test_a_malformed_linear_state_is_refused() -> None:
    X = np.random.default_rng(0).standard_normal((20, 4))
    values, arrays = Logistic().fit(X, np.arange(20) % 3, task=Task.MULTICLASS, n_classes=3).state()
    for bad_values, bad_arrays in (
        (values, {}),
        (values, arrays | {"intercept": np.zeros(2)}),
        (values, arrays | {"coef": np.zeros((4, 2))}),
        (values, arrays | {"slope": np.zeros(7)}),
        ({}, arrays),
        (values | {"penalty": ["much"]}, arrays),
    ):
        with pytest.raises(ArtifactError):
            FittedLinear.restore(bad_values, bad_arrays)


class Forgetful(Logistic):
    """Drops the columns of absent classes, as a bare scikit-learn classifier does."""

    def fit(self, X, labels, *, task, n_classes, **_):
        present, codes = np.unique(labels, return_inverse=True)
        if task is not Task.MULTILABEL and 1 < len(present) < n_classes:
            return super().fit(X, codes, task=task, n_classes=len(present))
        return super().fit(X, labels, task=task, n_classes=n_classes)


def test_the_contract_notices_dropped_columns() -> None:
    with pytest.raises(AssertionError, match="columns"):
        assert_head_contract(Forgetful)


def test_importing_the_package_loads_no_model_library() -> None:
    code = (
        "import sys, biofuse.predictors, biofuse.heads, biofuse.fusion\n"
        "assert not {'sklearn', 'xgboost', 'lightgbm', 'torch', 'scipy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
