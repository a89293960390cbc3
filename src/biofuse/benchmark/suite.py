"""Fits and evaluations over several data sets, one run directory each; a killed benchmark goes on where it was."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from biofuse.api.development import development_data, split_off_test
from biofuse.api.estimator import BioFuse
from biofuse.api.reporting import REPORT, attempt_report
from biofuse.api.running import evaluate_run
from biofuse.api.runtime import Tell
from biofuse.core.errors import ArtifactError, BioFuseError, DataError
from biofuse.core.files import write_text
from biofuse.core.hashing import digest_file, digest_json
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.runs import Run

STATE = "benchmark-state.json"
"""What is finished, and how it is recognised."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One data set of a benchmark.

    Attributes
    ----------
    name : str
        Of its run directory.
    source : str
        Anything :func:`biofuse.load_samples` takes that can be written down: a path or a MedMNIST name.
    label, group, task : optional
        How it is read.
    file : Path or None
        The one file that holds everything, if there is one: while size and time of it stay, a finished run is taken as
        it is, without a look at its images.
    """

    name: str
    source: str
    label: str | list[str] | None = None
    group: str | None = None
    task: str | None = None
    file: Path | None = None


@dataclass(frozen=True, kw_only=True)
class SuiteOutcome:
    """What became of the data sets.

    Attributes
    ----------
    finished : dict of str to Path
        Run directories, by name, in the order given.
    reused : tuple of str
        Those that were finished already, so that nothing had to be done.
    failed : dict of str to BioFuseError
        Why others could not be run.
    """

    finished: dict[str, Path] = field(default_factory=dict)
    reused: tuple[str, ...] = ()
    failed: dict[str, BioFuseError] = field(default_factory=dict)

    @property
    def reports(self) -> dict[str, str]:
        """Address of each run's report, by name, as seen from the folder of all runs."""
        return {
            name: f"{quote(path.name)}/{REPORT}" for name, path in self.finished.items() if (path / REPORT).exists()
        }

    def require_something(self) -> None:
        """Raise the first failure where nothing was finished.

        Raises
        ------
        BioFuseError
        """
        if not self.finished and self.failed:
            raise next(iter(self.failed.values()))


def run_suite(
    fuse: BioFuse,
    entries: Sequence[Entry],
    *,
    out: Path,
    overwrite: bool = False,
    yes: bool = False,
    progress: bool = True,
    tell: Tell | None = None,
) -> SuiteOutcome:
    """Fit and evaluate every data set with the same options; what cannot be read is passed over, and named.

    Parameters
    ----------
    fuse : BioFuse
        The pool and the options.
    entries : sequence of Entry
    out : Path
        A run directory per data set goes into it.
    overwrite : bool, default False
        Whether to replace runs with other options that are in the way.
    yes : bool, default False
        Whether searches of more than an hour are wanted.
    progress : bool, default True
    tell : callable, optional
        Receives news line by line.

    Raises
    ------
    BioFuseError
        Anything but a :class:`DataError`, which concerns one data set alone.
    """
    say = tell or (lambda _: None)
    state = _State.read(out / STATE)
    finished: dict[str, Path] = {}
    reused: list[str] = []
    failed: dict[str, BioFuseError] = {}
    for number, entry in enumerate(entries, start=1):
        run = Run(out / entry.name)
        stamp = _stamp(fuse, entry)
        if state.knows(entry.name, stamp, run):
            say(f"[{number}/{len(entries)}] {entry.name}: finished before.")
            finished[entry.name] = run.path
            reused.append(entry.name)
            continue
        say(f"[{number}/{len(entries)}] {entry.name}")
        try:
            _fit_and_evaluate(fuse, entry, run.path, overwrite=overwrite, yes=yes, progress=progress, tell=say)
        except DataError as error:
            say(f"{entry.name} cannot be run: {error}")
            failed[entry.name] = error
            continue
        finished[entry.name] = run.path
        state.add(entry.name, stamp, run)
    return SuiteOutcome(finished=finished, reused=tuple(reused), failed=failed)


def _fit_and_evaluate(
    fuse: BioFuse, entry: Entry, path: Path, *, overwrite: bool, yes: bool, progress: bool, tell: Tell
) -> None:
    samples, made = split_off_test(_load(entry), seed=fuse.config.seed)
    if made:
        tell(made)
    development = development_data(samples)
    fuse.fit_development(
        development,
        out=path,
        overwrite=overwrite,
        yes=yes,
        progress=progress,
        tell=tell,
        data={"source": _absolute(entry.source), "label": entry.label, "group": entry.group, "task": entry.task},
    )
    evaluate_run(path, store=fuse.store, options=fuse.options, progress=progress)
    attempt_report(path, tell=tell, store=fuse.store, development=development.samples, test=development.held_out)


def _load(entry: Entry) -> Samples:
    return load_samples(entry.source, label=entry.label, group=entry.group, task=entry.task, labelled=True)


def _absolute(source: str) -> str:
    path = Path(source).expanduser()
    return str(path.resolve()) if path.exists() else source


def _stamp(fuse: BioFuse, entry: Entry) -> str | None:
    """Hash what decides a result, as far as it can be told without opening an image; None where that is not enough."""
    if entry.file is None or not entry.file.exists():
        return None
    facts = entry.file.stat()
    return digest_json(
        {
            "file": [str(entry.file.resolve()), facts.st_size, facts.st_mtime_ns],
            "read": [entry.label, entry.group, entry.task],
            "encoders": [card.fingerprint() for card in fuse.cards],
            "options": fuse.config.model_dump(mode="json"),
        }
    )


class _State:
    """Which runs are finished, and the files by which that is recognised; written after each."""

    def __init__(self, path: Path, entries: dict[str, dict[str, str]]) -> None:
        self._path = path
        self._entries = entries

    @classmethod
    def read(cls, path: Path) -> "_State":
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except (OSError, ValueError):
            content = {}  # then everything is looked at again; runs recognise themselves
        return cls(path, content if isinstance(content, dict) else {})

    def knows(self, name: str, stamp: str | None, run: Run) -> bool:
        """Tell whether a run was finished for this stamp, and is as it was then."""
        entry = self._entries.get(name)
        return isinstance(entry, Mapping) and stamp is not None and entry == {"stamp": stamp, **_seals(run)}

    def add(self, name: str, stamp: str | None, run: Run) -> None:
        """Note that a run is finished; one for which encoders were missing is tried again next time."""
        if stamp is None or run.read().skipped:
            return
        self._entries[name] = {"stamp": stamp, **_seals(run)}
        write_text(self._path, json.dumps(self._entries, indent=2) + "\n")


def _seals(run: Run) -> dict[str, str]:
    try:
        if run.exists() and run.read().state == "complete" and run.metrics_path.exists():
            return {"run": digest_file(run.path / "run.json"), "metrics": digest_file(run.metrics_path)}
    except ArtifactError:
        pass  # a damaged run is not a finished one: fitting says what is wrong with it
    return {"run": "", "metrics": ""}
