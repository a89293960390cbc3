import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

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
