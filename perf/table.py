"""Make the README's table of speeds from what the programs of ``perf/`` printed.

    python perf/screen.py --n 546 > perf/measured/screen-546.json    # on a machine with nothing beside it
    python perf/table.py                                             # prints the table
    python perf/table.py --write README.md                           # and puts it in its place there

Every row is one file of ``perf/measured/``, and every number in it one that stands there. A test compares.
"""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MEASURED = Path(__file__).with_name("measured")

PLACE = re.compile(r"(?<=<!-- made by perf/table.py -->\n)(?:\|.*\n)+")
"""Where the table stands in a page."""

Found = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes
    ----------
    file : str
        Of ``perf/measured``, without its ending.
    what : callable
        What was measured, in words, from what the program printed.
    ratio : callable
        How it compares, likewise.
    command : str
        What printed it.
    """

    file: str
    what: Callable[[Found], str]
    ratio: Callable[[Found], str]
    command: str


def seconds(value: float) -> str:
    """Write a time as people say it."""
    return f"{value:.0f} s" if value < 100 else f"{int(value // 60)} min {value % 60:.0f} s"


def _screen(found: Found) -> str:
    reduced = f", {found['reduce_to']} components of each" if found["reduce_to"] else ""
    return (
        f"Score all {found['subsets']} subsets of nine encoders, {found['n']:,} rows, {found['classes']} classes, "
        f"{found['folds']} folds{reduced}: {seconds(found['seconds'])}"
    )


def _times_the_bound(found: Found) -> str:
    least = "LAPACK's tridiagonalisations" if found["mode"] == "dual" else "its products, eigendecompositions and sorts"
    text = f"{found['bound']['times_the_bound']:.2f} times {least} alone"
    if isinstance(found["mlxtend"], str):
        return text
    return f"{text}; {found['mlxtend']['times_faster']:.0f} times as fast as mlxtend, with the same scores"


def _extract(found: Found) -> str:
    case = found["cases"]["overlap"]
    return (
        f"Embed {found['n']:,} JPEG files of {found['side']:,} pixels by {case['encoder']}: "
        f"{case['images_per_second']:.0f} a second"
    )


def _of_the_bound(found: Found) -> str:
    case = found["cases"]["overlap"]
    return (
        f"{case['ratio_to_bound']:.2f} of decoding, resizing and forward passes in perfect overlap; they took "
        f"{100 * case['processor_time_in_stages']:.0f} % of the processor time"
    )


ROWS = (
    *(
        Row(f"screen-{n}", _screen, _times_the_bound, f"screen.py --n {n} --classes {classes}{rest}")
        for n, classes, rest in ((546, 2, ""), (1080, 5, ""), (20000, 5, " --sample 0"), (89996, 9, " --sample 0"))
    ),
    Row("extract", _extract, _of_the_bound, "extract.py --case overlap --n 300"),
    Row(
        "predict",
        lambda found: f"Predict one image in a loaded model: {found['one_image']['predict_ms']:.0f} ms",
        lambda found: f"{found['one_image']['ratio']:.2f} times the forward passes of its encoders",
        "predict.py",
    ),
    Row(
        "predict",
        lambda found: (
            f"From a new process to its first prediction: {found['fresh']['first_prediction']['wall_s']:.1f} s"
        ),
        lambda found: f"{found['fresh']['ratio']:.2f} times importing torch and loading the weights",
        "predict.py",
    ),
    Row(
        "first-result",
        lambda found: f"From `biofuse demo` in an empty store to the report: {found['here']['wall_s']:.0f} s",
        lambda found: f"{found['ratio']['wall_s']:.2f} of what the code of 24 November 2026 takes, in the same run",
        "first_result.py --against PYTHON",
    ),
    Row(
        "store-scale",
        lambda found: (
            f"Look {found['images'] // 10**6} million images of {found['encoders']} encoders up in a store: "
            f"{found['steps']['find_all_in_order']['seconds']:.1f} s"
        ),
        lambda found: (
            f"to verify them takes {1 / found['with_the_dimensions_of_the_paper']['ratio_to_hashing_alone']:.2f} times "
            "hashing alone"
        ),
        "store_scale.py",
    ),
)


def measured(name: str) -> Any:
    """Read what a program printed."""
    return json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| what, on two cores | against | `python perf/` |", "|---|---|---|"]
    for row in ROWS:
        found = measured(row.file)
        lines.append(f"| {row.what(found)} | {row.ratio(found)} | `{row.command}` |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="PAGE")
    options = parser.parse_args()
    made = table()
    if options.write is None:
        print(made, end="")
        return
    page = options.write.read_text(encoding="utf-8")
    if PLACE.search(page) is None:
        raise SystemExit(f"{options.write} has no line '<!-- made by perf/table.py -->' with a table below it.")
    options.write.write_text(PLACE.sub(lambda _: made, page), encoding="utf-8")


if __name__ == "__main__":
    main()
