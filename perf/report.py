"""How large a report of many subsets and test samples is, and how long it takes to write and to open.

``python perf/report.py`` fits nine made-up encoders on made-up images, which gives 511 screened subsets, tests on
10,000 samples, writes the report, opens it in a browser where there is one, and prints one JSON object. Nothing
compresses worse than these images of noise. What the fit itself takes is printed too, but not what this is about.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Processor

DIM, SIDE, CLASSES = 32, 64, 9


def write_data(path: Path, *, development: int, test: int) -> None:
    """Write noise with a little of each class's own pattern in it, in MedMNIST's format."""
    random = np.random.default_rng(0)
    patterns = random.normal(size=(CLASSES, SIDE, SIDE, 3))
    content = {}
    for split, count in (("train", development), ("test", test)):
        labels = random.integers(0, CLASSES, count)
        images = random.normal(128, 60, (count, SIDE, SIDE, 3)).astype(np.float32)
        for row, label in enumerate(labels):
            images[row] += 12 * patterns[label]
        content |= {f"{split}_images": images.clip(0, 255).astype(np.uint8), f"{split}_labels": labels[:, None]}
    np.savez(path, **content)


def register(number: int) -> str:
    """Make an encoder of random projections."""
    from biofuse import register_encoder

    name = f"projection_{number}"

    @register_encoder(name, dim=DIM, size=SIDE, version=number + 1)
    def project(images: Any) -> Any:
        weights = np.random.default_rng(number).normal(size=(SIDE * SIDE * 3, DIM)).astype(np.float32)
        return images.reshape(len(images), -1).astype(np.float32) @ weights

    return name


def open_page(path: Path, *, openings: int) -> dict[str, Any] | None:
    """Open a page several times: seconds until its script is through and a figure is drawn; None without a browser."""
    program = os.environ.get("BIOFUSE_BROWSER") or shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None or importlib.util.find_spec("playwright") is None:
        return None
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for _ in range(openings):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            start = time.perf_counter()
            page.goto(path.as_uri())
            page.wait_for_selector("html[data-ready]")
            page.wait_for_selector(".plot .main-svg")
            times.append(round(time.perf_counter() - start, 2))
            rows = page.locator("#subsets tbody tr").count()
            page.close()
        found = {"browser": browser.version, "rows": rows, "seconds": times, "quickest": min(times)}
        browser.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--development", type=int, default=2000, help="samples to search on")
    parser.add_argument("--test", type=int, default=10_000, help="samples to test on")
    parser.add_argument("--encoders", type=int, default=9)
    parser.add_argument("--openings", type=int, default=5)
    parser.add_argument("--run", type=Path, help="measure the report of this run instead")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="biofuse-") as name:
        folder = Path(name)
        found: dict[str, Any] = {"python": sys.version.split()[0]}
        run, store = options.run, None
        if run is None:
            run, store = folder / "run", folder / "store"
            found |= fit(folder, run, store, options)
        found |= measure(run, store, folder / "report.html", openings=options.openings)
    print(json.dumps(found, indent=2))


def fit(folder: Path, run: Path, store: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Make data, fit and evaluate."""
    from biofuse import BioFuse
    from biofuse.api.fit import evaluate
    from biofuse.store.store import EmbeddingStore

    write_data(folder / "noise.npz", development=options.development, test=options.test)
    names = [register(number) for number in range(options.encoders)]
    took = Processor()
    BioFuse(names, head="ridge", repeats=1, store=store).fit(folder / "noise.npz", out=run, progress=False, yes=True)
    evaluate(run, store=EmbeddingStore(store), progress=False)
    return {"fit_and_evaluate": {"wall": round(took.wall, 1), "cpu": round(took.cpu, 1)}}


def measure(run: Path, store: Path | None, page: Path, *, openings: int) -> dict[str, Any]:
    """Write the report and open it."""
    from biofuse.api.report import write_report
    from biofuse.store.store import EmbeddingStore

    took = Processor()
    write_report(run, out=page, store=EmbeddingStore(store))
    writing = {"wall": round(took.wall, 1), "cpu": round(took.cpu, 1)}
    opening = open_page(page, openings=openings)
    return {"writing": writing, "megabytes": round(page.stat().st_size / 1e6, 2), "opening": opening}


if __name__ == "__main__":
    main()
