"""Time what a newcomer waits for: from the command to the report, in a process and a store of their own.

    python perf/first_result.py
    python perf/first_result.py --against ../before/.venv/bin/python --rounds 2
    python perf/first_result.py --data images/ -- --encoders starter --head ridge

Prints one JSON object: wall-clock and processor time of ``biofuse demo``, or of ``fit`` on other data, child
processes included, the quickest of several rounds; after how many seconds which lines came; and where a second
interpreter is named, the same of the code that it has installed, in turns, and the ratios. What follows ``--`` goes to
``demo`` or ``fit``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import Processor

MILESTONES = {
    "extraction": "Plan:",
    "screen": "Screen:",
    "leaderboard": "First leaderboard",
    "finalists": "Search:",
    "choice": "Kept ",
    "report": "Report:",
}
"""What lines begin with that say where a run is."""


def first_result(python: str, data: Path | None, options: Sequence[str]) -> dict[str, Any]:
    """Go from nothing to the report, and note when it was said what."""
    with tempfile.TemporaryDirectory() as work:
        what = ("demo",) if data is None else ("fit", str(data))
        command = (python, "-m", "biofuse", *what, "--out", str(Path(work) / "run"), *options)
        environment = os.environ | {"BIOFUSE_HOME": str(Path(work) / "home")}
        clock, found, said = Processor(), dict[str, float](), list[str]()
        with subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process:
            for line in process.stderr or ():
                said.append(line)
                for name, words in MILESTONES.items():
                    if line.startswith(words):
                        found.setdefault(name, round(clock.wall, 2))
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{''.join(said[-20:])}")
        return {"wall_s": clock.wall, "cpu_s": clock.cpu, "after_s": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", help="the interpreter of an environment with other code")
    parser.add_argument("--data", type=Path, help="images to fit on, in place of the demo")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("options", nargs="*", help="for `biofuse demo` or `biofuse fit`, after --")
    arguments = parser.parse_args()
    pythons = {"here": sys.executable} | ({"against": arguments.against} if arguments.against else {})
    load, times = os.getloadavg()[0], {name: list[dict[str, Any]]() for name in pythons}
    for _ in range(arguments.rounds):
        for name, python in pythons.items():
            times[name].append(first_result(python, arguments.data, arguments.options))
    found: dict[str, Any] = {
        "what": "demo" if arguments.data is None else "fit",
        "options": arguments.options,
        "cores": os.cpu_count(),
        "load_before": load,
        **{name: min(rounds, key=lambda each: each["cpu_s"]) for name, rounds in times.items()},
    }
    if "against" in found:
        found["ratio"] = {name: found["here"][name] / found["against"][name] for name in ("wall_s", "cpu_s")}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
