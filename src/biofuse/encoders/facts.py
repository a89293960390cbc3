"""Which facts a card states, and where each of them comes from."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

FactName = Literal[
    "weights",
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

FACT_NAMES: tuple[FactName, ...] = (
    "weights",
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
)
"""All of them, in the order in which they are shown."""

ESSENTIAL: tuple[FactName, ...] = ("weights", "architecture", "preprocessing", "output", "dim", "licence")
"""Those that decide an embedding's values, or whether one may use it. The others inform."""

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
