import ast
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import biofuse
from biofuse.core.errors import AlignmentError
from biofuse.core.target import MISSING, Target, Task

CLASSES = {Task.BINARY: "ab", Task.MULTICLASS: "abc", Task.ORDINAL: "abcd", Task.MULTILABEL: "abc"}
TARGETS = [Target(task, tuple(names)) for task, names in CLASSES.items()]


def some_labels(target, n=20, seed=0):
    return np.random.default_rng(seed).integers(0, target.n_codes, target.shape(n))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.kind)
@given(seed=st.integers(0, 1000))
def test_certain_scores_are_decided_and_written_as_the_labels_they_came_from(target, seed):
    labels = some_labels(target, seed=seed)
    indicators = target.indicators(labels)
    assert indicators.shape == (20, target.n_columns)
    assert target.misfit(labels, 20) == ""
    assert np.array_equal(target.decide(indicators.astype(float)), indicators)
    assert np.array_equal(target.predict(indicators.astype(float)), labels)
    for text, row in zip(target.names(labels), indicators, strict=True):
        assert [name for name in target.named(text) if name] == [target.classes[c] for c in np.flatnonzero(row)]
    assert list(target.counts(labels).values()) == indicators.sum(axis=0).tolist()


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.kind)
def test_labels_that_do_not_fit_are_told_why(target):
    labels = some_labels(target)
    assert "integers of shape" in target.misfit(labels.astype(float), 20)
    assert "integers of shape" in target.misfit(labels, 19)
    least = MISSING if target.several else 0
    assert f"{least} to {target.n_codes - 1} are allowed" in target.misfit(labels + target.n_codes, 20)
    assert target.misfit(labels[:0], 0) == ""


def test_a_binary_task_has_two_classes():
    assert Target.numbered(Task.BINARY, 3).misfit(np.array([0, 1]), 2) == "A binary task has 2 classes, not 3."
    assert Target.numbered(Task.BINARY, 2).as_scores([0.25]).tolist() == [[0.75, 0.25]]


def test_ties_go_to_the_first_class_and_one_half_is_not_enough():
    half = np.array([[0.5, 0.5]])
    assert Target.numbered(Task.BINARY, 2).predict(half).tolist() == [0]
    assert Target.numbered(Task.MULTICLASS, 2).predict(half).tolist() == [0]
    assert Target.numbered(Task.MULTILABEL, 2).predict(half).tolist() == [[0, 0]]


def test_what_guessing_reaches_and_what_ranks():
    assert Target(Task.MULTICLASS, tuple("abc")).majority_share(np.array([0, 1, 1, 2])) == 0.5
    assert Target(Task.MULTILABEL, tuple("ab")).majority_share(np.array([[1, 0]])) is None
    assert Target(Task.BINARY, tuple("ab")).ranked_columns == (1,)
    assert Target(Task.ORDINAL, tuple("abc")).ranked_columns == (0, 1, 2)


def test_probabilities_of_the_other_classes():
    p = np.array([[0.2, 0.3, 0.5]])
    assert Target.numbered(Task.MULTICLASS, 3).others(p) == pytest.approx(np.array([[0.8, 0.7, 0.5]]))
    assert Target.numbered(Task.MULTILABEL, 3).others(p) == pytest.approx(1 - p)
    assert Target.numbered(Task.MULTICLASS, 3).add_up(2 * p) == pytest.approx(p)
    assert Target.numbered(Task.MULTILABEL, 3).add_up(2 * p) == pytest.approx(2 * p)


def test_labels_are_expressed_in_the_targets_own_classes():
    target = Target(Task.MULTICLASS, tuple("abc"))
    assert target.express(np.array([0, 1]), ["c", "a"]).tolist() == [2, 0]
    several = Target(Task.MULTILABEL, tuple("abc"))
    assert several.express(np.array([[1, 0], [1, 1]]), ["c", "a"]).tolist() == [[0, 0, 1], [1, 0, 1]]


def test_kinds_are_told_apart_here_alone():
    root = Path(biofuse.__file__).parent
    found = [
        f"{path.relative_to(root)}:{node.lineno}"
        for path in root.rglob("*.py")
        if path.relative_to(root) not in {Path("core/target.py"), Path("testing.py")}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Compare)
        and any(isinstance(n, ast.Attribute) and getattr(n.value, "id", "") == "Task" for n in ast.walk(node))
    ]
    assert found == []


