"""Encoders of Bioptimus."""

from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.facts import external, unverified
from biofuse.encoders.pool.common import (
    FROM_MEMORY,
    H_OPTIMUS,
    PINNED,
    TRIDENT,
    bibliographies,
    crop,
    eva,
    facts,
    page,
    slide2vec,
    sources,
    tree,
)
from biofuse.encoders.pool.layouts import swiglu

H_OPTIMUS_COMMIT = "b145cc1e6c6b30d3251aa8b1f844e6974188a743"
PRIVATE = "Private whole-slide images"
RELEASE = "github bioptimus/releases @c369f8f models/h-optimus/v0/README.md"

H_OPTIMUS_PREPROCESSING = unverified(
    "mean and std are its authors'; they expect tiles of 224 pixels and say nothing of others, which slide2vec resizes "
    "bicubically but TRIDENT bilinearly"
)


def _h_optimus(number: int) -> EncoderCard:
    repository = f"bioptimus/H-optimus-{number}"
    first = number == 0
    revision = H_OPTIMUS_COMMIT if first else "main"
    return EncoderCard(
        name=f"h_optimus_{number}",
        title=f"H-optimus-{number}",
        loader="timm",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments={"img_size": 224, "global_pool": "token", "init_values": 1e-5, "dynamic_img_size": False},
        weights=Weights(repository=repository, revision=revision, file="pytorch_model.bin"),
        preprocessing=crop(224, H_OPTIMUS),
        output="cls",
        dim=1536,
        parameters=1_134_774_272,
        gflops=608.3,
        licence="Apache-2.0" if first else "CC-BY-NC-ND-4.0",
        commercial=True if first else None,
        gated=None if first else True,
        page=page(repository),
        modality="pathology",
        training_data=f"{PRIVATE}: more than {'500,000' if first else '1,000,000'}, H&E",
        advised_precision="fp16",
        precision_note="The model card uses fp16 autocast.",
        source=f"github bioptimus/releases models/h-optimus/v0; {TRIDENT}.",
        citation="Saillard, C. et al. (2024). H-optimus-0. github bioptimus/releases."
        if first
        else "Bioptimus (2025). H-optimus-1. Model card on the hub.",
        notes=("Its four register tokens are not part of the embedding.",)
        + (() if first else ("Requests for access have stayed pending for months (discussion 21 on the hub).",)),
        facts=facts(
            weights=external(
                f"{tree(repository, revision)}; {PINNED}" if first else f"{TRIDENT}; the commit is not known"
            ),
            architecture=sources(TRIDENT, slide2vec("hoptimus"), RELEASE)
            if first
            else sources(TRIDENT, slide2vec("hoptimus")),
            preprocessing=H_OPTIMUS_PREPROCESSING,
            output=sources(TRIDENT, slide2vec("hoptimus")),
            licence=external("github bioptimus/releases LICENSE; hub listing")
            if first
            else unverified("believed to be CC-BY-NC-ND-4.0; the model card was not read"),
            training_data=external(RELEASE) if first else FROM_MEMORY,
            citation=external(RELEASE) if first else unverified("the model card was not read"),
        ),
    )


BIOPTIMUS_CARDS: tuple[EncoderCard, ...] = (
    _h_optimus(0),
    _h_optimus(1),
    EncoderCard(
        name="h0_mini",
        title="H0-mini",
        loader="timm",
        architecture="vit_base_patch14_reg4_dinov2",
        arguments=swiglu(img_size=224, mlp_ratio=5.33334, init_values=1e-5, global_pool="token"),
        weights=Weights(repository="bioptimus/H0-mini", revision="main", file="model.safetensors"),
        preprocessing=crop(224, H_OPTIMUS),
        output="cls",
        dim=768,
        parameters=85_739_520,
        gflops=47.08,
        licence="CC-BY-NC-ND-4.0",
        commercial=None,
        gated=True,
        page=page("bioptimus/H0-mini"),
        modality="pathology",
        training_data="Distilled from H-optimus-0 on 40 million tiles of TCGA",
        advised_precision="fp16",
        precision_note="fp16 in slide2vec.",
        source=f"{TRIDENT}; {slide2vec('hoptimus')}.",
        citation="Filiot, A. et al. (2025). Distilling foundation models for robust and efficient models in digital "
        "pathology. arXiv:2501.16239.",
        notes=("Its authors also offer class token and mean of patch tokens together (1,536 columns).",),
        facts=facts(
            weights=unverified("the repository is known, its list of files was not read"),
            architecture=unverified(
                "SwiGLU, 261 tokens of 768 and 86 million parameters are published; the rest is taken from its teacher"
            ),
            preprocessing=external(slide2vec("hoptimus")),
            output=sources(slide2vec("hoptimus"), eva("bioptimus")),
            licence=unverified("believed to be CC-BY-NC-ND-4.0; the model card was not read"),
            training_data=external(eva("bioptimus")),
            citation=bibliographies("10.48550/arXiv.2501.16239"),
        ),
    ),
)
