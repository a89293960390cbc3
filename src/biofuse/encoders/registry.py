"""The encoders that can be asked for by name: BioFuse's own, other packages', and a user's."""

import functools
import importlib.resources
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from biofuse.core.errors import DependencyError, EncoderError, UnknownEncoderError, did_you_mean, squashed
from biofuse.core.hashing import digest_file
from biofuse.core.registry import Registry
from biofuse.encoders.card import EncoderCard, Frozen, Precision, Weights, card_from_toml, read_card
from biofuse.encoders.encoder import Encoder, check_encoder
from biofuse.encoders.loaders import FAMILIES, Builder, adhoc_card, builder_of, check_configuration, is_adhoc
from biofuse.encoders.preprocessing import Preprocessing, card_errors, differences
from biofuse.encoders.weights import locate, pin

Find = Callable[[str], EncoderCard | None]
"""Looks for the card of an encoder that is not registered; names may begin with ``imported:``."""

ENTRY_POINT_GROUP = "biofuse.encoders"
"""Each entry point of this group is a function that takes an :class:`EncoderRegistry` and registers encoders in it."""

CARD_SUFFIX = ".toml"
"""How a name ends that is the path of a card."""

OWN_CARDS = importlib.resources.files("biofuse.encoders") / "cards"
"""BioFuse's own cards, a file each, named after the encoder."""


@dataclass(frozen=True)
class Entry:
    """A card, its own builder where its loader family is not one of BioFuse's, and its place in lists."""

    card: EncoderCard
    build: Builder | None = None
    place: float = math.inf


def _own(name: str) -> Entry:
    card, place = card_from_toml((OWN_CARDS / f"{name}{CARD_SUFFIX}").read_text(encoding="utf-8"), name=name)
    return Entry(card, place=place)


class Plugin(Frozen):
    """A Python file that was run to register encoders, heads or fusions.

    Attributes
    ----------
    path : str
        Absolute.
    sha256 : str
        Of its bytes.
    """

    path: str
    sha256: str


