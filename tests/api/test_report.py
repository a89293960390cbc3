"""The report of real, small runs: numbers, images, and what happens where things are gone."""

import json
import re
import shutil
from typing import Any

import pandas as pd
import pytest

from biofuse import ExtractOptions
from biofuse.api import report as reporting
from biofuse.api.fit import evaluate
from biofuse.api.report import attempt_report, write_report
from biofuse.core.errors import ArtifactError
from biofuse.report.input import SampleImages
from biofuse.runs import run as run_module
from biofuse.store.store import EmbeddingStore

pytestmark = pytest.mark.slow

ALONE = ExtractOptions(workers=0)


@pytest.fixture(scope="session")
def take_apart(parse):
    """Return a function that takes the page in a file apart."""
    return lambda path: parse(path.read_text())


@pytest.fixture(scope="module")
def evaluated(fitted, study, tmp_path_factory):
    """Return a copy of the fitted run with its evaluation."""
    path = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(fitted.path, path)
    evaluate(path, store=EmbeddingStore(study.store), options=ALONE, progress=False)
    return path


@pytest.fixture(scope="module")
def page(evaluated, study, take_apart):
    path = write_report(evaluated, store=EmbeddingStore(study.store))
    assert path == evaluated / "report.html"
    return take_apart(path)


def test_scores_are_those_of_metrics_json(page, evaluated):
    models = json.loads((evaluated / "metrics.json").read_text())["models"]
    rows = {tuple(row["model"].replace(" ", "_").split("_=_")): row for row in page.table("scores")}
    assert sorted(name for names in rows for name in names) == sorted(models)
    for name, row in ((name, row) for names, row in rows.items() for name in names):
        model = models[name]
        assert row["AUROC"] == model["metrics"]["auroc"]
        assert row["accuracy"] == model["metrics"]["accuracy"]
        assert row["low AUROC"] == model["intervals"]["auroc"]["low"]


def test_the_most_unusual_test_samples_are_listed_and_shown(page, evaluated):
    predictions = pd.read_parquet(evaluated / "predictions.parquet").sort_values("novelty", ascending=False)
    assert [row["percentile"] for row in page.table("novelty-list")] == predictions["novelty"].head(12).tolist()
    assert sum(row["samples"] for row in page.table("novelty-distribution-data")) == len(predictions)
    assert len([image for image in page.tree.iter("img") if (image.get("alt") or "").endswith(", unusual")]) == 12
    metrics = json.loads((evaluated / "metrics.json").read_text())
    assert metrics["novelty"]["above"] == (predictions["novelty"] > 99).sum()


def test_occlusion_maps_are_of_what_was_tested(evaluated, study, tmp_path, take_apart):
    path = write_report(
        evaluated, out=tmp_path / "p.html", store=EmbeddingStore(study.store), occlusion=2, options=ALONE
    )
    rows = take_apart(path).table("occlusion-data")
    predictions = pd.read_parquet(evaluated / "predictions.parquet").set_index("id")
    assert 0 < len(rows) <= 2
    for row in rows:
        assert row["class"] == predictions.loc[row["sample"], "prediction"] != predictions.loc[row["sample"], "label"]
        assert row["probability"] == pytest.approx(predictions.loc[row["sample"], f"p_{row['class']}"], abs=1e-4)
        assert row["least covered"] < row["most covered"]


def test_images_come_from_the_data(page):
    images = [image.get("alt") for image in page.tree.iter("img")]
    assert len([alt for alt in images if "labelled ctl" in alt]) >= 6
    figures = page.figures()
    assert figures["map"]["sheet"]["source"].startswith("data:image/jpeg;base64,")
    tiles = [tile for trace in figures["map"]["data"] for tile in trace["customdata"]]
    assert sorted(tiles) == list(range(72))  # every sample of train, val and test


def test_the_similarity_is_that_of_the_stored_embeddings(page, fitted):
    from biofuse.blocks.blocks import linear_cka

    names, matrix = fitted.embeddings.blocks.encoders, linear_cka(fitted.embeddings.blocks)
    for row in page.table("similarity-data"):
        own = matrix[names.index(row["first"]), names.index(row["second"])]
        assert row["linear CKA"] == pytest.approx(own, abs=1e-9)


def test_before_the_evaluation_no_test_image_is_read(fitted, study, monkeypatch, take_apart):
    read = []
    original = SampleImages.image
    monkeypatch.setattr(SampleImages, "image", lambda self, sample: read.append(sample) or original(self, sample))
    path = write_report(fitted.path, out=study.root / "early.html", store=EmbeddingStore(study.store))
    known = pd.read_parquet(fitted.path / "samples.parquet").set_index("id")["split"]
    assert read
    assert "test" not in set(known.loc[read])
    assert "has not been tested yet" in take_apart(path).words("answer")


def test_samples_in_memory_are_shown(quick, study, tmp_path, take_apart):
    result = (
        quick(("t_colour", "t_edge"))
        .fit(study.samples.in_split("train", "val"), out=tmp_path / "run", progress=False)
        .result_
    )
    store = EmbeddingStore(study.store)
    without = take_apart(write_report(result.path, store=store))
    assert not list(without.tree.iter("img"))
    with_images = take_apart(write_report(result.path, store=store, development=result.embeddings.samples))
    assert len(list(with_images.tree.iter("img"))) >= 18


def test_images_that_are_gone_are_said_to_be_gone(evaluated, study, tmp_path, take_apart, reseal):
    record = json.loads((evaluated / "run.json").read_text())
    record["data"]["source"] = str(tmp_path / "gone")
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    metrics = json.loads((run / "metrics.json").read_text()) | {"data": str(tmp_path / "gone")}
    (run / "metrics.json").write_text(json.dumps(metrics))
    reseal(run, data=record["data"])
    page = take_apart(write_report(run, store=EmbeddingStore(study.store)))
    assert not list(page.tree.iter("img"))
    assert "The images are not at hand" in page.words("map")
    assert page.table("scores")


