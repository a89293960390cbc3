"""Every code block of the documentation is run as it stands, or says in a comment above it what it needs."""

import glob
import re
import shlex
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from biofuse.cli import main
from biofuse.encoders import ENCODERS, EncoderRegistry
from biofuse.fusion.base import fusion_registry
from biofuse.heads.base import head_registry

DOCS = Path(__file__).resolve().parents[1] / "docs"
ELSEWHERE = {"add-an-encoder.md"}
"""Pages whose blocks tests/encoders/test_docs.py runs; those in docs/tutorials have tests/test_tutorials.py."""

PAGES = sorted(page.name for page in DOCS.glob("*.md") if page.name not in ELSEWHERE)
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", re.DOTALL | re.MULTILINE
)
RUN = ("console", "python")

SETUP = {
    "data-formats.md": """
        import torch
        from datasets import Dataset
        samples = load_samples("images")
        paths = sorted(Path("images").rglob("*.png"))
        stack = np.stack([np.asarray(Image.open(path)) for path in paths])
        images, y = list(stack), [path.parent.name for path in paths]
        patients, sexes, ages = [path.stem[:2] for path in paths], ["f", "m"] * 30, list(range(60))
        class Rows(torch.utils.data.Dataset):
            def __len__(self): return len(stack)
            def __getitem__(self, row): return stack[row], y[row]
        torch_dataset = Rows()
        hf_dataset = Dataset.from_dict({"image": [Image.fromarray(image) for image in stack], "diagnosis": y})
        a, b, c = samples.take(range(0, 40)), samples.take(range(40, 50)), samples.take(range(50, 60))
        """,
    "export.md": "import pyarrow.parquet",
    "scikit-learn.md": """
        paths = sorted(Path("images").rglob("*.png"))
        found = biofuse.embed(paths, encoders=["colour", "hog", "lbp"], progress=False)
        uni, conch, hog = found["colour"], found["lbp"], found["hog"]
        y, patients = [path.parent.name for path in paths], [path.stem for path in paths]
        """,
    "store.md": """
        from biofuse.store.store import as_store
        found = biofuse.embed("images", encoders=["lbp"], progress=False)
        cards, ids, contents, store = found.cards, found.ids, found.contents, as_store(None)
        wanted_ids = ids[:5]
        class Index:
            def add(self, ids, vectors): assert len(ids) == len(vectors)
        index, folder = Index(), Path("tables")
        """,
}  # fmt: skip
"""What the text of a page takes for given."""


