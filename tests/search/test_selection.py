import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from biofuse.core.errors import SearchError, UndefinedMetricError
from biofuse.search.runner import run_search
from biofuse.search.scorer import TableScorer
from biofuse.search.selection import RULES, greedy_path, select
from biofuse.search.strategies import AllEncoders, Exhaustive

GRID = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "published-grid"


def search(table, *, pool="abc", dims=None, strategy=None, metric="auroc", n_train=None, n_test=None):
    table = {tuple(subset): {metric: values} for subset, values in table.items()}
    scorer = TableScorer(tuple(pool), table, dims=dims, n_train=n_train, n_test=n_test)
    return run_search(tuple(pool), strategy or Exhaustive(), scorer, metric=metric)


FOLDS = {"n_train": [80] * 4, "n_test": [20] * 4}
TABLE = {
    "a": [0.80, 0.82, 0.81, 0.83],
    "b": [0.90, 0.89, 0.91, 0.90],
    "c": [0.93, 0.86, 0.93, 0.87],
    "ab": [0.91, 0.90, 0.905, 0.905],
    "ac": [0.85, 0.86, 0.85, 0.84],
    "bc": [0.91, 0.90, 0.91, 0.90],
    "abc": [0.92, 0.89, 0.91, 0.915],
}


def test_one_se_by_hand():
    found = select(search(TABLE, **FOLDS))
    best = np.array(TABLE["abc"])
    inside = []
    for subset, values in TABLE.items():
        d = best - np.array(values)
        if d.mean() <= np.sqrt((1 / 4 + 20 / 80) * d.var(ddof=1)):
            inside.append(subset)
    assert inside == ["c", "ab", "bc", "abc"]  # b is steadily .009 worse, c is worse but varies
    assert sorted("".join(row.subset) for row in found.within) == sorted(inside)
    assert found.chosen.subset == ("c",)
    assert found.best.subset == ("a", "b", "c")
    assert found.best_single.subset == ("b",)
    assert found.all.subset == ("a", "b", "c")
    assert "smallest of 4 subsets within one standard error of the best of 7 scored subsets, a+b+c" in found.reason


def test_one_se_prefers_fewer_dimensions_then_the_higher_mean_then_pool_order():
    wobble = np.array([0.1, -0.1, 0.1, -0.1])
    table = {"a": 0.800 + wobble, "b": 0.799 - wobble, "c": 0.7999 - wobble, "abc": [0.81] * 4}
    table |= {"ab": [0.5] * 4, "ac": [0.5] * 4, "bc": [0.5] * 4}
    assert select(search(table, **FOLDS, dims={"a": 9, "b": 3, "c": 9})).chosen.subset == ("b",)
    assert select(search(table, **FOLDS, dims={"a": 9, "b": 9, "c": 9})).chosen.subset == ("a",)
    table["c"] = table["a"]
    assert select(search(table, **FOLDS)).chosen.subset == ("a",)
    assert select(search(table, **FOLDS, pool="cba")).chosen.subset == ("c",)


def test_best_and_first_best():
    table = {"a": [0.7], "b": [0.8], "c": [0.8], "ab": [0.9], "ac": [0.9], "bc": [0.9], "abc": [0.9]}
    assert select(search(table), rule="best").chosen.subset == ("a", "b")
    assert select(search(table, dims={"a": 5, "b": 5, "c": 1}), rule="best").chosen.subset == ("a", "c")
    assert select(search(table, dims={"a": 5, "b": 5, "c": 1}), rule="first_best").chosen.subset == ("a", "b")
    # Rounding must not choose: .1 + .2 is not .3.
    table = {"a": [0.1 + 0.2], "b": [0.3], "ab": [0.1]}
    assert select(search(table, pool="ba"), rule="first_best").chosen.subset == ("b",)


def test_losses_are_better_when_lower():
    table = {"a": [0.5, 0.6], "b": [0.4, 0.3], "ab": [0.7, 0.7]}
    found = select(search(table, pool="ab", metric="log_loss"), rule="best")
    assert found.chosen.subset == ("b",)
    assert found.better_than_chance is None
    assert select(search(table, pool="ab", metric="log_loss")).chosen.subset == ("b",)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("strategy", [Exhaustive(), AllEncoders()], ids=lambda s: s.name)
