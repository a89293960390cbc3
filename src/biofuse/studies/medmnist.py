"""The 12 two-dimensional MedMNIST+ sets: official splits, the Evaluator's metrics, published values beside one's own.

``auroc`` and ``accuracy`` of :func:`biofuse.evaluation.metrics.score` equal ``AUC`` and ``ACC`` of
``medmnist.Evaluator`` on the same probabilities.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biofuse.api.fit import BioFuse
from biofuse.core.errors import DataError
from biofuse.core.hashing import digest_file
from biofuse.core.progress import Progress, Tell, progress_bars
from biofuse.data.medmnist import medmnist_catalogue, medmnist_file, medmnist_path, parse_medmnist_name
from biofuse.report.compare import TITLES
from biofuse.report.content import Table
from biofuse.studies.suite import (
    SuiteEntry,
    SuiteOutcome,
    published_singles,
    published_table,
    run_suite,
    summary_table,
)

SIZES = (28, 64, 128, 224)
"""Pixels, as published."""


def medmnist_sets() -> tuple[str, ...]:
    """Return the flags of the 12 two-dimensional sets, in the order of the paper."""
    return tuple(published_singles().datasets)


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
        published = published_singles()
        said = ["AUC and ACC are those of medmnist.Evaluator, on the official test split."]
        if self.size != published.size:
            said.append(f"Published values are of {published.size} pixels, these of {self.size}: they do not compare.")
        if self.altered:
            said.append(
                f"{', '.join(self.altered)}: the file is not the one that MedMNIST publishes (its MD5 differs), so "
                "these scores compare with nobody's."
            )
        return (*said, *super().notes)

    def tables(self) -> list[Table]:
        """Return the summary, single encoders beside their published values, and the comparison of the runs."""
        mine = [summary_table(self.comparison, self.flags)]
        beside = [published_table(self.comparison, self.flags, metric) for metric in TITLES]
        return [*mine, *(table for table in beside if table.rows), *super().tables()[1:]]

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values, published scores included."""
        published = published_singles()
        return {
            "size": self.size,
            "flags": self.flags,
            "altered": list(self.altered),
            **super().to_json(),
            "published": {
                "source": published.source,
                "size": published.size,
                "names": published.encoders,
                "notes": published.notes,
                "datasets": {
                    name: published.datasets[flag].model_dump(mode="json") for name, flag in self.flags.items()
                },
            },
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
