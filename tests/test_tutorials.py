"""The tutorials do what they say: every cell is run, and prints what stands below it."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from PIL import Image

from biofuse.encoders.registry import ENCODERS

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "tutorials"
spec = importlib.util.spec_from_file_location("run_tutorials", FOLDER / "run.py")
tutorials = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tutorials)

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")
CLOSE = 0.02
"""How much a number may differ from the one on the page: what other processors make of the same sums."""


def differences(found: str, page: str) -> list[str]:
    """Return the lines that differ in more than the last digits of numbers."""
    pairs = zip(found.splitlines(), page.splitlines(), strict=False)
    wrong = [f"{mine!r} is on the page as {theirs!r}" for mine, theirs in pairs if not alike(mine, theirs)]
    if len(found.splitlines()) != len(page.splitlines()):
        wrong.append(f"{len(found.splitlines())} lines, {len(page.splitlines())} on the page")
    return wrong


def alike(mine: str, theirs: str) -> bool:
    if NUMBER.sub("#", mine).split() != NUMBER.sub("#", theirs).split():
        return False
    pairs = zip(NUMBER.findall(mine), NUMBER.findall(theirs), strict=True)
    return all(abs(float(a) - float(b)) <= CLOSE * max(1, abs(float(b))) for a, b in pairs)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", tutorials.PAGES)
def test_every_cell_runs_and_prints_what_the_page_says(name, tmp_path, monkeypatch):
    page = (FOLDER / name).read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)  # and back again
    monkeypatch.setenv("COLUMNS", tutorials.WIDTH)
    monkeypatch.setattr("biofuse.api.report.has_umap", lambda: False)  # compiled in half a minute, and on no page
    with ENCODERS.temporary():
        printed = tutorials.run_cells(FOLDER / name, tmp_path)
    cells = tutorials.cells(page)
    assert len(printed) == len(cells)
    for cell, output in zip(cells, printed, strict=True):
        assert cell.shown is None or output.strip(), f"prints nothing:\n{cell.code}"
    for picture in tutorials.pictures(page):
        drawn = Image.open(tmp_path / "figures" / Path(picture).name)
        kept = Image.open(tutorials.IMAGES / picture)
        assert abs(drawn.width - kept.width) < 0.1 * kept.width
    made_with = tutorials.MADE_WITH.search(page)["what"]
    if made_with != tutorials.made_with():
        pytest.skip(f"every cell ran; what they print was written with {made_with}, so it is not compared")
    for cell, output in zip(cells, printed, strict=True):
        if cell.shown is not None:
            wrong = differences(tutorials.shown(output, cell.head), cell.shown)
            assert not wrong, f"{cell.code}\n" + "\n".join(wrong) + "\nRun python docs/tutorials/run.py"


def test_a_page_is_run_in_a_process_of_its_own_and_says_where_it_fails(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('one')\n```\n```console\nbiofuse --version\n```\n")
    one, version = tutorials.execute(page, tmp_path / "folder")
    assert (one, version.split()[0]) == ("one\n", "biofuse")
    page.write_text("```console\nbiofuse encoders show no_such_encoder\n```\n")
    with pytest.raises(RuntimeError, match="no_such_encoder"):
        tutorials.execute(page, tmp_path / "folder")


def test_the_comparison_sees_other_words_other_numbers_and_missing_lines():
    assert differences("chosen 0.951 (3 of 7)\n", "chosen 0.953   (3 of 7)\n") == []
    assert differences("chosen 0.951\n", "chosen 0.991\n")
    assert differences("chosen hog 0.951\n", "chosen lbp 0.951\n")
    assert differences("one\n", "one\ntwo\n")


def test_every_page_is_run_and_complete():
    assert {path.name for path in FOLDER.glob("*.md")} == set(tutorials.PAGES)
    for name in tutorials.PAGES:
        page = (FOLDER / name).read_text(encoding="utf-8")
        cells = tutorials.cells(page)
        assert len(cells) >= 5
        assert sum(cell.shown is not None for cell in cells) >= 3
        assert all(cell.shown.strip() for cell in cells if cell.shown is not None), f"{name}: run docs/tutorials/run.py"
        assert tutorials.pictures(page)
        for picture in (*tutorials.pictures(page), *tutorials.pictures(tutorials.GALLERY.read_text(encoding="utf-8"))):
            assert (tutorials.IMAGES / picture).is_file()


@pytest.mark.parametrize("name", tutorials.PAGES)
def test_the_notebook_is_that_of_the_page(name):
    page = (FOLDER / name).read_text(encoding="utf-8")
    kept = nbformat.read((FOLDER / name).with_suffix(".ipynb"), as_version=4)
    nbformat.validate(kept)
    assert kept == tutorials.notebook(page), f"{name}: run make tutorials"
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [cell.outputs[0].text if cell.outputs else None for cell in code] == [
        cell.shown for cell in tutorials.cells(page)
    ]
    attached = [picture for cell in kept.cells for picture in cell.get("attachments", {})]
    assert sorted(attached) == sorted(Path(picture).name for picture in tutorials.pictures(page))


def test_outputs_are_written_below_their_cells():
    page = "```python\nprint(1)\n```\n\n```text\nold\n```\n\nWords.\n\n```text\nno output\n```\n\n```sh\nrm x\n```\n"
    page += "```console\nbiofuse --help\n```\n```text head=1\n```\n<!-- Printed with: nothing -->\n"
    assert [(cell.kind, cell.shown, cell.head) for cell in tutorials.cells(page)] == [
        ("python", "old\n", None), ("console", "", 1),
    ]  # fmt: skip
    built = tutorials.rewrite(page, ["1\n", "first  \nsecond\n"])
    assert "```text\n1\n```\n\nWords.\n\n```text\nno output\n```" in built
    assert "```text head=1\nfirst\n...\n```" in built
    assert f"<!-- Printed with: {tutorials.made_with()} -->" in built
