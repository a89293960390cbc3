"""A benchmark over the user's own data sets: the same options on each, one comparison of all."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biofuse.api.estimator import BioFuse
from biofuse.api.runtime import Tell
from biofuse.benchmark.published import medmnist_modality
from biofuse.benchmark.suite import Entry, SuiteOutcome, run_suite
from biofuse.core.errors import DataError
from biofuse.report.comparison import Comparison
from biofuse.report.page import Table, render_page, render_tables


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnOutcome:
    """Scores on one's own data sets.

    Attributes
    ----------
    comparison : Comparison
    suite : SuiteOutcome
    """

    comparison: Comparison
    suite: SuiteOutcome

    @property
    def notes(self) -> tuple[str, ...]:
        """What must be known to read these numbers."""
        failed = [f"{name} could not be run: {error.message}" for name, error in self.suite.failed.items()]
        return (*self.comparison.notes, *failed)

    def tables(self) -> list[Table]:
        """Return the comparison of the runs."""
        return self.comparison.tables()

    def to_html(self) -> str:
        """Return one self-contained page."""
        return render_page("Benchmark", self.tables(), lead=self.notes, links=self.suite.reports)

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        failed = {name: error.message for name, error in self.suite.failed.items()}
        return {"failed": failed, **self.comparison.to_json()} | {"notes": list(self.notes)}

    def _repr_html_(self) -> str:
        return render_tables(self.tables())


def benchmark_data(
    fuse: BioFuse,
    sources: Sequence[str],
    *,
    out: Path,
    label: str | list[str] | None = None,
    group: str | None = None,
    task: str | None = None,
    overwrite: bool = False,
    yes: bool = False,
    progress: bool = True,
    tell: Tell | None = None,
) -> OwnOutcome:
    """Fit and evaluate every data set with the same options.

    Parameters
    ----------
    fuse : BioFuse
        The pool and the options.
    sources : sequence of str
        Folders, tables, ``.npz`` files or MedMNIST names, as for ``biofuse fit``.
    out : Path
        A run directory per data set goes into it.
    label, group, task : optional
        As for :func:`biofuse.load_samples`; the same for every data set.
    overwrite, yes, progress, tell
        As for :func:`biofuse.benchmark.suite.run_suite`.

    Raises
    ------
    DataError
        If a data set is named twice, or none of them could be run.
    """
    entries = [
        Entry(name=name, source=source, label=label, group=group, task=task, file=_single_file(source))
        for name, source in names_of(sources).items()
    ]
    suite = run_suite(fuse, entries, out=out, overwrite=overwrite, yes=yes, progress=progress, tell=tell)
    suite.require_something()
    return OwnOutcome(
        comparison=Comparison.read(list(suite.finished.values()), modality_of=medmnist_modality), suite=suite
    )


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
