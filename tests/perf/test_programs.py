"""Every program of perf/ runs, at a tiny size, and prints the one JSON object that it promises."""

import csv
import importlib.util
import itertools
import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from biofuse import BioFuse, ExtractOptions
from biofuse.encoders.registry import ENCODERS

PERF = Path(__file__).resolve().parents[2] / "perf"
PROGRAMS = {path.name for path in PERF.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")} - {"table.py"}

CASES = ("overlap", "original", "decode-once", "draft", "write", "memory-of-one")
SMALL_JPEGS = ("--n", "4", "--side", "48", "--work", "{work}")
BLOCKS = ("--n", "40", "--seed", "1")

RUNS: dict[str, tuple[str, tuple[str, ...], set[str]]] = {
    "against_xgboost": (
        "against_xgboost.py",
        (*BLOCKS, "--sizes", "1", "--rows", "20"),
        {"n", "fits_measured", "xgboost_hours_extrapolated", "screen", "times_faster", "load_before"},
    ),
    "choices": (
        "choices.py",
        ("{images}", "--encoders", "haralick,hog", "--resamples", "2", "--rows", "20", "--ways", "default;oracle"),
        {"data", "encoders", "rows_development", "rows_test", "resamples", "draws_refused", "heads_chosen", "ways"},
    ),
    "cost": (
        "cost.py",
        ("--seconds", "0.01", "--convolutional", "timm:test_efficientnet", "--transformer", "timm:test_vit"),
        {"measured", "costs"},
    ),
    "coverage": (
        "coverage.py",
        ("--repeats", "2", "--workers", "1", "--tables", "accuracy", "auroc by group", "comparisons"),
        {"repeats", "tables"},
    ),
    "extract": (
        "extract.py",
        ("--case", *CASES, "--encoder", "timm:test_efficientnet", "--repeats", "1", "--drafts", "2", *SMALL_JPEGS),
        {"cases", "n", "side", "cores", "load_before"},
    ),
    "faults": (
        "faults.py",
        ("{images}", "--rows", "20", "--kills", "1"),
        {"rows", "kills", "rows_redone", "most_rows_redone_for_one_kill", "greatest_difference"},
    ),
    "first_result": (
        "first_result.py",
        ("--data", "{images}", "--", "-e", "haralick,hog", "--head", "ridge", "--folds", "2", "--repeats", "1"),
        {"what", "options", "cores", "load_before", "here"},
    ),
    "gpu": (
        "gpu.py",
        ("--device", "cpu", "--tiny"),
        {
            "device",
            "torch",
            "cores",
            "load_before",
            "seconds",
            "peak",
            "parity",
            "throughput",
            "screen",
            "nine",
            "two-processes",
        },
    ),
    "members": (
        "members.py",
        ("{images}", "--encoders", "haralick,hog", "--resamples", "2", "--samples", "30", "--quiet"),
        {"pool", "milliseconds", "resamples", "data"},
    ),
    "optimism": (
        "optimism.py",
        ("--repeats", "2", "--rows", "40", "--blocks", "2", "--columns", "3", "--signal", "1", "--workers", "1"),
        {"subsets", "repeats", "table"},
    ),
    "novelty": (
        "novelty.py",
        ("{images}", "{images}", "--group", "group", "--encoders", "haralick,hog", "--repeats", "2"),
        {"data", "encoders", "repeats", "ways"},
    ),
    "penalties": (
        "penalties.py",
        ("--data", "{images}", "--encoders", "haralick,hog", "--reduce-to", "8"),
        {"metric", "sets"},
    ),
    "predict": (
        "predict.py",
        (
            *("--encoders", "timm:test_efficientnet", "--images", "20", "--side", "32", "--singles", "30"),
            *("--rounds", "3", "--processes", "1", "--threads", "2"),
        ),
        {"encoders", "fresh", "one_image", "singles", "together"},
    ),
    "ranking": (
        "ranking.py",
        ("{images}", "--encoders", "haralick,hog", "--head", "ridge", "--folds", "2"),
        {"data", "encoders", "head", "rows", "subsets", "folds", "auroc", "accuracy"},
    ),
    "ray_overhead": (
        "ray_overhead.py",
        ("--encoder", "hog", "--few", "0", *SMALL_JPEGS),
        {"encoder", "n", "cores", "seconds", "ratio", "ratio_per_image", "start_seconds", "load_before"},
    ),
    "report": (
        "report.py",
        ("--encoders", "2", "--development", "120", "--test", "40", "--openings", "1"),
        {"python", "fit_and_evaluate", "writing", "megabytes", "opening"},
    ),
    "rules": ("rules.py", ("{grid}",), {"sets", "1 standard errors", "0.5 standard errors"}),
    "screen": (
        "screen.py",
        (*BLOCKS, "--workers", "1", "--sample", "1"),
        {
            "n",
            "subsets",
            "seconds",
            "peak_memory_gib_with_workers",
            "bound",
            "times_announced",
            "mlxtend",
            "load_before",
        },
    ),
    "survival": (
        "survival.py",
        ("{images}", "--encoders", "haralick,colour", "--rows", "40", "--folds", "2"),
        {"data", "encoders", "rows", "events", "ranking", "heads"},
    ),
    "serve": (
        "serve.py",
        ("{run}", "{folder}", "--requests", "20", "--at-once", "10", "--megabytes", "70", "--times", "1"),
        {
            "encoders",
            "milliseconds_of_one_image",
            "images_per_second",
            "at_once",
            "flat",
            "too_large",
            "no_image",
            "closed",
            "replaced",
            "stopped",
            "log",
        },
    ),
    "store, large": (
        "store.py",
        ("--case", "large", "--rows", "5000"),
        {"rows", "columns", "seconds_write", "seconds", "peak_anonymous_gib", "bytes_on_disk", "load_before"},
    ),
    "store, read": (
        "store.py",
        ("--case", "read", "--rows", "5000", "--rounds", "1"),
        {"rows", "columns", "seconds_write", "store_over_numpy_load", "load_before"},
    ),
    "store_scale": (
        "store_scale.py",
        ("--images", "5000", "--encoders", "2", "--part-rows", "2048"),
        {"images", "encoders", "columns", "parts_of_each", "load_before", "steps", "with_the_dimensions_of_the_paper"},
    ),
    "strategies": ("strategies.py", ("--grid", "{grid}"), {"width", "patience", "accuracy", "auroc"}),
}
"""By name of the test: the program, its arguments, and keys of what it prints."""

NEEDS = {"ray_overhead": "ray"}
"""Packages of extras."""


@pytest.fixture
def places(make_images, tmp_path) -> dict[str, Path]:
    """Make what the arguments name: two classes of images in planes, and scores of all subsets of a pool."""
    paths = make_images(tmp_path / "images", per_class=24)
    rows = [{"path": path, "label": path.parent.name, "group": f"g{number // 2}"} for number, path in enumerate(paths)]
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    (tmp_path / "grid").mkdir()
    pool = ("a", "b", "c")
    with (tmp_path / "grid" / "results_set_28.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([f"column {number}" for number in range(10)])
        for size in (1, 2, 3):
            for subset in itertools.combinations(pool, size):
                scores = [0.5 + size / 10, 0.6 + size / 10]
                table.writerow(["breastmnist", 28, ",".join(subset), "", "", "", *scores, *scores, ""])
    return {
        "images": tmp_path / "manifest.csv",
        "folder": tmp_path / "images",
        "grid": tmp_path / "grid",
        "work": tmp_path / "work",
        "run": tmp_path / "run",
    }


@pytest.fixture
def run(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str, tuple[str, ...]], dict[str, Any]]:
    """Return a function that runs a program as its file is run, but in this process, whose libraries are loaded."""
    monkeypatch.syspath_prepend(PERF)

    def run(program: str, arguments: tuple[str, ...]) -> dict[str, Any]:
        if "{run}" in arguments:
            fuse = BioFuse(["haralick", "hog"], head="ridge", folds=2, repeats=1, options=ExtractOptions(workers=0))
            fuse.fit(places["images"], test=None, out=places["run"], progress=False)
        monkeypatch.setattr(sys, "argv", [program, *(argument.format(**places) for argument in arguments)])
        capsys.readouterr()
        with ENCODERS.temporary():
            runpy.run_path(str(PERF / program), run_name="__main__")
        return json.loads(capsys.readouterr().out)

    return run


def test_every_program_is_run_here():
    assert {program for program, _, _ in RUNS.values()} == PROGRAMS


@pytest.mark.slow
@pytest.mark.enable_socket
@pytest.mark.parametrize("name", RUNS)
def test_a_program_prints_what_it_measured(name, run):
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    program, arguments, keys = RUNS[name]
    found = run(program, arguments)
    assert keys <= set(found)
    if name == "extract":
        assert list(found["cases"]) == list(CASES)
        assert found["cases"]["overlap"]["ratio_to_bound"] > 0
    if name == "gpu":
        assert not {part: found[part] for part in found if isinstance(found[part], dict) and "failed" in found[part]}
    if name == "report" and shutil.which("chromium") and importlib.util.find_spec("playwright"):
        assert found["opening"]["rows"] == 3
    if name == "predict":
        assert found["together"]["greatest_difference"] < 1e-6
        assert (found["singles"]["growth"]["handles"], found["singles"]["growth"]["files"]) == (0, 0)
    if name == "store_scale":
        assert found["steps"]["gc_with_small_parts"]["removed"] == 1
        assert found["steps"]["verify"]["parts"] == 6
    if name == "strategies":
        assert found["accuracy"]["mean"]["exhaustive"]["most_short"] == 0
    if name == "rules":
        ways = found["1 standard errors"]["mean"]
        assert ways["inclusive"] == {"encoders": 3, "auroc": 0, "accuracy": 0, "worse": 0, "better": 0}
        assert ways["best single by validation AUROC"]["auroc"] == -0.2
    if name == "faults":
        assert found["greatest_difference"] == 0
    if name == "screen":
        assert found["subsets"] == 511
    if name == "serve":
        assert found["at_once"]["statuses"] == {"200": 10}
        assert found["flat"]["statuses"] == {"200": 20}
        assert found["too_large"]["statuses"] == {"length said": 413, "in pieces": 413}
        assert found["no_image"] == 415
        assert (found["closed"]["status_after"], found["closed"]["bytes_held_after"]) == (200, 0)
        assert found["replaced"] == {"said": True, "version_kept": True, "status": 200}
        assert found["stopped"] == {"status_of_what_was_under_way": 200, "exit_code": 0}
        assert found["log"] == [found["log"][0], "Stopped."]  # whether it is ready, and nothing of any image


def test_the_table_of_the_readme_is_made_of_what_was_measured() -> None:
    table = runpy.run_path(str(PERF / "table.py"))
    (found,) = re.findall(table["PLACE"], (PERF.parent / "README.md").read_text(encoding="utf-8"))
    assert found == table["table"]()
    assert {f"{row.file}.json" for row in table["ROWS"]} == {path.name for path in (PERF / "measured").iterdir()}