def test_bug_13_a_choice_is_always_set(rule, strategy):
    found = select(search(TABLE, **FOLDS, strategy=strategy), rule=rule)
    assert found.chosen is not None
    assert found.best is not None
    assert found.all.subset == ("a", "b", "c")
    assert found.reason
    assert (found.best_single is None) == (strategy.name == "all")
    assert (found.greedy is None) == (strategy.name == "all")


def test_what_cannot_be_chosen_is_refused():
    single = search({"a": [0.5], "b": [0.6], "ab": [0.7]}, pool="ab")
    with pytest.raises(SearchError, match="at least two folds"):
        select(single)
    with pytest.raises(SearchError, match="no selection rule"):
        select(single, rule="max")
    with pytest.raises(SearchError, match="no metric"):
        select(single, rule="best", metric="accuracy")
    with pytest.raises(UndefinedMetricError, match="every fold"):
        search({"a": [float("nan")] * 2}, pool="a")


def test_undefined_folds_are_left_out_of_pairs():
    nan = float("nan")
    table = {"a": [0.9, nan, 0.8, 0.85], "b": [0.7, nan, 0.6, 0.66], "ab": [0.9, nan, 0.8, 0.86]}
    found = select(search(table, pool="ab", **FOLDS))
    assert found.best.subset == ("a", "b")
    assert found.chosen.subset == ("a",)


def test_greedy_path_is_read_off():
    found = search(TABLE, **FOLDS)
    assert ["".join(row.subset) for row in greedy_path(found)] == ["b", "ab", "abc"]
    flat = {"a": [0.9], "b": [0.5], "ab": [0.9]}
    assert ["".join(row.subset) for row in greedy_path(search(flat, pool="ab"))] == ["a"]


POOL = ("BioMedCLIP", "CONCH", "PubMedCLIP", "rad-dino", "UNI", "Hibou-B", "Prov-GigaPath", "CheXagent")
SHORT = dict(zip(("BC", "CO", "PC", "RD", "UN", "HB", "PG", "CA"), POOL, strict=True))
PUBLISHED = {  # the subsets that the authors went on to tune
    "breastmnist": "CO,RD,UN,PG,CA",
    "dermamnist": "BC,CO,PC,RD,UN,HB,CA",
    "octmnist": "BC,PC,RD,UN,HB,PG,CA",
    "organsmnist": "BC,PC,RD,UN,HB,PG",
    "pathmnist": "UN,HB",
    "retinamnist": "BC,CO,UN",
}


@pytest.mark.skipif(not GRID.exists(), reason="shared/data/published-grid is not beside the repository")
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_grid_equals_brute_force_and_the_authors_choice(name):
    with (GRID / f"results_{name}_224.csv").open(newline="") as file:
        lines = list(csv.reader(file))[1:]
    accuracy = {frozenset(line[2].split(",")): float(line[6]) for line in lines}
    auroc = {frozenset(line[2].split(",")): float(line[7]) for line in lines}
    # An independent implementation: walk the combinations, keep the first strictly better one.
    chosen, top = None, -1.0
    for size in range(1, 9):
        for subset in combinations(POOL, size):
            if accuracy[frozenset(subset)] > top:
                chosen, top = subset, accuracy[frozenset(subset)]
    table = {tuple(s): {"accuracy": [accuracy[s]], "auroc": [auroc[s]]} for s in accuracy}
    board = run_search(POOL, Exhaustive(), TableScorer(POOL, table), metric="accuracy")
    assert len(board) == 255
    found = select(board, rule="first_best")
    assert found.chosen.subset == chosen == tuple(SHORT[code] for code in PUBLISHED[name].split(","))
    by_auroc = select(board, rule="best", metric="auroc")
    top_auroc = [s for s in auroc if auroc[s] == max(auroc.values())]
    assert frozenset(by_auroc.chosen.subset) in top_auroc
    assert by_auroc.chosen.n_encoders == min(map(len, top_auroc))
    assert by_auroc.best_single.mean("auroc") == max(auroc[frozenset([e])] for e in POOL)
    assert by_auroc.all.mean("auroc") == auroc[frozenset(POOL)]
