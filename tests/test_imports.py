"""`import biofuse` and `biofuse --help` stay light: what they load, not how long they take, is what a test can hold."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import biofuse

HEAVY = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "sklearn",
    "scipy",
    "pandas",
    "skimage",
    "xgboost",
    "matplotlib",
    "pyarrow",
)
"""Libraries that take from tenths of a second to seconds to load."""

PRELUDE = "import json, sys\n"
REPORT = "\nsys.stderr.write('LOADED ' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"


def _loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after the code ran, without a warning."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + code + REPORT],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.rpartition("LOADED ")[2]))


def test_the_probe_sees_what_is_loaded() -> None:
    assert {"biofuse", "numpy"} <= _loaded_by("import biofuse, numpy.linalg")


NAMES = [name for name in biofuse.__all__ if name != "__version__"]

COMMAND = """
from biofuse.cli import main
sys.argv = ["biofuse", "{}"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
"""


@pytest.mark.parametrize(
    "code",
    ["import biofuse; dir(biofuse)", COMMAND.format("--help"), COMMAND.format("--version")],
    ids=["import", "help", "version"],
)
def test_nothing_heavy_is_loaded(code: str) -> None:
    assert _loaded_by(code) & set(HEAVY) == set()


def test_the_public_names_load_no_model_library() -> None:
    estimators = {
        "BioFuse",
        "BioFuseRegressor",
        "FusionClassifier",
        "FusionRegressor",
    }  # which are scikit-learn's, and bring it
    light = [name for name in NAMES if name not in estimators]
    assert _loaded_by(f"from biofuse import {', '.join(light)}") & set(HEAVY) <= {"pyarrow"}
    loaded = _loaded_by(f"from biofuse import {', '.join(NAMES)}") & set(HEAVY)
    assert loaded <= {"pyarrow", "sklearn", "scipy", "pandas"}


def test_help_prints_the_commands() -> None:
    command = Path(sysconfig.get_path("scripts")) / "biofuse"
    done = subprocess.run([str(command), "--help"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "embed" in done.stdout


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(biofuse, name).__doc__
    assert name in dir(biofuse)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Biofuse'"):
        biofuse.Biofuse  # noqa: B018
