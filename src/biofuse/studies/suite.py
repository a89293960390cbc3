"""Several data sets with the same options: one's own, or the 12 two-dimensional MedMNIST+ sets beside published scores.

Of MedMNIST+ the official splits are used; ``auroc`` and ``accuracy`` of :func:`biofuse.evaluation.metrics.score` equal
``AUC`` and ``ACC`` of ``medmnist.Evaluator`` on the same probabilities.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from biofuse.api.estimators import BioFuse
from biofuse.api.fit import evaluate
from biofuse.api.report import attempt_report
from biofuse.core.errors import ArtifactError, BioFuseError, DataError
from biofuse.core.files import read_json, write_text
from biofuse.core.hashing import digest_file, digest_json
from biofuse.core.progress import Progress, Tell, progress_bars
from biofuse.data.config import DataConfig
from biofuse.data.medmnist import medmnist_catalogue, medmnist_file, medmnist_path, parse_medmnist_name
from biofuse.report.compare import RunComparison
from biofuse.report.content import Table
from biofuse.report.html import TablePage
from biofuse.report.plates import Plate
from biofuse.runs.run import METRICS, RECORD, REPORT, Run
from biofuse.studies.published import Beside, medmnist_modality, published_results

STATE = "benchmark-state.json"
"""What is finished, and how it is recognised."""


@dataclass(frozen=True, kw_only=True)
class SuiteEntry:
    """One data set of a benchmark.

    Attributes
    ----------
    name : str
        Of its run directory.
    source : str
        Anything :func:`biofuse.load_samples` takes that can be written down: a path or a MedMNIST name.
    config : DataConfig
        How it is read.
    file : Path or None
        The one file that holds everything, if there is one: while size and time of it stay, a finished run is taken as
        it is, without a look at its images.
    """

    name: str
    source: str
    config: DataConfig = field(default_factory=DataConfig)
    file: Path | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SuiteOutcome(TablePage):
    """What became of the data sets.

    Attributes
    ----------
    comparison : RunComparison
        The finished runs side by side.
    finished : dict of str to Path
        Run directories, by name, in the order given.
    reused : tuple of str
        Those that were finished already, so that nothing had to be done.
    failed : dict of str to BioFuseError
        Why others could not be run.
    """

    comparison: RunComparison
    finished: dict[str, Path]
    reused: tuple[str, ...]
    failed: dict[str, BioFuseError]

    @property
    def title(self) -> str:
        """What the page is called."""
        return "Benchmark"

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known to read these numbers."""
        failed = [f"{name} could not be run: {error.message}" for name, error in self.failed.items()]
        return (*self.comparison.notes, *failed)

    @property
    def links(self) -> dict[str, str]:
        """Address of each run's report, by name, as seen from the folder of all runs."""
        return {
            name: f"{quote(path.name)}/{REPORT}" for name, path in self.finished.items() if (path / REPORT).exists()
        }

    def tables(self) -> list[Table]:
        """Return the comparison of the runs."""
        return self.comparison.tables()

    def plates(self) -> list[Plate]:
        """Return the figures of the comparison."""
        return self.comparison.plates()

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        failed = {name: error.message for name, error in self.failed.items()}
        return {"failed": failed, **self.comparison.to_json()} | {"notes": list(self.notes)}


