"""The paper's encoders of radiology and of articles' figures, its baseline, and the one its code used by mistake."""

from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.facts import external, unverified
from biofuse.encoders.pool.common import (
    DINOV2_CITATION,
    FROM_MEMORY,
    IMAGENET,
    IN_TIMM,
    OPENAI,
    PINNED,
    RAD_DINO,
    TIMM,
    TRANSFORMERS,
    bibliographies,
    crop,
    facts,
    page,
    squash,
    tree,
)
from biofuse.encoders.pool.layouts import CLIP_TEXT, clip_vision, dinov2

POOL = "paper"

BIOMEDCLIP = "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224"
BIOMEDCLIP_COMMIT = "9f341de24bfb00180f1b847274256e9b65a3a32e"
PUBMEDCLIP = "flaviagiammarino/pubmed-clip-vit-base-patch32"
RAD_DINO_COMMIT = "110cbc18d5133582e320b43d53bf5c44e410c936"
CHEXAGENT = "StanfordAIMI/CheXagent-8b"
CHEXAGENT_COMMIT = "4934e91451945c8218c267aae9c34929a7677829"
CLIP_COMMIT = "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"

PAPER_CARDS: tuple[EncoderCard, ...] = (
    EncoderCard(
        name="biomedclip",
        title="BiomedCLIP",
        loader="open_clip",
        arguments={
            "embed_dim": 512,
            "vision_cfg": {
                "timm_model_name": "vit_base_patch16_224",
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": 224,
            },
        },
        weights=Weights(
            repository=BIOMEDCLIP,
            revision=BIOMEDCLIP_COMMIT,
            file="open_clip_pytorch_model.bin",
            prefix="visual.",
            processor="open_clip_config.json",
        ),
        preprocessing=crop(224, OPENAI),
        output="projected",
        dim=512,
        parameters=86_191_872,
        gflops=35.13,
        licence="MIT",
        commercial=True,
        gated=False,
        page=page(BIOMEDCLIP),
        modality="biomedical",
        training_data="PMC-15M: 15 million figures of PubMed Central articles with their captions",
        advised_precision="fp16",
        precision_note="fp32, or autocast to fp16 or bf16.",
        requires=("open_clip_torch",),
        pools=(POOL,),
        source="Hub page, configuration and files; open_clip 3.3.",
        citation="Zhang, S. et al. (2023). BiomedCLIP: a multimodal biomedical foundation model pretrained from "
        "fifteen million scientific image-text pairs. arXiv:2303.00915.",
        notes=(
            "Figures of articles may show images of public data sets.",
            "The projected 512 columns are what the paper used, not normalised; the trunk's class token has 768.",
        ),
        facts=facts(
            weights=external(f"{tree(BIOMEDCLIP, BIOMEDCLIP_COMMIT)}; {PINNED}"),
            architecture=external(f"{page(BIOMEDCLIP)}/blame/main/open_clip_config.json"),
            preprocessing=external(
                "open_clip_config.json names mean and std; resize and crop are open_clip 3.3's defaults, and what "
                "public users of this commit record"
            ),
            output=external("open_clip 3.3 encode_image; embed_dim of open_clip_config.json"),
            licence=external(page(BIOMEDCLIP)),
            training_data=external(page(BIOMEDCLIP)),
            citation=external(page(BIOMEDCLIP)),
        ),
    ),
    EncoderCard(
        name="pubmedclip",
        title="PubMedCLIP (ViT-B/32)",
        loader="transformers",
        architecture="CLIPVisionModelWithProjection",
        arguments=clip_vision(width=768, layers=12, heads=12, patch=32, projection=512),
        weights=Weights(
            repository=PUBMEDCLIP,
            revision="main",
            file="pytorch_model.bin",
            ignore=CLIP_TEXT,
            processor="preprocessor_config.json",
        ),
        preprocessing=crop(224, OPENAI),
        output="projected",
        dim=512,
        parameters=87_849_216,
        gflops=8.818,
        licence="MIT",
        commercial=True,
        gated=False,
        page=page(PUBMEDCLIP),
        modality="radiology",
        training_data="ROCO: radiology figures of PubMed Central articles with their captions",
        advised_precision="fp16",
        precision_note="fp32 or fp16.",
        requires=("transformers",),
        pools=(POOL,),
        source="Hub page; CLIP's classes in transformers 5.23.",
        citation="Eslami, S., Meinel, C. and de Melo, G. (2023). PubMedCLIP: how much does CLIP benefit visual "
        "question answering in the medical domain? Findings of EACL, 1181-1193.",
        notes=("Figures of articles may show images of public data sets.",),
        facts=facts(
            weights=external(f"{page(PUBMEDCLIP)}/commits/32494c0"),
            architecture=external(f"hub name (CLIP ViT-B/32); {TRANSFORMERS} models/clip"),
            preprocessing=external(
                f"{page(PUBMEDCLIP)}/blob/8c9083276570b80ff91935dea11720b7ccfe113b/preprocessor_config.json"
            ),
            output=external(f"{TRANSFORMERS} models/clip/modeling_clip.py get_image_features"),
            licence=external(page(PUBMEDCLIP)),
            training_data=FROM_MEMORY,
            citation=bibliographies(
                "10.18653/v1/2023.findings-eacl.88", "; one README gives the pages 1151-1163 instead"
            ),
        ),
    ),
    EncoderCard(
        name="chexagent",
        title="CheXagent-8b, vision tower",
        loader="chexagent",
        architecture="Blip2VisionModel",
        arguments={
            "hidden_size": 1408,
            "intermediate_size": 6144,
            "num_hidden_layers": 40,
            "num_attention_heads": 16,
            "image_size": 448,
            "patch_size": 14,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "qkv_bias": True,
        },
        weights=Weights(
            repository=CHEXAGENT,
            revision=CHEXAGENT_COMMIT,
            file="model.safetensors.index.json",
            prefix="vision_model.",
            processor="preprocessor_config.json",
        ),
        preprocessing=squash(448, OPENAI),
        output="cls",
        dim=1408,
        parameters=1_012_283_776,
        gflops=2307,
        licence="unknown",
        commercial=None,
        gated=None,
        page=page(CHEXAGENT),
        modality="radiology",
        training_data="CheXinstruct: public chest X-ray sets (MIMIC-CXR, CheXpert, ChestX-ray14, PadChest, RSNA, ...)",
        overlaps={
            "chestmnist": "CheXinstruct is said to hold ChestX-ray14, its source (not checked).",
            "pneumoniamnist": "CheXinstruct is said to hold public paediatric and RSNA pneumonia sets (not checked).",
        },
        advised_precision="fp16",
        precision_note="The checkpoint is fp32; the original code fed fp16 pixels.",
        requires=("transformers",),
        pools=(POOL,),
        source="Hub configuration, file list and preprocessor; BLIP-2's vision tower in transformers 5.23.",
        citation="Chen, Z. et al. (2024). CheXagent: towards a foundation model for chest X-ray interpretation. "
        "arXiv:2401.12208.",
        notes=(
            "Only the shards that hold the vision tower are read (4 GB of 33), never the language model.",
            "The embedding is the class token after the one final LayerNorm; pooler_output applies it a second time.",
        ),
        facts=facts(
            weights=unverified(
                f"{tree(CHEXAGENT, CHEXAGENT_COMMIT)} lists the shards; that the tower's names begin "
                "with vision_model. and follow BLIP-2 has not been seen on the index"
            ),
            architecture=external(f"{page(CHEXAGENT)}/blob/main/config.json, configuration_chexagent.py"),
            preprocessing=external(f"{page(CHEXAGENT)}/blob/main/preprocessor_config.json"),
            output=external("github mnhcorp/biofuse embedding_extractor.py: last_hidden_state[:, 0]"),
            licence=unverified("none is stated on the hub; CheXagent-2-3b is CC-BY-NC-4.0"),
            training_data=FROM_MEMORY,
            citation=external(f"{page(CHEXAGENT)}, which names arXiv:2401.12208"),
        ),
    ),
    EncoderCard(
        name="rad_dino",
        title="RAD-DINO",
        loader="transformers",
        architecture="Dinov2Model",
        arguments=dinov2(width=768, layers=12, heads=12, image=518),
        weights=Weights(
            repository="microsoft/rad-dino",
            revision=RAD_DINO_COMMIT,
            file="model.safetensors",
            processor="preprocessor_config.json",
        ),
        preprocessing=crop(518, RAD_DINO),
        output="cls",
        dim=768,
        parameters=86_580_480,
        gflops=303.1,
        licence="MIT",
        commercial=True,
        gated=False,
        page=page("microsoft/rad-dino"),
        modality="radiology",
        training_data="MIMIC-CXR, CheXpert, ChestX-ray14, PadChest and BRAX chest X-rays",
        overlaps={"chestmnist": "ChestX-ray14, its source, is said to be in the pre-training data (not checked)."},
        advised_precision="fp16",
        precision_note="fp32; autocast to fp16 or bf16 is believed to be harmless.",
        requires=("transformers",),
        pools=(POOL,),
        source="Hub page and files; DINOv2's class in transformers 5.23.",
        citation="Pérez-García, F. et al. (2025). Exploring scalable medical image encoders beyond text supervision. "
        "Nature Machine Intelligence 7, 119-130. arXiv:2401.10815.",
        notes=("518 pixels make 1,370 tokens: about five times the cost of 224.",),
        facts=facts(
            weights=external(f"{tree('microsoft/rad-dino', RAD_DINO_COMMIT)}; {PINNED}"),
            architecture=external(f"{page('microsoft/rad-dino')}/tree/main config.json"),
            preprocessing=external("ten public copies of preprocessor_config.json at commit 364cf91 agree"),
            output=external(f"{page('microsoft/rad-dino')}: pooler_output, the class token after the final LayerNorm"),
            licence=external(page("microsoft/rad-dino")),
            training_data=FROM_MEMORY,
            citation=bibliographies("10.1038/s42256-024-00965-w"),
        ),
    ),
)
"""Four of the nine."""

