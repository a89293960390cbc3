"""The encoders that can be asked for by name: BioFuse's own, other packages', and a user's."""

import difflib
import functools
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from biofuse.core.errors import BioFuseWarning, DependencyError, EncoderError, UnknownEncoderError
from biofuse.encoders.adhoc import adhoc_card, is_adhoc
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.checks import check_encoder
from biofuse.encoders.protocol import Encoder
from biofuse.encoders.weights import pin

Find = Callable[[str], EncoderCard | None]
"""Looks for the card of an encoder that is not registered; names may begin with ``imported:``."""

ENTRY_POINT_GROUP = "biofuse.encoders"
"""Each entry point of this group is a function that takes a :class:`Registry` and registers encoders in it."""

FAMILIES = {
    "timm": "timm_loader",
    "open_clip": "open_clip_loader",
    "transformers": "transformers_loader",
    "conch": "conch",
    "chexagent": "chexagent",
    "onnx": "onnx_loader",
    "packaged": "packaged",
    "descriptor": "descriptors",
    "imported": "imported",
}
"""Loader families of BioFuse's own: the module of this package whose ``build`` loads a card of the family."""


class Builder(Protocol):
    """Turns a card into a loaded encoder."""

    def __call__(self, card: EncoderCard, *, device: str, precision: Precision, weights_path: Path | None) -> Encoder:
        """Build it."""
        ...


@dataclass(frozen=True)
class Entry:
    """A card, and its own builder where its loader family is not one of BioFuse's."""

    card: EncoderCard
    build: Builder | None


