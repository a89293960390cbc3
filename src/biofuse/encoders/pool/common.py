"""What many cards of the pool share: sources, normalisations, and where counts come from."""

from typing import NamedTuple

from biofuse.encoders.facts import Fact, FactName, computed, external, unverified
from biofuse.encoders.preprocessing import Preprocessing

HUB = "https://huggingface.co/"


class Normalisation(NamedTuple):
    """Mean and standard deviation per channel, on a scale of 0 to 1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""timm.data.constants.IMAGENET_DEFAULT_MEAN and _STD."""

OPENAI = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""open_clip.constants.OPENAI_DATASET_MEAN and _STD."""

HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""timm.data.constants.IMAGENET_INCEPTION_MEAN and _STD."""

RAD_DINO = Normalisation((0.5307, 0.5307, 0.5307), (0.2583, 0.2583, 0.2583))
"""preprocessor_config.json of microsoft/rad-dino, as ten public copies have it."""

HIBOU = Normalisation((0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816))
"""slide2vec, TRIDENT and eva agree."""

H_OPTIMUS = Normalisation((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
"""github bioptimus/releases models/h-optimus/v0."""

PINNED = "the commit is the one that public projects pin"

DINOV2_CITATION = (
    "Oquab, M. et al. (2024). DINOv2: learning robust visual features without supervision. TMLR. arXiv:2304.07193."
)

TRIDENT = "github mahmoodlab/TRIDENT @a91fa84 trident/patch_encoder_models/load.py"
TIMM = "timm 1.0.31"
TRANSFORMERS = "transformers 5.23"

COUNTED = computed("counted on the architecture without weights (timm 1.0.31, transformers 5.23, open_clip 3.3)")
FLOPS = computed("torch.utils.flop_counter on the architecture without weights, one image")
FROM_MEMORY = unverified("common knowledge about the paper; no source was read")
INFERRED = unverified("inferred from what is said of the training data; no lists of images were compared")
IN_TIMM = external("timm 1.0.31, the papers that its source names")


def slide2vec(module: str) -> str:
    """Return the reference to a file of slide2vec, which checks its encoders against the real weights."""
    return f"github clemsgrs/slide2vec @7cfa6bf slide2vec/encoders/models/{module}.py"


def eva(module: str) -> str:
    """Return the reference to a file of kaiko's eva."""
    return f"github kaiko-ai/eva @73b61a79 src/eva/vision/models/networks/backbones/pathology/{module}.py"


def page(repository: str) -> str:
    """Return the address of a model's page on the hub."""
    return HUB + repository


def tree(repository: str, revision: str) -> str:
    """Return the address of a repository's files at a commit."""
    return f"{HUB}{repository}/tree/{revision}"


def crop(
    size: int, normalisation: Normalisation, *, resize: int | None = None, bilinear: bool = False
) -> Preprocessing:
    """Return: shorter side to ``resize`` (``size`` by default), centre crop of ``size``, normalise."""
    return Preprocessing(
        resize="shortest",
        size=resize or size,
        crop=size,
        interpolation="bilinear" if bilinear else "bicubic",
        mean=normalisation.mean,
        std=normalisation.std,
    )


def squash(size: int, normalisation: Normalisation, *, bilinear: bool = False) -> Preprocessing:
    """Return: a square of ``size`` whatever the aspect, normalise."""
    return Preprocessing(
        resize="squash",
        size=size,
        interpolation="bilinear" if bilinear else "bicubic",
        mean=normalisation.mean,
        std=normalisation.std,
    )


def facts(
    *,
    weights: Fact,
    architecture: Fact,
    preprocessing: Fact,
    output: Fact,
    licence: Fact,
    dim: Fact | None = None,
    parameters: Fact = COUNTED,
    gflops: Fact = FLOPS,
    training_data: Fact = FROM_MEMORY,
    overlaps: Fact = INFERRED,
    citation: Fact = FROM_MEMORY,
) -> dict[FactName, Fact]:
    """Return the origins of a card's facts; the dimension comes from where the output does unless given."""
    return {
        "weights": weights,
        "architecture": architecture,
        "preprocessing": preprocessing,
        "output": output,
        "dim": dim or output,
        "licence": licence,
        "parameters": parameters,
        "gflops": gflops,
        "training_data": training_data,
        "overlaps": overlaps,
        "citation": citation,
    }


def bibliographies(doi: str, remark: str = "") -> Fact:
    """Return the origin of a citation that public bibliographies give alike; ``remark`` names one that does not."""
    return external(f"doi:{doi}, as public bibliographies give it{remark}")


def sources(*references: str) -> Fact:
    """Return an external origin that several references state alike."""
    return external("; ".join(references))