BASELINE_CARDS: tuple[EncoderCard, ...] = (
    EncoderCard(
        name="clip_vit_b32",
        title="CLIP (ViT-B/32)",
        loader="transformers",
        architecture="CLIPVisionModelWithProjection",
        arguments=clip_vision(width=768, layers=12, heads=12, patch=32, projection=512),
        weights=Weights(
            repository="openai/clip-vit-base-patch32",
            revision=CLIP_COMMIT,
            file="pytorch_model.bin",
            ignore=CLIP_TEXT,
            processor="preprocessor_config.json",
        ),
        preprocessing=crop(224, OPENAI),
        output="projected",
        dim=512,
        parameters=87_849_216,
        gflops=8.818,
        licence="MIT",
        commercial=None,
        gated=False,
        page=page("openai/clip-vit-base-patch32"),
        modality="general",
        training_data="WIT: 400 million images of the web with their texts",
        advised_precision="fp16",
        precision_note="fp32 or fp16.",
        requires=("transformers",),
        source="CLIP's classes in transformers 5.23; timm 1.0.31's notes on the weights.",
        citation="Radford, A. et al. (2021). Learning transferable visual models from natural language supervision. "
        "ICML. arXiv:2103.00020.",
        notes=("The general-purpose baseline of the paper's figures 4 and 5; not part of its pool.",),
        facts=facts(
            weights=external(f"{tree('openai/clip-vit-base-patch32', CLIP_COMMIT)}; {PINNED}"),
            architecture=external(f"{TRANSFORMERS} models/clip; {TIMM} (the weights use QuickGELU)"),
            preprocessing=external(f"{TRANSFORMERS} models/clip image processor; {TIMM} pretrained configuration"),
            output=external(f"{TRANSFORMERS} models/clip/modeling_clip.py get_image_features"),
            licence=unverified(
                "the code is MIT; the hub states no licence for the weights; its discussion 72 asks for one"
            ),
            citation=IN_TIMM,
        ),
    ),
    EncoderCard(
        name="dinov2_g",
        title="DINOv2 ViT-g/14, as the original BioFuse used it",
        loader="timm",
        architecture="vit_giant_patch14_dinov2",
        arguments={"img_size": 224},
        weights=Weights(repository="timm/vit_giant_patch14_dinov2.lvd142m", revision="main", file="model.safetensors"),
        preprocessing=crop(224, IMAGENET, resize=256),
        output="cls",
        dim=1536,
        parameters=1_134_769_664,
        gflops=598.8,
        licence="Apache-2.0",
        commercial=True,
        gated=False,
        page=page("timm/vit_giant_patch14_dinov2.lvd142m"),
        modality="general",
        training_data="LVD-142M: 142 million natural images",
        advised_precision="fp16",
        precision_note="fp16 or bf16 autocast.",
        source="github mnhcorp/biofuse config.py and embedding_extractor.py, all versions; timm 1.0.31.",
        citation=DINOV2_CITATION,
        notes=(
            'The original code loaded this network for "Prov-GigaPath": it gives that column of the published results.',
            "Native at 518 pixels; position embeddings are resampled to 224.",
        ),
        facts=facts(
            weights=external(f"github mnhcorp/biofuse; {TIMM} vision_transformer.py"),
            architecture=external(f"github mnhcorp/biofuse; {TIMM} vision_transformer.py"),
            preprocessing=external("github mnhcorp/biofuse embedding_extractor.py"),
            output=external("github mnhcorp/biofuse embedding_extractor.py"),
            licence=external(f"{TIMM} pretrained configuration"),
            citation=IN_TIMM,
        ),
    ),
)
"""What the paper compares with, and what its code used."""
