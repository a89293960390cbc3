"""Runs the tutorials: every cell in its order, in an empty folder, as a reader would.

``python docs/tutorials/run.py`` runs all pages and writes what they print, and the pictures they show, into them.
``python docs/tutorials/run.py --cells PAGE.md FOLDER`` runs one page in a folder and prints a JSON list: for each cell
that can be run, what it printed. ``tests/test_tutorials.py`` compares that with what stands on the page.

A page is Markdown. Cells are fenced blocks: ``python`` ones share one namespace, ``console`` ones hold commands that
begin with ``biofuse``. A ``text`` block right after a cell is what the cell prints on standard output; ``text head=6``
shows the first six lines alone. Blocks of any other language, such as ``sh``, are not run.

Beside each page lies a notebook that is made of it: the same text, pictures, cells and outputs.
"""

import base64
import contextlib
import importlib.metadata
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

HERE = Path(__file__).resolve().parent
IMAGES = HERE.parent / "images" / "tutorials"
GALLERY = HERE.parent / "gallery.md"
"""Shows more figures of the same runs."""

BLOCK = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", flags=re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[(?P<what>[^\]]*)\]\((?:\.\./)?images/tutorials/(?P<name>[^)]+)\)")
MADE_WITH = re.compile(r"<!-- Printed with: (?P<what>.*) -->")

AS_NOTEBOOK = re.compile(r"^\[As a notebook\]\([^)]*\)\.\n", flags=re.MULTILINE)

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

DECIDING = ("biofuse-embed", "numpy", "scikit-learn", "torch", "timm", "xgboost")
"""Packages whose versions decide what is printed."""

WIDTH = "100"
"""Columns of the commands' output."""

PAGES = ("first-fit.md", "radiology.md", "pathology.md", "own-encoder.md", "reproduce-the-paper.md")


@dataclass(frozen=True)
class Cell:
    """A cell that can be run.

    Attributes
    ----------
    kind : str
        ``python`` or ``console``.
    code : str
    shown : str or None
        What stands on the page as its output.
    head : int or None
        Lines of the output that are shown.
    place : pair of int, or None
        Where on the page the output stands.
    """

    kind: str
    code: str
    shown: str | None = None
    head: int | None = None
    place: tuple[int, int] | None = None


def cells(page: str) -> list[Cell]:
    """Return the cells of a page, each with the output below it."""
    found: list[Cell] = []
    end = -1
    for block in BLOCK.finditer(page):
        kind, *options = block["kind"].split() or [""]
        if kind in {"python", "console"}:
            found.append(Cell(kind, block["body"]))
        elif kind == "text" and found and not page[end : block.start()].strip():
            head = next((int(option[5:]) for option in options if option.startswith("head=")), None)
            found[-1] = Cell(found[-1].kind, found[-1].code, block["body"], head, block.span("body"))
        end = block.end()
    return found


def shown(output: str, head: int | None) -> str:
    """Return as much of an output as a page shows, without blanks at the ends of lines."""
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    if head is not None and len(lines) > head:
        lines = [*lines[:head], "..."]
    return "\n".join(lines) + "\n"


def run_cells(page: Path, folder: Path) -> list[str]:
    """Run the cells of a page in this process, and return what each printed."""
    module = types.ModuleType("tutorial")
    sys.modules["tutorial"] = module
    os.chdir(folder)
    printed = []
    for number, cell in enumerate(cells(page.read_text(encoding="utf-8"))):
        if cell.kind == "console":
            printed.append("".join(_command(line) for line in _commands(cell.code)))
            continue
        # In a file of its own, so that tracebacks and the fingerprints of functions find the source.
        file = folder / f".cell-{number}.py"
        file.write_text(cell.code, encoding="utf-8")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile(cell.code, file, "exec"), vars(module))  # noqa: S102 - the page is ours
        printed.append(said.getvalue())
    return printed


def _commands(code: str) -> Iterator[str]:
    for line in code.replace("\\\n", " ").splitlines():
        command = line.partition("#")[0].strip()
        if command:
            yield command


def _command(line: str) -> str:
    program, *arguments = shlex.split(line)
    if program != "biofuse":
        raise ValueError(f"Only biofuse is run, not {program}.")
    from biofuse.cli import main as run_command

    before, sys.argv = sys.argv, [program, *arguments]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            run_command()
    except SystemExit as stop:
        if stop.code:
            raise RuntimeError(f"{line}\n{said.getvalue()}") from stop
    finally:
        sys.argv = before
    return said.getvalue()


