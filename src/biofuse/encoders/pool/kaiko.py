"""The vision transformers of kaiko.ai, from small to large."""

from typing import Any, NamedTuple

from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.facts import external
from biofuse.encoders.pool.common import HALF, TRIDENT, crop, facts, page, sources

OFFICIAL = "github kaiko-ai/towards_large_pathology_fms hubconf.py"


class _Size(NamedTuple):
    name: str
    title: str
    architecture: str
    dim: int
    parameters: int
    gflops: float
    arguments: dict[str, Any]


SIZES = (
    _Size("kaiko_vits16", "ViT-S/16", "vit_small_patch16_224", 384, 21_665_664, 9.197, {}),
    _Size("kaiko_vits8", "ViT-S/8", "vit_small_patch8_224", 384, 21_670_272, 44.81, {}),
    _Size("kaiko_vitb16", "ViT-B/16", "vit_base_patch16_224", 768, 85_798_656, 35.13, {}),
    _Size("kaiko_vitb8", "ViT-B/8", "vit_base_patch8_224", 768, 85_807_872, 156.3, {}),
    _Size("kaiko_vitl14", "ViT-L/14", "vit_large_patch14_reg4_dinov2", 1024, 304_370_688, 164.6, {"img_size": 518}),
)


def _card(size: _Size) -> EncoderCard:
    repository = f"1aurent/{size.architecture}.kaiko_ai_towards_large_pathology_fms"
    return EncoderCard(
        name=size.name,
        title=f"kaiko {size.title}",
        loader="timm",
        architecture=size.architecture,
        arguments={"dynamic_img_size": True, **size.arguments},
        weights=Weights(repository=repository, revision="main", file="model.safetensors"),
        preprocessing=crop(224, HALF, bilinear=True),
        output="cls",
        dim=size.dim,
        parameters=size.parameters,
        gflops=size.gflops,
        licence="Kaiko Non-Commercial Public License v1",
        commercial=False,
        gated=False,
        page=page(repository),
        modality="pathology",
        training_data="H&E slides of TCGA",
        advised_precision="fp32",
        precision_note="fp32 in TRIDENT.",
        source=f"{OFFICIAL} and LICENSE; {TRIDENT}.",
        citation="Aben, N. et al. (2024). Towards large-scale training of pathology foundation models. "
        "arXiv:2404.15217.",
        notes=("Native at 518 pixels; run at 224 with interpolated position embeddings.",) if size.arguments else (),
        facts=facts(
            weights=external(f"{TRIDENT}; the commit is not known"),
            architecture=sources(OFFICIAL, TRIDENT),
            preprocessing=sources(OFFICIAL, TRIDENT),
            output=sources(OFFICIAL, TRIDENT),
            licence=external("github kaiko-ai/towards_large_pathology_fms LICENSE"),
            training_data=external("github kaiko-ai/towards_large_pathology_fms README"),
            citation=external("github kaiko-ai/towards_large_pathology_fms README"),
        ),
    )


KAIKO_CARDS: tuple[EncoderCard, ...] = tuple(_card(size) for size in SIZES)
