"""What stands between an encoder and its first embedding on this machine."""

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from biofuse.core.errors import (
    AccessDeniedError,
    BioFuseError,
    DependencyError,
    HubUnreachableError,
    NotOnHubError,
    UnavailableWeightsError,
)
from biofuse.core.machine import free_memory
from biofuse.encoders.card import EncoderCard, Frozen, Weights, in_doubt
from biofuse.encoders.encoder import Encoder, UInt8Images, probe_images
from biofuse.encoders.hub import ask, is_repository, offline, unreachable
from biofuse.encoders.loaders import libraries_of
from biofuse.encoders.registry import ENCODERS, EncoderRegistry
from biofuse.encoders.weights import (
    Place,
    hub_file,
    locate,
    located,
    named_sha256,
    pin,
    place_of,
    require_sha256,
    weights_folder,
)

OnUnavailable = Literal["error", "skip"]


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
    weights_dir : Path, optional
        The weights folder; see :func:`biofuse.encoders.weights.locate`.
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
    usable, skipped = [], []
    for card in cards:
        try:
            usable.append(_ready(card, weights_dir, needed))
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
        if place_of(card, folder) == "absent":
            found.append(card)
            absent.append(card.name)
        else:
            found.append(pin(card, weights_dir=weights_dir))
    return tuple(found), tuple(absent)


def _ready(
    card: EncoderCard,
    weights_dir: Path | None,
    needed: Callable[[EncoderCard], bool] | None,
) -> EncoderCard:
    pinned = pin(card, weights_dir=weights_dir)
    if needed is None or needed(pinned):
        require_libraries(card)
        # A loader of another package may get its weights in its own way; random weights lie in no file.
        if pinned.weights is not None and pinned.weights.file and libraries_of(card.loader):
            path = locate(pinned, weights_dir=weights_dir)
            require_sha256(card.name, path, found=named_sha256(path), expected=pinned.weights.sha256)
    return pinned


def missing_libraries(card: EncoderCard) -> tuple[str, ...]:
    """Return the distributions that an encoder needs and that are not installed; imports none of them."""
    modules = ({"torch": "torch"} if card.runtime == "torch" else {}) | libraries_of(card.loader)
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
            f"{card.name} needs {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed.",
            remedy=f"pip install {' '.join(missing)}",
        )


Access = Literal["not needed", "granted", "denied", "not on hub", "unreachable", "not asked"]
"""What the hub says about weights that are not here."""

TIMEOUT = 3.0
"""Seconds to wait for the hub's answer: it takes tenths of one where there is a network."""

REQUESTS = 8
"""Questions to the hub at a time."""

BATCH = 16
"""Images per timed batch."""

PATIENCE = 0.5
"""Seconds per image above which an encoder is timed on one image, not on a batch."""


class Diagnosis(Frozen):
    """What was found about one encoder.

    Attributes
    ----------
    name, title : str
    missing : tuple of str
        Distributions to install.
    weights : str
        Where its weights lie; see :data:`Place`.
    access : str
        See :data:`Access`.
    gated : bool or None
        Whether access has to be asked for.
    memory_needed : int or None
        Bytes of its weights in fp32; None where the number of parameters is not known.
    memory_free : int or None
        Bytes free on the device; None where that cannot be told.
    loads : bool or None
        Whether it loads and keeps its card's promises; None where that was not tried.
    images_per_second : float or None
        Forward pass only, in batches of 16 (one by one where an image takes more than half a second).
    in_doubt : str
        Which essential facts no external source states, such as ``unverified layout``: it is never chosen by default.
    problem, remedy : str
        The first thing that keeps it from running, and what to do; empty where nothing does.
    """

    name: str
    title: str
    missing: tuple[str, ...] = ()
    weights: Place
    access: Access = "not needed"
    gated: bool | None = False
    memory_needed: int | None = None
    memory_free: int | None = None
    loads: bool | None = None
    images_per_second: float | None = None
    in_doubt: str = ""
    problem: str = ""
    remedy: str = ""

    @property
    def fits(self) -> bool | None:
        """Whether its weights fit the device's free memory; None where one of the two is not known."""
        if self.memory_needed is None or self.memory_free is None:
            return None
        return self.memory_needed <= self.memory_free

    @property
    def runs(self) -> bool:
        """Whether nothing was found that keeps it from running; what was not tried is not known."""
        return not self.problem