class EncoderRegistry(Registry[Entry]):
    """Cards by name: those that say their place first, then in the order of registration.

    Parameters
    ----------
    cards : iterable of EncoderCard, optional
        The first entries; BioFuse's own by default, each read when it is first asked for.
    plugins : bool, default True
        Whether the entry points of other packages are looked for, at the first listing or look-up.

    Attributes
    ----------
    plugins : tuple of Plugin
        Files that were run (:func:`biofuse.encoders.load_plugin`).
    """

    def __init__(self, cards: Iterable[EncoderCard] | None = None, *, plugins: bool = True) -> None:
        files = sorted(file.name for file in OWN_CARDS.iterdir()) if cards is None else []
        names = [file.removesuffix(CARD_SUFFIX) for file in files if file.endswith(CARD_SUFFIX)]
        own = {name: functools.partial(_own, name) for name in names}
        super().__init__(kind="encoder", group=ENTRY_POINT_GROUP, own=own, plugins=False)
        self._checked: set[tuple[str, str, str]] = set()
        self.plugins: tuple[Plugin, ...] = ()
        for card in cards or ():
            self.register(card)
        self._plugins_pending = plugins

    def register(
        self, card: EncoderCard | str | Path, build: Builder | None = None, *, replace: bool = False
    ) -> EncoderCard:
        """Add an encoder.

        Parameters
        ----------
        card : EncoderCard, str or Path
            What it is, or the path of the TOML file that says so (:func:`biofuse.encoders.read_card`).
        build : Builder, optional
            What loads it. May be left out where ``card.loader`` is a family of BioFuse's own.
        replace : bool, default False
            Whether to replace an encoder of that name.

        Returns
        -------
        EncoderCard
            Its card.

        Raises
        ------
        EncoderError
            If the name is taken, nothing could ever load the encoder, or the file is no card.
        """
        card = card if isinstance(card, EncoderCard) else read_card(card)
        if ":" in card.name:
            raise EncoderError(
                f"{card.name!r} cannot be registered: what follows a colon names a vector of the encoder before it.",
                remedy="Register the encoder, with the vector under `variants` of its card.",
            )
        _require_builder(card, build)
        taken = self.get(card.name).card if card.name in self else None
        if taken is not None and taken != card and not replace:
            raise EncoderError(
                f"There is already an encoder {card.name!r} ({taken.title}), with another card.",
                remedy="Choose another name, or pass replace=True.",
            )
        if card.name in self.aliases() or any(pool in self for pool in card.pools):
            raise EncoderError(f"{card.name}: a name cannot be both an encoder's and a pool's.")
        if taken is not None:
            self._checked.clear()
        place = math.inf if taken is None else self.get(card.name).place
        self.add(card.name, Entry(card, build, place), replace=True)
        return card

    def own_builder(self, name: str) -> Builder | None:
        """Return the builder that an encoder was registered with; None where its loader family is one of BioFuse's."""
        return self.get(name).build if name in self else None

    def get_card(self, name: str) -> EncoderCard:
        """Return the card of one encoder; that of an ad-hoc one (``timm:NAME``) or of a file (``.toml``) is made now.

        Raises
        ------
        UnknownEncoderError
            If no encoder has that name.
        """
        return self._card(name if name in self else self._written(name, None))

    def list_cards(self) -> tuple[EncoderCard, ...]:
        """Return all cards, without loading any model library."""
        return tuple(entry.card for entry in sorted(map(self.get, self.names()), key=lambda entry: entry.place))

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """Return the names of the encoders of each pool."""
        members: dict[str, tuple[str, ...]] = {}
        for card in self.list_cards():
            for pool in card.pools:
                members[pool] = (*members.get(pool, ()), card.name)
        return members

    def resolve(
        self, names: str | Sequence[str], *, allow_random_weights: bool = False, find: Find | None = None
    ) -> tuple[EncoderCard, ...]:
        """Return the cards of encoders and pools asked for by name.

        Parameters
        ----------
        names : str or sequence of str
            Names of encoders or pools (``"starter"``), of another vector of an encoder (``h0_mini:cls``), of ad-hoc
            encoders, see :func:`biofuse.encoders.loaders.adhoc_card`, or paths of cards (``my_card.toml``); a string
            may hold several, separated by commas. Where nothing has exactly that name, case, hyphens, underscores and
            spaces do not count, and an encoder goes by its title and its repository, too (``UNI``,
            ``MahmoodLab/UNI2-h``).
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
            If a name is neither an encoder's nor a pool's, or those of several, or no name is given.
        EncoderError
            If a file is no card.
        """
        lists = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else [names]
        strangers = [part for part in lists if not isinstance(part, str)]
        if strangers:
            raise EncoderError(
                f"Encoders are asked for by name, and {type(strangers[0]).__name__} is none.",
                remedy="Register it, and give its name: biofuse.register_torch(name, module, preprocessing) for a "
                "network, biofuse.register_encoder(name, dim=..., size=...)(function) for a function.",
            )
        asked = [name.strip() for part in lists for name in part.split(",") if name.strip()]
        if not asked:
            raise UnknownEncoderError("No encoder is named.", remedy="Name some, or a pool such as 'starter'.")
        wanted = [name if name in self else self._written(name, find) for name in asked]
        pools = {} if all(name in self for name in wanted) else self.aliases()
        members = [member for name in wanted for member in pools.get(name, (name,))]
        cards = [self._card(member, allow_random_weights, find) for member in dict.fromkeys(members)]
        # One encoder may have two names: that it was imported under, with and without the prefix.
        different = {card.fingerprint(): card for card in cards}.values()
        twice = sorted({card.name for card in different if sum(card.name == each.name for each in different) > 1})
        if twice:
            raise EncoderError(
                f"Two different encoders asked for are called {twice[0]!r}.",
                remedy="Change the name on one of the cards.",
            )
        return tuple(different)

    def _written(self, name: str, find: Find | None) -> str:
        """Return the name, here, of the one encoder or pool that a name written in another way can mean."""
        pools = self.aliases()
        if name in pools or is_adhoc(name) or name.endswith(CARD_SUFFIX) or (find is not None and find(name)):
            return name
        wanted = squashed(name)
        base, colon, variant = name.partition(":")
        if colon:
            encoder = base if base in self else self._written(base, None)
            return f"{encoder}:{variant}" if encoder in self else name
        found = [each for each in (*self.names(), *pools) if wanted and squashed(each) == wanted]
        found = found or [each for each, others in self._other_names().items() if wanted and wanted in others]
        if len(found) > 1:
            raise UnknownEncoderError(
                f"{name!r} can mean {' or '.join(map(repr, found))}.", remedy="Give the one that is meant by that name."
            )
        return found[0] if found else name

    def _other_names(self) -> dict[str, set[str]]:
        """Return what encoders are called elsewhere, without marks: title, and repository with and without owner."""
        others = {}
        for card in self.list_cards():
            repository = card.weights.repository if card.weights is not None and "/" in card.weights.repository else ""
            others[card.name] = {squashed(name) for name in (card.title, repository, repository.rpartition("/")[2])}
        return others

    def _card(self, name: str, allow_random_weights: bool = False, find: Find | None = None) -> EncoderCard:
        if name in self:
            return self.get(name).card
        base, colon, variant = name.partition(":")
        if colon and base in self:
            return self.get(base).card.variant(variant)
        if is_adhoc(name):
            made = adhoc_card(name, allow_random_weights=allow_random_weights)
            self._require_agreement(name, made)
            return made
        if name.endswith(CARD_SUFFIX):
            card = read_card(name)
            _require_builder(card, None)
            return card
        found = None if find is None else find(name)
        if found is None:
            raise self.unknown(name)
        return found

    def _require_agreement(self, asked: str, made: EncoderCard) -> None:
        """Refuse an ad-hoc encoder that prepares images or pools otherwise than the card of the same weights.

        Raises
        ------
        EncoderError
            That names both, and in what they differ.
        """
        for card in self.list_cards():
            if made.weights is None or card.weights is None or not _same_file(made.weights, card.weights):
                continue
            vectors = (card, *map(card.variant, card.variants))
            found = [_apart(card.preprocessing, card.output, made) for card in vectors]
            if all(found):
                others = ", ".join(vector.name for vector in vectors[1:])
                raise EncoderError(
                    f"{asked} and the card {card.name} are of the same weights and disagree: {found[0]}.",
                    remedy=f"Use {card.name}{f' (or {others})' if others else ''}, whose facts have sources; or write "
                    "a card of your own, under another name, for what you mean.",
                )

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
            A registered name, the path of a card, or a card such as a saved model holds.
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
        try:
            loaded = self._builder(card)(card, device=device, precision=precision, weights_path=weights_path)
        except ImportError as error:
            raise DependencyError(
                f"{card.name} needs a library that cannot be imported: {error}.",
                remedy=f"pip install {' '.join(card.requires) or error.name}",
            ) from error
        # The whole card, not its fingerprint: what is checked, such as the parameter count, is not all part of that.
        key = (loaded.card.model_dump_json(), precision, device)
        if key not in self._checked:
            check_configuration(loaded.card)
            check_encoder(loaded)
            self._checked.add(key)
        return loaded

    def _builder(self, card: EncoderCard) -> Builder:
        family = builder_of(card.loader)
        own = self.own_builder(card.name)
        if own is not None:
            registered = self.get(card.name).card
            # Pinned, because the card of a saved model holds the hash that the registered one may leave open.
            if registered == card or pin(registered).fingerprint() == pin(card).fingerprint():
                return own
        if family is not None:
            return family
        if own is not None:
            raise EncoderError(
                f"The encoder {card.name!r} registered here is not the one asked for: code, version or card differs.",
                remedy="Register the version that made those embeddings, or compute them again.",
            )
        raise UnknownEncoderError(
            f"Nothing here can load {card.name} (loader {card.loader!r}).",
            remedy="Install or import the package that registers it, or run the Python file that does: on the command "
            "line, --plugin FILE.",
        )

    def adopt(self, point: EntryPoint) -> None:
        """Have an entry point of another package, a function, register its encoders."""
        point.load()(self)

    def unknown(self, name: str) -> UnknownEncoderError:
        """Return the error for a name that nothing has."""
        hint = did_you_mean(name, {**self._other_names(), **dict.fromkeys(self.aliases(), ())})
        return UnknownEncoderError(
            f"There is no encoder or pool {name!r}. {hint}".rstrip(),
            remedy="`biofuse encoders list` shows all. One that a Python file of yours registers is there once that "
            "was run: on the command line, --plugin FILE.",
        )


