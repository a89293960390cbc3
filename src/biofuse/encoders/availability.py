"""Which of the encoders asked for can be run on this machine."""

import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from biofuse.core.errors import BioFuseError, DependencyError, UnavailableWeightsError
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.places import locate, named_sha256, place_of, require_sha256, weights_folder
from biofuse.encoders.weights import pin

OnUnavailable = Literal["error", "skip"]

LIBRARIES = {
    "timm": {"timm": "timm"},
    "open_clip": {"open_clip": "open_clip_torch"},
    "transformers": {"transformers": "transformers"},
    "conch": {"timm": "timm"},
    "chexagent": {"transformers": "transformers"},
    "onnx": {"onnxruntime": "onnxruntime"},
    "packaged": {"timm": "timm"},
    "descriptor": {"skimage": "scikit-image"},
}
"""Per loader family: the modules it imports, and the distributions that bring them."""


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An encoder that was asked for and is left out.

    Attributes
    ----------
    name : str
    reason : str
        What is missing.
    remedy : str
        What would change that.
    """

    name: str
    reason: str
    remedy: str = ""


def available(
    cards: Iterable[EncoderCard],
    *,
    on_unavailable: OnUnavailable = "error",
    weights_paths: Mapping[str, Path] | None = None,
    weights_dir: Path | None = None,
    needed: Callable[[EncoderCard], bool] | None = None,
) -> tuple[tuple[EncoderCard, ...], tuple[Skipped, ...]]:
    """Pin the cards and fetch their weights, so that what is missing is known before the first image is read.

    Parameters
    ----------
    cards : iterable of EncoderCard
    on_unavailable : {"error", "skip"}
        What to do with an encoder whose library is not installed or whose weights cannot be had here: gated without
        access, gone from the hub, or the hub out of reach. Weights that are there but are not what the card says are
        an error in any case.
    weights_paths : mapping of str to Path, optional
        Weight files by name of the encoder, in place of where they are looked for.
    weights_dir : Path, optional
        The weights folder; see :func:`biofuse.encoders.places.locate`.
    needed : callable, optional
        Tells of a pinned card whether it will be loaded; if not, because all its embeddings are stored, its weights
        need not be here.

    Returns
    -------
    cards : tuple of EncoderCard
        Those that can be run, pinned, in the order given.
    skipped : tuple of Skipped
        The others; empty with ``on_unavailable="error"``.

    Raises
    ------
    BioFuseError
        With ``"error"``, the first encoder's own; with ``"skip"``, if none is left.
    ChecksumError
        If a weight file is another one than its card says.
    DiskError
        If there is no room for a download.
    """
    if on_unavailable not in {"error", "skip"}:
        raise BioFuseError(f"on_unavailable is {on_unavailable!r}; it must be 'error' or 'skip'.")
    paths = weights_paths or {}
    usable, skipped = [], []
    for card in cards:
        try:
            usable.append(_ready(card, paths.get(card.name), weights_dir, needed))
        except (UnavailableWeightsError, DependencyError) as error:
            if on_unavailable == "error":
                raise
            skipped.append(Skipped(name=card.name, reason=error.message, remedy=error.remedy))
    if skipped and not usable:
        listed = "\n".join(f"{each.name}: {each.reason}" for each in skipped)
        raise BioFuseError(
            f"None of the encoders asked for can be run here:\n{listed}",
            remedy=skipped[0].remedy or "`biofuse encoders doctor` shows what each needs.",
        )
    return tuple(usable), tuple(skipped)


def pinned_here(
    cards: Iterable[EncoderCard],
    *,
    weights_paths: Mapping[str, Path] | None = None,
    weights_dir: Path | None = None,
) -> tuple[tuple[EncoderCard, ...], tuple[str, ...]]:
    """Pin the cards whose weights are on this machine, and leave the others as they are; downloads nothing.

    Returns
    -------
    cards : tuple of EncoderCard
        In the order given. Of one that is not pinned, what the store holds cannot always be told.
    absent : tuple of str
        Encoders whose weights are not on this machine.
    """
    folder = weights_folder(weights_dir)
    found, absent = [], []
    for card in cards:
        path = (weights_paths or {}).get(card.name)
        if path is None and place_of(card, folder) == "absent":
            found.append(card)
            absent.append(card.name)
        else:
            found.append(pin(card, weights_path=path, weights_dir=weights_dir))
    return tuple(found), tuple(absent)


def _ready(
    card: EncoderCard,
    weights_path: Path | None,
    weights_dir: Path | None,
    needed: Callable[[EncoderCard], bool] | None,
) -> EncoderCard:
    pinned = pin(card, weights_path=weights_path, weights_dir=weights_dir)
    if needed is None or needed(pinned):
        require_libraries(card)
        # A loader of another package may get its weights in its own way; random weights lie in no file.
        if pinned.weights is not None and pinned.weights.file and card.loader in LIBRARIES:
            path = locate(
                card.name, pinned.weights, weights_path, weights_dir=weights_dir, title=card.title, page=card.page
            )
            require_sha256(card.name, path, found=named_sha256(path), expected=pinned.weights.sha256)
    return pinned


def missing_libraries(card: EncoderCard) -> tuple[str, ...]:
    """Return the distributions that an encoder needs and that are not installed; imports none of them."""
    modules = LIBRARIES.get(card.loader, {})
    missing = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
    for package in card.requires:
        try:
            importlib.metadata.distribution(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    return tuple(dict.fromkeys(missing))


def require_libraries(card: EncoderCard) -> None:
    """Refuse an encoder whose libraries are not installed.

    Raises
    ------
    DependencyError
        With the command that installs them.
    """
    missing = missing_libraries(card)
    if missing:
        raise DependencyError(
            f"{card.name} needs {' and '.join(missing)}, which is not installed.",
            remedy=f"pip install {' '.join(missing)}",
        )