def blocks(page: str) -> list[re.Match[str]]:
    return list(BLOCK.finditer((DOCS / page).read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages speak of: class folders, tables, new images, and a run that was evaluated."""
    root = tmp_path_factory.mktemp("stage")
    generator = np.random.default_rng(0)
    tables = {name: [columns] for name, columns in {
        "manifest.csv": "path,diagnosis,patient,sex", "grades.csv": "path,grade", "chest.csv": "path,mass,edema",
        "nih.csv": "Image Index,Finding Labels", "isic.csv": "path,MEL,NV,BCC",
        "patients.csv": "path,patient,months,died,age,weight",
    }.items()}  # fmt: skip
    for number in range(60):
        name = ("benign", "malignant")[number % 2]
        pixels = generator.integers(0, 60, size=(32, 32, 3), dtype=np.uint8)
        pixels[..., 0] += np.uint8(150 * (number % 2) * (number > 7))
        path = Path("images", name, f"{number:03d}.png")
        split = ("train", "train", "val", "test")[number // 2 % 4]
        for copy in (path, Path(split, name, path.name)):
            (root / copy).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / copy)
        file = path.as_posix()
        tables["manifest.csv"].append(f"{file},{name},p{number // 2},{'fm'[number // 2 % 2]}")
        tables["grades.csv"].append(f"{file},{number % 3}")
        tables["chest.csv"].append(f"{file},{number % 2},{int(number % 3 == 0)}")
        tables["patients.csv"].append(
            f"{file},p{number // 2},{3 + number * 17 % 47},{int(number % 3 > 0)},"
            f"{40.5 + number * 13 % 31},{60 + number % 17}"
        )
        tables["nih.csv"].append(f"{file},{('mass', 'edema', 'mass|edema')[number % 3]}")
        tables["isic.csv"].append(f"{file}," + ",".join(str(int(number % 3 == column)) for column in range(3)))
    for name, rows in tables.items():
        (root / name).write_text("\n".join(rows) + "\n")
    (root / "new-images").mkdir()
    for copy in ("new.png", "new-images/x.png"):
        Image.fromarray(pixels).save(root / copy)
    for copy in ("my-images", "ct-slices", "blood", "brain/images", "millions"):
        shutil.copytree(root / "images", root / copy)
    for copy in ("brain/manifest.csv", "tables/one.csv"):
        (root / copy).parent.mkdir(exist_ok=True)
        (root / copy).write_text("\n".join(f"../{row}" if "png" in row else row for row in tables["manifest.csv"]))
    stack = generator.integers(0, 255, size=(40, 28, 28), dtype=np.uint8)
    np.savez(root / "skin.npz", train_images=stack, train_labels=np.arange(40)[:, None] % 2)
    ids = sorted(path.relative_to(root / "images").as_posix() for path in (root / "images").rglob("*.png"))
    np.savez(root / "my_network.npz", id=np.array(ids), my_network=generator.normal(size=(60, 8)).astype(np.float32))
    for name in ("control", "patient"):
        (root / "brains" / name).mkdir(parents=True)
        for number in range(2):
            volume = nibabel.Nifti1Image(generator.normal(size=(8, 9, 10)).astype(np.float32), np.eye(4))
            nibabel.save(volume, root / "brains" / name / f"{number}.nii.gz")
    with pytest.MonkeyPatch.context() as patched:
        prepare(root, patched)
        for line in ("fit images/ --out run", "evaluate run"):
            run_command(line.split(), patched)
        shutil.copytree(root / "run", root / "experiments/run")
    return root


def prepare(folder: Path, patched: pytest.MonkeyPatch) -> None:
    """Go to a folder, with a store of its own, and let the starter pool be two descriptors: pages ask for no more."""
    aliases = EncoderRegistry.aliases
    patched.setattr(EncoderRegistry, "aliases", lambda self: aliases(self) | {"starter": ("colour", "hog")})
    patched.chdir(folder)
    patched.setenv("BIOFUSE_HOME", str(folder / "home"))
    patched.setenv("MLFLOW_TRACKING_URI", (folder / "tracked").as_uri())
    patched.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    patched.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    patched.setattr("biofuse.api.report.has_umap", lambda: False)  # whose compilation takes longer than any page


def run_command(arguments: list[str], patched: pytest.MonkeyPatch) -> None:
    patched.setattr(sys, "argv", ["biofuse", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code, arguments


def run_lines(text: str, patched: pytest.MonkeyPatch) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line, comments=True) or [""]
        if program in {"", "pip"}:  # what they install is here
            continue
        assert program == "biofuse", f"{line}: say above the block what it needs"
        arguments = [each for word in words for each in (sorted(glob.glob(word)) if "*" in word else [word])]  # noqa: PTH207
        if arguments[0] == "fit" and arguments[1:] != [
            "images/",
            "--out",
            "run",
        ]:  # another run in the place of the one that is there
            shutil.rmtree(arguments[arguments.index("--out") + 1], ignore_errors=True)
        run_command(arguments, patched)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block["kind"] in RUN and not block["why"] for block in blocks(page))]
)
def test_every_block_of_a_page_runs_as_it_stands(page, stage, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "place"
    shutil.copytree(stage, folder)
    prepare(folder, monkeypatch)
    preamble = (
        "from pathlib import Path\nimport numpy as np\nfrom PIL import Image\nimport biofuse\nfrom biofuse import *\n"
    )
    names = {"__name__": "page"}
    with ENCODERS.temporary(), head_registry().temporary(), fusion_registry().temporary():
        exec(preamble + re.sub(r"^ {8}", "", SETUP.get(page, ""), flags=re.MULTILINE), names)  # noqa: S102
        for number, block in enumerate(blocks(page)):
            if block["why"] or block["kind"] not in RUN:
                continue
            if block["kind"] == "console":
                run_lines(block["body"], monkeypatch)
                continue
            file = folder / f".block-{number}.py"  # fingerprints of functions, and tracebacks, find the source there
            file.write_text(block["body"], encoding="utf-8")
            exec(compile(block["body"], file, "exec"), names)  # noqa: S102


def test_every_block_that_is_not_run_says_why():
    for page in DOCS.rglob("*.md"):
        if page.name in ELSEWHERE or page.parent != DOCS:
            continue
        for block in blocks(page.name):
            commands = re.search(r"^(biofuse|pip|make|docker|curl|hf) ", block["body"], flags=re.MULTILINE)
            runs = block["kind"] in RUN
            assert block["why"] or runs or not commands, f"{page.name}: {block['body']}"
            assert "<!-- not run" not in block["body"]
    marks = sum(path.read_text(encoding="utf-8").count("<!-- not run:") for path in DOCS.glob("*.md"))
    assert marks == sum(bool(block["why"]) for page in PAGES for block in blocks(page)), "a mark that is above no block"
