"""Encoders of ophthalmology: RETFound."""

from typing import Any

from biofuse.encoders.card import EncoderCard, Weights
from biofuse.encoders.facts import external, unverified
from biofuse.encoders.pool.common import (
    IMAGENET,
    bibliographies,
    crop,
    facts,
    page,
)

RETFOUND = "github rmaphoh/RETFound @ae9a9ec models_vit.py, main_finetune.py"
RETFOUND_CITATION = (
    "Zhou, Y. et al. (2023). A foundation model for generalizable disease detection from retinal images. Nature 622, "
    "156-163."
)


def _retfound(
    name: str,
    *,
    title: str,
    repository: str,
    architecture: str,
    arguments: dict[str, Any],
    output: str,
    layout: dict[str, Any],
    parameters: int,
    gflops: float,
    training_data: str,
    overlaps: dict[str, str],
    notes: tuple[str, ...],
) -> EncoderCard:
    pooled = output == "pooled"
    return EncoderCard(
        name=name,
        title=title,
        loader="timm",
        architecture=architecture,
        arguments=arguments,
        weights=Weights(repository=f"YukunZhou/{repository}", revision="main", file=f"{repository}.pth", **layout),
        preprocessing=crop(224, IMAGENET, resize=256),
        output="pooled" if pooled else "cls",
        dim=1024,
        parameters=parameters,
        gflops=gflops,
        licence="CC-BY-NC-4.0",
        commercial=False,
        gated=True,
        page=page(f"YukunZhou/{repository}"),
        modality="ophthalmology",
        training_data=training_data,
        overlaps=overlaps,
        advised_precision="fp16",
        precision_note="fp16 or fp32.",
        source="github rmaphoh/RETFound @ae9a9ec.",
        citation=RETFOUND_CITATION,
        notes=notes,
        facts=facts(
            weights=external("github rmaphoh/RETFound @ae9a9ec main_finetune.py; the commit is not known"),
            architecture=external(RETFOUND),
            preprocessing=external("github rmaphoh/RETFound @ae9a9ec util/datasets.py"),
            output=unverified(
                "the repository averages patch tokens and normalises with a layer it trains anew; the checkpoint's own "
                "final LayerNorm is used for that here"
            )
            if pooled
            else external(RETFOUND),
            dim=external(RETFOUND),
            licence=external("github rmaphoh/RETFound LICENSE"),
            citation=bibliographies("10.1038/s41586-023-06555-x"),
        ),
    )


def _retfound_mae(kind: str, *, title: str, training_data: str, overlaps: dict[str, str], note: str) -> EncoderCard:
    return _retfound(
        f"retfound_mae_{kind.lower()}",
        title=title,
        repository=f"RETFound_mae_nature{kind}",
        architecture="vit_large_patch16_224",
        arguments={"global_pool": "avg"},
        output="pooled",
        layout={
            "entry": "model",
            "ignore": ("decoder_*", "mask_token", "head.*"),
            "rename": ((r"^norm\.", "fc_norm."),),
        },
        parameters=303_301_632,
        gflops=123.1,
        training_data=training_data,
        overlaps=overlaps,
        notes=(note,),
    )


EYE_CARDS: tuple[EncoderCard, ...] = (
    _retfound_mae(
        "CFP",
        title="RETFound-MAE, colour fundus",
        training_data="904,170 colour fundus photographs, mostly private",
        overlaps={},
        note="For fundus photographs (RetinaMNIST).",
    ),
    _retfound_mae(
        "OCT",
        title="RETFound-MAE, OCT",
        training_data="736,442 OCT scans, mostly private",
        overlaps={"octmnist": "Kermany's OCT set, its source, is believed to be a small part of the data."},
        note="For optical coherence tomography (OCTMNIST).",
    ),
    _retfound(
        "retfound_dinov2_meh",
        title="RETFound-DINOv2 (MEH), colour fundus",
        repository="RETFound_dinov2_meh",
        architecture="vit_large_patch14_dinov2",
        arguments={"img_size": 224},
        output="cls",
        layout={
            "entry": "teacher",
            "prefix": "backbone.",
            "ignore": ("mask_token", "head.*"),
            "rename": ((r"mlp\.w12\.", "mlp.fc1."), (r"mlp\.w3\.", "mlp.fc2.")),
        },
        parameters=303_227_904,
        gflops=162.0,
        training_data="Colour fundus photographs of Moorfields Eye Hospital",
        overlaps={},
        notes=("For fundus photographs (RetinaMNIST).",),
    ),
)
"""Masked autoencoders first."""
