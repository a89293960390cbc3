"""The command as a whole: help, versions, failures, interrupts."""

import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import typer

from biofuse.cli.app import app
from biofuse.core.errors import UnknownEncoderError


def commands():
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            yield from ((name, inner) for inner in command.commands)
        else:
            yield (name,)


def test_every_command_of_the_design_is_there():
    assert set(commands()) == {
        ("check",), ("embed",), ("fit",), ("evaluate",), ("predict",), ("demo",), ("report",), ("compare",), ("card",),
        ("curve",), ("export",), ("serve",), ("similar",), ("runs", "ls"),
        ("encoders", "list"), ("encoders", "show"), ("encoders", "doctor"), ("encoders", "verify"),
        ("store", "ls"), ("store", "verify"), ("store", "gc"), ("store", "export"), ("store", "import"),
        ("benchmark", "data"), ("benchmark", "medmnist"), ("benchmark", "imagenet"),
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", [("benchmark",), *commands()], ids=" ".join)
def test_help_of_every_command_shows_an_example_of_that_command(command, succeeds):
    said = succeeds(*command, "--help").out
    assert "Examples" in said
    assert f"biofuse {' '.join(command)}" in said.split("Examples", 1)[1]
    assert "-h" in succeeds(*command, "-h").out


def test_help_without_a_command_shows_examples(succeeds):
    said = succeeds("--help").out
    assert "biofuse fit images/ --out run" in said


def test_help_lists_the_choices_and_the_defaults_that_a_preset_may_change(succeeds, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = re.sub(r"[\s│]+", " ", succeeds("fit", "--help").out)
    for choices in (
        "error|quarantine", "screen|exhaustive|greedy|beam|all", "mean|fused|ensemble|average|stacking",
        "cv|holdout|nested", "inclusive|one_se|best|first_best", "auroc|accuracy",
    ):  # fmt: skip
        assert choices in said
    for default in ("auto", "mean", "concatenation", "screen", "16", "cv", "inclusive", "auroc", "none", "5", "2"):
        assert f"[default: {default}]" in said


def test_help_names_every_head_and_fusion_there_is(succeeds, monkeypatch):
    from biofuse.fusion.base import fusion_registry
    from biofuse.heads.base import head_registry

    monkeypatch.setenv("COLUMNS", "200")
    said = succeeds("fit", "--help").out
    for name in (*head_registry().names(), *fusion_registry().names()):
        assert name in said


def test_version(succeeds):
    assert succeeds("--version").out.startswith("biofuse ")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["embed", "images"], "--out"),
        (["embed"], "data"),
        (["embed", "images", "--out", "e.csv", "--on-error", "ignore"], "quarantine"),
        (["embed", "images", "--out", "e.csv", "--task", "regression"], "multilabel"),
        (["embed", "images", "--out", "e.csv", "--model", "run", "--encoders", "hog"], "not both"),
        (["embed", "images", "--out", "e.csv", "--no-labels", "--label", "x"], "--no-labels"),
        (["fit", "images", "--out", "r", "--preset", "papr"], "paper"),
        (["fit", "images", "--out", "r", "--head", "forest"], "'auto'"),
        (["fit", "images", "--out", "r", "--head", "xgbost"], "Did you mean 'xgboost'?"),
        (["fit", "images", "--out", "r", "--fusion", "sum"], "'pca'"),
        (["fit", "images", "--out", "r", "--predictor", "vote"], "stacking"),
        (["fit", "images", "--out", "r", "--finalists", "0"], "--finalists"),
        (["fit", "images", "--out", "r", "--max-encoders", "0"], "--max-encoders"),
        (["fit", "images", "--out", "r", "--max-latency", "fast"], "--max-latency"),
        (["fit", "images", "--out", "r", "--search", "random"], "exhaustive"),
        (["fit", "images", "--out", "r", "--select", "loo"], "nested"),
        (["fit", "images", "--out", "r", "--rule", "worst"], "one_se"),
        (["fit", "images", "--out", "r", "--metric", "f1"], "auroc"),
        (["fit", "images", "--out", "r", "--scaling", "row"], "block"),
        (["fit", "images", "--out", "r", "--class-weight", "even"], "balanced"),
        (["fit", "images", "--out", "r", "--folds", "1"], "--folds"),
        (["fit", "images", "--out", "r", "--nonsense"], "--nonsense"),
        (["evaluate", "run", "--split", "all"], "'val'"),
        (["predict", "run", "images", "--on-error", "ignore", "--out", "p.csv"], "quarantine"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_names_what_is_wrong(arguments, named, biofuse, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    ran = biofuse(*arguments)
    assert ran.code == 2, ran.everything
    assert named in ran.err
    assert "Traceback" not in ran.everything


def test_a_failure_is_one_message_with_a_remedy(fails, images, tmp_path):
    ran = fails("embed", images, "-e", "hogg", "--out", tmp_path / "e.csv")
    assert ran.out == ""
    assert len(ran.err.strip().splitlines()) == 2


def test_debug_shows_the_traceback(biofuse, images, tmp_path):
    with pytest.raises(UnknownEncoderError):
        biofuse("--debug", "embed", images, "-e", "hogg", "--out", tmp_path / "e.csv")


@pytest.mark.slow
@pytest.mark.parametrize(("flags", "traceback"), [((), False), (("--debug",), True)])
def test_exit_code_and_traceback_of_the_real_process(flags, traceback, tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "biofuse", *flags, "encoders", "show", "no_such_encoder"],
        capture_output=True, text=True, check=False, env=os.environ | {"BIOFUSE_HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 1
    assert "no_such_encoder" in ran.stderr
    assert ("Traceback" in ran.stderr) is traceback


def test_stopping_a_command_is_one_line_and_130(biofuse, monkeypatch, images, tmp_path):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("biofuse.extract.engine.extract", stop)
    ran = biofuse("embed", images, "--out", tmp_path / "e.csv")
    assert ran.code == 130
    assert ran.out == ""
    assert ran.err.strip().splitlines()[-1] == STOPPED


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (("evalu",), "evaluate"),
        (("fit", "--sea"), "--search"),
        (("fit", "im", "--metric", "au"), "auroc"),
        (("fit", "im", "--head", "xg"), "xgboost"),
        (("fit", "im", "--encoders", "hog,bio"), "hog,biomedclip"),
        (("encoders", "show", "uni"), "uni2_h"),
    ],
    ids=str,
)
def test_the_shell_completes_commands_options_and_names(typed, offered, biofuse, monkeypatch):
    monkeypatch.setenv("_BIOFUSE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(("biofuse", *typed)))
    monkeypatch.setenv("COMP_CWORD", str(len(typed)))
    assert offered in biofuse().out.split()


REFIT = ("--search", "exhaustive", "--head", "logistic")

SOME = ("-e", "haralick,hog,lbp,gabor", "--folds", 5, "--repeats", 3, *REFIT)
"""15 subsets, a second or two in one process: long enough to be stopped in the middle."""

MANY = ("-e", "haralick,hog,lbp,gabor,colour", "--folds", 5, "--repeats", 40, *REFIT)
"""Enough work that workers are started."""

PATIENCE = 60.0

STOPPED = "Stopped. What is finished is kept: give the same command again to go on from here."


def start(*arguments):
    """Start a command in a process group of its own, as a shell does, so that a signal reaches its workers too."""
    return subprocess.Popen(
        [sys.executable, "-m", "biofuse", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_scores(process, path, *, lines):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            return
        time.sleep(0.01)
    pytest.fail(f"no scores before the end: {process.communicate()}")


def scores(run):
    return pd.read_parquet(run / "leaderboard.parquet").drop(columns="seconds")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals to process groups are POSIX")
def test_a_stopped_fit_says_so_and_the_next_start_goes_on(default_interrupts, images, succeeds, tmp_path):
    reference, run = tmp_path / "reference", tmp_path / "run"
    succeeds("fit", images, *SOME, "--out", reference)
    process = start("fit", images, *SOME, "--out", run)
    wait_for_scores(process, run / "scores-logistic.jsonl", lines=3)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1] == STOPPED
    assert said.count("Stopped.") == 1

    kept = (run / "scores-logistic.jsonl").read_bytes()
    again = succeeds("fit", images, *SOME, "--out", run)
    left = int(again.err.split("Search: ")[1].split(" subsets")[0])
    assert 0 < left < 15  # what had been scored is not scored again
    assert (run / "scores-logistic.jsonl").read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    pd.testing.assert_frame_equal(scores(run), scores(reference))


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals to process groups are POSIX")
def test_a_stop_while_workers_start_prints_no_traceback(default_interrupts, images, tmp_path):
    process = start("fit", images, *MANY, "--out", tmp_path / "run")
    for line in process.stderr:
        if line.startswith("Search:"):
            break
    time.sleep(0.3)  # workers are importing now
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert said.strip().splitlines() == [STOPPED]