def _same_file(one: Weights, other: Weights) -> bool:
    """Tell whether two cards take their weights from one repository of a hub, whose names know no case."""
    return "/" in one.repository and one.repository.casefold() == other.repository.casefold()


def _apart(preprocessing: Preprocessing, output: str, made: EncoderCard) -> str:
    """Say in what a card and an ad-hoc one differ; empty where they agree."""
    found = [differences(preprocessing, made.preprocessing)]
    if made.preprocessing.odd_crop != preprocessing.odd_crop:
        found.append(f"odd_crop is {made.preprocessing.odd_crop} there and {preprocessing.odd_crop} on the card")
    if made.output != output:
        found.append(f"output is {made.output} there and {output} on the card")
    return "; ".join(part for part in found if part)


def _require_builder(card: EncoderCard, build: Builder | None) -> None:
    if build is None and card.loader not in FAMILIES:
        raise EncoderError(f"{card.name}: {card.loader!r} is not a loader family, and no builder is given.")


ENCODERS = EncoderRegistry()
"""The registry that everything uses unless told otherwise, with BioFuse's own encoders in it."""

register = ENCODERS.register
get_card = ENCODERS.get_card
list_cards = ENCODERS.list_cards
resolve = ENCODERS.resolve
load_encoder = ENCODERS.load_encoder


class CardFacts(TypedDict, total=False):
    """Fields of a card that inform: what ``register_timm``, ``register_onnx`` and ``register_encoder`` take besides."""

    title: str
    parameters: int | None
    licence: str
    commercial: bool | None
    page: str
    modality: str
    training_data: str
    requires: tuple[str, ...]
    pools: tuple[str, ...]
    source: str
    citation: str
    notes: tuple[str, ...]


