"""The README does what it says: its Python example and its commands are run as they stand."""

import re
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biofuse.encoders.registry import EncoderRegistry

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """The folders that the README speaks of: class folders, a manifest with patients and splits, and new images."""
    generator = np.random.default_rng(0)
    rows = ["path,label,patient,split"]
    for folder in ("images/benign", "images/malignant", "new-images"):
        (tmp_path / folder).mkdir(parents=True)
    for number in range(60):
        sick = number % 2
        noise = generator.integers(0, 200, size=(32, 32, 3))
        pixels = np.where(np.arange(32)[:, None, None] % (2 + 2 * sick) == 0, 230, noise).astype(np.uint8)
        name = f"{'malignant' if sick else 'benign'}/{number:03d}.png"
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        split = ("train", "train", "train", "val", "test")[number // 2 % 5]
        rows.append(f"{name},{'malignant' if sick else 'benign'},p{number // 2},{split}")
    # The demo and the tutorials run the whole starter pool; commands are the same with two descriptors.
    aliases = EncoderRegistry.aliases
    monkeypatch.setattr(EncoderRegistry, "aliases", lambda self: aliases(self) | {"starter": ("colour", "hog")})
    monkeypatch.setattr("biofuse.api.report.has_umap", lambda: False)  # whose compilation takes longer than the rest
    shutil.copy(tmp_path / "images/benign/000.png", tmp_path / "new-images/x.png")
    shutil.copy(tmp_path / "images/benign/000.png", tmp_path / "images/a0.png")
    (tmp_path / "images/manifest.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_python_example_runs_as_it_stands(workplace, monkeypatch, capsys):
    (code,) = blocks("python")
    assert len(code.strip().splitlines()) <= 12
    monkeypatch.chdir(workplace)
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - it is ours
    lines = capsys.readouterr().out.strip().splitlines()
    assert "subset" in lines[0]
    assert re.fullmatch(r"\['(benign|malignant)'\] \(1, \d+\)", lines[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_run_as_they_stand(workplace, monkeypatch, succeeds):
    table = (workplace / "images/manifest.csv").read_text().replace("label", "diagnosis")
    table = table.replace("\nbenign", "\nimages/benign").replace("\nmalignant", "\nimages/malignant")
    (workplace / "manifest.csv").write_text(table)
    for stray in ("images/manifest.csv", "images/a0.png"):
        (workplace / stray).unlink()
    monkeypatch.chdir(workplace)
    (text,) = (block for block in blocks("console") if "biofuse check" in block)
    for line in text.strip().splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "biofuse"
        succeeds(*arguments)
    assert len((workplace / "predictions.csv").read_text().splitlines()) == 2
    assert (workplace / "run/metrics.json").exists()
    assert (workplace / "embeddings.parquet").exists()


def test_the_command_is_installed_under_its_name():
    program = shutil.which("biofuse", path=sysconfig.get_path("scripts"))
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("biofuse ")


def test_every_link_leads_to_a_file():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_every_command_in_the_docs_exists():
    from biofuse.cli.app import app

    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        named = set(re.findall(r"(?:^|`)biofuse ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        assert named <= known, f"{page.name}: {named - known}"
