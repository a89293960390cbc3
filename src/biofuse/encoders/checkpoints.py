"""Named tensors from files, without running any code that a file may carry."""

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biofuse.core.errors import DamagedWeightsError, UnsafeWeightsError, WrongWeightsError

if TYPE_CHECKING:
    import torch

SHOWN = 3
"""How many names of a list a message quotes."""


def read_state(
    path: Path, *, entry: str = "", prefix: str = "", ignore: tuple[str, ...] = ()
) -> dict[str, "torch.Tensor"]:
    """Read named tensors from a safetensors file, or from a torch checkpoint with ``weights_only=True``.

    Parameters
    ----------
    path : Path
        ``.safetensors``, of which only the tensors asked for are read, or anything that ``torch.save`` wrote.
    entry : str
        Key under which the tensors lie, where the checkpoint holds more than weights.
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
    if path.suffix == ".safetensors":
        if entry:
            raise WrongWeightsError(
                f"{path} is a safetensors file, which has no entries, and the card names the entry {entry!r}."
            )
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


def _read_checkpoint(path: Path) -> Any:
    import pickle
    import zipfile

    import torch

    try:
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