def register_timm(
    name: str,
    architecture: str,
    *,
    checkpoint: str | Path,
    dim: int,
    preprocessing: Preprocessing,
    output: Literal["cls", "pooled", "cls+mean", "projected"],
    arguments: Mapping[str, Any] | None = None,
    entry: str = "",
    prefix: str = "",
    ignore: tuple[str, ...] = (),
    replace: bool = False,
    registry: EncoderRegistry = ENCODERS,
    **facts: Unpack[CardFacts],
) -> EncoderCard:
    """Register an encoder made of a timm architecture and a checkpoint of your own.

    Parameters
    ----------
    name : str
        What it will be called.
    architecture : str
        timm's name of the architecture.
    checkpoint : str or Path
        ``.safetensors``, or a torch checkpoint that holds weights only. It is hashed now; a later change is refused.
    dim : int
        Length of the embedding.
    preprocessing : Preprocessing
        How the images were prepared when it was trained.
    output : {"cls", "pooled", "cls+mean", "projected"}
        The class token; what the architecture pools to (the average over positions, or attention); the class token
        and the mean of the patch tokens; the last layer.
    arguments : mapping, optional
        Further arguments of the architecture, such as ``{"img_size": 224, "global_pool": "token"}``; classes as dotted
        names. ``cls+mean`` needs ``{"global_pool": ""}``, ``projected`` needs ``{"num_classes": dim}``.
    entry, prefix, ignore
        How the checkpoint's names relate to the network's; see :class:`biofuse.encoders.Weights`.
    replace : bool, default False
        Whether to replace an encoder of that name.
    registry : EncoderRegistry, optional
        Where to register; BioFuse's own by default.
    **facts
        Facts for the card; see :class:`biofuse.encoders.EncoderCard`. The number of ``parameters`` without the
        classifier is checked at loading.

    Returns
    -------
    EncoderCard
        The registered card.

    Raises
    ------
    WeightsError
        If the checkpoint does not exist.
    EncoderError
        If the name is taken.
    """
    fields = {"architecture": architecture, "arguments": dict(arguments or {}), "output": output}
    layout = {"entry": entry, "prefix": prefix, "ignore": ignore}
    file = Path(checkpoint)
    defaults: CardFacts = {"source": f"checkpoint {file.name}"}
    card = _file_card(name, "timm", file, layout, dim=dim, preprocessing=preprocessing, **fields, **defaults | facts)
    return registry.register(card, replace=replace)


def register_onnx(
    name: str,
    path: str | Path,
    *,
    dim: int,
    preprocessing: Preprocessing,
    output_name: str = "",
    replace: bool = False,
    registry: EncoderRegistry = ENCODERS,
    **facts: Unpack[CardFacts],
) -> EncoderCard:
    """Register an encoder that is an ONNX file.

    Parameters
    ----------
    name : str
        What it will be called.
    path : str or Path
        The file, with all weights in it. It is hashed now; a later change is refused.
    dim : int
        Length of the embedding.
    preprocessing : Preprocessing
        How images are prepared for it; the graph itself takes normalised images of shape (n, 3, height, width).
    output_name : str, optional
        The output that is the embedding, where the graph has several.
    replace : bool, default False
        Whether to replace an encoder of that name.
    registry : EncoderRegistry, optional
        Where to register; BioFuse's own by default.
    **facts
        Facts for the card; see :class:`biofuse.encoders.EncoderCard`.

    Returns
    -------
    EncoderCard
        The registered card.

    Raises
    ------
    WeightsError
        If the file does not exist.
    EncoderError
        If the name is taken.
    """
    file = Path(path)
    defaults: CardFacts = {"source": f"ONNX file {file.name}", "requires": ("onnxruntime",)}
    fields = {"arguments": {"output": output_name} if output_name else {}, "output": "pooled"}
    card = _file_card(name, "onnx", file, {}, dim=dim, preprocessing=preprocessing, **fields, **defaults | facts)
    return registry.register(card, replace=replace)


def _file_card(name: str, loader: str, path: Path, layout: Mapping[str, Any], **fields: Any) -> EncoderCard:
    """Make the card of a weight file on this machine, whose hash is taken now."""
    unseen = Weights(repository="local", revision="", file=str(path.expanduser().resolve()), **layout)
    unknown = {"title": name, "licence": "unknown", "modality": "unknown"}
    with card_errors(name):
        card = EncoderCard(name=name, loader=loader, weights=unseen, **unknown | fields)
    sha256 = digest_file(locate(card), algorithm="sha256")
    return card.model_copy(update={"weights": unseen.model_copy(update={"sha256": sha256, "revision": sha256[:12]})})