def run_suite(
    fuse: BioFuse,
    sets: Sequence[SuiteEntry],
    *,
    out: Path,
    failed: Mapping[str, BioFuseError] | None = None,
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
    sets : sequence of SuiteEntry
    out : Path
        A run directory per data set goes into it.
    failed : mapping of str to BioFuseError, optional
        Data sets that cannot be had, and why.
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
        Anything but a :class:`DataError`, which concerns one data set alone; that too where none could be run.
    """
    say = tell or (lambda _: None)
    known = _read_state(out / STATE)
    finished: dict[str, Path] = {}
    reused: list[str] = []
    failures = dict(failed or {})
    for number, each in enumerate(sets, start=1):
        path, stamp = out / each.name, _stamp(fuse, each)
        if stamp is not None and known.get(each.name) == {"stamp": stamp, **_seals(path)}:
            say(f"[{number}/{len(sets)}] {each.name}: finished before.")
            finished[each.name] = path
            reused.append(each.name)
            continue
        say(f"[{number}/{len(sets)}] {each.name}")
        try:
            _fit_and_evaluate(fuse, each, path, overwrite=overwrite, yes=yes, progress=progress, tell=say)
        except DataError as error:
            say(f"{each.name} cannot be run: {error}")
            failures[each.name] = error
            continue
        finished[each.name] = path
        if stamp is not None and not Run.open(path).record.skipped:  # else it is tried again next time
            known[each.name] = {"stamp": stamp, **_seals(path)}
            write_text(out / STATE, json.dumps(known, indent=2) + "\n")
    if failures and not finished:
        raise next(iter(failures.values()))
    comparison = RunComparison.read(list(finished.values()), modality_of=medmnist_modality)
    return SuiteOutcome(comparison=comparison, finished=finished, reused=tuple(reused), failed=failures)


def _fit_and_evaluate(
    fuse: BioFuse, data: SuiteEntry, path: Path, *, overwrite: bool, yes: bool, progress: bool, tell: Tell
) -> None:
    result = fuse.fit(
        data.source, config=data.config, out=path, overwrite=overwrite, yes=yes, progress=progress, tell=tell
    ).result_
    evaluate(path, store=result.store, options=result.options, progress=progress)
    attempt_report(path, tell=tell, store=result.store, development=result.embeddings, test=result.held_out)


def _stamp(fuse: BioFuse, data: SuiteEntry) -> str | None:
    """Hash what decides a result, as far as it can be told without opening an image; None where that is not enough."""
    if data.file is None or not data.file.exists():
        return None
    facts = data.file.stat()
    return digest_json(
        {
            "file": [str(data.file.resolve()), facts.st_size, facts.st_mtime_ns],
            "read": data.config.model_dump(mode="json"),
            "encoders": [card.fingerprint() for card in fuse.cards],
            "options": fuse.config.model_dump(mode="json"),
        }
    )


def _read_state(path: Path) -> dict[str, Any]:
    """Return which runs are finished, with what they are recognised by."""
    try:
        content: Any = read_json(path) if path.exists() else {}
    except (OSError, ValueError):
        content = {}  # then everything is looked at again; runs recognise themselves
    return content if isinstance(content, dict) else {}


def _seals(path: Path) -> dict[str, str]:
    try:
        Run.open(path)
        return {"run": digest_file(path / RECORD), "metrics": digest_file(path / METRICS)}
    except (ArtifactError, FileNotFoundError):
        return {"run": "", "metrics": ""}  # fitting says what is wrong with it


def benchmark_data(
    fuse: BioFuse,
    sources: Sequence[str],
    *,
    out: Path,
    config: DataConfig | None = None,
    overwrite: bool = False,
    yes: bool = False,
    progress: bool = True,
    tell: Tell | None = None,
) -> SuiteOutcome:
    """Fit and evaluate every data set with the same options.

    Parameters
    ----------
    fuse : BioFuse
        The pool and the options.
    sources : sequence of str
        Folders, tables, ``.npz`` files or MedMNIST names, as for ``biofuse fit``.
    out : Path
        A run directory per data set goes into it.
    config : DataConfig, optional
        How they are read; the same for every data set.
    overwrite, yes, progress, tell
        As for :func:`biofuse.studies.suite.run_suite`.

    Raises
    ------
    DataError
        If a data set is named twice, or none of them could be run.
    """
    sets = [
        SuiteEntry(name=name, source=source, config=config or DataConfig(), file=_single_file(source))
        for name, source in names_of(sources).items()
    ]
    return run_suite(fuse, sets, out=out, overwrite=overwrite, yes=yes, progress=progress, tell=tell)


def names_of(sources: Sequence[str]) -> dict[str, str]:
    """Give every data set the name of its folder or file, with its parent's before it where two would be the same.

    Raises
    ------
    DataError
        If a data set is named twice.
    """
    paths = [Path(source).expanduser().resolve() for source in sources]
    repeated = [source for source, path in zip(sources, paths, strict=True) if paths.count(path) > 1]
    if repeated:
        raise DataError(f"{repeated[0]} is named twice.", remedy="Name every data set once.")
    short = [_stem(path) for path in paths]
    counts = Counter(short)
    names = [
        name if counts[name] == 1 else f"{path.parent.name}-{name}" for name, path in zip(short, paths, strict=True)
    ]
    if len(set(names)) != len(names):
        names = [f"{number}-{name}" for number, name in enumerate(names, start=1)]
    return dict(zip(names, sources, strict=True))


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _single_file(source: str) -> Path | None:
    """Return the file that holds images and all; a table only points at them."""
    path = Path(source).expanduser()
    return path if path.suffix.lower() == ".npz" and path.is_file() else None


SIZES = (28, 64, 128, 224)
"""Pixels, as published."""


def medmnist_sets() -> tuple[str, ...]:
    """Return the flags of the 12 two-dimensional sets, in the order of the paper."""
    return tuple(published_results().datasets)


@dataclass(frozen=True, kw_only=True, eq=False)
class MedMNISTOutcome(SuiteOutcome):
    """Scores on the sets that were run.

    Attributes
    ----------
    flags : dict of str to str
        MedMNIST flag of each run.
    size : int
        Pixels of the images.
    altered : tuple of str
        Runs whose file is not the published one, so that their scores compare with nobody's.
    """

    flags: dict[str, str]
    size: int
    altered: tuple[str, ...]

    @property
    def title(self) -> str:
        """What the page is called."""
        return f"MedMNIST+ at {self.size} pixels"

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known to compare these numbers with published ones."""
        published = published_results()
        said = ["AUC and ACC are those of medmnist.Evaluator, on the official test split."]
        if self.size != published.size:
            said.append(f"Published values are of {published.size} pixels, these of {self.size}: they do not compare.")
        if self.altered:
            said.append(
                f"{', '.join(self.altered)}: the file is not the one that MedMNIST publishes (its MD5 differs), so "
                "these scores compare with nobody's."
            )
        return (*said, *super().notes)

    @property
    def beside(self) -> Beside:
        """The runs beside what was published."""
        return Beside(comparison=self.comparison, flags=self.flags)

    def tables(self) -> list[Table]:
        """Return the summary, what others reached, and the comparison of the runs."""
        return [*self.beside.tables(), *super().tables()[1:]]

    def plates(self) -> list[Plate]:
        """Return the figures of the published methods, and of the comparison."""
        return [*self.beside.plates(), *super().plates()]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, published scores included."""
        return {
            "size": self.size,
            "flags": self.flags,
            "altered": list(self.altered),
            **super().to_json(),
            "published": self.beside.to_json(),
        }


def benchmark_medmnist(
    fuse: BioFuse,
    sets: Sequence[str] = (),
    *,
    out: Path,
    size: int = 224,
    root: Path | None = None,
    overwrite: bool = False,
    yes: bool = False,
    progress: bool = True,
    tell: Tell | None = None,
) -> MedMNISTOutcome:
    """Fit and evaluate on MedMNIST+ sets.

    Parameters
    ----------
    fuse : BioFuse
        The pool and the options.
    sets : sequence of str
        Flags; none: the files that are in ``root``, or all 12 sets where no ``root`` is given.
    out : Path
        A run directory per set goes into it.
    size : {28, 64, 128, 224}
    root : Path, optional
        Folder with files that are there already; a set that is named and missing is fetched into it. A file there that
        is not the published one is used, and said to be another.
    overwrite, yes, progress, tell
        As for :func:`biofuse.studies.suite.run_suite`.

    Raises
    ------
    DataError
        If a set or size does not exist, ``root`` holds none of the files, or no set could be run.
    """
    say = tell or (lambda _: None)
    flags = _flags(sets, size=size, root=root)
    found, altered, failed = [], [], {}
    with progress_bars(progress, unit="bytes") as bars:
        for flag in flags:
            try:
                path, published = _file(flag, size, root=root, progress=bars)
            except DataError as error:
                say(f"{flag} cannot be had: {error}")
                failed[flag] = error
                continue
            found.append(SuiteEntry(name=path.stem, source=str(path), file=path))
            if not published:
                altered.append(path.stem)
                say(f"{path} is not the file that MedMNIST publishes: its scores compare with nobody's.")
    suite = run_suite(fuse, found, out=out, failed=failed, overwrite=overwrite, yes=yes, progress=progress, tell=say)
    return MedMNISTOutcome(
        **vars(suite),
        flags={name: (parse_medmnist_name(name) or (name, None))[0] for name in suite.finished},
        size=size,
        altered=tuple(name for name in altered if name in suite.finished),
    )


def _flags(sets: Sequence[str], *, size: int, root: Path | None) -> tuple[str, ...]:
    known = medmnist_sets()
    wrong = [name for name in sets if name.lower() not in known]
    if wrong:
        raise DataError(
            f"{', '.join(wrong)} is no two-dimensional MedMNIST set.", remedy=f"There are {', '.join(known)}."
        )
    if size not in SIZES:
        raise DataError(f"There is no size {size}.", remedy=f"Choose one of {', '.join(map(str, SIZES))}.")
    if sets:
        return tuple(dict.fromkeys(name.lower() for name in sets))
    if root is None:
        return known
    there = tuple(flag for flag in known if medmnist_path(flag, size, root=root).exists())
    if not there:
        raise DataError(
            f"{root} holds no MedMNIST file of {size} pixels, such as {medmnist_path(known[6], size).name}.",
            remedy="Name the sets to have them fetched into it, or correct --root or --size.",
        )
    return there


def _file(flag: str, size: int, *, root: Path | None, progress: Progress) -> tuple[Path, bool]:
    """Return the archive, and whether it is the published one."""
    path = medmnist_path(flag, size, root=root)
    if root is not None and path.exists():
        return path, digest_file(path, algorithm="md5") == medmnist_catalogue()[1][flag].md5[size]
    return medmnist_file(flag, size, root=root, progress=progress), True
