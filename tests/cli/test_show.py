"""The tables of a fit, of a leaderboard that is made up: whole, marked, and as wide as there is room for."""

import re
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest

from biofuse.cli.fit import SHOWN, show_fit
from biofuse.search.attribution import attribute
from biofuse.search.evidence import Evidence
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.rules import select

POOL = ("efficientnet_lite2", "dinov2_small", "haralick", "colour", "squeezenet")
WORTH = dict(zip(POOL, (0.25, 0.1, 0.05, 0.02, -0.01), strict=True))


def made(pool=POOL, *, n_folds=4, finalists=None, ensemble=None, rule="one_se", path="run"):
    """Make a fit whose scores add up over encoders, with a little noise that differs by fold."""
    random = np.random.default_rng(0)
    rows = []
    for size in range(1, len(pool) + 1):
        for subset in combinations(pool, size):
            score = 0.5 + sum(WORTH[name] for name in subset)
            auroc = tuple((score + random.normal(0, 0.003, n_folds)).tolist())
            others = {name: tuple(value - 0.1 for value in auroc) for name in ("accuracy", "balanced_accuracy")}
            folds = {"auroc": auroc, **others, "log_loss": auroc}
            rows.append(Row(subset=subset, n_dims=1000 * size, folds=folds))
    whole = Leaderboard(
        encoders=pool, metrics=tuple(rows[0].folds), rows=tuple(rows), n_train=(75,) * n_folds, n_test=(25,) * n_folds
    )
    kept = whole if finalists is None else Leaderboard(
        encoders=pool, metrics=whole.metrics, n_train=whole.n_train, n_test=whole.n_test,
        rows=tuple(row for row in rows if row.n_encoders in {1, len(pool)} or row in whole.best_first()[:finalists]),
    )  # fmt: skip
    selection = select(kept, rule=rule, metric="auroc", screen=whole if finalists else None)
    return SimpleNamespace(
        selection=selection,
        leaderboard=kept,
        screen=whole if finalists else None,
        search=SimpleNamespace(head="lda", ensemble=ensemble),
        evidence=Evidence(attribution=attribute(whole, metric="auroc", empty=0.5)),
        path=path,
    )


@pytest.fixture
def shown(monkeypatch, capsys):
    """Return a function that prints a fit on a terminal of a width, and hands back the lines."""

    def show(result, width=140):
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        capsys.readouterr()
        show_fit(result)
        return capsys.readouterr().out.splitlines()

    return show


def table_of(lines):
    """Return the cells of the first table's rows, which stand in one line each where there is room."""
    start = next(place for place, line in enumerate(lines) if set(line.strip()) == {"─"})
    end = next(place for place in range(start + 1, len(lines)) if not lines[place].strip())
    return [re.split(r"\s{2,}", line.strip()) for line in lines[start + 1 : end]]


@pytest.mark.parametrize("width", [80, 140])
def test_the_tables_of_a_fit_fit_and_keep_names_and_numbers_whole(width, shown):
    result = made(finalists=3)
    lines = shown(result, width)
    assert max(map(len, lines)) <= width
    said = "\n".join(lines)
    for name in POOL:
        assert name in said
    for row in (*result.leaderboard.best_first()[:SHOWN], result.selection.chosen, result.selection.all):
        for metric in ("auroc", "accuracy", "balanced_accuracy"):
            assert f"{row.mean(metric):.4f}" in said
        assert str(row.n_dims) in said
    for value in result.evidence.attribution.shapley:
        assert f"{value:+.4f}" in said
    assert len(lines) < 50


def test_the_best_rows_are_shown_in_order_with_the_choice_and_its_companions_marked(shown):
    result = made(rule="best")
    lines = shown(result, 200)
    rows = table_of(lines)
    ranked = result.leaderboard.best_first()
    assert [row[0] for row in rows[:SHOWN]] == [str(place) for place in range(1, SHOWN + 1)]
    assert [row[1] for row in rows[:SHOWN]] == [
        "all 5" if len(row.subset) == 5 else " + ".join(row.subset) for row in ranked[:SHOWN]
    ]
    notes = {row[1]: row[-1] for row in rows if not row[-1].startswith("0.")}
    assert notes[" + ".join(POOL[:4])] == "chosen, best, greedy"
    assert notes["all 5"] == "all"
    assert notes["efficientnet_lite2"] == "best single"
    assert len(notes) == 3
    assert lines[0] == (
        f"31 subsets scored with the lda head; mean over 4 folds; {31 - len(rows)} more in leaderboard.csv"
    )


def test_finalists_are_told_from_what_was_screened(shown):
    result = made(finalists=2)
    count = len(result.leaderboard)
    assert shown(result)[0].startswith(f"{count} subsets of 31 screened scored with the lda head; mean over 4 folds")
    assert "leaderboard.csv" not in shown(made(finalists=2, path=None))[0]
    assert "on the validation split" in shown(made(n_folds=1, rule="first_best"))[0]


def test_what_an_ensemble_averages_is_marked_and_no_single_subset_is_called_the_choice(shown):
    members = (("efficientnet_lite2", "dinov2_small"), ("efficientnet_lite2",))
    rows = table_of(shown(made(rule="best", ensemble=SimpleNamespace(members=members)), 200))
    notes = {row[1]: row[-1] for row in rows if not row[-1].startswith("0.")}
    assert notes["efficientnet_lite2 + dinov2_small"] == "averaged"
    assert notes["efficientnet_lite2"] == "best single, averaged"
    assert notes[" + ".join(POOL[:4])] == "chosen as one subset, best, greedy"
    assert not any(note.split(", ")[0] == "chosen" for note in notes.values())


def test_contributions_are_shown_largest_first_with_their_intervals(shown):
    result = made()
    lines = shown(result)
    found = result.evidence.attribution
    start = next(place for place, line in enumerate(lines) if line.startswith("Share of each encoder in the AUROC"))
    assert "(0.50 by guessing" in lines[start]
    rows = table_of(lines[start:])
    assert [row[0] for row in rows] == list(POOL)  # as much as each is worth
    for row in rows:
        place = POOL.index(row[0])
        assert row[1:] == [
            f"{found.alone[place]:.4f}",
            f"{found.shapley[place]:+.4f}",
            f"{found.low[place]:+.4f} to {found.high[place]:+.4f}",
            f"{found.added_last[place]:+.4f}",
        ]


def test_without_folds_there_is_no_interval_and_without_contributions_no_table(shown):
    single = shown(made(n_folds=1, rule="first_best"))
    assert not any(re.search(r"[+-]\d\.\d{4} to ", line) for line in single)
    result = made()
    result.evidence = Evidence()
    assert not any("Share of each encoder" in line for line in shown(result))
