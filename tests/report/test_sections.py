"""Every number on the page is that of the run's files, or what a trusted library makes of them."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, t
from sklearn.calibration import calibration_curve
from sklearn.decomposition import PCA
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_curve,
    roc_auc_score,
    roc_curve,
)
from sklearn.preprocessing import StandardScaler

from biofuse.encoders.doctor import Skipped
from biofuse.report.sections import choice
from biofuse.report.sections.data import contamination
from biofuse.report.sections.results import banded, precision_recall_curves, roc_curves
from biofuse.runs.run import write_record
from biofuse.search.attribution import CrossModal, Gain, Line

TITLES = {
    "auroc": "AUROC", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "f1": "F1",
    "mcc": "Matthews correlation", "log_loss": "log-loss", "average_precision": "average precision",
}  # fmt: skip


@dataclass(frozen=True)
class Files:
    """What a run directory holds, read without BioFuse; and the embeddings that go with it."""

    made: Any
    run: dict[str, Any]
    metrics: dict[str, Any]
    board: pd.DataFrame
    screen: pd.DataFrame
    predictions: pd.DataFrame
    samples: pd.DataFrame

    @property
    def chosen(self) -> list[str]:
        return self.run["selection"]["chosen"]["subset"]

    @property
    def probabilities(self) -> np.ndarray:
        return self.predictions[[f"p_{name}" for name in self.run["classes"]]].to_numpy()


GAIN = Gain(
    metric="auroc", subset=("encoder_1",), against=("encoder_0",), gain=0.0125, low=-0.025, high=0.05, confidence=0.95,
    p_value=0.25, p_holm=0.75,
)  # fmt: skip
ONE: dict[str, Any] = {"modality": "pathology", "encoders": ("encoder_1",), "best": "encoder_1", "score": 0.875}
MODALITY = CrossModal(
    metric="auroc", baseline="encoder_0", baseline_modality="general", baseline_score=0.8125,
    modalities=(Line(kind="modality", name="pathology", alone=GAIN, added=None, **ONE),),
    encoders=(
        Line(kind="encoder", name="encoder_1", alone=GAIN, added=GAIN.model_copy(update={"gain": -0.0625}), **ONE),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def files(make_run: Callable[..., Any], reseal: Callable[..., None]) -> Files:
    """Return a run that has something to say in every table."""
    made = make_run(cards={"encoder_2": {"overlaps": {"chestmnist": "It is."}}})
    folder, record = made.path, made.given.record
    changes = {
        "evidence": record.evidence.model_copy(update={"modality": MODALITY}),
        "skipped": (Skipped(name="uni", reason="gated", remedy="Ask."),),
    }
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["leak"] |= {"samples": 3, "per_class": {"mild": 3}, "without": metrics["models"]}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "quarantine.csv").write_text("id,source,reason\nbad.png,/x/bad.png,truncated\n")
    write_record(folder, record.model_copy(update=changes))
    reseal(folder)
    return Files(
        made=made,
        run=json.loads((folder / "run.json").read_text()),
        metrics=metrics,
        board=pd.read_parquet(folder / "leaderboard.parquet").set_index("subset"),
        screen=pd.read_parquet(folder / "screen.parquet").set_index("subset"),
        predictions=pd.read_parquet(folder / "predictions.parquet"),
        samples=pd.read_parquet(folder / "samples.parquet"),
    )


@pytest.fixture(scope="module")
def page(files: Files, parse: Callable[[str], Any]) -> Any:
    return parse(files.made.page)


Rows = list[dict[str, Any]]
CHECKS: dict[str, Callable[[Rows, Files], None]] = {}


def checks(table: str) -> Callable[[Callable[[Rows, Files], None]], Callable[[Rows, Files], None]]:
    """Make a function the check of a table."""

    def keep(function: Callable[[Rows, Files], None]) -> Callable[[Rows, Files], None]:
        CHECKS[table] = function
        return function

    return keep


def test_every_table_of_the_page_has_a_check(page: Any) -> None:
    assert sorted(table.get("id") for table in page.tree.iter("table")) == sorted(CHECKS)


@checks("scores")
def _scores(rows: Rows, files: Files) -> None:
    models = files.metrics["models"]
    assert [row["model"] for row in rows] == [name.replace("_", " ") for name in models]
    for row, model in zip(rows, models.values(), strict=True):
        for name, interval in model["intervals"].items():
            assert row[TITLES[name]] == model["metrics"][name]
            assert (row[f"low {TITLES[name]}"], row[f"high {TITLES[name]}"]) == (interval["low"], interval["high"])
        compared = files.metrics["comparisons"].get(row["model"].replace(" ", "_"))
        if compared is not None:
            assert (row["chosen less this"], row["p"]) == (compared["difference"], compared["p_holm"])
            assert (row["low chosen less this"], row["high chosen less this"]) == (compared["low"], compared["high"])


@checks("scores-other")
def _other_scores(rows: Rows, files: Files) -> None:
    for row, model in zip(rows, files.metrics["models"].values(), strict=True):
        others = {name: value for name, value in model["metrics"].items() if name not in model["intervals"]}
        assert {name: row[TITLES[name]] for name in others} == others


@checks("answer-data")
def _answer(rows: Rows, files: Files) -> None:
    models = list(files.metrics["models"].values())
    assert [row["encoders"] for row in rows] == [" + ".join(model["encoders"]) for model in models]
    for row, model in zip(rows, models, strict=True):
        interval = model["intervals"]["auroc"]
        assert (row["AUROC"], row["low AUROC"], row["high AUROC"]) == (
            model["metrics"]["auroc"], interval["low"], interval["high"],
        )  # fmt: skip


@checks("without-leak")
def _without_leak(rows: Rows, files: Files) -> None:
    for row, model in zip(rows, files.metrics["leak"]["without"].values(), strict=True):
        assert [row[TITLES[name]] for name in model["metrics"]] == list(model["metrics"].values())


@checks("per-class")
def _per_class(rows: Rows, files: Files) -> None:
    own = files.metrics["models"]["chosen"]["per_class"]
    assert [row["class"] for row in rows] == list(own)
    for row in rows:
        facts = own[row["class"]]
        assert row["samples"] == facts["n"]
        assert [row[TITLES[name]] for name in facts if name != "n"] == [v for k, v in facts.items() if k != "n"]


@checks("subsets")
def _subsets(rows: Rows, files: Files) -> None:
    shown = {row["encoders"].replace(" + ", "+"): row for row in rows}
    assert set(shown) == set(files.board.index) | set(files.screen.index)
    for subset, row in shown.items():
        assert row["screened AUROC (ridge)"] == files.screen.loc[subset, "auroc_mean"]
        assert (row["size"], row["columns"]) == tuple(files.screen.loc[subset, ["n_encoders", "n_dims"]])
        for name in ("auroc", "accuracy", "balanced_accuracy"):
            if subset in files.board.index:
                assert row[TITLES[name]] == pytest.approx(files.board.loc[subset, f"{name}_mean"], abs=1e-12)
                assert row["± over folds"] == pytest.approx(files.board.loc[subset, "auroc_std"], abs=1e-12)
            else:
                assert row[TITLES[name]] == ""
    best = [row["AUROC"] for row in rows if row["AUROC"] != ""]
    assert best == sorted(best, reverse=True)
    for name, words in (("chosen", "chosen"), ("best_single", "best single"), ("all", "all"), ("greedy", "greedy")):
        assert words in shown["+".join(files.run["selection"][name]["subset"])]["note"].split(", ")


@checks("singles-data")
def _singles(rows: Rows, files: Files) -> None:
    n = 10  # folds of the fixture, in which 20 of 100 rows are held out
    assert [row["encoder"] for row in rows] == sorted(
        (name for name in files.board.index if "+" not in name), key=lambda name: -files.board.loc[name, "auroc_mean"]
    )
    for row in rows:
        folds = files.board.loc[row["encoder"], [f"auroc_fold_{number}" for number in range(1, n + 1)]].to_numpy(float)
        assert row["AUROC"] == pytest.approx(folds.mean(), abs=1e-12)
        # Nadeau and Bengio's corrected standard error (2003).
        sizes = files.made.board
        ratio = np.mean(np.array(sizes.n_test) / np.array(sizes.n_train))
        reach = t.ppf(0.975, n - 1) * np.sqrt((1 / n + ratio) * folds.var(ddof=1))
        assert row["low"] == pytest.approx(max(folds.mean() - reach, 0), abs=1e-9)
        assert row["high"] == pytest.approx(min(folds.mean() + reach, 1), abs=1e-9)


@checks("contribution-data")
def _contribution(rows: Rows, files: Files) -> None:
    facts = files.run["evidence"]["attribution"]
    names = {"Shapley value": "shapley", "low": "low", "high": "high", "marginal gain": "marginal",
             "added last": "added_last", "alone": "alone"}  # fmt: skip
    assert {row["encoder"] for row in rows} == set(facts["encoders"])
    for row in rows:
        place = facts["encoders"].index(row["encoder"])
        assert [row[name] for name in names] == [facts[key][place] for key in names.values()]


@checks("interaction-data")
def _interaction(rows: Rows, files: Files) -> None:
    facts = files.run["evidence"]["attribution"]
    assert len(rows) == len(facts["encoders"]) * (len(facts["encoders"]) - 1) / 2
    for row in rows:
        i, j = (facts["encoders"].index(row[name]) for name in ("first", "second"))
        assert row["interaction"] == facts["interaction"][i][j]
        assert (row["low"], row["high"]) == (facts["interaction_low"][i][j], facts["interaction_high"][i][j])


@checks("modality")
def _modality(rows: Rows, files: Files) -> None:
    facts = files.run["evidence"]["modality"]
    assert [row["encoder"] for row in rows] == ["all pathology encoders", "encoder_1"]
    for row, line in zip(rows, [*facts["modalities"], *facts["encoders"]], strict=True):
        assert row["best alone"] == line["score"]
        for how, part in (("alone", line["alone"]), ("joined", line["added"])):
            gain = f"{how}: gain"
            found = [row.get(name, "") for name in (gain, f"low {gain}", f"high {gain}", f"{how}: p")]
            assert found == (["", "", "", ""] if part is None else [part[k] for k in ("gain", "low", "high", "p_holm")])


@checks("cost-data")
def _cost(rows: Rows, files: Files) -> None:
    everything = list(zip(files.screen["n_dims"], files.screen["auroc_mean"], strict=True))
    front = [(row["columns"], row["AUROC"]) for row in rows]
    for row in rows:
        own = files.screen.loc[row["encoders"].replace(" + ", "+")]
        assert (row["columns"], row["AUROC"]) == (own["n_dims"], own["auroc_mean"])
    undominated = {
        (cost, value) for cost, value in everything
        if not any((c <= cost and v > value) or (c < cost and v >= value) for c, v in everything)
    }  # fmt: skip
    assert set(front) == undominated


@checks("similarity-data")
def _similarity(rows: Rows, files: Files) -> None:
    blocks = files.made.given.development.blocks

    def cka(x: np.ndarray, y: np.ndarray) -> float:
        x, y = (each.astype(float) - each.astype(float).mean(axis=0) for each in (x, y))
        norm = np.linalg.norm
        return norm(y.T @ x) ** 2 / (norm(x.T @ x) * norm(y.T @ y))

    assert len(rows) == 6
    for row in rows:
        assert row["linear CKA"] == pytest.approx(cka(blocks[row["first"]], blocks[row["second"]]), abs=1e-9)


@checks("balance-data")
def _balance(rows: Rows, files: Files) -> None:
    for row in rows:
        counts = Counter(files.samples.loc[files.samples["label"] == row["class"], "split"])
        assert {split: row[split] for split in ("train", "val", "test")} == dict(counts)
        assert row["all"] == counts.total()


@checks("roc-data")
def _roc(rows: Rows, files: Files) -> None:
    assert [row["class"] for row in rows] == files.run["classes"]
    for column, row in enumerate(rows):
        target, values = files.predictions["label"] == row["class"], files.probabilities[:, column]
        assert row["AUROC"] == pytest.approx(roc_auc_score(target, values), abs=1e-12)
        false, true, _ = roc_curve(target, values)
        for share in (0.01, 0.05, 0.1, 0.2):
            assert row[f"true positives at {share:.0%} false"] == pytest.approx(true[false <= share].max())


@checks("precision-recall-data")
def _precision_recall(rows: Rows, files: Files) -> None:
    for column, row in enumerate(rows):
        target, values = files.predictions["label"] == row["class"], files.probabilities[:, column]
        assert row["average precision"] == pytest.approx(average_precision_score(target, values), abs=1e-12)
        precision, recall, _ = precision_recall_curve(target, values)
        for share in (0.5, 0.8, 0.9, 0.95):
            assert row[f"precision at {share:.0%} recall"] == pytest.approx(precision[recall >= share].max())


@checks("confusion-data")
def _confusion(rows: Rows, files: Files) -> None:
    classes = files.run["classes"]
    own = confusion_matrix(files.predictions["label"], files.predictions["prediction"], labels=classes)
    assert [[row[name] for name in classes] for row in rows] == own.tolist()


@checks("calibration-data")
def _calibration(rows: Rows, files: Files) -> None:
    right = files.predictions["label"] == files.predictions["prediction"]
    share, mean = calibration_curve(right, files.probabilities.max(axis=1), n_bins=10)
    assert [row["share right"] for row in rows] == pytest.approx(share.tolist())
    assert [row["mean probability"] for row in rows] == pytest.approx(mean.tolist())
    assert sum(row["predictions"] for row in rows) == len(files.predictions)


@checks("calibration-scores")
def _calibration_scores(rows: Rows, files: Files) -> None:
    tested = files.metrics["calibration"]
    for row, key in zip(rows, ("loss", "brier", "ece"), strict=True):
        for stage in ("before", "after"):
            assert [row[stage], row[f"low {stage}"], row[f"high {stage}"]] == list(tested[stage][key].values())


@checks("sets")
def _sets(rows: Rows, files: Files) -> None:
    assert [row["asked"] for row in rows] == [0.9, 0.5]
    for row, tested in zip(rows, files.metrics["sets"], strict=True):
        assert [row["held"], row["low held"], row["high held"]] == list(tested["coverage"].values())
        assert (row["mean size"], row["one class"]) == (tested["size"]["estimate"], tested["single"])
        assert (row["least held"], row["of it"]) == (tested["worst"], tested["worst_coverage"])


@checks("operating-points")
def _operating(rows: Rows, files: Files) -> None:
    points = files.metrics["operating"]["points"]
    assert [row["class"] for row in rows] == files.run["classes"] == [point["of"] for point in points]
    for row, point in zip(rows, points, strict=True):
        assert (row["threshold"], row["net benefit"]) == ("", "")  # the most probable class is taken
        for name, key in (("sensitivity", "sensitivity"), ("specificity", "specificity"),
                          ("positive predictive value", "ppv"), ("negative predictive value", "npv")):  # fmt: skip
            assert [row[name], row[f"low {name}"], row[f"high {name}"]] == list(point[key].values())


@checks("decision-data")
def _decision(rows: Rows, files: Files) -> None:
    assert len(rows) == 2 * len(files.run["classes"])
    for place, row in enumerate(rows):
        target = (files.predictions["label"] == row["class"]).to_numpy()
        p = files.probabilities[:, place // 2] if row["who is called positive"] != "all" else np.ones(len(target))
        for at in (0.05, 0.1, 0.2, 0.3, 0.5):
            worth = (target & (p > at)).mean() - (~target & (p > at)).mean() * at / (1 - at)
            assert row[f"at {at:g}"] == pytest.approx(worth, abs=1e-12)


@checks("abstention-data")
def _abstention(rows: Rows, files: Files) -> None:
    right = (files.predictions["label"] == files.predictions["prediction"]).to_numpy()
    order = np.argsort(-files.probabilities.max(axis=1))
    for row, share in zip(rows, (1, 0.9, 0.8, 0.7, 0.5), strict=True):
        n = round(share * len(right))
        interval = binomtest(int(right[order[:n]].sum()), n).proportion_ci(method="wilson")
        assert (row["share answered"], row["share right"]) == pytest.approx((share, right[order[:n]].mean()))
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)


@checks("groups-data")
def _groups(rows: Rows, files: Files) -> None:
    frame = files.predictions.merge(files.samples[["id", "group"]], on="id")
    frame["right"] = frame["label"] == frame["prediction"]
    assert {row["group"] for row in rows} == set(frame["group"])
    for row in rows:
        own = frame[frame["group"] == row["group"]]
        interval = binomtest(int(own["right"].sum()), len(own)).proportion_ci(method="wilson")
        assert (row["samples"], row["accuracy"]) == (len(own), own["right"].mean())
        assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=1e-12)


@checks("map-data")
def _map(rows: Rows, files: Files) -> None:
    parts = files.made.given.development, files.made.given.test
    stacked = [np.hstack([part.blocks[name] for name in files.chosen]).astype(float) for part in parts]
    scaler = StandardScaler().fit(stacked[0])
    pca = PCA(2, svd_solver="full").fit(scaler.transform(stacked[0]))
    assert len(rows) == 2 * len(files.run["classes"])
    for row in rows:
        name, _, development = row["points"].partition(", ")
        part = 0 if development else 1
        own = pca.transform(scaler.transform(stacked[part]))[np.array(parts[part].labels) == name]
        assert row["number"] == len(own)
        for axis in (1, 2):  # a component may point either way
            assert abs(row[f"mean {axis}"]) == pytest.approx(abs(own[:, axis - 1].mean()), abs=1e-3)
            assert row[f"± {axis}"] == pytest.approx(own[:, axis - 1].std(ddof=1), abs=1e-3)


@checks("mistake-list")
def _mistakes(rows: Rows, files: Files) -> None:
    frame = files.predictions.assign(sure=files.probabilities.max(axis=1))
    wrong = frame[frame["label"] != frame["prediction"]].nlargest(12, "sure")
    assert [(row["sample"], row["probability"]) for row in rows] == list(zip(wrong["id"], wrong["sure"], strict=True))
    assert rows[0]["what is wrong"] == f"labelled {wrong.iloc[0]['label']}, predicted {wrong.iloc[0]['prediction']}"


@checks("encoders")
def _encoders(rows: Rows, files: Files) -> None:
    for row, encoder in zip(rows, files.run["encoders"], strict=True):
        assert (row["encoder"], row["licence"]) == (encoder["card"]["name"], encoder["card"]["licence"])
        assert encoder["fingerprint"].rpartition("-")[2][:12] == row["fingerprint"]
        assert (row["weights"], row["SHA-256"]) == (f"owner/name @ {'a' * 12}", "b" * 12)
        assert (row["chosen"] == "chosen") == (row["encoder"] in files.chosen)


@checks("overlaps")
def _overlaps(rows: Rows, files: Files) -> None:
    assert rows == [{"encoder": "encoder_2", "data set": "chestmnist", "why": "It is."}]
    assert contamination(files.made.given) == []  # the data have another name


@checks("run")
def _run(rows: Rows, files: Files) -> None:
    said = {row["what"]: row["value"] for row in rows}
    assert said["key of data, folds, encoders and options"] == files.run["key"]
    assert said["started"] == files.run["started"]
    assert said["seed"] == str(files.run["options"]["seed"])
    assert said["seconds, search"] == "1.0"


@checks("versions")
def _versions(rows: Rows, files: Files) -> None:
    said = {row["what"]: row["version"] for row in rows}
    for name, version in files.run["environment"]["libraries"].items():
        assert said[name] == (version or "not installed")


@checks("skipped")
def _skipped(rows: Rows, files: Files) -> None:
    assert rows == [{"encoder": "uni", "reason": "gated", "remedy": "Ask."}]


@checks("quarantine")
def _quarantine(rows: Rows, files: Files) -> None:
    assert rows == [{"sample": "bad.png", "during": "fit", "reason": "truncated"}]


@pytest.mark.parametrize("table", CHECKS)
def test_the_table_holds_what_the_files_say(table: str, page: Any, files: Files) -> None:
    rows = page.table(table)
    assert rows
    CHECKS[table](rows, files)


def test_what_is_read_is_the_number_rounded(page: Any) -> None:
    for cell in page.tree.iter("td"):
        for number in cell.iter("data"):
            shown, value = "".join(number.itertext()).strip().replace(",", ""), float(number.get("value"))
            decimals = len(shown.partition(".")[2])
            assert float(shown) == pytest.approx(value, abs=0.5 * 10**-decimals * (1 + 1e-9))


def test_the_numbers_at_the_top_are_those_of_the_files(page: Any, files: Files) -> None:
    facts = {
        "".join(fact.find("dt").itertext()): float(fact.find("dd").find("strong").find("data").get("value"))
        for fact in page.find("answer").find("dl").findall("div")[1:]
    }
    own = files.metrics["models"]["chosen"]["metrics"]
    assert facts["Test AUROC"] == own["auroc"]
    assert facts["Test accuracy"] == own["accuracy"]
    assert facts["Cross-validated AUROC"] == files.board.loc["+".join(files.chosen), "auroc_mean"]
    assert facts["Subsets scored"] == len(files.screen)


def test_figures_show_what_their_tables_hold(page: Any, files: Files) -> None:
    figures = page.figures()
    singles = {row["encoder"]: row["AUROC"] for row in page.table("singles-data")}
    assert figures["singles"]["data"][0]["x"] == pytest.approx(list(singles.values()), rel=1e-5)
    shapley = [row["Shapley value"] for row in page.table("contribution-data")]
    assert figures["contribution"]["data"][0]["x"] == pytest.approx(shapley, rel=1e-5)
    pairs = {frozenset((row["first"], row["second"])): row["linear CKA"] for row in page.table("similarity-data")}
    heat = figures["similarity"]["data"][0]
    names = figures["similarity"]["layout"]["yaxis"]["ticktext"]
    for i, row in enumerate(heat["z"]):
        for j, value in enumerate(row):
            own = 1.0 if i == j else pairs[frozenset((names[i], names[j]))]
            assert value == pytest.approx(own, rel=1e-5)
    counts = [[row[name] for name in files.run["classes"]] for row in page.table("confusion-data")]
    shares = np.array(counts) / np.sum(counts, axis=1, keepdims=True)
    np.testing.assert_allclose(figures["confusion"]["data"][0]["z"], shares, rtol=1e-5)
    clouds = [trace for trace in figures["cost"]["data"] if "text" in trace]
    points = {name: y for trace in clouds for name, y in zip(trace["text"], trace["y"], strict=True)}
    assert {name.replace(" + ", "+") for name in points} == set(files.screen.index)
    for name, y in points.items():
        assert y == pytest.approx(files.screen.loc[name.replace(" + ", "+"), "auroc_mean"], rel=1e-5)


def test_every_score_says_what_it_is_of(files: Files) -> None:
    """Whether by the screen or a head, on which samples, and of which encoders."""
    report = files.made.report
    items = [item for section in report.sections for item in (*section.items, *section.more)] + [report.picture]
    plain = {"balance", "map", "encoders", "overlaps", "run", "versions", "skipped", "quarantine"}
    scored = [item for item in items if item.kind != "gallery" and item.id not in plain]
    assert len(scored) > 15
    for item in scored:
        assert any(word in item.basis for word in ("head", "screen", "embeddings")), item.id
        assert any(word in item.basis for word in ("test samples", "cross-validation", "development")), item.id
    assert {fact.name: fact.basis for fact in report.facts if fact.value is not None and fact.value < 1} == {
        "Test AUROC": "test samples, mean of heads, all 4 encoders",
        "Test accuracy": "test samples, mean of heads, all 4 encoders",
        "Cross-validated AUROC": "cross-validation, ridge head, all 4 encoders",
    }


def test_bands_are_the_intervals_of_the_thresholds(files: Files) -> None:
    """What the band of a ROC curve says at a threshold is Wilson's interval of the sensitivity there."""
    predicted = replace(files.made.read().predicted, groups=None)
    name = predicted.classes[0]
    target, values = predicted.targets[:, 0], predicted.probabilities[:, 0]
    curve = banded(roc_curves(predicted)[name], predicted, recalled=True)
    _, _, thresholds = roc_curve(target, values)
    for place in range(0, len(thresholds), 7):
        found = binomtest(int((target & (values >= thresholds[place])).sum()), int(target.sum()))
        own = found.proportion_ci(method="wilson")
        assert (curve.low[place], curve.high[place]) == pytest.approx((own.low, own.high), abs=1e-12)
    right = banded(precision_recall_curves(predicted)[name], predicted, recalled=False)
    _, _, thresholds = precision_recall_curve(target, values)
    for place in range(0, len(thresholds), 7):
        called = values >= thresholds[place]
        own = binomtest(int(target[called].sum()), int(called.sum())).proportion_ci(method="wilson")
        assert (right.low[place], right.high[place]) == pytest.approx((own.low, own.high), abs=1e-12)
    assert (curve.high - curve.low).min() > 0


