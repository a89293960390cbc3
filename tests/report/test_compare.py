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
from biofuse.core.hashing import digest_file
from biofuse.core.target import Task
from biofuse.encoders.registry import get_card
from biofuse.evaluation import intervals as evaluation
from biofuse.evaluation.intervals import Interval
from biofuse.evaluation.metrics import Metrics
from biofuse.model.evaluate import Evaluation, Leak, ModelScores
from biofuse.report.compare import RunComparison, RunList, RunSummary
from biofuse.report.content import Cell
from biofuse.report.matrix import ScoreMatrix, dense_ranks
from biofuse.report.plates import write_plates
from biofuse.runs.record import DataSource, Environment, Folds, RunRecord, UsedEncoder
from biofuse.runs.run import Run, write_record
from biofuse.search.attribution import CrossModal, Gain, Line
from biofuse.search.config import SearchConfig
from biofuse.search.evidence import Evidence
from biofuse.search.leaderboard import Leaderboard, Row
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


def scored(*subset, value=0.9, metric="auroc"):
    return Row(subset=subset, n_dims=3, folds={metric: (value, value)})


def evaluation_of(pool, chosen, singles, *, best=0.91):
    def metrics(auroc, accuracy):
        return Metrics(values_by_name={"auroc": auroc, "accuracy": NAN if accuracy is None else accuracy})

    def interval(name, estimate, low, high):
        return Interval(
            metric=name, estimate=estimate, low=low, high=high, confidence=0.95, method="percentile", unit="samples",
            n_units=40, n_resamples=9, n_undefined=0,
        )  # fmt: skip

    ends = (best - 0.03, round(best + 0.03, 9))
    intervals = {"auroc": interval("auroc", best, *ends), "accuracy": interval("accuracy", 0.81, 0.7, NAN)}
    model = ModelScores(encoders=chosen, metrics=metrics(best, 0.81), intervals=intervals)
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


def make_run(
    folder, *, singles=None, chosen=("uni",), metrics=True, modality=True, pool=POOL, ids=(), best=0.91, **changes
):
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
    ids = list(ids or [f"{folder.name}-train", f"{folder.name}-test"])
    rows = {"content": [*ids[:-1], ""], "label": "a", "split": ["train"] * (len(ids) - 1) + ["test"], "group": None}
    pd.DataFrame({"id": ids, **rows}).to_parquet(folder / "samples.parquet")
    board = tuple(scored(name, value=0.8 + place / 100) for place, name in enumerate(pool))
    board = Leaderboard(encoders=pool, metrics=("auroc",), rows=board, n_train=(5, 5), n_test=(5, 5))
    board.to_parquet(folder / "leaderboard.parquet")
    files = {name: digest_file(folder / name) for name in ("samples.parquet", "leaderboard.parquet")}
    record = record.model_copy(update={"files": files})
    write_record(folder, record)
    if metrics:
        scores = singles or {"clip": (0.85, 0.8), "uni": (0.9, 0.8), "hog": (0.7, None)}
        Run(path=folder, record=record).write_evaluation(evaluation_of(pool, chosen, scores, best=best))
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
    assert any("eye was not evaluated: its scores are cross-validated" in sentence for sentence in comparison.notes)
    matrix = comparison.scores("auroc")
    assert matrix.columns[2] == "eye (cross-validated)"
    np.testing.assert_allclose(matrix.values[:, 2], [0.8, 0.81, 0.82])
    cells = comparison.chosen_table().texts()[2]
    assert (cells[2], cells[5], cells[6]) == ("\u2013", "0.9000 (cross-validated)", "\u2013")
    found = comparison.to_json()["runs"][2]
    assert (found["test"], found["cross_validated"]["chosen"]["auroc"]) == ({}, 0.9)
    alone = RunComparison.read([tmp_path / "eye"]).scores("auroc")
    assert (alone.title, alone.columns) == ("Cross-validated AUROC of single encoders", ("eye",))


def make_measured(folder, metric, value):
    """Make a run that predicts a value, and chose by this metric."""
    run = Run.open(make_run(folder, metrics=False))
    scores = {"r2": 0.5, "mae": 8.0, metric: value}
    row = Row(subset=("uni",), n_dims=3, folds={name: (each, each) for name, each in scores.items()})
    choice = run.record.choice.model_copy(update={"metric": metric, "chosen": row, "best_single": row, "all": row})
    changed = {"task": Task.VALUE, "classes": ("age",), "selection": choice}
    write_record(folder, run.record.model_copy(update=changed))
    return folder