def execute(page: Path, folder: Path) -> list[str]:
    """Run a page in a process of its own, with an empty store."""
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "BIOFUSE_HOME": str(folder / ".home"), "COLUMNS": WIDTH, "NO_COLOR": "1"}
    done = _run([sys.executable, __file__, "--cells", str(page), str(folder)], environment)
    if done.returncode:
        raise RuntimeError(f"{page.name} fails:\n{done.stderr}")
    printed: list[str] = json.loads(done.stdout.splitlines()[-1])
    return printed


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603


def made_with() -> str:
    """Say what decides the last digits: the processor and the versions of a few packages."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in DECIDING)
    return f"{platform.machine()}, Python {platform.python_version().rpartition('.')[0]}, {versions}"


def rewrite(page: str, printed: Sequence[str]) -> str:
    """Return a page with the outputs that were printed."""
    for cell, output in reversed(list(zip(cells(page), printed, strict=True))):
        if cell.place is not None:
            page = page[: cell.place[0]] + shown(output, cell.head) + page[cell.place[1] :]
    return MADE_WITH.sub(f"<!-- Printed with: {made_with()} -->", page)


def notebook(page: str) -> NotebookNode:
    """Return a page as a notebook: its text with the pictures inside, and its cells with what they print."""
    found, end = [], 0
    blocks = {block.start("body"): block for block in BLOCK.finditer(page)}
    places = {cell.place[0]: cell for cell in cells(page) if cell.place is not None}
    for start, block in blocks.items():
        kind = (block["kind"].split() or [""])[0]
        if kind in {"python", "console"}:
            found += _text(page[end : block.start()])
            found.append(
                new_code_cell(block["body"].rstrip() if kind == "python" else f"%%bash\n{block['body'].rstrip()}")
            )
        elif start in places:
            found[-1].outputs = [new_output("stream", text=block["body"])]
        else:
            continue
        end = block.end()
    found += _text(page[end:])
    for number, cell in enumerate(found):
        cell["id"] = f"cell-{number}"  # the same every time, so that only what was printed changes
    count = 0
    for cell in found:
        if cell.cell_type == "code":
            cell.execution_count = count = count + 1
    return new_notebook(cells=found, metadata={"kernelspec": KERNEL, "language_info": {"name": "python"}})


def _text(text: str) -> list[NotebookNode]:
    """Return the cell of a piece of text, its pictures attached; none where there are only blanks."""
    words = AS_NOTEBOOK.sub("", MADE_WITH.sub("", text))
    words = PICTURE.sub(lambda match: f"![{match['what']}](attachment:{Path(match['name']).name})", words)
    cell = new_markdown_cell(words.strip())
    if pictures(text):
        data = {name: base64.b64encode((IMAGES / name).read_bytes()).decode() for name in pictures(text)}
        cell["attachments"] = {Path(name).name: {"image/png": coded} for name, coded in data.items()}
    return [cell] if cell.source else []


def pictures(page: str) -> list[str]:
    """Return the pictures a page shows, each as ``page/file``; the page's run makes ``file`` in ``figures``."""
    return [match["name"] for match in PICTURE.finditer(page)]


def build(path: Path) -> None:
    """Run a page, and write outputs and pictures into it."""
    with tempfile.TemporaryDirectory(prefix="biofuse-") as name:
        printed = execute(path, Path(name))
        text = path.read_text(encoding="utf-8")
        path.write_text(rewrite(text, printed), encoding="utf-8")
        gallery = pictures(GALLERY.read_text(encoding="utf-8"))
        for picture in {*pictures(text), *(each for each in gallery if Path(each).parent.name == path.stem)}:
            (IMAGES / picture).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(Path(name) / "figures" / Path(picture).name, IMAGES / picture)
    write_notebook(path)


def write_notebook(path: Path) -> None:
    """Write the notebook of a page beside it."""
    nbformat.write(notebook(path.read_text(encoding="utf-8")), path.with_suffix(".ipynb"))


def main(arguments: Sequence[str]) -> None:
    """Build all pages or those named, or run the cells of one."""
    if arguments and arguments[0] == "--cells":
        page, folder = (Path(argument).resolve() for argument in arguments[1:])
        sys.stdout.write(json.dumps(run_cells(page, folder)) + "\n")
        return
    for name in arguments or PAGES:
        sys.stderr.write(f"Running {name}\n")
        build(HERE / name)


if __name__ == "__main__":
    main(sys.argv[1:])
