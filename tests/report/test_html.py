"""The page: its numbers are those of the run's files, it is whole and safe, and it stays small."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
from plotly.offline import get_plotlyjs
from sklearn.manifold import trustworthiness

from biofuse.core.errors import ArtifactError
from biofuse.core.target import Task
from biofuse.evaluation.intervals import corrected_t
from biofuse.report.html import build_report, render_html
from biofuse.report.input import ReportInput
from biofuse.report.sections import choice, maps
from biofuse.runs.run import OWN

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b 'c' </title>", "{{ 7*7 }} ${x}")
SECTIONS = (
    "test", "operating", "mistakes", "trust", "leaderboard", "contribution", "cost", "data", "map", "provenance",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(make_run: Callable[..., Any]) -> Any:
    return make_run()


@pytest.fixture(scope="module")
def page(made: Any, parse: Callable[[str], Any]) -> Any:
    return parse(made.page)


def test_the_answer_names_the_encoders_the_gain_and_the_noise(page: Any, made: Any) -> None:
    answer = page.words("answer")
    assert made.report.answer in answer
    for name in made.given.chosen:
        assert name in answer
    assert "+0.0500 against the best single encoder" in answer
    assert "better beyond noise (p = 0.01)" in answer
    assert "+0.0100 against all 4 encoders together, within noise" in answer


@pytest.mark.parametrize("tested", [True, False])
def test_the_answer_says_what_the_lean_model_saves_and_costs(tested: bool, make_run: Callable[..., Any]) -> None:
    given = make_run(tested=tested).given
    board, pool = given.board, given.pool
    row = board.singles[0]
    selection = given.record.choice.model_copy(update={"rule": "inclusive", "chosen": board[pool], "lean": row})
    run = replace(given.run, record=given.record.model_copy(update={"selection": selection}))
    if tested:
        found = given.evaluation
        compared = found.comparisons["all"].model_copy(update={"second": "lean"})
        run._evaluations[OWN] = replace(found, comparisons={**found.comparisons, "lean": compared})
        expected = "costs 0.0100 of AUROC (95 % interval +0.0000 to +0.0200), within noise."
    else:
        gain, low, high, p = corrected_t(board[pool].values("auroc") - row.values("auroc"), 80, 20)
        assert gain > 0
        assert p < 0.05
        expected = (
            f"costs {gain:.4f} of AUROC in cross-validation (95 % interval {low:+.4f} to {high:+.4f}), beyond noise."
        )
    saves = f"The lean model, {row.subset[0]}, saves 3 encoders"
    assert choice.answer(replace(given, run=run)).endswith(f"{saves}, and {expected}")
    timed = dict(zip(pool, (1.5, 2.0, 3.0, 4.0), strict=True))
    assert f"{saves} and 9.0 of 10.5 ms per image, and" in choice.answer(replace(given, run=run, timed=timed))
    same = run.record.model_copy(update={"selection": selection.model_copy(update={"lean": board[pool]})})
    assert "No subset of fewer encoders is within" in choice.answer(replace(given, run=replace(run, record=same)))
    assert "lean" not in choice.answer(given)  # it was chosen as such


# --- whole and safe


def test_every_section_is_there_and_the_contents_lead_to_it(page: Any) -> None:
    links = re.findall(r'<a href="#([a-z]+)">', page.html)
    assert links == ["answer", *SECTIONS]
    assert set(links) <= set(page.ids)


def test_ids_are_unique(page: Any) -> None:
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_fetched_from_anywhere(page: Any) -> None:
    own = page.html.replace(get_plotlyjs(), "")
    assert not re.search(r"""(src|href|url|action)\s*[=(]\s*["']?\s*(https?:|//)""", own)
    assert "@import" not in own
    assert all(link.startswith(("data:", "#")) for link in re.findall(r'(?:src|href)="([^"]*)"', own))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', own)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;")
    assert "unsafe-eval" not in policy[1]
    assert "http" not in policy[1]


def test_every_image_says_what_it_shows(page: Any) -> None:
    images = list(page.tree.iter("img"))
    assert len(images) >= 18 + 3  # six of each class, and mistakes
    assert all(image.get("alt") and image.get("src").startswith("data:image/jpeg") for image in images)


def test_every_table_has_a_caption_and_headings_with_a_scope(page: Any) -> None:
    for table in page.tree.iter("table"):
        assert "".join(table.find("caption").itertext()).strip()
        assert all(cell.get("scope") == "col" for cell in table.find("thead").iter("th"))
        assert all(row[0].get("scope") == "row" for row in table.find("tbody").findall("tr"))


def test_every_figure_has_its_data_and_its_words(page: Any, made: Any) -> None:
    for chart in made.report.charts:
        figure = page.find(f"figure-{chart.id}")
        assert next(figure.find("details").iter("table")).get("id") == chart.table.id
        assert chart.table.rows
        assert chart.summary
        plot = next(element for element in figure.iter("div") if element.get("data-figure") == chart.id)
        assert plot.get("aria-label")
        assert plot.get("role") in {"img", "application"}


def test_headings_leave_no_level_out(page: Any) -> None:
    levels = [int(element.tag[1]) for element in page.tree.iter() if re.fullmatch("h[1-6]", str(element.tag))]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_hostile_names_are_only_text(make_run: Callable[..., Any], parse: Callable[[str], Any]) -> None:
    made = make_run(classes=HOSTILE, ids=lambda number: f"<b onmouseover=alert({number})>.png", name=HOSTILE[0])
    page = parse(made.page)
    scripts = list(page.tree.iter("script"))
    assert len(scripts) == 3
    assert not any(element.get(name) for element in page.tree.iter() for name in ("onerror", "onmouseover"))
    assert not list(page.tree.iter("b"))
    assert [row["class"] for row in page.table("balance-data")] == list(HOSTILE)
    names = page.figures()["confusion"]["layout"]["yaxis"]["ticktext"]
    assert not any("<" in name for name in names)
    assert "7*7" in page.html


def test_the_scripts_are_those_that_the_policy_allows(page: Any) -> None:
    import base64
    import hashlib

    scripts = re.findall(r"<script>(.*?)</script>", page.html, flags=re.DOTALL)
    assert len(scripts) == 2
    for script in scripts:
        assert f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}" in page.html


