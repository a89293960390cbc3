"""Classifiers of scikit-learn's kind as heads: what they predict, how they are named, saved and refused."""

import importlib.util
import sys
from functools import partial

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, RidgeClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from biofuse.core.errors import ArtifactError, DataError, DependencyError, SearchError
from biofuse.core.target import Target, Task
from biofuse.heads.base import head_registry, make_head
from biofuse.heads.estimator import EstimatorHead, FittedEstimators, head_named_after
from biofuse.search.config import SearchConfig
from biofuse.search.problem import check_savable
from biofuse.testing import assert_head_contract


@pytest.fixture(autouse=True)
def _registry():
    with head_registry().temporary():
        yield


def made(estimator, **options):
    return make_head(head_named_after(estimator), **options)


def data(n=60, classes=3, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    y = np.arange(n) % classes
    X[np.arange(n), y] += 1.5
    return X, y


@pytest.mark.parametrize(
    "estimator",
    [LogisticRegression(C=0.1), SVC(C=10), RidgeClassifier(), GaussianNB(), make_pipeline(StandardScaler(), SVC())],
    ids=lambda estimator: type(estimator).__name__,
)
def test_a_classifier_keeps_the_contract_of_heads(estimator):
    assert_head_contract(partial(made, estimator), tolerance=1e-3)  # what lbfgs leaves, at its own tolerance


def test_probabilities_and_decisions_are_those_of_the_classifier():
    X, y = data()
    for classes in (2, 3):
        codes = y % classes
        fitted = made(LogisticRegression()).fit(X, codes, target=Target.numbered(Task.natural(classes), classes))
        own = LogisticRegression().fit(X, codes)
        np.testing.assert_allclose(fitted.predict_proba(X), own.predict_proba(X), atol=1e-6)
        said = own.decision_function(X)
        np.testing.assert_array_equal(fitted.decision(X), said if classes > 2 else np.stack([-said, said], axis=1))
    forest = RandomForestClassifier(20)
    fitted = made(forest).fit(X, y + 1, target=Target.numbered(Task.MULTICLASS, 5), seed=7)
    expected = RandomForestClassifier(20, random_state=7).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(fitted.predict_proba(X)[:, 1:4], expected, atol=1e-12)
    assert (fitted.predict_proba(X)[:, [0, 4]] == 0).all()


def test_weights_reach_the_classifier_or_are_refused():
    X, y = data()
    weights = np.linspace(0.5, 2, len(X))
    given = {"target": Target.numbered(Task.MULTICLASS, 3), "sample_weight": weights}
    expected = LogisticRegression().fit(X, y, sample_weight=weights)
    piped = make_pipeline(StandardScaler(with_mean=False, with_std=False), LogisticRegression())
    for estimator in (LogisticRegression(), piped):
        np.testing.assert_allclose(made(estimator).fit(X, y, **given).predict_proba(X), expected.predict_proba(X))
    with pytest.raises(SearchError, match="takes no weights"):
        made(LinearDiscriminantAnalysis()).fit(X, y, **given)
    uneven = np.r_[np.zeros(40), np.ones(20)].astype(int)
    balanced = made(LogisticRegression(), class_weight="balanced").fit(
        X, uneven, target=Target.numbered(Task.BINARY, 2)
    )
    own = LogisticRegression(class_weight="balanced").fit(X, uneven)
    np.testing.assert_allclose(balanced.predict_proba(X), own.predict_proba(X), atol=1e-6)


def test_equal_classifiers_have_one_name_and_others_have_others():
    config = SearchConfig(head=SVC(C=10), predictor="fused")
    assert config.head == head_named_after(SVC(C=10)) == SearchConfig(head=config.head, predictor="fused").head
    assert config.head.startswith("sklearn-SVC(C=10)-")
    assert config.head != head_named_after(SVC(C=11))
    assert head_named_after(LogisticRegression(class_weight={0: 1})) != head_named_after(
        LogisticRegression(class_weight={0: 2})
    )
    long = [make_pipeline(*[StandardScaler()] * 30, SVC(C=value)) for value in (1, 2)]
    assert head_named_after(long[0]) != head_named_after(long[1])


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (SVC, "is a class"),
        (LinearRegression(), "no classifier"),
        (KMeans(), "no classifier"),
        (3, "no classifier"),
        (lambda X: X, "no classifier"),
    ],
)
def test_what_is_no_classifier_is_refused(head, words):
    with pytest.raises(SearchError, match=words):
        SearchConfig(head=head)


def test_a_fitted_head_is_read_where_its_classifier_is_not_known():
    X, y = data()
    head = made(SVC(C=10))
    fitted = head.fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
    json, arrays = fitted.state()
    with head_registry().temporary() as registry:
        registry._makers.pop(head.name)
        elsewhere = make_head(head.name)
        np.testing.assert_array_equal(elsewhere.restore(json, arrays).decision(X), fitted.decision(X))
        with pytest.raises(SearchError, match="a Python object"):
            elsewhere.fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
        with pytest.raises(SearchError, match="a Python object"):
            check_savable(SearchConfig(head=head.name, predictor="fused"))


def test_only_types_that_are_trusted_are_saved_and_read():
    from skops import io

    X, y = data()
    with pytest.raises(ArtifactError, match="Tree"):
        check_savable(SearchConfig(head=RandomForestClassifier(3), predictor="fused"))
    fitted = made(SVC()).fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
    json, arrays = fitted.state()
    forged = np.frombuffer(io.dumps(RandomForestClassifier(3).fit(X, y)), dtype=np.uint8)
    with pytest.raises(ArtifactError, match=r"does not trust: sklearn\.tree\._tree\.Tree"):
        FittedEstimators.restore(json, {"problem0": forged})
    other = np.frombuffer(io.dumps(SVC().fit(X, y % 2)), dtype=np.uint8)
    for wrong in ({}, {"problem0": arrays["problem0"][:100]}, {"problem0": other}):
        with pytest.raises(ArtifactError):
            FittedEstimators.restore(json, wrong)


def test_a_missing_skops_is_said_before_anything_is_fitted(monkeypatch):
    config = SearchConfig(head=LogisticRegression(), predictor="fused")
    check_savable(config)
    monkeypatch.setitem(sys.modules, "skops.io", None)
    monkeypatch.setattr(EstimatorHead, "fit", lambda *_, **__: pytest.fail("it was fitted"))
    with pytest.raises(DependencyError) as caught:
        check_savable(config)
    assert "biofuse-embed[skops]" in caught.value.remedy
    assert importlib.util.find_spec("skops") is not None


def test_what_a_classifier_warns_of_is_noted_and_what_it_refuses_is_said():
    X, y = data()
    fitted = made(LogisticRegression(max_iter=1)).fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
    assert any("converge" in note for note in fitted.notes)
    with pytest.raises(DataError, match="cannot be fitted on 60 rows of 6 columns"):
        made(LogisticRegression(C=-1)).fit(X, y, target=Target.numbered(Task.MULTICLASS, 3))
