import json

import numpy as np
import pytest
import xgboost
from sklearn.utils.class_weight import compute_sample_weight

from biofuse.core.errors import ArtifactError, DependencyError
from biofuse.core.target import Target, Task
from biofuse.heads import xgboost as trees
from biofuse.heads.base import make_head
from biofuse.heads.xgboost import FittedTrees, XGBoost


def make_data(n: int, k: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.minimum(rng.geometric(0.4, n) - 1, k - 1)
    labels[:k] = np.arange(k)
    X = rng.standard_normal((n, 15)) + np.random.default_rng(9).standard_normal((k, 15))[labels]
    return X.astype(np.float32), labels.astype(np.int64)


def make_reference(**options) -> xgboost.XGBClassifier:
    settings = {"n_estimators": 15, "learning_rate": 0.1, "max_depth": 6, "tree_method": "hist", "n_jobs": 1}
    return xgboost.XGBClassifier(**settings, **options)


def test_published_settings_are_the_defaults() -> None:
    # Bug 6 of the original: size-aware settings that were always overwritten, no seed, a removed tree method.
    head = XGBoost()
    assert (head.trees, head.learning_rate, head.depth) == (250, 0.1, 6)
    assert (head.column_share, head.bins) == (1.0, 256)  # XGBoost's own
    assert make_head("xgboost") == head
    X, y = make_data(40, 2)
    fitted = XGBoost(device="cpu").fit(X, y, target=Target.numbered(Task.BINARY, 2), seed=3)
    assert fitted.boosters[0].num_boosted_rounds() == 250
    config = fitted.boosters[0].save_config()
    assert '"max_depth":"6"' in config
    assert '"seed":"3"' in config
    assert '"tree_method":"hist"' in config


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_equals_xgbclassifier(k: int, class_weight) -> None:
    X, y = make_data(120, k)
    task = Task.BINARY if k == 2 else Task.MULTICLASS
    ours = XGBoost(trees=15, device="cpu", class_weight=class_weight).fit(X, y, target=Target.numbered(task, k))
    reference = make_reference().fit(X, y, sample_weight=compute_sample_weight(class_weight, y))
    np.testing.assert_allclose(ours.predict_proba(X), reference.predict_proba(X), atol=1e-6)


def test_share_of_columns_and_bins_are_xgboosts_own() -> None:
    X, y = make_data(120, 3)
    shared = XGBoost(trees=15, column_share=0.3, bins=16, device="cpu").fit(
        X, y, target=Target.numbered(Task.MULTICLASS, 3)
    )
    reference = make_reference(colsample_bytree=0.3, max_bin=16, seed=0).fit(X, y)
    np.testing.assert_allclose(shared.predict_proba(X), reference.predict_proba(X), atol=1e-6)
    whole = XGBoost(trees=15, device="cpu").fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
    assert np.abs(shared.predict_proba(X) - whole.predict_proba(X)).max() > 1e-3


def test_malformed_bytes_are_refused() -> None:
    X, y = make_data(60, 2)
    values, arrays = XGBoost(trees=5, device="cpu").fit(X, y, target=Target.numbered(Task.BINARY, 2)).state()
    assert all(array.dtype == np.uint8 for array in arrays.values())
    text = arrays["booster_0"].tobytes()
    cut = (text[:100], text[: len(text) // 2], text[:-1], b"", b"[]", b"{}", b"\0" * 50, b'{"learner": 3}')
    for bad in ({}, *({"booster_0": np.frombuffer(data, dtype=np.uint8)} for data in cut)):
        with pytest.raises(ArtifactError):
            FittedTrees.restore(values, bad)
    with pytest.raises(ArtifactError, match="features"):
        FittedTrees.restore(values | {"n_features": 3}, arrays)


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("left_children", 0), 999_999), (("left_children", 0), 0), (("right_children", 0), -2**31),
        (("right_children", 0), -1), (("parents", 1), 5), (("split_indices", 0), 15), (("split_indices", 0), -1),
        (("split_type", 0), 1), (("categories_nodes",), [0]), (("split_conditions", 0), float("nan")),
        (("base_weights", 0), 1e300), (("tree_param", "num_nodes"), "2147483647"), (("tree_param", "num_nodes"), "-1"),
        (("sum_hessian",), []), (("left_children",), [2**70]), (("default_left", 0), "x"),
    ],
    ids=str,
)  # fmt: skip
def test_a_forged_tree_never_reaches_xgboost_which_would_end_the_process(k, part, value) -> None:
    X, y = make_data(60, k)
    task = Task.BINARY if k == 2 else Task.MULTICLASS
    values, arrays = XGBoost(trees=3, device="cpu").fit(X, y, target=Target.numbered(task, k)).state()
    model = json.loads(arrays["booster_0"].tobytes())
    place = model["learner"]["gradient_booster"]["model"]["trees"][1]
    for name in part[:-1]:
        place = place[name]
    place[part[-1]] = value
    forged = {"booster_0": np.frombuffer(json.dumps(model).encode(), dtype=np.uint8)}
    with pytest.raises(ArtifactError, match="XGBoost head is malformed"):
        FittedTrees.restore(values, forged)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (("gradient_booster", "model", "tree_info"), [0, 0, 7]),
        (("gradient_booster", "model", "iteration_indptr"), [0, 2**30]),
        (("gradient_booster", "model", "cats"), {"enc": [1]}),
        (("gradient_booster", "name"), "dart"),
        (("learner_model_param", "num_feature"), "99999999"),
        (("learner_model_param", "num_class"), "5"),
        (("learner_model_param", "base_score"), "[1e999]"),
        (("objective", "name"), "survival:cox"),
    ],
    ids=str,
)
def test_a_forged_forest_does_not_either(part, value) -> None:
    X, y = make_data(60, 2)
    values, arrays = XGBoost(trees=3, device="cpu").fit(X, y, target=Target.numbered(Task.BINARY, 2)).state()
    model = json.loads(arrays["booster_0"].tobytes())
    place = model["learner"]
    for name in part[:-1]:
        place = place[name]
    place[part[-1]] = value
    for data in (json.dumps(model).encode(), b"[" * 200_000):
        with pytest.raises(ArtifactError, match="XGBoost head is malformed"):
            FittedTrees.restore(values, {"booster_0": np.frombuffer(data, dtype=np.uint8)})


def test_a_gpu_that_is_not_there_is_an_error_and_auto_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    # Bug 16 of the original: "cuda" throughout.
    monkeypatch.setattr(trees, "_has_gpu", lambda: False)
    X, y = make_data(30, 2)
    with pytest.raises(DependencyError):
        XGBoost(trees=2, device="cuda").fit(X, y, target=Target.numbered(Task.BINARY, 2))
    assert XGBoost(trees=2).fit(X, y, target=Target.numbered(Task.BINARY, 2)).predict_proba(X).shape == (30, 2)