def test_with_thresholds_every_class_is_called_by_itself():
    scores = np.array([[0.6, 0.4, 0.0], [0.2, 0.3, 0.5], [0.3, 0.3, 0.4]])
    thresholds = np.array([0.3, 0.35, 0.45])
    several = Target(Task.MULTICLASS, ("a", "b", "c"))
    assert several.names(several.call(scores, thresholds)) == ["a|b", "c", ""]
    two = Target(Task.BINARY, ("no", "yes"))
    assert two.names(two.call(scores[:, :2], np.array([np.nan, 0.3]))) == ["yes", "no", "no"]


def test_labels_of_another_type_are_whole_numbers_or_refused():
    target = Target(Task.BINARY, ("a", "b"))
    assert target.as_labels([0.0, 1.0]).tolist() == [0, 1]
    assert target.as_labels([[True], [False]]).tolist() == [1, 0]
    for odd in ([0.2, 1.0], [0.0, float("nan")], ["yes", "1"]):
        with pytest.raises(AlignmentError, match="of 2 labels are no whole numbers"):
            target.as_labels(odd)


def test_what_is_not_known_of_a_label_is_neither_there_nor_counted():
    target, labels = Target(Task.MULTILABEL, ("a", "b")), np.array([[1, MISSING], [0, 1]])
    assert target.misfit(labels, 2) == ""
    assert target.known(labels).tolist() == [[True, False], [True, True]]
    assert target.indicators(labels).tolist() == [[True, False], [False, True]]
    assert target.names(labels) == ["a", "b"]
    assert target.counts(labels) == {"a": 1, "b": 1}


def test_values_are_their_own_labels():
    one, two = Target(Task.VALUE, ("age",)), Target(Task.VALUE, ("age", "size"))
    labels = one.as_labels([[61], [80.5], [3]])
    assert labels.shape == one.shape(3)
    assert one.misfit(labels, 3) == ""
    assert one.known(labels).all()
    assert one.as_scores(labels).shape == (3, 1)
    assert np.array_equal(one.predict(one.as_scores(labels)), labels)
    assert one.names(labels) == ["61", "80.5", "3"]
    assert one.numbers(one.names(labels)).tolist() == labels.tolist()
    assert two.numbers(["61|80.5"]).tolist() == [[61, 80.5]]
    assert one.counts(labels) == {"age": 3}
    assert two.express(np.array([[1.0, 2.0]]), ["size", "age"]).tolist() == [[2.0, 1.0]]
    assert one.express(labels, ["age"]).tolist() == labels.tolist()
    assert "1 of 3 labels are no finite numbers" in one.misfit(np.array([1.0, np.inf, 2.0]), 3)
    assert "numbers of shape (3, 2) are needed" in two.misfit(labels, 3)
    assert one.majority_share(labels) is None
    assert one.add_up(one.as_scores(labels)).tolist() == [[61.0], [80.5], [3.0]]
    with pytest.raises(TypeError, match="A value has no classes"):
        one.decide(one.as_scores(labels))
    with pytest.raises(TypeError, match="A binary has no numbers"):
        Target(Task.BINARY, ("a", "b")).numbers(["a"])


def test_times_end_with_an_event_or_without():
    target = Target.until([365, 730.5])
    labels = np.array([[120.0, 1], [400.25, 0], [0.0, 1]])
    assert target.horizons == (365, 730.5)
    assert target.n_columns == 2
    assert target.misfit(labels, 3) == ""
    assert target.names(labels) == ["120", "400.25+", "0"]
    assert target.numbers(target.names(labels)).tolist() == labels.tolist()
    assert target.numbers([]).shape == (0, 2)
    assert target.counts(labels) == {"event": 2, "censored": 1}
    assert target.risk(np.array([[0.2, 0.6], [0.1, 0.1]])) == pytest.approx([0.4, 0.1])
    assert "1 of 3 times are negative" in target.misfit(labels - [[0, 0], [0, 0], [1, 0]], 3)
    assert "Events are 1" in target.misfit(labels * [[1, 2]], 3)


def test_values_and_times_are_stratified_by_their_quantiles():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(100, 2))
    strata = Target(Task.VALUE, ("a", "b")).strata(values)
    assert strata.shape == (100, 8)
    assert strata.sum(axis=0).tolist() == [25] * 8
    assert values[strata[:, 0], 0].max() < values[strata[:, 1], 0].min()
    assert Target(Task.VALUE, ("a",)).strata(values[:15, 0]).tolist() == [[True]] * 15
    assert Target(Task.VALUE, ("a",)).strata(np.repeat([0.0, 1.0], [90, 10])).sum(axis=0).tolist() == [90, 10]
    events = np.arange(100) < 60
    strata = Target.until([1]).strata(np.column_stack([rng.exponential(size=100), events]))
    assert strata.sum(axis=0).tolist() == [15] * 4 + [10] * 4
    assert strata[events, :4].any(axis=1).all()
    assert not strata[events, 4:].any()