def test_which_encoders_go_together_is_drawn_where_it_can_be_told(make_run: Callable[..., Any]) -> None:
    given = make_run().given
    facts = given.record.evidence.attribution
    wide = {name: tuple(tuple(sign * 9.0 for _ in row) for row in facts.interaction) for name, sign in
            (("interaction_low", -1), ("interaction_high", 1))}  # fmt: skip
    drawn = {}
    for told, changes in ((True, {"interaction_low": facts.interaction}), (False, wide)):
        evidence = given.record.evidence.model_copy(update={"attribution": facts.model_copy(update=changes)})
        run = replace(given.run, record=given.record.model_copy(update={"evidence": evidence}))
        section = choice.contribution_section(replace(given, run=run))
        drawn[told] = [item.id for item in section.items]
        assert (choice.ADD_UP in section.paragraphs) is not told
    assert "interaction" in drawn[True]
    assert "interaction" not in drawn[False]


def test_curves_on_the_page_are_scikit_learns(page: Any, files: Files) -> None:
    made = files.made
    roc, precision = (page.figures()[name]["data"] for name in ("roc", "precision-recall"))
    for column, name in enumerate(made.classes):
        target, values = made.labels == column, made.probabilities[:, column]
        x, y, _ = roc_curve(target, values)
        assert roc[column]["name"].startswith(f"{name} (")
        np.testing.assert_allclose([roc[column]["x"], roc[column]["y"]], [x, y], rtol=1e-5)
        y, x, _ = precision_recall_curve(target, values)
        np.testing.assert_allclose([precision[column]["x"], precision[column]["y"]], [x, y], rtol=1e-5)


# --- provenance


@pytest.mark.parametrize("name", ["chestmnist", "ChestMNIST 224", "chestmnist_64"])
def test_an_encoder_that_has_seen_the_data_is_warned_of(make_run: Callable[..., Any], name: str) -> None:
    cards = {"encoder_1": {"overlaps": {"chestmnist": "NIH ChestX-ray14 is in its training data."}}}
    made = make_run(name=name, cards=cards)
    (warning,) = contamination(made.given)
    assert warning.startswith("encoder_1 (")
    assert "NIH ChestX-ray14" in warning
    assert warning in next(section for section in made.report.sections if section.id == "provenance").warnings
