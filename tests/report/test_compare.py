"""Runs side by side: numbers as in the runs' own files, and a page that stands by itself."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from biofuse.core.errors import AlignmentError, ArtifactError
from biofuse.encoders.registry import get_card
from biofuse.evaluation import intervals as evaluation
from biofuse.evaluation.intervals import Interval
from biofuse.evaluation.metrics import Metrics
from biofuse.model.evaluate import Evaluation, Leak, ModelScores
from biofuse.report.compare import RunComparison, RunList, RunSummary, ScoreMatrix, dense_ranks
from biofuse.report.content import Cell
from biofuse.runs.record import DataSource, Environment, Folds, RunRecord, UsedEncoder
from biofuse.runs.run import Run, write_record
from biofuse.search.attribution import CrossModal, Gain, Line
from biofuse.search.config import SearchConfig
from biofuse.search.evidence import Evidence
from biofuse.search.leaderboard import Row
from biofuse.search.rules import Selection

POOL = ("clip", "uni", "hog")
NAN = float("nan")


def gain(best, value, *, low=-0.1, high=0.1, p=0.5):
    return Gain(
        metric="auroc", subset=(best,), against=("clip",), gain=value, low=low, high=high, confidence=0.95, p_value=p,
        p_holm=p,
    )  # fmt: skip


def line(name, best, value, **options):
    alone = gain(best, value, **options)
    return Line(
        kind="modality", name=name, modality=name, encoders=(best,), best=best, score=0.9, alone=alone, added=None
    )


def scored(*subset, value=0.9):
    return Row(subset=subset, n_dims=3, folds={"auroc": (value, value)})


def evaluation_of(pool, chosen, singles):
    def metrics(auroc, accuracy):
        return Metrics(values_by_name={"auroc": auroc, "accuracy": NAN if accuracy is None else accuracy})

    def interval(name, estimate, low, high):
        return Interval(
            metric=name, estimate=estimate, low=low, high=high, confidence=0.95, method="percentile", unit="samples",
            n_units=40, n_resamples=9, n_undefined=0,
        )  # fmt: skip

    intervals = {"auroc": interval("auroc", 0.91, 0.88, 0.94), "accuracy": interval("accuracy", 0.81, 0.7, NAN)}
    model = ModelScores(encoders=chosen, metrics=metrics(0.91, 0.81), intervals=intervals)
    noise = evaluation.Comparison(
        metric="auroc", first="chosen", second="best_single", first_score=0.91, second_score=0.9, difference=0.01,
        low=-0.1, high=0.1, confidence=0.95, p_value=0.4, p_holm=0.4, unit="samples", n_units=40, n_resamples=9,
        n_undefined=0,
    )  # fmt: skip
    return Evaluation(
        n=40,
        models={"chosen": model, "best_single": model, "all": replace(model, encoders=pool)},
        comparisons={"best_single": noise},
        leak=Leak(samples=0, per_class={}, groups=0, without={}),
        predictions=pd.DataFrame({"id": ["a"]}),
        quarantined=(),
        singles={name: metrics(*values) for name, values in singles.items()},
    )


def make_run(folder, *, singles=None, chosen=("uni",), metrics=True, modality=True, pool=POOL, **changes):
    lines = (line("pathology", "uni", 0.05, low=0.01, high=0.09, p=0.001), line("none", "hog", -0.02))
    crossed = CrossModal(
        metric="auroc", baseline="clip", baseline_modality="general", baseline_score=0.85, modalities=lines,
        encoders=(),
    )  # fmt: skip
    card = get_card("hog")
    selection = Selection(
        rule="one_se", metric="auroc", chosen=scored(*chosen), best=scored(*chosen), best_single=scored("uni"),
        all=scored(*pool), greedy=None, within=(), better_than_chance=True, reason="", notes=(),
    )  # fmt: skip
    facts = {
        "version": "0", "key": "k", "state": "complete", "started": "now", "name": folder.name, "task": "binary",
        "data": DataSource(source=f"/data/{folder.name}.npz"), "classes": ("a", "b"), "counts": {},
        "encoders": [
            UsedEncoder(card=card.model_copy(update={"name": name}), precision="fp32", fingerprint=name)
            for name in pool
        ],
        "options": SearchConfig(), "plan": Folds(kind="cv", folds=2, repeats=1, key=""), "fitted_on": "train + val",
        "environment": Environment.here(), "evidence": Evidence(modality=crossed if modality else None),
        "selection": selection, "head": "logistic",
    }  # fmt: skip
    record = RunRecord(**(facts | changes))
    folder.mkdir(parents=True)
    write_record(folder, record)
    if metrics:
        scores = singles or {"clip": (0.85, 0.8), "uni": (0.9, 0.8), "hog": (0.7, None)}
        Run(path=folder, record=record).write_evaluation(evaluation_of(pool, chosen, scores))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        make_run(tmp_path / "blood"),
        make_run(tmp_path / "skin", singles={"clip": (0.9, 0.7), "uni": (0.9, 0.75), "hog": (0.8, 0.7)}, chosen=POOL),
    ]


def test_a_lean_subset_has_columns_and_the_chosen_model_under_another_name_is_not_scored_twice(tmp_path):
    path = make_run(tmp_path / "blood", chosen=POOL)
    run = Run.open(path)
    choice = run.record.choice.model_copy(update={"lean": scored("clip", "uni")})
    write_record(path, run.record.model_copy(update={"selection": choice}))
    found = run.evaluation
    chosen, single = found.models["chosen"], found.models["best_single"]
    models = {"chosen": replace(chosen, same=("all",)), "all": replace(chosen, same=("chosen",)), "best_single": single}
    Run.open(path).write_evaluation(
        replace(found, models={**models, "lean": replace(single, encoders=("clip", "uni"))})
    )
    table = RunComparison.read([path]).chosen_table()
    cells = dict(zip([column.title for column in table.columns], table.rows[0], strict=True))
    assert cells["AUROC of all encoders"] == "the same as chosen"
    assert cells["lean encoders"] == "clip + uni"
    assert cells["AUROC of these"] == cells["its AUROC"] == "0.9100 (0.880\u20130.940)"
    assert RunComparison.read([make_run(tmp_path / "older")]).chosen_table().rows[0][-3] == "\u2013"


def test_heat_maps_hold_the_scores_of_metrics_json(runs):
    comparison = RunComparison.read(runs)
    auroc = comparison.scores("auroc")
    assert (auroc.rows, auroc.columns) == (POOL, ("blood", "skin"))
    np.testing.assert_array_equal(auroc.values, [[0.85, 0.9], [0.9, 0.9], [0.7, 0.8]])
    np.testing.assert_array_equal(auroc.ranks, [[2, 1], [1, 1], [3, 2]])
    accuracy = comparison.scores("accuracy")
    assert np.isnan(accuracy.values[2, 0])  # undefined, and so without a rank
    np.testing.assert_array_equal(accuracy.ranks, [[1, 2], [1, 1], [0, 2]])


def test_an_encoder_outside_of_a_pool_is_absent_there(tmp_path, runs):
    other = make_run(tmp_path / "eye", pool=("uni", "lbp"), singles={"uni": (0.6, 0.6), "lbp": (0.5, 0.5)})
    comparison = RunComparison.read([*runs, other])
    assert comparison.encoders == (*POOL, "lbp")
    assert np.isnan(comparison.scores("auroc").values[3]).tolist() == [True, True, False]
    marks = {row[0]: [getattr(cell, "value", cell) for cell in row[1:]] for row in comparison.subset_table().rows}
    assert marks["lbp"] == ["–", "–", "", "0 of 1"]
    assert marks["uni"] == ["●", "●", "●", "3 of 3"]
    assert marks["hog"] == ["", "●", "–", "1 of 2"]


def test_gains_come_with_intervals_and_say_what_is_noise(runs):
    table = RunComparison.read(runs, modality_of=lambda record: record.data.source[6:-4].upper()).modality_table()
    assert [column.title for column in table.columns] == ["trained on", "blood (BLOOD)", "skin (SKIN)"]
    pathology, none = table.rows
    assert pathology[1].value == "+0.0500 (+0.0100 to +0.0900) uni"
    assert pathology[1].tone == "gain"
    assert none[1].tone == "noise"
    assert "clip, AUROC 0.8500" in table.notes[1]


def test_a_run_without_a_general_purpose_encoder_has_no_gains(tmp_path, runs):
    other = make_run(tmp_path / "eye", modality=False)
    comparison = RunComparison.read([*runs, other])
    assert [row[3].value for row in comparison.modality_table().rows] == ["–", "–"]
    alone = RunComparison.read([other])
    assert not any("modality" in table.caption for table in alone.tables())


def test_chosen_models_stand_beside_their_companions(runs):
    rows = RunComparison.read(runs).chosen_table().texts()
    assert rows[0][:7] == ["blood", "binary", "40", "logistic", "uni (1 of 3)", "0.9100 (0.880–0.940)", "0.8100"]
    assert rows[0][-1] == "+0.0100 AUROC, noise"


def test_a_run_that_was_not_evaluated_is_named(tmp_path, runs):
    comparison = RunComparison.read([*runs, make_run(tmp_path / "eye", metrics=False)])
    assert any("eye was not evaluated" in sentence for sentence in comparison.notes)
    assert np.isnan(comparison.scores("auroc").values[:, 2]).all()
    assert comparison.to_html()


def test_differing_options_are_named(tmp_path, runs):
    other = make_run(tmp_path / "eye", options=SearchConfig(select="holdout", rule="best", preset="paper"))
    assert any("ways to select" in s and "eye: holdout" in s for s in RunComparison.read([*runs, other]).notes)
    assert RunComparison.read(runs).notes == ()


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")]
    assert [run.name for run in RunComparison.read(runs).runs] == ["a/run", "b/run"]
    with pytest.raises(ArtifactError, match="named twice"):
        RunComparison.read([runs[0], tmp_path / "a" / ".." / "a" / "run"])


def test_what_is_no_finished_run_is_refused_and_damage_is_found_at_once(tmp_path, reseal):
    with pytest.raises(ArtifactError, match=r"holds no run\.json"):
        RunComparison.read([tmp_path])
    damaged = make_run(tmp_path / "damaged")
    (damaged / "metrics.json").write_text("[]")
    reseal(damaged)
    with pytest.raises(ArtifactError, match=r"metrics\.json"):
        RunSummary.read(damaged)


def test_json_is_plain_and_complete(runs):
    found = json.loads(json.dumps(RunComparison.read(runs).to_json(), allow_nan=False))
    assert found["singles"]["auroc"]["blood"] == {"clip": 0.85, "uni": 0.9, "hog": 0.7}
    assert found["singles"]["accuracy"]["blood"]["hog"] is None
    assert found["ranks"]["auroc"]["skin"] == {"clip": 1, "uni": 1, "hog": 2}
    assert found["runs"][1]["chosen"] == list(POOL)
    assert found["modality"]["blood"]["pathology"]["alone"]["gain"] == 0.05


def test_the_page_shows_the_numbers_and_needs_nothing_else(runs, parse):
    text = RunComparison.read(runs).to_html()
    elements = list(parse(text).tree.iter())
    assert not {"script", "img", "iframe", "object"} & {element.tag for element in elements}
    assert {element.get(name) for element in elements for name in ("src", "href", "onclick")} == {None, "data:,"}
    cells = [(cell.get("class") or "", "".join(cell.itertext())) for cell in elements if cell.tag == "td"]
    assert not re.search(r"https?://|@import|url\(", text)
    assert ("best number", "0.9000¹") in cells
    assert ("next number", "0.8500²") in cells
    assert ("gain", "+0.0500 (+0.0100 to +0.0900) uni") in cells
    assert '<html lang="en">' in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_names_from_outside_cannot_become_markup(tmp_path):
    run = make_run(tmp_path / "<script>alert(1)<", chosen=("<img src=x>",))
    comparison = RunComparison.read([run])
    for text in (comparison.to_html(), comparison._repr_html_()):
        assert "<script>" not in text
        assert "<img" not in text
        assert "&lt;img src=x&gt;" in text


# --- ranks and marks, against tables made by hand


BY_HAND = np.array(
    [
        # blood: ties for second      skin: ties for first        eye: one not scored
        [0.9900, 0.8000, 0.71234],
        [0.9500, 0.9000, NAN],
        [0.9500, 0.9000, 0.71214],
        [0.9400, 0.7000, 0.70000],
        [0.9000, 0.6000, 0.60000],
    ]
)
MARKS_BY_HAND = [
    ["0.9900¹", "0.8000²", "0.7123¹"],
    ["0.9500²", "0.9000¹", ""],
    ["0.9500²", "0.9000¹", "0.7121²"],
    ["0.9400³", "0.7000³", "0.7000³"],
    ["0.9000", "0.6000", "0.6000"],
]


def matrix(values=BY_HAND, **options):
    rows = tuple("abcde"[: len(values)])
    return ScoreMatrix(title="t", rows=rows, columns=("blood", "skin", "eye"), values=np.array(values), **options)


def test_what_is_written_decides_where_rounding_and_writing_differ():
    # 0.5785 is a little more than it says and 0.57849 less: NumPy rounds both to 0.578, and one is written 0.579.
    assert (np.round(0.5785, 3), f"{0.5785:.3f}") == (0.578, "0.579")
    assert dense_ranks([[0.5785], [0.57849], [0.579]], digits=3)[:, 0].tolist() == [1, 2, 1]


def test_best_in_white_second_and_third_in_red_as_marked_by_hand():
    table = matrix().to_table()
    assert [[cell.value or "" for cell in row[1:]] for row in table.rows] == MARKS_BY_HAND
    tones = [[cell.tone for cell in row[1:]] for row in table.rows]
    by_mark = {"¹": "best", "²": "next", "³": "next"}
    assert tones == [[by_mark.get(text[-1:], "") for text in row] for row in MARKS_BY_HAND]


def test_an_encoder_that_was_not_scored_has_no_mark_and_no_colour():
    cell = matrix().to_table().rows[1][3]
    assert (cell.value or "", cell.tone, cell.background) == ("", "", "")


def test_shades_go_from_the_lowest_to_the_highest_of_a_column():
    shades = [[cell.shade for cell in row[1:]] for row in matrix().to_table().rows]
    assert shades[0][0] == 1
    assert shades[4][0] == 0
    assert shades[1][0] == pytest.approx((0.95 - 0.90) / (0.99 - 0.90))
    assert all(0 <= shade <= 1 for row in shades for shade in row if shade is not None)


def test_columns_of_one_value_or_none_do_no_harm():
    for values in (np.full((2, 3), 0.5), np.full((2, 3), NAN), np.empty((0, 3))):
        table = matrix(values).to_table()
        assert all(cell.tone in {"best", ""} for row in table.rows for cell in row[1:])


def test_values_must_fit_rows_and_columns():
    with pytest.raises(AlignmentError):
        ScoreMatrix(title="t", rows=("a",), columns=("x", "y"), values=np.zeros((1, 1)))


@given(arrays(np.float64, (6, 2), elements=st.floats(0, 1) | st.just(NAN)))
def test_ranks_are_scipys_dense_ranks(values):
    ranks = dense_ranks(values, digits=3)
    for column, found in zip(values.T, ranks.T, strict=True):
        there = ~np.isnan(column)
        np.testing.assert_array_equal(
            found[there], rankdata([-float(f"{value:.3f}") for value in column[there]], method="dense")
        )
        assert not found[~there].any()


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_marks_can_be_read_on_every_shade():
    """WCAG 2: a contrast of at least 4.5 to 1, by its formula."""
    for shade in np.linspace(0, 1, 11):
        behind = luminance(Cell("x", shade=float(shade)).background)
        for ink in ("#a50f15", "#1a1a1a"):
            assert (behind + 0.05) / (luminance(ink) + 0.05) >= 4.5
    assert 1.05 / (luminance("#08519c") + 0.05) >= 4.5


def test_a_list_of_runs_says_which_are_on_the_same_data_and_what_is_no_run(tmp_path, reseal):
    def listed(name, ids, started, **options):
        folder = make_run(tmp_path / name, started=started, **options)
        split = ["train"] * (len(ids) - 1) + ["test"]
        rows = {"id": ids, "content": [*ids[:-1], ""], "label": "a", "split": split, "group": None}
        pd.DataFrame(rows).to_parquet(folder / "samples.parquet")
        reseal(folder)
        return folder

    listed("deep/first", ["x", "y", "z"], "2026-01-01T00:00:00+00:00")
    listed("second", ["y", "x", "z"], "2026-01-03T00:00:00+00:00", chosen=POOL, metrics=False)
    listed("third", ["x", "y", "w"], "2026-01-02T00:00:00+00:00")  # another test sample
    listed("stopped", ["x", "y", "w"], "2026-01-02T00:00:00+00:00", state="searching", metrics=False)
    found = RunList.read(tmp_path)
    assert [run.name for run in found.runs] == ["second", "third", "deep/first"]
    assert found.data == {"second": 1, "third": 2, "deep/first": 1}
    assert "stopped is left out" in found.notes[0]
    assert "1: second, deep/first; 2: third" in found.notes[1]
    rows = {row[0]: row[1:] for row in found.tables()[0].rows}
    assert rows["second"][-2:] == ("\u2013", "0 / 0")
    assert rows["deep/first"][2:6] == ("uni (1 of 3)", "inclusive", "AUROC 0.9000", "0.9100 (0.880\u20130.940)")
    assert found.to_json()["runs"][1]["test"] == {"value": 0.91, "low": 0.88, "high": 0.94}
    assert [run.name for run in RunList.read(tmp_path, sort="name").runs] == ["deep/first", "second", "third"]
    with pytest.raises(ArtifactError, match="no run in"):
        RunList.read(tmp_path / "deep" / "first" / "nothing")
