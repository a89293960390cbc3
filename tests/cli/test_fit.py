"""`biofuse fit`, `evaluate` and `predict`, and what they print."""

import json
import re
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import biofuse
from biofuse.cli.fit import SHOWN, show_fit
from biofuse.data.check import check_samples
from biofuse.search.attribution import attribute
from biofuse.search.evidence import Evidence
from biofuse.search.leaderboard import Leaderboard, Row
from biofuse.search.rules import select

ENCODERS = "haralick,hog"
SMALL = ("-e", ENCODERS, "--folds", 2, "--repeats", 1)


def test_fit_writes_the_run_directory_of_the_design(fitted):
    tables = [f"{name}.{suffix}" for name in ("leaderboard", "screen") for suffix in ("parquet", "csv")]
    for name in ("run.json", *tables, "model/model.json", "quarantine.csv"):
        assert (fitted / name).is_file(), name
    record = json.loads((fitted / "run.json").read_text())
    assert record["state"] == "complete"
    assert [encoder["card"]["name"] for encoder in record["encoders"]] == ENCODERS.split(",")
    assert record["counts"]["test"]  # 25 % were set aside
    assert len(pd.read_parquet(fitted / "leaderboard.parquet")) == 3
    assert len(pd.read_parquet(fitted / "screen.parquet")) == 3
    attribution = record["evidence"]["attribution"]
    assert sum(attribution["shapley"]) == pytest.approx(attribution["full"] - attribution["empty"], abs=1e-9)


def test_fit_says_what_it_did_and_a_second_time_that_nothing_was_to_do(images, succeeds, tmp_path):
    first = succeeds("fit", images, *SMALL, "--out", tmp_path / "run")
    assert "Splits were made by a hash of ids" in first.err
    head = re.search(r"^Head: (logistic|ridge|lda) \(mean AUROC over the folds: logistic", first.err, re.MULTILINE)[1]
    assert "Search: " in first.err
    assert "Choosing again without each fold needs 3 folds; there are 2." in first.err
    assert "No fit had to be computed" not in first.err
    assert f"3 subsets of 3 screened scored with the {head} head; mean over 2 folds" in first.out
    assert "Share of each encoder in the AUROC of all together" in first.out
    assert "chosen" in first.out
    assert "haralick + hog" in first.out
    second = succeeds("fit", images, *SMALL, "--out", tmp_path / "run")
    assert "Search: " not in second.err
    assert "No embedding had to be computed" in second.err
    assert "No fit had to be computed" in second.err
    assert second.out == first.out
    log = (tmp_path / "run" / "run.log").read_text()
    assert all(line in log for line in first.err.splitlines() if line.startswith(("Splits", "Head:")))


def test_the_answer_comes_last_in_a_box_with_the_next_command(images, succeeds, tmp_path):
    run = tmp_path / "my run"
    for ran, words in (
        (succeeds("fit", images, *SMALL, "--out", run), ("Chosen", "AUROC", "folds", f"biofuse evaluate '{run}'")),
        (succeeds("evaluate", run), ("Chosen", "AUROC", "interval", f"biofuse predict '{run}'")),
    ):
        lines = ran.out.strip().splitlines()
        assert lines[-1].startswith("╰")
        box = "\n".join(lines[max(row for row, line in enumerate(lines) if line.startswith("╭")) :])
        assert all(word.replace(" ", "") in re.sub(r"[│\s]", "", box) for word in words)


def test_an_exhaustive_search_refits_the_head_that_was_named(images, succeeds, tmp_path):
    asked = ("--search", "exhaustive", "--head", "logistic")
    ran = succeeds("fit", images, *SMALL, *asked, "--out", tmp_path / "run")
    assert "Search: 3 subsets, 6 fits" in ran.err
    assert "Head: " not in ran.err
    assert "3 subsets scored with the logistic head; mean over 2 folds" in ran.out
    assert not (tmp_path / "run" / "screen.parquet").exists()