def test_a_column_holds_scores_of_one_metric_or_says_of_which(tmp_path, runs):
    measured = [make_measured(tmp_path / "a", "r2", 0.6), make_measured(tmp_path / "b", "mae", 7.0)]
    table = RunComparison.read(measured).chosen_table()
    cells = [dict(zip([each.title for each in table.columns], row, strict=True)) for row in table.texts()]
    assert [row["its R²"] for row in cells] == ["0.6000 (cross-validated)", "0.5000 (cross-validated)"]
    mixed = RunComparison.read([measured[1], runs[0]]).chosen_table()
    place = [each.title for each in mixed.columns].index("score of all encoders")
    assert [row[place] for row in mixed.texts()] == [
        "mean absolute error 7.0000 (cross-validated)",
        "AUROC 0.9100 (0.880\u20130.940)",
    ]


def test_a_list_by_score_has_the_least_error_first_and_metrics_apart(tmp_path, runs):
    for name, metric, value in (("a", "mae", 9.0), ("b", "r2", 0.3), ("c", "mae", 7.0), ("d", "r2", 0.6)):
        make_measured(tmp_path / name, metric, value)
    assert [run.name for run in RunList.read(tmp_path, sort="score").runs] == ["blood", "skin", "d", "b", "c", "a"]


def test_differing_options_are_named(tmp_path, runs):
    other = make_run(tmp_path / "eye", options=SearchConfig(select="holdout", rule="best", preset="paper"))
    assert any("ways to select" in s and "eye: holdout" in s for s in RunComparison.read([*runs, other]).notes)
    assert RunComparison.read(runs[:1]).notes == ()


def test_runs_on_different_data_are_said_to_be(tmp_path, runs):
    assert RunComparison.read(runs).notes == (
        "Every run is on data or splits of its own: compare scores within a run, and ranks over runs.",
    )
    again = make_run(tmp_path / "again", ids=["blood-train", "blood-test"])
    assert RunComparison.read([runs[0], again]).notes == ("All runs are on the same data and splits.",)
    assert "1: blood, again; 2: skin" in RunComparison.read([*runs, again]).notes[0]


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
    assert not {"script", "iframe", "object"} & {element.tag for element in elements}
    addresses = {element.get(name) for element in elements for name in ("src", "href", "onclick")}
    assert {str(address)[:19] for address in addresses} == {"None", "data:,", "data:image/svg+xml;"}
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
        assert "<img src=x" not in text
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
    assert [[cell.value or "" for cell in row[1:4]] for row in table.rows] == MARKS_BY_HAND
    # The mean and the mean rank are of the rows that have a value everywhere.
    assert [list(row[4:]) for row in table.rows] == [
        ["0.8341", "1.33"], [None, None], ["0.8540", "1.67"], ["0.7800", "3.00"], ["0.7000", "4.00"],
    ]  # fmt: skip
    tones = [[cell.tone for cell in row[1:4]] for row in table.rows]
    by_mark = {"¹": "best", "²": "next", "³": "next"}
    assert tones == [[by_mark.get(text[-1:], "") for text in row] for row in MARKS_BY_HAND]


def test_an_encoder_that_was_not_scored_has_no_mark_and_no_colour():
    cell = matrix().to_table().rows[1][3]
    assert (cell.value or "", cell.tone, cell.background) == ("", "", "")


def test_shades_go_from_the_lowest_to_the_highest_of_a_column():
    shades = [[cell.shade for cell in row[1:4]] for row in matrix().to_table().rows]
    assert shades[0][0] == 1
    assert shades[4][0] == 0
    assert shades[1][0] == pytest.approx((0.95 - 0.90) / (0.99 - 0.90))
    assert all(0 <= shade <= 1 for row in shades for shade in row if shade is not None)


def test_columns_of_one_value_or_none_do_no_harm():
    for values in (np.full((2, 3), 0.5), np.full((2, 3), NAN), np.empty((0, 3))):
        table = matrix(values).to_table()
        assert all(cell.tone in {"best", ""} for row in table.rows for cell in row[1:4])


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