class Registry:
    """Cards by name, in the order of registration.

    Parameters
    ----------
    cards : iterable of EncoderCard
        The first entries; their loader families must be BioFuse's own.
    plugins : bool, default True
        Whether the entry points of other packages are looked for, at the first listing or look-up.
    """

    def __init__(self, cards: Iterable[EncoderCard] = (), *, plugins: bool = True) -> None:
        self._entries: dict[str, Entry] = {}
        self._plugins_pending = plugins
        self._checked: set[tuple[str, str, str]] = set()
        for card in cards:
            self.register(card)

    def register(self, card: EncoderCard, build: Builder | None = None, *, replace: bool = False) -> None:
        """Add an encoder.

        Parameters
        ----------
        card : EncoderCard
            What it is.
        build : Builder, optional
            What loads it. May be left out where ``card.loader`` is one of :data:`FAMILIES`.
        replace : bool, default False
            Whether to replace an encoder of that name.

        Raises
        ------
        EncoderError
            If the name is taken, or nothing could ever load the encoder.
        """
        taken = self._entries.get(card.name)
        if taken is not None and taken.card != card and not replace:
            raise EncoderError(
                f"There is already an encoder {card.name!r} ({taken.card.title}), with another card.",
                remedy="Choose another name, or pass replace=True.",
            )
        if card.name in self.aliases() or any(pool in self._entries for pool in card.pools):
            raise EncoderError(f"{card.name}: a name cannot be both an encoder's and a pool's.")
        if build is None and card.loader not in FAMILIES:
            raise EncoderError(f"{card.name}: {card.loader!r} is not a loader family, and no builder is given.")
        if taken is not None:
            self._checked.clear()
        self._entries[card.name] = Entry(card, build)

    def own_builder(self, name: str) -> Builder | None:
        """Return the builder that an encoder was registered with; None where its loader family is one of BioFuse's."""
        entry = self._entries.get(name)
        return None if entry is None else entry.build

    def get_card(self, name: str) -> EncoderCard:
        """Return the card of one encoder; that of an ad-hoc one (``timm:NAME``) is made now.

        Raises
        ------
        UnknownEncoderError
            If no encoder has that name.
        """
        self._load_plugins()
        if is_adhoc(name):
            return adhoc_card(name)
        if name not in self._entries:
            raise self._unknown(name)
        return self._entries[name].card

    def list_cards(self) -> tuple[EncoderCard, ...]:
        """Return all cards, without loading any model library."""
        self._load_plugins()
        return tuple(entry.card for entry in self._entries.values())

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the encoders of each pool."""
        members: dict[str, tuple[str, ...]] = {}
        for entry in self._entries.values():
            for pool in entry.card.pools:
                members[pool] = (*members.get(pool, ()), entry.card.name)
        return members

    def resolve(
        self, names: str | Sequence[str], *, allow_random_weights: bool = False, find: Find | None = None
    ) -> tuple[EncoderCard, ...]:
        """Return the cards of encoders and pools asked for by name.

        Parameters
        ----------
        names : str or sequence of str
            Names of encoders or pools (``"starter"``), or of ad-hoc encoders, see
            :func:`biofuse.encoders.adhoc.adhoc_card`; a string may hold several, separated by commas.
        allow_random_weights : bool, default False
            Whether ad-hoc encoders ``timm:NAME`` get random weights in place of trained ones, to try things out.
        find : callable, optional
            Looks further for names that are not registered, such as :meth:`biofuse.store.EmbeddingStore.find_imported`.

        Returns
        -------
        tuple of EncoderCard
            In the order asked for, each once.

        Raises
        ------
        UnknownEncoderError
            If a name is neither an encoder's nor a pool's, or no name is given.
        """
        self._load_plugins()
        lists = [names] if isinstance(names, str) else names
        wanted = [name.strip() for part in lists for name in part.split(",") if name.strip()]
        if not wanted:
            raise UnknownEncoderError("No encoder is named.", remedy="Name some, or a pool such as 'starter'.")
        pools = self.aliases()
        members = [member for name in wanted for member in pools.get(name, (name,))]
        cards = [self._card(member, allow_random_weights, find) for member in dict.fromkeys(members)]
        # One encoder may have two names: that it was imported under, with and without the prefix.
        return tuple({card.fingerprint(): card for card in cards}.values())

    def _card(self, name: str, allow_random_weights: bool, find: Find | None) -> EncoderCard:
        if is_adhoc(name):
            return adhoc_card(name, allow_random_weights=allow_random_weights)
        found = find(name) if find is not None and name not in self._entries else None
        return self.get_card(name) if found is None else found

    def load_encoder(
        self,
        encoder: str | EncoderCard,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        weights_path: Path | None = None,
    ) -> Encoder:
        """Load an encoder and check that it is what its card says.

        Parameters
        ----------
        encoder : str or EncoderCard
            A registered name, or a card such as a saved model holds.
        device : str
            Where networks run; encoders that run in numpy take no notice.
        precision : {"fp32", "fp16", "bf16"}
            What networks compute in; encoders that run in numpy take no notice.
        weights_path : Path, optional
            The weight file, instead of where the card says it lies.

        Returns
        -------
        Encoder
            Its ``card`` holds the hash of the weights that were read; take fingerprints from that one.

        Raises
        ------
        UnknownEncoderError
            If there is no such encoder.
        WeightsError
            If the weights are missing, unsafe or not the named ones.
        DependencyError
            If a package is missing.
        EncoderError
            If it cannot be built, or does not behave as its card says.
        """
        card = self.get_card(encoder) if isinstance(encoder, str) else encoder
        build = self._builder(card)
        try:
            loaded = build(card, device=device, precision=precision, weights_path=weights_path)
        except ImportError as error:
            raise DependencyError(
                f"{card.name} needs a library that cannot be imported: {error}.",
                remedy=f"pip install {' '.join(card.requires) or error.name}",
            ) from error
        # The whole card, not its fingerprint: what is checked, such as the parameter count, is not all part of that.
        key = (loaded.card.model_dump_json(), precision, device)
        if key not in self._checked:
            check_encoder(loaded)
            self._checked.add(key)
        return loaded

    def _builder(self, card: EncoderCard) -> Builder:
        self._load_plugins()
        family = _family(card.loader)
        entry = self._entries.get(card.name)
        own = None if entry is None else entry.build
        if own is None or entry is None:
            if family is not None:
                return family
            raise UnknownEncoderError(
                f"Nothing here can load {card.name} (loader {card.loader!r}).",
                remedy="Install or import the package that registers it, or run its register_encoder again.",
            )
        # Pinned, because the card of a saved model holds the hash that the registered one may leave open.
        if entry.card == card or pin(entry.card).fingerprint() == pin(card).fingerprint():
            return own
        if family is not None:
            return family
        raise EncoderError(
            f"The encoder {card.name!r} registered here is not the one asked for: code, version or card differs.",
            remedy="Register the version that made those embeddings, or compute them again.",
        )

    def _load_plugins(self) -> None:
        if not self._plugins_pending:
            return
        self._plugins_pending = False
        for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
            before = dict(self._entries)
            try:
                point.load()(self)
            except Exception as error:  # a stranger's code may raise anything, and must not take the others with it
                self._entries = before
                package = point.dist.name if point.dist is not None else "an unknown package"
                warnings.warn(
                    f"The encoder plug-in {point.name!r} of {package} cannot be used: {type(error).__name__}: {error}",
                    BioFuseWarning,
                    stacklevel=3,
                )

    def _unknown(self, name: str) -> UnknownEncoderError:
        close = difflib.get_close_matches(name, [*self._entries, *self.aliases()])
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        return UnknownEncoderError(
            f"There is no encoder or pool {name!r}.{hint}", remedy="`biofuse encoders list` shows all."
        )


def _family(loader: str) -> Builder | None:
    # Imported only when an encoder is loaded; none of these modules imports a model library by itself.
    if loader not in FAMILIES:
        return None
    build: Builder = importlib.import_module(f"biofuse.encoders.{FAMILIES[loader]}").build
    return build


@functools.cache
def default_registry() -> Registry:
    """Return the registry that the module's functions use, with BioFuse's own encoders in it."""
    from biofuse.encoders.pool import POOL_CARDS
    from biofuse.encoders.starter import STARTER_CARDS

    return Registry((*STARTER_CARDS, *POOL_CARDS))


def register(card: EncoderCard, build: Builder | None = None, *, replace: bool = False) -> None:
    """Add an encoder; see :meth:`Registry.register`."""
    default_registry().register(card, build, replace=replace)


def get_card(name: str) -> EncoderCard:
    """Return the card of one encoder; see :meth:`Registry.get_card`."""
    return default_registry().get_card(name)


def list_cards() -> tuple[EncoderCard, ...]:
    """Return all cards; see :meth:`Registry.list_cards`."""
    return default_registry().list_cards()


def resolve(
    names: str | Sequence[str], *, allow_random_weights: bool = False, find: Find | None = None
) -> tuple[EncoderCard, ...]:
    """Return the cards of encoders and pools asked for by name; see :meth:`Registry.resolve`."""
    return default_registry().resolve(names, allow_random_weights=allow_random_weights, find=find)


def load_encoder(
    encoder: str | EncoderCard,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    weights_path: Path | None = None,
) -> Encoder:
    """Load an encoder and check it; see :meth:`Registry.load_encoder`."""
    return default_registry().load_encoder(encoder, device=device, precision=precision, weights_path=weights_path)