def test_every_option_of_the_search_reaches_it(images, succeeds, tmp_path):
    asked = {
        "head": "ridge", "predictor": "ensemble", "fusion": "pca", "search": "screen", "finalists": 3, "rule": "best",
        "metric": "accuracy", "scaling": "block", "class_weight": "balanced", "folds": 2, "repeats": 1,
        "max_encoders": 1, "max_latency": 1e6, "seed": 3, "select": "cv",
    }  # fmt: skip
    flags = [part for name, value in asked.items() for part in ("--" + name.replace("_", "-"), value)]
    ran = succeeds("fit", images, "-e", ENCODERS, *flags, "--commercial-only", "--out", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert {name: record["options"][name] for name in asked} == asked
    assert record["options"]["commercial_only"] is True
    assert len(record["selection"]["chosen"]["subset"]) == 1
    assert "Milliseconds per image: haralick " in ran.err
    assert "The average of the best 1 subsets" in ran.err


def test_nested_selection_is_said_in_words(images, succeeds, tmp_path):
    ran = succeeds("fit", images, *SMALL, "--head", "ridge", "--select", "nested", "--out", tmp_path / "run")
    assert "Nested cross-validation, the whole search repeated in each of 2 outer folds: mean AUROC " in ran.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--predictor", "ensemble", "--search", "all"), ["An ensemble averages several subsets", "--search screen"]),
        (("--select", "holdout", "--rule", "one_se"), ["one_se needs cross-validation", "--select cv"]),
        (("--max-latency", "1e-9"), ["max_latency of 1e-09 ms per image: the cheapest takes", "Loosen"]),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(flags, said, images, fails, tmp_path):
    ran = fails("fit", images, *SMALL, *flags, "--out", tmp_path / "run")
    assert all(words in ran.err for words in said)


def test_fit_then_evaluate_then_predict(fitted, images, succeeds, tmp_path):
    ran = succeeds("evaluate", fitted)
    assert "95 % intervals" in ran.out
    name = "(?:chosen|best single|all|greedy|lean)"
    shown = re.findall(rf"^ ?({name}(?: = {name})*) {{2,}}", ran.out, flags=re.MULTILINE)
    assert sorted(" = ".join(shown).split(" = ")) == ["all", "best single", "chosen", "greedy", "lean"]
    facts = json.loads((fitted / "metrics.json").read_text())
    record = json.loads((fitted / "run.json").read_text())
    assert facts["n"] == sum(record["counts"]["test"].values())
    assert json.loads(succeeds("evaluate", fitted, "--json").out)["models"] == facts["models"]
    predictions = pd.read_parquet(fitted / "predictions.parquet")
    assert len(predictions) == facts["n"]
    assert predictions["label"].tolist() == [name.split("/")[0] for name in predictions["id"]]

    for suffix in ("csv", "parquet"):
        out = tmp_path / f"p.{suffix}"
        succeeds("predict", fitted, images, "--out", out)
        frame = pd.read_csv(out) if suffix == "csv" else pd.read_parquet(out)
        assert list(frame.columns) == ["id", "prediction", "p_blue", "p_red", "novelty"]
        assert frame["id"].tolist() == [f"{name}/{i:03d}.png" for name in ("blue", "red") for i in range(12)]
        np.testing.assert_allclose(frame[["p_blue", "p_red"]].sum(axis=1), 1)
        likelier = np.where(frame["p_red"] > frame["p_blue"], "red", "blue")
        assert frame["prediction"].tolist() == likelier.tolist()
        same = frame.set_index("id").loc[predictions["id"], "p_red"]
        np.testing.assert_allclose(same, predictions["p_red"], atol=1e-6)
    lean = " + ".join(facts["models"]["lean"]["encoders"])
    said = succeeds("predict", fitted, images, "--variant", "lean", "--out", tmp_path / "lean.csv").err
    assert f"by the lean model ({lean})" in said
    wanted = biofuse.BioFuseModel.load(fitted, variant="lean").predict_proba(images)
    np.testing.assert_allclose(pd.read_csv(tmp_path / "lean.csv")[["p_blue", "p_red"]], wanted, atol=1e-6)


@pytest.mark.slow
def test_thresholds_are_chosen_measured_and_predicted_by(fitted, images, succeeds, fails, tmp_path):
    ran = succeeds("evaluate", fitted, "--sensitivity", "0.8", "--prevalence", "0.02")
    said = " ".join(ran.out.split())
    assert "chosen for 80% sensitivity" in said
    assert "at a prevalence of 0.02, positive predictive value" in said
    found = json.loads((fitted / "metrics.json").read_text())["operating"]
    assert (found["sensitivity"], found["prevalence"]) == (0.8, 0.02)
    (chosen,) = [point["threshold"] for point in found["points"] if point["rule"] == "sensitivity"]
    out = tmp_path / "p.csv"
    for flags, limit in ((("--sensitivity", "0.8"), chosen), (("--threshold", "0.3"), 0.3)):
        ran = succeeds("predict", fitted, images, *flags, "--out", out)
        assert f"red above {limit:.4g}" in ran.err
        frame = pd.read_csv(out)
        assert frame["prediction"].tolist() == np.where(frame["p_red"] > limit, "red", "blue").tolist()
    out.unlink()
    assert "--threshold youden" in fails("predict", fitted, images, "--threshold", "best", "--out", out).err
    assert "--prevalence" in fails("evaluate", fitted, "--prevalence", "2").err
    assert not out.exists()


@pytest.mark.slow
def test_predict_adds_sets_of_the_coverage_asked_for(fitted, images, succeeds, fails, tmp_path):
    out = tmp_path / "p.csv"
    for flags in ((), ("--class-conditional",)):
        succeeds("predict", fitted, images, "--coverage", "0.8", *flags, "--out", out)
        frame, model = pd.read_csv(out), biofuse.BioFuseModel.load(fitted)
        assert list(frame.columns)[:5] == ["id", "prediction", "set", "p_blue", "p_red"]
        inside = model.sets(frame[["p_blue", "p_red"]].to_numpy(), coverage=0.8, class_conditional=bool(flags))
        assert [said.split("|") for said in frame["set"]] == [
            [name for name, there in zip(("blue", "red"), row, strict=True) if there] for row in inside
        ]
        assert all(name in said for name, said in zip(frame["prediction"], frame["set"], strict=True))
    assert "every set holds blue, red" in succeeds("predict", fitted, images, "--coverage", "0.999", "--out", out).err
    out.unlink()
    assert "--coverage" in fails("predict", fitted, images, "--coverage", "1.2", "--out", out).err
    assert "--coverage" in fails("predict", fitted, images, "--class-conditional", "--out", out).err
    assert not out.exists()


def test_evaluate_on_another_split_and_on_other_data_tells_the_leak(fitted, images, succeeds):
    counts = json.loads((fitted / "run.json").read_text())["counts"]
    n_val, n_test = (sum(counts[split].values()) for split in ("val", "test"))
    assert f"{n_val} samples" in succeeds("evaluate", fitted, "--split", "val").out
    ran = succeeds("evaluate", fitted, images)
    assert "24 samples" in ran.out
    assert f"The same without the {24 - n_test} leaking samples ({n_test} left)" in ran.out
    assert f"{24 - n_test} of 24 test samples are also development data" in ran.out


@pytest.mark.slow
@pytest.mark.parametrize("width", [80, 100, 140])
def test_tables_keep_names_and_numbers_whole(width, images, succeeds, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # as on a terminal, where sentences are wrapped too
    out = tmp_path / "run"
    fit = succeeds(
        "fit", images, "-e", "haralick,hog,lbp,gabor,colour", "--folds", 2, "--repeats", 1, "--head", "ridge",
        "--out", out,
    ).out  # fmt: skip
    evaluation = succeeds("evaluate", out).out
    assert max(len(line) for line in (fit + evaluation).splitlines()) <= width
    words = set(re.findall(r"[a-z]{2,}", fit + evaluation))
    assert not words & {"hara", "haral", "harali", "haralic", "colou", "colo", "gab", "gabo"}
    assert "all 5" in fit
    assert "all 5" in evaluation
    board = pd.read_csv(out / "leaderboard.csv")
    assert f"{board['auroc_mean'].max():.4f}" in fit
    scores = json.loads((out / "metrics.json").read_text())["models"]["chosen"]
    interval = scores["intervals"]["auroc"]
    assert f"{interval['low']:.3f}–{interval['high']:.3f}" in evaluation


def test_names_and_numbers_of_a_table_are_whole_wherever_they_fit(monkeypatch, capsys):
    from biofuse.cli.console import show_table

    rows = [
        (1, "efficientnet_lite2 + colour + lbp + gabor + hog", 1788, "0.8272", "chosen, best, best single, greedy"),
        (87, "all 7", 3104, "0.7840", ""),
    ]
    for width in range(58, 130):
        monkeypatch.setenv("COLUMNS", str(width))
        show_table(
            "title", ("rank", "encoders", "columns", "balanced\naccuracy", "what it is"), rows, numbers=("columns",)
        )
        said = capsys.readouterr().out
        assert max(map(len, said.splitlines())) <= width
        for word in ("efficientnet_lite2", "single,", "1788", "0.8272", "balanced"):
            assert word in said, (width, said)


def test_piped_output_is_wide(images, succeeds, tmp_path):
    said = succeeds(
        "fit", images, "-e", "haralick,hog,lbp,gabor", "--folds", 2, "--repeats", 1, "--out", tmp_path / "r"
    )
    assert re.search(r"haralick \+ (hog|lbp|gabor) \+ \w+ ", said.out)


@pytest.mark.slow
def test_paper_preset(images, succeeds, tmp_path):
    ran = succeeds("fit", images, "-e", ENCODERS, "--preset", "paper", "--out", tmp_path / "run")
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert (options["head"], options["select"], options["rule"]) == ("xgboost", "holdout", "first_best")
    assert "accuracy" in ran.out


def test_another_run_in_the_way_is_kept_unless_overwritten(fitted, images, fails, succeeds):
    before = (fitted / "run.json").read_bytes()
    ran = fails("fit", images, *SMALL, "--seed", 1, "--out", fitted)
    assert "--overwrite" in ran.err
    assert (fitted / "run.json").read_bytes() == before
    succeeds("fit", images, *SMALL, "--seed", 1, "--overwrite", "--out", fitted)
    assert json.loads((fitted / "run.json").read_text())["options"]["seed"] == 1


def one_image(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    "pixels",
    [np.full((24, 24), 90, np.uint8), np.full((1, 1, 3), 90, np.uint8), np.full((1, 300, 3), 90, np.uint8)],
    ids=["grey", "1x1", "1x300"],
)
def test_predict_an_odd_image(pixels, fitted, succeeds, tmp_path):
    succeeds("predict", fitted, one_image(tmp_path / "new" / "odd.png", pixels), "--out", tmp_path / "p.csv")
    frame = pd.read_csv(tmp_path / "p.csv")
    assert frame["id"].tolist() == ["odd.png"]
    assert frame["prediction"][0] in {"blue", "red"}
    assert np.isfinite(frame[["p_blue", "p_red"]].to_numpy()).all()


def test_predict_several_files(fitted, images, succeeds, fails, tmp_path):
    files = [str(images / "red" / "003.png"), str(images / "blue" / "004.png")]
    succeeds("predict", fitted, *files, "--out", tmp_path / "p.csv")
    frame = pd.read_csv(tmp_path / "p.csv")
    assert (frame["id"].tolist(), frame["prediction"].tolist()) == (files, ["red", "blue"])
    ran = fails("predict", fitted, files[0], images / "red", "--out", tmp_path / "q.csv")
    assert f"{images / 'red'} is a folder" in ran.err
    assert not (tmp_path / "q.csv").exists()


def test_predict_nothing(fitted, fails, tmp_path):
    (tmp_path / "nothing").mkdir()
    assert "No images in" in fails("predict", fitted, tmp_path / "nothing", "--out", tmp_path / "p.csv").err
    assert not (tmp_path / "p.csv").exists()


def test_predict_a_corrupt_image(fitted, images, fails, succeeds, tmp_path):
    (images / "red" / "000.png").write_bytes((images / "red" / "000.png").read_bytes()[:60])
    ran = fails("predict", fitted, images / "red", "--out", tmp_path / "p.csv")
    assert "000.png" in ran.err
    assert not (tmp_path / "p.csv").exists()
    ran = succeeds("predict", fitted, images / "red", "--on-error", "quarantine", "--out", tmp_path / "p.csv")
    assert "000.png" in ran.err
    assert pd.read_csv(tmp_path / "p.csv")["id"].tolist() == [f"{i:03d}.png" for i in range(1, 12)]


def test_predict_when_every_image_is_corrupt(fitted, fails, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").write_bytes(b"")
    ran = fails("predict", fitted, tmp_path / "new", "--on-error", "quarantine", "--out", tmp_path / "p.csv")
    assert "a.png" in ran.err
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_run_that_is_none(command, images, fails, tmp_path):
    rest = () if command == "evaluate" else (images, "--out", tmp_path / "p.csv")
    assert "nowhere" in fails(command, tmp_path / "nowhere", *rest).err


def test_a_tampered_model_is_refused(fitted, images, fails, tmp_path):
    target = next(path for path in sorted((fitted / "model").rglob("*.safetensors")))
    data = bytearray(target.read_bytes())
    data[-1] ^= 1
    target.write_bytes(data)
    assert target.name in fails("predict", fitted, images, "--out", tmp_path / "p.csv").err


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
    assert notes[" + ".join(POOL[:4])] == "chosen, best, greedy, lean"
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
    assert notes[" + ".join(POOL[:4])] == "chosen as one subset, best, greedy, lean"
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


def test_what_a_fit_holds_has_a_short_representation(images):
    result = biofuse.BioFuse(ENCODERS, folds=3, repeats=1).fit(images, progress=False).result_
    samples = result.embeddings.samples
    assert repr(samples).startswith(f"<Samples images: {len(samples)} samples; binary; 2 classes (")
    assert repr(result.selection).startswith(f"<Selection {' + '.join(result.selection.chosen.subset)} by ")
    assert repr(result.evidence).startswith("<Evidence: AUROC ")
    assert repr(check_samples(samples)).startswith(f"<CheckReport images: {len(samples)} samples, binary; ")
    assert all(len(repr(each)) < 400 for each in (samples, result.selection, result.evidence))
