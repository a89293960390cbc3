"""Encoders of natural images: strong baselines for any modality."""

from typing import NamedTuple

from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.facts import Fact, external, unverified
from biofuse.encoders.pool.common import DINOV2_CITATION, HALF, IMAGENET, IN_TIMM, TIMM, crop, facts, page, squash

DINOV2_EVALUATION = "github facebookresearch/dinov2 dinov2/data/transforms.py make_classification_eval_transform"


class _Size(NamedTuple):
    word: str
    letter: str
    dim: int
    parameters: int
    gflops: float


DINOV2_SIZES = (
    _Size("small", "S", 384, 21_629_952, 12.46),
    _Size("base", "B", 768, 85_727_232, 47.08),
    _Size("large", "L", 1024, 303_230_976, 164.6),
    _Size("giant", "g", 1536, 1_134_774_272, 608.3),
)

DINOV3_SIZES = (
    _Size("small", "S", 384, 21_586_944, 12.49),
    _Size("base", "B", 768, 85_641_216, 47.15),
    _Size("large", "L", 1024, 303_079_424, 164.7),
    _Size("huge_plus", "H+", 1280, 840_509_440, 449.5),
)


class _Siglip(NamedTuple):
    name: str
    title: str
    architecture: str
    size: int
    dim: int
    parameters: int
    gflops: float
    preprocessing: Fact


SIGLIP2_SIZES = (
    _Siglip(
        "siglip2_base",
        "ViT-B/16, 224 pixels",
        "vit_base_patch16_siglip_224",
        224,
        768,
        92_884_224,
        35.42,
        external(
            f"{page('AXERA-TECH/siglip2-base-patch16-224')}/blob/main/tokenizer/preprocessor_config.json, a public "
            "copy of google's; timm's own configuration crops a centre of .9 and is bicubic"
        ),
    ),
    _Siglip(
        "siglip2_so400m",
        "so400m/16, 384 pixels",
        "vit_so400m_patch16_siglip_384",
        384,
        1152,
        428_256_704,
        518.9,
        unverified(
            "as siglip2_base and a public copy of google/siglip2-base-patch16-512; its own processor was not read"
        ),
    ),
)


def _dinov2(size: _Size) -> EncoderCard:
    architecture = f"vit_{size.word}_patch14_reg4_dinov2"
    repository = f"timm/{architecture}.lvd142m"
    return EncoderCard(
        name=f"dinov2_{size.word}",
        title=f"DINOv2 ViT-{size.letter}/14 with registers",
        loader="timm",
        architecture=architecture,
        arguments={"img_size": 224},
        weights=Weights(repository=repository, revision="main", file="model.safetensors"),
        preprocessing=crop(224, IMAGENET, resize=256),
        output="cls",
        dim=size.dim,
        parameters=size.parameters,
        gflops=size.gflops,
        licence="Apache-2.0",
        commercial=True,
        gated=False,
        page=page(repository),
        modality="general",
        training_data="LVD-142M: 142 million natural images",
        advised_precision="fp16",
        precision_note="fp16 or bf16 autocast.",
        source="timm 1.0.31; github facebookresearch/dinov2.",
        citation=f"{DINOV2_CITATION} Darcet, T. et al. (2024). Vision transformers need registers. ICLR. "
        "arXiv:2309.16588.",
        notes=("Native at 518 pixels; position embeddings are resampled to 224.",),
        facts=facts(
            weights=external(f"{TIMM} pretrained configuration; the commit is not known"),
            architecture=external(f"{TIMM} vision_transformer.py"),
            preprocessing=external(DINOV2_EVALUATION),
            output=external(f"{TIMM} vision_transformer.py: token pooling"),
            licence=external(f"{TIMM} pretrained configuration"),
            citation=IN_TIMM,
        ),
    )


def _dinov3(size: _Size) -> EncoderCard:
    architecture = f"vit_{size.word}_patch16_dinov3"
    repository = f"timm/{architecture}.lvd1689m"
    return EncoderCard(
        name=f"dinov3_{size.word}",
        title=f"DINOv3 ViT-{size.letter}/16",
        loader="timm",
        architecture=architecture,
        arguments={"global_pool": "token"},
        weights=Weights(repository=repository, revision="main", file="model.safetensors"),
        preprocessing=crop(256, IMAGENET),
        output="cls",
        dim=size.dim,
        parameters=size.parameters,
        gflops=size.gflops,
        licence="DINOv3 License",
        commercial=None,
        gated=None,
        page=page(repository),
        modality="general",
        training_data="LVD-1689M: 1.7 billion natural images",
        advised_precision="bf16",
        precision_note="bf16 or fp32; fp16 is believed to overflow.",
        source="timm 1.0.31 models/eva.py; github facebookresearch/dinov3.",
        citation="Siméoni, O. et al. (2025). DINOv3. arXiv:2508.10104.",
        notes=(
            "timm averages patch tokens by default; the class token is used here, as its authors do.",
            "The same weights under facebook/ are gated.",
        ),
        facts=facts(
            weights=external(f"{TIMM} pretrained configuration; the commit is not known"),
            architecture=external(f"{TIMM} models/eva.py"),
            preprocessing=external(f"{TIMM} models/eva.py pretrained configuration"),
            output=external(f"{TIMM} models/eva.py, its note on pooling"),
            licence=external("github facebookresearch/dinov3 LICENSE.md"),
            citation=IN_TIMM,
        ),
    )


def _siglip2(size: _Siglip) -> EncoderCard:
    repository = f"timm/{size.architecture}.v2_webli"
    return EncoderCard(
        name=size.name,
        title=f"SigLIP 2 {size.title}",
        loader="timm",
        architecture=size.architecture,
        arguments={"global_pool": "map"},
        weights=Weights(repository=repository, revision="main", file="model.safetensors"),
        preprocessing=squash(size.size, HALF, bilinear=True),
        output="pooled",
        dim=size.dim,
        parameters=size.parameters,
        gflops=size.gflops,
        licence="Apache-2.0",
        commercial=True,
        gated=False,
        page=page(repository),
        modality="general",
        training_data="WebLI: images of the web with texts of many languages",
        advised_precision="bf16",
        precision_note="bf16 or fp16.",
        source="timm 1.0.31 pretrained configurations.",
        citation="Tschannen, M. et al. (2025). SigLIP 2: multilingual vision-language encoders. arXiv:2502.14786.",
        facts=facts(
            weights=external(f"{TIMM} pretrained configuration; the commit is not known"),
            architecture=external(f"{TIMM} vision_transformer.py"),
            preprocessing=size.preprocessing,
            output=external(f"{TIMM} vision_transformer.py: attention pooling"),
            licence=external(f"{TIMM} pretrained configuration"),
            citation=IN_TIMM,
        ),
    )


GENERAL_CARDS: tuple[EncoderCard, ...] = (
    *(_dinov2(size) for size in DINOV2_SIZES),
    *(_dinov3(size) for size in DINOV3_SIZES),
    *(_siglip2(size) for size in SIGLIP2_SIZES),
)
"""By family, from small to large."""
