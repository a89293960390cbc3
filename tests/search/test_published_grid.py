"""The authors' own tables: 255 subsets of 8 encoders on 6 data sets, looked up instead of computed."""

import csv
from itertools import combinations
from pathlib import Path

import pytest

from biofuse.search.leaderboard import Leaderboard, Row, in_pool_order
from biofuse.search.rules import greedy_path, select
from biofuse.search.strategies import PATIENCE, WIDTH, Exhaustive, Walk, make_strategy

GRID = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "published-grid"
pytestmark = pytest.mark.skipif(not GRID.exists(), reason="shared/data/published-grid is not beside the repository")

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


def scored(table, strategy=None):
    """Return the leaderboard of subsets looked up in a table: subset to metric to the value of the one split."""
    table, rows = {in_pool_order(POOL, subset): folds for subset, folds in table.items()}, {}

    def evaluate(subsets):
        rows.update({s: Row(subset=s, n_dims=len(s), folds=table[s]) for s in subsets})
        return [rows[subset] for subset in subsets]

    (strategy or Exhaustive()).run(POOL, evaluate)
    metrics = tuple(next(iter(table.values())))
    return Leaderboard(encoders=POOL, metrics=metrics, rows=tuple(rows.values()), n_train=(1,), n_test=(1,))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_grid_equals_brute_force_and_the_authors_choice(name):
    accuracy, auroc = (
        {frozenset(subset): value for subset, value in read(name, column).items()} for column in COLUMNS.values()
    )
    # An independent implementation: walk the combinations, keep the first strictly better one.
    chosen, top = None, -1.0
    for size in range(1, 9):
        for subset in combinations(POOL, size):
            if accuracy[frozenset(subset)] > top:
                chosen, top = subset, accuracy[frozenset(subset)]
    board = scored({tuple(s): {"accuracy": [accuracy[s]], "auroc": [auroc[s]]} for s in accuracy})
    assert len(board) == 255
    found = select(board, rule="first_best")
    assert found.chosen.subset == chosen == tuple(SHORT[code] for code in PUBLISHED[name].split(","))
    by_auroc = select(board, rule="best", metric="auroc")
    top_auroc = [s for s in auroc if auroc[s] == max(auroc.values())]
    assert frozenset(by_auroc.chosen.subset) in top_auroc
    assert by_auroc.chosen.n_encoders == min(map(len, top_auroc))
    assert by_auroc.best_single.mean("auroc") == max(auroc[frozenset([e])] for e in POOL)
    assert by_auroc.all.mean("auroc") == auroc[frozenset(POOL)]


COLUMNS = {"accuracy": 6, "auroc": 7}
"""Validation columns; the header names 10 columns, the rows have 11."""


def read(name, column):
    with (GRID / f"results_{name}_224.csv").open(newline="") as file:
        return {
            tuple(p for p in POOL if p in line[2].split(",")): float(line[column])
            for line in list(csv.reader(file))[1:]
        }


def board(name, strategy, metric):
    table = {subset: {metric: [value]} for subset, value in read(name, COLUMNS[metric]).items()}
    return scored(table, strategy)


# An independent implementation: subsets as bit masks, values as a list over masks.
def walked(values, width, patience):
    seen, beam, best, stale = {1 << i for i in range(8)} | {255}, [1 << i for i in range(8)], -1.0, -1
    for _ in range(8):
        beam = sorted(beam, key=lambda m: (-values[m], [i for i in range(8) if m >> i & 1]))[:width]
        stale = 0 if values[beam[0]] > best else stale + 1
        best = max(best, values[beam[0]])
        if stale == patience or 255 in beam:
            break
        beam = {m | 1 << i for m in beam for i in range(8) if not m >> i & 1}
        seen |= beam
    return seen


def masks(name, metric):
    values = [0.0] * 256
    for subset, value in read(name, COLUMNS[metric]).items():
        values[sum(1 << POOL.index(encoder) for encoder in subset)] = value
    return values


def as_masks(rows):
    return {sum(1 << POOL.index(encoder) for encoder in row.subset) for row in rows}


@pytest.mark.parametrize("metric", COLUMNS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_every_strategy_equals_an_independent_implementation(name, metric):
    values = masks(name, metric)
    greedy = walked(values, 1, 1)
    expected = {
        Exhaustive(): set(range(1, 256)),
        make_strategy("greedy", metric=metric): greedy,
        make_strategy("beam", metric=metric): greedy | walked(values, WIDTH, PATIENCE),
        Walk(name="beam", metric=metric, width=2, patience=2): greedy | walked(values, 2, 2),
        Walk(name="beam", metric=metric, width=8, patience=1): greedy | walked(values, 8, 1),
    }
    for strategy, seen in expected.items():
        found = board(name, strategy, metric)
        assert as_masks(found) == seen
        assert {row.subset: row.mean(metric) for row in found} == {
            row.subset: values[as_masks([row]).pop()] for row in found
        }
        # The choice: of the best, the fewest encoders, then pool order.
        order = sorted(seen, key=lambda m: (-values[m], m.bit_count(), [i for i in range(8) if m >> i & 1]))
        assert as_masks([select(found, rule="best").chosen]) == {order[0]}


@pytest.mark.parametrize("metric", COLUMNS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_greedy_search_ends_where_the_greedy_path_of_all_scores_ends(name, metric):
    every = board(name, Exhaustive(), metric)
    for strategy in ("greedy", "beam"):
        found = board(name, make_strategy(strategy, metric=metric), metric)
        path = greedy_path(found)
        assert [row.subset for row in path] == [row.subset for row in greedy_path(every)]
        selection = select(found, rule="best")
        assert selection.greedy is path[-1]
        assert selection.best.quality(metric) >= path[-1].quality(metric)
        assert selection.all.subset == POOL


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_limited_search_is_the_exhaustive_one_among_small_subsets(name):
    small = board(name, make_strategy("exhaustive", metric="auroc", max_encoders=2), "auroc")
    assert len(small) == 8 + 28 + 1
    found = select(small, rule="best", eligible=lambda row: row.n_encoders <= 2)
    values = {s: v for s, v in read(name, COLUMNS["auroc"]).items() if len(s) <= 2}
    assert found.chosen.mean("auroc") == max(values.values())
    assert found.all.subset == POOL