def diagnose(
    cards: Sequence[EncoderCard],
    *,
    device: str = "cpu",
    load: bool = False,
    weights_dir: Path | None = None,
    registry: EncoderRegistry = ENCODERS,
    progress: Callable[[EncoderCard], None] | None = None,
) -> Iterator[Diagnosis]:
    """Find out, encoder by encoder, what keeps each from running; downloads nothing.

    Parameters
    ----------
    cards : sequence of EncoderCard
    device : str
        Where they would run.
    load : bool, default False
        Whether to load those whose weights are here, run their card's checks and time them.
    weights_dir : Path, optional
        The weights folder; see :func:`biofuse.encoders.weights.locate`.
    registry : EncoderRegistry, optional
        What loads them; BioFuse's own by default.
    progress : callable, optional
        Told which encoder is about to be loaded.

    Yields
    ------
    Diagnosis
        One per card, in the order given.
    """
    folder = weights_folder(weights_dir)
    places = {card.name: place_of(card, folder) for card in cards}
    answers = _ask_all([card for card in cards if places[card.name] == "absent"], folder)
    for card in cards:
        found = _without_loading(
            card,
            places[card.name],
            answers.get(card.name),
            asked=card.name in answers,
            device=device,
            folder=folder,
        )
        if load and found.runs and found.weights != "absent":
            if progress is not None:
                progress(card)
            found = _loaded(found, card, device, folder, registry)
        yield found


def _ask_all(cards: Sequence[EncoderCard], folder: Path | None) -> Mapping[str, BioFuseError | None]:
    """Ask the hub about each; after two failures it counts as out of reach, and is not asked again."""
    failures: list[HubUnreachableError] = []

    def question(card: EncoderCard, weights: Weights) -> BioFuseError | None:
        wanted = hub_file(card, weights, folder=folder)
        if len(failures) > 1 and not offline():
            return unreachable(wanted, "it did not answer for other files")
        try:
            ask(wanted, timeout=TIMEOUT)
        except HubUnreachableError as error:
            failures.append(error)
            return error
        except UnavailableWeightsError as error:
            return error
        return None

    wanted = [(card, card.weights) for card in cards if card.weights and is_repository(card.weights.repository)]
    if not wanted:
        return {}
    with ThreadPoolExecutor(REQUESTS) as pool:
        answers = list(pool.map(question, *zip(*wanted, strict=True)))
    return dict(zip((card.name for card, _ in wanted), answers, strict=True))


def _without_loading(
    card: EncoderCard, place: Place, answer: BioFuseError | None, *, asked: bool, device: str, folder: Path | None
) -> Diagnosis:
    missing = missing_libraries(card)
    needed, free = card.weight_bytes(), free_memory(device)
    found = Diagnosis(
        name=card.name,
        title=card.title,
        missing=missing,
        weights=place,
        access=_access(answer, asked=asked),
        gated=card.gated,
        memory_needed=needed,
        memory_free=free,
        in_doubt=in_doubt(card),
    )
    if missing:
        problem, remedy = f"It needs {' and '.join(missing)}.", f"pip install {' '.join(missing)}"
    elif answer is not None:
        problem, remedy = answer.message, answer.remedy
    elif place == "absent" and not asked:
        problem, remedy = _why_absent(card, folder)
    elif found.fits is False and needed is not None and free is not None:
        problem = f"Its weights take {needed / 1e9:.1f} GB, and {device} has {free / 1e9:.1f} GB free."
        remedy = "Use a device with more memory, or close what fills it."
    else:
        return found
    return found.model_copy(update={"problem": problem, "remedy": remedy})


def _why_absent(card: EncoderCard, folder: Path | None) -> tuple[str, str]:
    if card.weights is not None:
        try:
            locate(card, weights_dir=folder)
        except BioFuseError as error:
            return error.message, error.remedy
    return "", ""


def _access(answer: BioFuseError | None, *, asked: bool) -> Access:
    if not asked:
        return "not needed"
    match answer:
        case None:
            return "granted"
        case AccessDeniedError():
            return "denied"
        case NotOnHubError():
            return "not on hub"
    return "not asked" if offline() else "unreachable"


def _loaded(
    found: Diagnosis, card: EncoderCard, device: str, folder: Path | None, registry: EncoderRegistry
) -> Diagnosis:
    try:
        path = located(card, weights_dir=folder)
        encoder = registry.load_encoder(card, device=device, weights_path=path)
        return found.model_copy(update={"loads": True, "images_per_second": speed(encoder)})
    except BioFuseError as error:
        return found.model_copy(update={"loads": False, "problem": error.message, "remedy": error.remedy})


def speed(encoder: Encoder) -> float:
    """Return how many prepared images a loaded encoder embeds per second.

    Reading, decoding and resizing come on top. The quicker of two passes counts: the first may warm something up.
    """
    images = probe_images(encoder.card.preprocessing.output_size)
    alone = _seconds(encoder, images[:1])
    if alone > PATIENCE:
        return 1 / alone
    batch = np.concatenate([images] * (BATCH // len(images) + 1))[:BATCH]
    return BATCH / min(_seconds(encoder, batch), _seconds(encoder, batch))


def _seconds(encoder: Encoder, images: UInt8Images) -> float:
    start = time.perf_counter()
    encoder.encode(images)
    return time.perf_counter() - start
