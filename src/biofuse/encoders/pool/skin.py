"""Encoders of dermatology."""

from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.facts import external, unverified
from biofuse.encoders.pool.common import (
    IMAGENET,
    OPENAI,
    TRANSFORMERS,
    Normalisation,
    bibliographies,
    crop,
    facts,
    page,
    tree,
)
from biofuse.encoders.pool.layouts import CLIP_TEXT, clip_vision

DERM1M = "github SiyuanYan1/Derm1M @036e236 README"
MONET = "github suinleelab/MONET @0c16473 README"
MONET_COMMIT = "1d1efd0b8d61bde82cde22d2e93c28d73441f29e"
HAM10000 = "HAM10000, its source, is believed to be in the training data (not checked)."

SKIN_CARDS: tuple[EncoderCard, ...] = (
    EncoderCard(
        name="panderm_large",
        title="PanDerm (ViT-L/16)",
        loader="timm",
        architecture="beit_large_patch16_224",
        arguments={
            "use_abs_pos_emb": True,
            "use_rel_pos_bias": False,
            "init_values": 0.1,
            "global_pool": "token",
        },
        weights=Weights(
            repository="manual",
            revision="499",
            file="panderm_ll_data6_checkpoint-499.pth",
            prefix="encoder.",
            ignore=("head.*",),
        ),
        preprocessing=crop(224, Normalisation((0.485, 0.456, 0.406), (0.228, 0.224, 0.225)), resize=256),
        output="cls",
        dim=1024,
        parameters=303_326_208,
        gflops=123.1,
        licence="CC-BY-NC-ND-4.0",
        commercial=False,
        gated=False,
        page="https://github.com/SiyuanYan1/PanDerm",
        modality="dermatology",
        training_data="More than 2 million skin images of four modalities, of several institutions",
        overlaps={"dermamnist": HAM10000},
        advised_precision="fp32",
        precision_note="fp32.",
        source="github SiyuanYan1/PanDerm README, classification/models @97e09d0.",
        citation="Yan, S. et al. (2025). A multimodal vision foundation model for clinical dermatology. Nature "
        "Medicine 31, 2691-2702.",
        notes=(
            "No hub: the file is offered on its page, and its path has to be given.",
            "The standard deviation .228 of the red channel is the repository's value, kept.",
        ),
        facts=facts(
            weights=unverified("the file name is the README's; how the weights lie in it was not seen"),
            architecture=unverified("the repository's own class; timm's BEiT without relative positions has its parts"),
            preprocessing=unverified(
                "size, crop, mean and std: github SiyuanYan1/PanDerm @97e09d0 classification; the interpolation was "
                "not noted"
            ),
            output=external("github SiyuanYan1/PanDerm @97e09d0 modeling_finetune.py, linear probing"),
            licence=external("github SiyuanYan1/PanDerm README"),
            training_data=external("github SiyuanYan1/PanDerm @811b628 README"),
            citation=bibliographies("10.1038/s41591-025-03747-y"),
        ),
    ),
    EncoderCard(
        name="dermlip_vitb16",
        title="DermLIP (ViT-B/16)",
        loader="open_clip",
        architecture="ViT-B-16",
        weights=Weights(
            repository="redlessone/DermLIP_ViT-B-16",
            revision="main",
            file="open_clip_pytorch_model.bin",
            prefix="visual.",
            processor="open_clip_config.json",
        ),
        preprocessing=crop(224, OPENAI),
        output="projected",
        dim=512,
        parameters=86_192_640,
        gflops=35.13,
        licence="CC-BY-NC-4.0",
        commercial=False,
        gated=False,
        page=page("redlessone/DermLIP_ViT-B-16"),
        modality="dermatology",
        training_data="Derm1M: a million skin images with texts",
        overlaps={"dermamnist": "HAM10000 images are in Derm1M (a third party's audit)."},
        advised_precision="fp16",
        precision_note="fp16 in public code.",
        requires=("open_clip_torch",),
        source="github SiyuanYan1/Derm1M README.",
        citation="Yan, S. et al. (2025). Derm1M: a million-scale vision-language dataset aligned with clinical "
        "ontology knowledge for dermatology. arXiv:2503.14911.",
        facts=facts(
            weights=unverified("the repository is public; its list of files was not read"),
            architecture=unverified(
                f"{DERM1M}: open_clip's ViT-B-16, trained on from OpenAI's weights, which use QuickGELU; whether its "
                "open_clip_config.json says so was not read"
            ),
            preprocessing=unverified("open_clip's default for the architecture"),
            output=external(f"{DERM1M}: encode_image"),
            licence=unverified("sources disagree between CC-BY-NC-4.0 and CC-BY-NC-ND-4.0"),
            training_data=external(DERM1M),
            citation=external(DERM1M),
        ),
    ),
    EncoderCard(
        name="monet",
        title="MONET (CLIP ViT-L/14)",
        loader="transformers",
        architecture="CLIPVisionModelWithProjection",
        arguments=clip_vision(width=1024, layers=24, heads=16, patch=14, projection=768),
        weights=Weights(
            repository="suinleelab/monet",
            revision=MONET_COMMIT,
            file="model.safetensors",
            ignore=CLIP_TEXT,
            processor="preprocessor_config.json",
        ),
        preprocessing=crop(224, IMAGENET),
        output="projected",
        dim=768,
        parameters=303_966_208,
        gflops=162,
        licence="CC-BY-NC-SA-4.0",
        commercial=False,
        gated=False,
        page=page("suinleelab/monet"),
        modality="dermatology",
        training_data="105,550 skin images with texts of articles and textbooks",
        advised_precision="fp16",
        precision_note="fp16.",
        requires=("transformers",),
        source=f"{MONET}; hub files.",
        citation="Kim, C. et al. (2024). Transparent medical image AI via an image-text foundation model grounded in "
        "medical literature. Nature Medicine 30, 1154-1165.",
        facts=facts(
            weights=external(
                f"{tree('suinleelab/monet', MONET_COMMIT)}; the README names its author's own repository, "
                "chanwkim/monet"
            ),
            architecture=external(f"{MONET} (CLIP ViT-L/14)"),
            preprocessing=external(
                f"{MONET}, written out; {page('suinleelab/monet')}/commit/b08d0881c1d47d859ffd66a9a73dce884714caef "
                "changes the processor's mean and std from CLIP's accordingly"
            ),
            output=external(f"{TRANSFORMERS} models/clip/modeling_clip.py get_image_features"),
            licence=external("github suinleelab/MONET LICENSE"),
            training_data=external(MONET),
            citation=external(MONET),
        ),
    ),
)
"""Images alone first, then with texts."""
