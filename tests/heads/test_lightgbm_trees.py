import sys

import lightgbm
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from biofuse.core.errors import ArtifactError, DependencyError, SearchError
from biofuse.core.target import Task
from biofuse.heads.lightgbm import BINS, FittedLightGBM, Forest, LightGBM
from biofuse.testing import assert_head_contract


def make_data(n: int, k: int, *, d: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, n) - 1, k - 1)
    labels[:k] = np.arange(k)
    X = rng.standard_normal((n, d)) + 0.4 * np.random.default_rng(9).standard_normal((k, d))[labels]
    X[:, 0] = np.round(X[:, 0])
    return X.astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_equals_lgbmclassifier(k: int, class_weight) -> None:
    X, y = make_data(220, k)
    new, _ = make_data(100, k, seed=1)
    task = Task.BINARY if k == 2 else Task.MULTICLASS
    head = LightGBM(trees=15, leaves=9, column_share=1.0, class_weight=class_weight)
    ours = head.fit(X, y, task=task, n_classes=k)
    reference = lightgbm.LGBMClassifier(
        n_estimators=15, num_leaves=9, max_bin=BINS, n_jobs=1, random_state=0, deterministic=True, verbosity=-1
    )
    reference.fit(X, y, sample_weight=compute_sample_weight(class_weight, y))
    np.testing.assert_allclose(ours.predict_proba(new), reference.predict_proba(new), atol=1e-9)


def test_trees_as_arrays_give_what_the_booster_gives() -> None:
    X, y = make_data(300, 4)
    new, _ = make_data(5000, 4, seed=1)  # more rows than are taken at once
    settings = {"objective": "multiclass", "num_class": 4, "verbosity": -1, "num_threads": 1, "num_leaves": 50}
    booster = lightgbm.train(settings, lightgbm.Dataset(X, y), num_boost_round=10)
    forest = Forest.from_lightgbm(booster.model_to_string())
    assert len(forest.leaves) == 40
    assert np.array_equal(forest.margins(new, width=4), booster.predict(new, raw_score=True))


def test_two_fits_and_any_number_of_threads_give_the_same_and_the_seed_counts() -> None:
    X, y = make_data(200, 3, d=400)
    fits = [
        LightGBM(trees=10).fit(X, y, task=Task.MULTICLASS, n_classes=3, threads=threads, seed=seed).predict_proba(X)
        for threads, seed in ((1, 0), (2, 0), (1, 1))
    ]
    assert np.array_equal(fits[0], fits[1])
    assert not np.array_equal(fits[0], fits[2])


def test_few_rows_can_be_split_at_all() -> None:
    X, y = make_data(30, 2)
    assert LightGBM().fit(X, y, task=Task.BINARY, n_classes=2).predict_proba(X)[:, 1].std() > 0.1


def test_columns_without_variance_leave_the_share_of_each_class() -> None:
    y = np.arange(40) % 4 // 3
    fitted = LightGBM().fit(np.ones((40, 5), dtype=np.float32), y, task=Task.BINARY, n_classes=2)
    np.testing.assert_allclose(fitted.predict_proba(np.ones((1, 5)))[0], [0.75, 0.25], atol=1e-6)


def test_a_saved_head_predicts_without_lightgbm(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = make_data(60, 3)
    fitted = LightGBM(trees=5).fit(X, y, task=Task.MULTICLASS, n_classes=3)
    values, arrays = fitted.state()
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert np.array_equal(LightGBM().restore(values, arrays).predict_proba(X), fitted.predict_proba(X))
    with pytest.raises(DependencyError, match=r"biofuse-embed\[lightgbm\]"):
        LightGBM().fit(X, y, task=Task.MULTICLASS, n_classes=3)


def test_malformed_states_are_refused() -> None:
    X, y = make_data(60, 2)
    values, arrays = LightGBM(trees=5).fit(X, y, task=Task.BINARY, n_classes=2).state()
    for bad in ({}, values | {"n_features": "many"}, values | {"n_features": 1}, values | {"notes": None}):
        with pytest.raises(ArtifactError):
            FittedLightGBM.restore(bad, arrays)
    for name in arrays:
        with pytest.raises(ArtifactError):
            FittedLightGBM.restore(values, {key: array for key, array in arrays.items() if key != name})


def test_senseless_options_are_refused() -> None:
    for options in ({"trees": 0}, {"leaves": 1}, {"leaf_rows": 0}, {"learning_rate": 0.0}, {"column_share": 1.5}):
        with pytest.raises(SearchError):
            LightGBM(**options)  # type: ignore[arg-type]


def test_keeps_the_contract() -> None:
    assert_head_contract(LightGBM)
    assert_head_contract(lambda: LightGBM(trees=20, class_weight="balanced"))
