"""The robustness index: counted by hand, one where only the class shows, zero where only the site does."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from biofuse.evaluation.robustness import robustness


def planted(random, n=240, *, of_class=0.0, of_site=0.0):
    labels, sites = random.integers(0, 3, n), random.integers(0, 2, n)
    shown = np.concatenate([of_class * np.eye(3)[labels], of_site * np.eye(2)[sites]], axis=1)
    return labels, np.array(["north", "south"], dtype=object)[sites], shown + 0.3 * random.normal(size=(n, 5))


def names(n):
    return [f"{row:04d}" for row in range(n)]


def test_it_is_the_count_of_scikit_learns_neighbours():
    labels, sites, matrix = planted(np.random.default_rng(0), of_class=1, of_site=1)
    found = robustness({"a": matrix}, labels, sites, column="site", ids=names(240))
    k = found.neighbours
    near = NearestNeighbors(n_neighbors=k + 1, metric="cosine").fit(matrix).kneighbors(matrix)[1][:, 1:]
    same, here = labels[near] == labels[:, None], sites[near] == sites[:, None]
    expected = (same & ~here).sum() / ((same & ~here).sum() + (~same & here).sum())
    assert found.embeddings[0].index == pytest.approx(expected)
    assert found.embeddings[0].low < expected < found.embeddings[0].high


def test_class_alone_site_alone_and_neither():
    random = np.random.default_rng(1)
    labels, sites, robust = planted(random, of_class=3)
    fragile = 3 * np.eye(2)[(sites == "north").astype(int)] + 0.3 * random.normal(size=(240, 2))
    nothing = random.normal(size=(240, 5))
    found = robustness(
        {"robust": robust, "fragile": fragile, "nothing": nothing}, labels, sites, column="site", ids=names(240)
    )
    index = {each.name: each.index for each in found.embeddings}
    assert index["robust"] > 0.98
    assert index["fragile"] < found.by_chance - 0.05
    interval = found.embeddings[2]
    assert interval.low - 0.02 < found.by_chance < interval.high + 0.02
    assert "nothing" in str(found)


def test_neighbours_of_the_same_patient_do_not_count():
    random = np.random.default_rng(2)
    labels, sites, matrix = planted(random, 120, of_class=1)
    twice = np.concatenate([matrix, matrix])
    found = robustness(
        {"a": twice}, np.tile(labels, 2), np.tile(sites, 2), column="site", ids=names(240), groups=names(120) * 2
    )
    other = robustness({"a": matrix}, labels, sites, column="site", ids=names(120))
    assert found.by_chance == pytest.approx(other.by_chance)
    assert abs(found.embeddings[0].index - other.embeddings[0].index) < 0.05


@pytest.mark.parametrize(("sites", "why"), [("one", "all samples are of one"), ("class", "every class is of one only")])
def test_where_there_is_none_it_says_why(sites, why):
    labels, _, matrix = planted(np.random.default_rng(3))
    of = np.full(240, "x") if sites == "one" else np.array(["a", "b", "c"])[labels]
    found = robustness({"a": matrix}, labels, of, column="hospital", ids=names(240))
    assert not found.embeddings
    assert why in str(found)
