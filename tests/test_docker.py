"""The Dockerfile: what a linter says of it, and that what it runs is a command. It is built where Docker runs."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from biofuse.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_it_runs_is_a_command_and_not_as_root() -> None:
    program, name, run, *options = json.loads(re.findall(r"^ENTRYPOINT (.*)$", TEXT, re.MULTILINE)[0])
    assert (program, run) == ("biofuse", "/model")
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    context = command.make_context(name, [run, *options, "--token-file", "/run/secrets/token"])
    assert (context.params["host"], context.params["port"]) == ("0.0.0.0", 8000)  # noqa: S104
    instructions = re.findall(r"^([A-Z]+) ", TEXT, re.MULTILINE)
    assert "HEALTHCHECK" in instructions
    assert re.findall(r"^USER (\w+)$", TEXT, re.MULTILINE)[-1] != "root"


def test_everything_that_is_copied_is_let_in() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name for line in re.findall(r"^COPY (.*)$", TEXT, re.MULTILINE) for name in line.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_can_be_built() -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("there is no Docker here that runs")
    done = subprocess.run([docker, "build", "--quiet", ROOT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