def test_embeddings_that_are_gone_are_said_to_be_gone(evaluated, tmp_path, take_apart):
    page = take_apart(write_report(evaluated, out=tmp_path / "page.html", store=EmbeddingStore(tmp_path / "empty")))
    assert "embeddings are not in this store" in page.words("contribution")
    assert "embeddings are not in this store" in page.words("map")
    assert list(page.tree.iter("img"))


def test_the_only_evaluation_shows_its_images_whatever_its_data(evaluated, study, draw, tmp_path, request):
    take_apart, reseal = (request.getfixturevalue(name) for name in ("take_apart", "reseal"))
    run = tmp_path / "run"
    shutil.copytree(evaluated, run)
    (run / "metrics.json").unlink()
    reseal(run)
    draw(tmp_path / "elsewhere", each=8, seed=9)
    evaluate(run, tmp_path / "elsewhere", store=EmbeddingStore(study.store), options=ALONE, progress=False)
    page = take_apart(write_report(run, store=EmbeddingStore(study.store)))
    assert "24 test samples of" in page.words("test")
    figures = page.figures()
    tested = [text for trace in figures["map"]["data"] for text in trace["text"] if text.endswith("(test)")]
    assert len(tested) == 24


def test_times_are_measured_when_asked_for(evaluated, study, tmp_path, take_apart):
    path = write_report(
        evaluated, out=tmp_path / "page.html", store=EmbeddingStore(study.store), latency=True, options=ALONE
    )
    assert "measured on this machine in milliseconds" in take_apart(path).words("cost")


def test_style_bug_0_1_the_times_that_a_fit_measured_are_in_its_report(quick, study, tmp_path, take_apart):
    """The fit times its encoders for ``max_latency``; the page shows those very milliseconds, whoever writes it."""
    result = (
        quick(("t_colour", "t_edge"), max_latency=1e6).fit(study.images, out=tmp_path / "run", progress=False).result_
    )
    measured = json.loads((tmp_path / "run" / "run.json").read_text())["latency"]
    assert set(measured) == {"t_colour", "t_edge"}
    assert all(value > 0 for value in measured.values())
    store = EmbeddingStore(study.store)
    fresh = write_report(result.run, store=store, development=result.embeddings, test=result.held_out)
    for path in (fresh, write_report(tmp_path / "run", out=tmp_path / "later.html", store=store)):
        tree = take_apart(path)
        assert "measured on this machine in milliseconds" in tree.words("cost")
        shown = {row["encoders"]: row["ms per image"] for row in tree.table("subsets")}
        assert shown == {
            "t_colour": measured["t_colour"],
            "t_edge": measured["t_edge"],
            "t_colour + t_edge": pytest.approx(sum(measured.values())),
        }


def test_a_report_of_what_is_in_memory_reads_no_data_again_and_is_the_same(
    quick, study, tmp_path, monkeypatch, take_apart
):
    result = quick(("t_colour", "t_edge")).fit(study.images, out=tmp_path / "run", progress=False).result_
    store, said = EmbeddingStore(study.store), []
    later = write_report(tmp_path / "run", out=tmp_path / "later.html", store=store).read_text()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("loaded again")

    for name in ("Leaderboard.read_parquet", "load_samples", "development_data"):
        monkeypatch.setattr(f"biofuse.runs.run.{name}", refuse)
    monkeypatch.setattr("biofuse.blocks.blocks.BlockReader.read", refuse)
    write = {"store": store, "development": result.embeddings, "test": result.held_out}
    assert write_report(result.run, out=tmp_path / "now.html", **write).read_text() == later
    monkeypatch.undo()

    loads = []
    load = run_module.load_samples
    monkeypatch.setattr(run_module, "load_samples", lambda *a, **o: loads.append(a) or load(*a, **o))
    evaluate(tmp_path / "run", store=store, options=ALONE, progress=False, report=said.append)
    assert len(loads) == 1
    assert said == [f"Report: {tmp_path / 'run' / 'report.html'}"]
    page = take_apart(tmp_path / "run" / "report.html")
    assert "samples of" in page.words("test")
    tiles = page.figures()["map"]["data"]
    assert sum(len(trace["customdata"]) for trace in tiles) == 72


@pytest.mark.slow
def test_figures_are_written_beside(evaluated, study, tmp_path):
    write_report(evaluated, out=tmp_path / "page.html", figures=tmp_path / "figures", store=EmbeddingStore(study.store))
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"roc.svg", "roc.png", "cost.svg", "similarity.png", "map.png"} <= names


def test_a_report_that_fails_is_said_and_loses_nothing(evaluated, tmp_path):
    run, said = tmp_path / "run", []
    shutil.copytree(evaluated, run)
    (run / "leaderboard.parquet").write_bytes(b"damaged")
    with pytest.raises(ArtifactError):
        write_report(run)
    assert attempt_report(run, tell=said.append) is None
    assert re.search(r"The report of .* was not written \(.*leaderboard", said[0])
    assert f"biofuse report {run}" in said[0]


def test_a_failure_nobody_thought_of_is_said_too(evaluated, monkeypatch):
    said: list[str] = []

    def broken(*_: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(reporting, "build_report", broken)
    assert attempt_report(evaluated, tell=said.append) is None
    assert "ZeroDivisionError: by zero" in said[0]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="is not a run"):
        write_report(tmp_path)
