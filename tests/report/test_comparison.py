"""Runs side by side: numbers as in the runs' own files, and a page that stands by itself."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from biofuse.core.errors import ArtifactError
from biofuse.report.compare import Comparison, RunSummary
from biofuse.runs.run import Run, RunRecord

POOL = ("clip", "uni", "hog")


def line(name, best, gain, *, low=-0.1, high=0.1, p=0.5):
    alone = {"gain": gain, "low": low, "high": high, "p_holm": p}
    return {"name": name, "modality": name, "best": best, "score": 0.9, "alone": alone, "added": None}


def make_run(folder, *, singles=None, chosen=("uni",), metrics=True, modality=True, pool=POOL, **changes):
    evidence = {}
    if modality:
        lines = [line("pathology", "uni", 0.05, low=0.01, high=0.09, p=0.001), line("none", "hog", -0.02)]
        evidence["modality"] = {
            "metric": "auroc", "baseline": "clip", "baseline_modality": "general", "baseline_score": 0.85,
            "modalities": lines, "encoders": [],
        }  # fmt: skip
    record = RunRecord(
        version="0", key="k", state="complete", started="now", data={"source": f"/data/{folder.name}.npz"},
        task="binary", classes=("a", "b"), counts={}, encoders=[{"name": name} for name in pool],
        options={"select": "cv", "preset": None}, plan={}, fitted_on="train + val", environment={}, evidence=evidence,
        selection={
            "head": "logistic", "chosen": {"encoders": list(chosen)}, "best_single": {"encoders": ["uni"]},
            "all": {"encoders": list(pool)},
        },
    )  # fmt: skip
    folder.mkdir(parents=True)
    Run(folder).write(record.model_copy(update=changes))
    if metrics:
        model = {
            "encoders": list(chosen), "metrics": {"auroc": 0.91, "accuracy": 0.81},
            "intervals": {"auroc": {"low": 0.88, "high": 0.94}, "accuracy": {"low": 0.7, "high": None}},
        }  # fmt: skip
        scores = singles or {"clip": (0.85, 0.8), "uni": (0.9, 0.8), "hog": (0.7, None)}
        content = {
            "split": "test", "n": 40, "models": {"chosen": model, "best_single": model, "all": model},
            "singles": {
                name: {"encoders": [name], "metrics": {"auroc": auroc, "accuracy": accuracy}}
                for name, (auroc, accuracy) in scores.items()
            },
            "comparisons": {
                "best_single": {"difference": 0.01, "p_holm": 0.4, "metric": "auroc", "sentence": "It is noise."}
            },
        }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        make_run(tmp_path / "blood"),
        make_run(tmp_path / "skin", singles={"clip": (0.9, 0.7), "uni": (0.9, 0.75), "hog": (0.8, 0.7)}, chosen=POOL),
    ]


def test_heat_maps_hold_the_scores_of_metrics_json(runs):
    comparison = Comparison.read(runs)
    auroc = comparison.heatmap("auroc")
    assert (auroc.rows, auroc.columns) == (POOL, ("blood", "skin"))
    np.testing.assert_array_equal(auroc.values, [[0.85, 0.9], [0.9, 0.9], [0.7, 0.8]])
    np.testing.assert_array_equal(auroc.ranks, [[2, 1], [1, 1], [3, 2]])
    accuracy = comparison.heatmap("accuracy")
    assert np.isnan(accuracy.values[2, 0])  # undefined, and so without a rank
    np.testing.assert_array_equal(accuracy.ranks, [[1, 2], [1, 1], [0, 2]])


def test_an_encoder_outside_of_a_pool_is_absent_there(tmp_path, runs):
    other = make_run(tmp_path / "eye", pool=("uni", "lbp"), singles={"uni": (0.6, 0.6), "lbp": (0.5, 0.5)})
    comparison = Comparison.read([*runs, other])
    assert comparison.encoders == (*POOL, "lbp")
    assert np.isnan(comparison.heatmap("auroc").values[3]).tolist() == [True, True, False]
    marks = {row[0].text: [cell.text for cell in row[1:]] for row in comparison.subset_table().rows}
    assert marks["lbp"] == ["–", "–", "", "0 of 1"]
    assert marks["uni"] == ["●", "●", "●", "3 of 3"]
    assert marks["hog"] == ["", "●", "–", "1 of 2"]


def test_gains_come_with_intervals_and_say_what_is_noise(runs):
    table = Comparison.read(runs, modality_of=lambda record: record.data["source"][6:-4].upper()).modality_table()
    assert table.columns == ("trained on", "blood (BLOOD)", "skin (SKIN)")
    pathology, none = table.rows
    assert pathology[1].text == "+0.0500 (+0.0100 to +0.0900) uni"
    assert pathology[1].tone == "gain"
    assert none[1].tone == "noise"
    assert "clip, AUROC 0.8500" in table.notes[1]


def test_a_run_without_a_general_purpose_encoder_has_no_gains(tmp_path, runs):
    other = make_run(tmp_path / "eye", modality=False)
    comparison = Comparison.read([*runs, other])
    assert [row[3].text for row in comparison.modality_table().rows] == ["–", "–"]
    alone = Comparison.read([other])
    assert not any("modality" in table.title for table in alone.tables())


def test_chosen_models_stand_beside_their_companions(runs):
    rows = Comparison.read(runs).chosen_table().texts()
    assert rows[0][:7] == ["blood", "binary", "40", "logistic", "uni (1 of 3)", "0.9100 (0.880–0.940)", "0.8100"]
    assert rows[0][-1] == "+0.0100 AUROC, noise"


def test_a_run_that_was_not_evaluated_is_named(tmp_path, runs):
    comparison = Comparison.read([*runs, make_run(tmp_path / "eye", metrics=False)])
    assert any("eye was not evaluated" in sentence for sentence in comparison.notes)
    assert np.isnan(comparison.heatmap("auroc").values[:, 2]).all()
    assert comparison.to_html()


def test_differing_options_are_named(tmp_path, runs):
    other = make_run(tmp_path / "eye", options={"select": "holdout", "preset": "paper"})
    assert any("ways to select" in s and "eye: holdout" in s for s in Comparison.read([*runs, other]).notes)
    assert Comparison.read(runs).notes == ()


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [make_run(tmp_path / "a" / "run"), make_run(tmp_path / "b" / "run")]
    assert [run.name for run in Comparison.read(runs).runs] == ["a/run", "b/run"]
    with pytest.raises(ArtifactError, match="named twice"):
        Comparison.read([runs[0], tmp_path / "a" / ".." / "a" / "run"])


def test_what_is_no_finished_run_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no run\.json"):
        Comparison.read([tmp_path])
    with pytest.raises(ArtifactError, match="did not finish"):
        RunSummary.read(make_run(tmp_path / "half", state="searching"))
    damaged = make_run(tmp_path / "damaged")
    for text in ("{", "[]"):
        (damaged / "metrics.json").write_text(text)
        with pytest.raises(ArtifactError, match=r"metrics\.json") as caught:
            RunSummary.read(damaged)
        assert "biofuse evaluate" in caught.value.remedy


def test_json_is_plain_and_complete(runs):
    found = json.loads(json.dumps(Comparison.read(runs).to_json(), allow_nan=False))
    assert found["singles"]["auroc"]["blood"] == {"clip": 0.85, "uni": 0.9, "hog": 0.7}
    assert found["singles"]["accuracy"]["blood"]["hog"] is None
    assert found["ranks"]["auroc"]["skin"] == {"clip": 1, "uni": 1, "hog": 2}
    assert found["runs"][1]["chosen"] == list(POOL)
    assert found["modality"]["blood"]["pathology"]["alone"]["gain"] == 0.05


class Page(HTMLParser):
    """Collects cells, and whatever could reach for the network or run."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.reaching, self._open = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        outward = {name: address for name, address in names.items() if name in {"src", "href", "onclick"}}
        if tag in {"script", "img", "iframe", "object"} or set(outward.values()) - {"data:,"}:
            self.reaching.append(tag)
        if tag == "td":
            self._open = [names.get("class") or "", ""]

    def handle_data(self, data):
        if self._open is not None:
            self._open[1] += data

    def handle_endtag(self, tag):
        if tag == "td":
            self.cells.append(tuple(self._open))
            self._open = None


def test_the_page_shows_the_numbers_and_needs_nothing_else(runs):
    text = Comparison.read(runs).to_html()
    page = Page(text)
    assert page.reaching == []
    assert not re.search(r"https?://|@import|url\(", text)
    assert ("best number", "0.9000¹") in page.cells
    assert ("next number", "0.8500²") in page.cells
    assert ("gain", "+0.0500 (+0.0100 to +0.0900) uni") in page.cells
    assert '<html lang="en">' in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_names_from_outside_cannot_become_markup(tmp_path):
    run = make_run(tmp_path / "<script>alert(1)<", chosen=("<img src=x>",))
    comparison = Comparison.read([run])
    for text in (comparison.to_html(), comparison._repr_html_()):
        assert "<script>" not in text
        assert "<img" not in text
        assert "&lt;img src=x&gt;" in text