def test_a_list_of_runs_says_which_are_on_the_same_data_and_what_is_no_run(tmp_path):
    def listed(name, ids, started, **options):
        return make_run(tmp_path / name, started=started, ids=ids, **options)

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


# --- tests over data sets


def sets_of(tmp_path, *, n=6):
    """Make runs whose chosen encoders are the best on each, with hog always the worst."""
    return [
        make_run(
            tmp_path / f"set{place}", best=0.95 + place / 200, chosen=("uni", "hog"),
            singles={"clip": (0.85 + place / 50, 0.8), "uni": (0.9, 0.8), "hog": (0.7, 0.6)},
        )
        for place in range(n)
    ]  # fmt: skip


def test_over_data_sets_methods_have_mean_ranks_and_the_chosen_one_is_tested_against_each(tmp_path):
    comparison = RunComparison.read(sets_of(tmp_path))
    matrix = comparison.over_sets("auroc")
    same = "chosen encoders = best single encoder of each run = all encoders together"
    assert matrix.rows == (same, *POOL)  # a model that is another one everywhere is one row
    assert matrix.mean_ranks == {same: 1.0, "clip": 2.5, "uni": 2.5, "hog": 4.0}
    table = next(table for table in comparison.tables() if "against each other" in table.caption)
    rows = {row[0]: row[1:] for row in table.texts()}
    # Six differences of one sign: 2 / 2 ** 6, and 3 times that after Holm's correction.
    assert rows["hog"] == ["6 / 0 / 0", "+0.2625, noise", "0.031", "0.094"]
    assert table.rows[2][2].tone == "noise"
    found = comparison.to_json()["over_sets"]["auroc"]
    assert found["signed_rank"]["hog"]["p_value"] == pytest.approx(2 / 2**6)
    assert found["critical_difference"] == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 6)), abs=1e-3)


@pytest.mark.slow
def test_the_page_has_diagrams_without_a_script_and_files_for_a_paper_are_written(tmp_path, parse):
    comparison = RunComparison.read(sets_of(tmp_path / "runs", n=3))
    images = [element for element in parse(comparison.to_html()).tree.iter() if element.tag == "img"]
    alternatives = [image.get("alt") for image in images]
    assert all(image.get("src").startswith("data:image/svg+xml;base64,") for image in images)
    assert alternatives[0].startswith("Critical differences: AUROC over data sets. A bar joins methods")
    assert any(text.startswith("Gains of encoders by modality") for text in alternatives)
    written = write_plates(comparison.plates(), tmp_path / "figures")
    assert {path.name for path in written} == {
        f"{name}.{kind}"
        for name in (
            "ranks-auroc-over-data-sets", "ranks-accuracy-over-data-sets", "test-auroc-of-single-encoders",
            "test-accuracy-of-single-encoders",
            "gains-by-modality",
        )
        for kind in ("svg", "png")
    }  # fmt: skip
    heat = (tmp_path / "figures" / "test-auroc-of-single-encoders.svg").read_text()
    assert ">set2<" in heat
    assert ">0.8900" in heat
    assert [path.read_bytes() for path in write_plates(comparison.plates(), tmp_path / "again")] == [
        path.read_bytes() for path in written
    ]


def test_two_runs_on_the_same_data_are_not_two_data_sets(tmp_path):
    runs = sets_of(tmp_path / "runs", n=3)
    again = make_run(tmp_path / "again", ids=["set0-train", "set0-test"])
    assert RunComparison.read([*runs, again]).over_sets("auroc") is None
    assert RunComparison.read(runs[:2]).over_sets("auroc") is None


def test_of_a_loss_the_lowest_value_is_the_best():
    values = np.array([[0.1, 0.3], [0.2, 0.2], [0.3, 0.1]])
    columns, rows = ("one", "two"), ("a", "b", "c")
    loss = ScoreMatrix(title="error", rows=rows, columns=columns, values=values, higher_is_better=False)
    gain = ScoreMatrix(title="gain", rows=rows, columns=columns, values=1 - values)
    assert loss.ranks.tolist() == gain.ranks.tolist() == [[1, 3], [2, 2], [3, 1]]
    assert loss.mean_ranks == gain.mean_ranks
    assert [each.median for each in loss.against("a")] == pytest.approx([each.median for each in gain.against("a")])
