"""What an extraction reports."""

from dataclasses import dataclass

from biofuse.data.samples import Samples
from biofuse.encoders.card import Precision
from biofuse.extract.plan import ExtractionPlan
from biofuse.extract.stages import Stages
from biofuse.store.parts import Contents


@dataclass(frozen=True, kw_only=True)
class Quarantined:
    """A sample set aside because its image cannot be read."""

    id: str
    source: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class EncoderWork:
    """What was done for one encoder, in distinct images.

    Attributes
    ----------
    encoder : str
    computed : int
    reused : int
        How many the store had.
    seconds : float
        Of its forward passes, over all that ran at the same time.
    precision : {"fp32", "bf16", "fp16"}
        What it computed in; part of the fingerprint under which its embeddings lie.
    reason : str
        Why that precision, where it is not what one would expect.
    """

    encoder: str
    computed: int
    reused: int
    seconds: float
    precision: Precision = "fp32"
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Extraction:
    """Outcome of an extraction: every readable sample has an embedding under every encoder.

    Attributes
    ----------
    samples : Samples
        The readable samples, in the order given.
    contents : ndarray of S16, shape (len(samples),)
        Their content hashes.
    quarantined : tuple of Quarantined
    work : tuple of EncoderWork
        In pool order.
    healed : tuple of str
        Parts that failed their checksum and whose rows were computed again.
    seconds : float
        Wall time of the whole extraction.
    plan : ExtractionPlan
        What was to be done.
    stages : Stages
        Where the time went.
    """

    samples: Samples
    contents: Contents
    quarantined: tuple[Quarantined, ...]
    work: tuple[EncoderWork, ...]
    healed: tuple[str, ...]
    seconds: float
    plan: ExtractionPlan
    stages: Stages

    @property
    def computed(self) -> int:
        """Embeddings computed now; zero when the store already had them all."""
        return sum(work.computed for work in self.work)

    @property
    def precisions(self) -> dict[str, Precision]:
        """What each encoder computed in: needed to find its embeddings in the store again."""
        return {work.encoder: work.precision for work in self.work}