def test_equal_runs_have_equal_pages(made: Any, page: Any) -> None:
    assert made.page == page.html


# --- every kind of run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "classes"),
    [
        (Task.BINARY, ("no", "yes")),
        (Task.MULTILABEL, ("one", "two", "three")),
        (Task.ORDINAL, ("0", "1", "2")),
        (Task.MULTICLASS, tuple(f"class {number}" for number in range(40))),
    ],
)
def test_every_task_has_a_report(
    make_run: Callable[..., Any], parse: Callable[[str], Any], task: Task, classes: tuple[str, ...]
) -> None:
    made = make_run(task=task, classes=classes, test=400)
    page = parse(made.page)
    assert {row["class"] for row in page.table("per-class")} == set(classes)
    assert set(page.figures()) >= {"roc", "precision-recall", "calibration"}
    if task is Task.MULTILABEL:
        rows = page.table("confusion-data")
        assert sum(rows[0][name] for name in list(rows[0])[1:]) == 400
    assert len(page.figures()["roc"]["data"]) <= 10 + 2  # ten classes, chance, and the band of the hardest


def test_an_untested_run_says_so(make_run: Callable[..., Any], parse: Callable[[str], Any]) -> None:
    made = make_run(tested=False)
    page = parse(made.page)
    assert "has not been tested yet" in page.words("answer")
    assert "biofuse evaluate" in page.words("test")
    assert "roc" not in page.figures()


def test_a_run_without_images_and_embeddings_says_why(
    make_run: Callable[..., Any], parse: Callable[[str], Any]
) -> None:
    made = make_run()
    nothing = ReportInput(run=made.given.run, absent=("The folder is gone.",))
    page = parse(render_html(build_report(nothing)))
    for section in ("contribution", "map"):
        assert "The folder is gone." in page.words(section)
    assert not list(page.tree.iter("img"))


@pytest.mark.slow
def test_the_map_is_drawn_by_umap_where_it_is_wanted(make_run: Callable[..., Any]) -> None:
    """It keeps more of the neighbours than principal components do."""
    made = make_run(encoders=2, development=60, test=30)
    section = maps.map_section(made.read(umap=True))
    assert [item.id for item in section.items] == ["map", "umap"]
    sources = {"development": made.given.development, "test": made.given.test}
    matrices = maps._standardised(sources, made.given.chosen)
    everything = np.concatenate(matrices)
    near = trustworthiness(everything, maps._umap(matrices), n_neighbors=10)
    assert near > trustworthiness(everything, maps._project(matrices)[0], n_neighbors=10)
    assert [item.id for item in maps.map_section(made.read()).items] == ["map"]


def test_one_encoder_alone_has_a_report(make_run: Callable[..., Any], parse: Callable[[str], Any]) -> None:
    page = parse(make_run(encoders=2).page)
    assert len(page.table("singles-data")) == 2


def test_predictions_of_another_run_are_refused(make_run: Callable[..., Any], reseal: Callable[..., None]) -> None:
    made = make_run()
    path = made.path / "predictions.parquet"
    pd.read_parquet(path).rename(columns={"p_mild": "p_other"}).to_parquet(path)
    reseal(made.path)
    with pytest.raises(ArtifactError, match="does not belong"):
        _ = made.report


def test_duplicates_conflicts_leaks_and_quarantine_are_reported(
    make_run: Callable[..., Any], parse: Callable[[str], Any], reseal: Callable[..., None]
) -> None:
    made = make_run()
    frame = made.given.run.samples
    labels = frame["label"].tolist()
    other = next(row for row in range(1, 60) if labels[row] != labels[0])
    frame.loc[other, "content"] = frame.loc[0, "content"]
    frame.to_parquet(made.path / "samples.parquet")
    metrics = json.loads((made.path / "metrics.json").read_text())
    metrics["leak"] = {"samples": 3, "per_class": {"mild": 3}, "groups": 1, "without": metrics["models"]}
    (made.path / "metrics.json").write_text(json.dumps(metrics))
    (made.path / "quarantine.csv").write_text("id,source,reason\nbad.png,/x/bad.png,truncated <file>\n")
    reseal(made.path)
    page = parse(made.page)
    words = page.words("data")
    assert "1 images carry different labels" in words
    assert "3 of 90 tested images are also development images, byte for byte (3 mild)" in words
    assert "1 groups are in both" in words
    assert page.table("quarantine") == [{"sample": "bad.png", "during": "fit", "reason": "truncated <file>"}]
    assert page.table("without-leak")[0]["AUROC"] == metrics["models"]["chosen"]["metrics"]["auroc"]


# --- size


@pytest.mark.slow
def test_a_large_run_stays_below_15_megabytes(large_page: Any) -> None:
    assert 5e6 < large_page.stat().st_size < 15e6
    text = large_page.read_text()
    assert text.count("<tr") > 511
