import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from biofuse.core.errors import ArtifactError
from biofuse.core.target import Target, Task
from biofuse.heads.knn import FittedNeighbours, Neighbours


def make_data(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    X = rng.standard_normal((n, 12)) + np.random.default_rng(9).standard_normal((3, 12))[labels]
    return X.astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("k", [1, 5])
def test_equals_scikit_learn(metric: str, k: int) -> None:
    X, y = make_data(80)
    new, _ = make_data(30, seed=1)
    ours = Neighbours(k=k, metric=metric).fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))  # type: ignore[arg-type]
    expected = KNeighborsClassifier(k, metric=metric, algorithm="brute").fit(X, y).predict_proba(new)
    np.testing.assert_allclose(ours.predict_proba(new), expected, atol=1e-12)
    assert np.array_equal(ours.decision(new), ours.predict_proba(new))


def test_multilabel_equals_scikit_learn() -> None:
    X, y = make_data(80)
    labels = np.stack([y == 1, y > 0], axis=1).astype(np.int64)
    ours = Neighbours(k=5).fit(X, labels, target=Target.numbered(Task.MULTILABEL, 2)).predict_proba(X)
    expected = KNeighborsClassifier(5, metric="cosine", algorithm="brute").fit(X, labels).predict_proba(X)
    np.testing.assert_allclose(ours, np.stack([p[:, 1] for p in expected], axis=1), atol=1e-12)


def test_a_class_weight_of_two_counts_as_two_votes() -> None:
    X, y = make_data(60)
    weighted = (
        Neighbours(k=60, class_weight={1: 2.0})
        .fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
        .predict_proba(X[:1])
    )
    counts = np.bincount(y) * [1, 2, 1]
    np.testing.assert_allclose(weighted[0], counts / counts.sum())


def test_fewer_rows_than_neighbours_is_noted() -> None:
    X, y = make_data(4)
    y[:] = [0, 1, 2, 0]
    fitted = Neighbours(k=10).fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
    np.testing.assert_allclose(fitted.predict_proba(X), [[0.5, 0.25, 0.25]] * 4)
    assert "4 training rows" in fitted.notes[0]


def test_a_malformed_state_is_refused() -> None:
    values, arrays = Neighbours().fit(*make_data(30), target=Target.numbered(Task.MULTICLASS, 3)).state()
    for bad_values, bad_arrays in (
        (values, {}),
        (values | {"k": 31}, arrays),
        (values | {"metric": "manhattan"}, arrays),
        (values, arrays | {"codes": arrays["codes"][:-1]}),
        (values, arrays | {"codes": arrays["codes"] + 3}),
        (values, arrays | {"rows": np.full_like(arrays["rows"], np.nan)}),
        (values, arrays | {"votes": np.full_like(arrays["votes"], np.nan)}),
    ):
        with pytest.raises(ArtifactError):
            FittedNeighbours.restore(bad_values, bad_arrays)
