"""What published networks compute: one row for each of :data:`tests.encoders.layouts.LAYOUTS`.

From a table of weights as it lies in the file, and images, to vectors. No card is looked at, and nothing of BioFuse.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.encoders import davit
from tests.encoders import library_networks as library
from tests.encoders import vision_transformers as written
from tests.encoders.vision_transformers import State, Unseen
from torch import Tensor

Compute = Callable[[Tensor, State, Unseen], Tensor]

TIMMS_EPSILON, TORCHS_EPSILON = {"epsilon": 1e-6}, {"epsilon": 1e-5}

CLIP = TORCHS_EPSILON | {"output": "projected"}

VIT = "a vision transformer, written out in torch"


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a layout computes, how a table says it, and what of the unseen is the same for all who use the layout."""

    compute: Compute
    says: str
    usually: Mapping[str, Any]


def row(compute: Compute, says: str = VIT, usually: Mapping[str, Any] = TIMMS_EPSILON) -> Network:
    return Network(compute=compute, says=says, usually=usually)


NETWORKS = {
    "timm ViT": row(written.timm_vit),
    "timm SigLIP": row(
        written.timm_siglip, "SigLIP, written out in torch", TIMMS_EPSILON | {"activation": "gelu_tanh"}
    ),
    "timm DINOv3": row(written.timm_dinov3, "DINOv3, written out in torch", TORCHS_EPSILON),
    "timm PE": row(written.timm_pe, "the Perception Encoder, written out in torch", TORCHS_EPSILON),
    "timm EVA-02 CLIP": row(
        written.timm_eva02_clip, "EVA-02, written out in torch", TIMMS_EPSILON | {"output": "projected"}
    ),
    "timm AIMv2": row(written.timm_aimv2, "AIMv2, written out in torch", TORCHS_EPSILON),
    "timm ConvNeXt": row(library.timm_convnext, "torchvision ConvNeXt"),
    "torchvision ConvNeXt": row(library.torchvision_convnext, "torchvision ConvNeXt"),
    "timm 0.5.4 Swin": row(library.ark, "torchvision SwinTransformer", {"output": "projected"}),
    "DINOv2": row(written.dinov2, "DINOv2, written out in torch"),
    "DINOv2 in chunks": row(
        written.dinov2_in_chunks, "DINOv2, written out in torch", TIMMS_EPSILON | {"positions": "scale"}
    ),
    "BEiT": row(written.beit, "BEiT, written out in torch"),
    "BEiT shared": row(written.beit_shared, "BEiT, written out in torch", TIMMS_EPSILON | {"output": "mean, plain"}),
    "numbered ResNet": row(library.numbered_resnet, "torchvision ResNet"),
    "transformers DINOv2": row(
        written.transformers_dinov2, "DINOv2, written out in torch", TIMMS_EPSILON | {"positions": "size"}
    ),
    "transformers ViT": row(written.transformers_vit, VIT, {"epsilon": 1e-12}),
    "transformers CLIP": row(
        written.transformers_clip, "CLIP, written out in torch", CLIP | {"activation": "quick_gelu"}
    ),
    "transformers SigLIP": row(
        written.transformers_siglip, "SigLIP, written out in torch", TIMMS_EPSILON | {"activation": "gelu_tanh"}
    ),
    "transformers BLIP-2": row(written.blip2, "EVA's ViT-g, written out in torch"),
    "transformers SAM": row(library.transformers_sam, "timm VisionTransformerSAM"),
    "SAM without windows": row(library.sam_without_windows, "timm VisionTransformerSAM"),
    "open_clip ViT": row(written.open_clip_vit, "CLIP, written out in torch", CLIP),
    "open_clip timm": row(written.open_clip_timm, VIT, TIMMS_EPSILON | {"output": "projected"}),
    "CONCH": row(written.conch, "CONCH, written out in torch", TIMMS_EPSILON | {"output": "pooled"}),
    "KEEP": row(written.keep, "KEEP, written out in torch", TIMMS_EPSILON | {"output": "projected"}),
    "CTransPath": row(library.ctranspath, "torchvision SwinTransformer behind convolutions"),
    "BEiT-3": row(written.beit3, "BEiT-3, written out in torch", TORCHS_EPSILON | {"output": "magnified"}),
    "EVA-02": row(
        written.eva02_of_pretraining, "EVA-02, written out in torch", TIMMS_EPSILON | {"output": "mean, normed"}
    ),
    "C-RADIO": row(written.radio, "C-RADIO, written out in torch", TIMMS_EPSILON | {"positions": "bilinear"}),
    "ResNet": row(library.resnet, "torchvision ResNet"),
    "DenseNet": row(library.densenet, "torchvision DenseNet"),
    "FLAIR": row(library.flair, "torchvision ResNet and FLAIR's projection", {"output": "mean"}),
    "BioViL": row(library.biovil, "torchvision ResNet and BioViL's projector", {"output": "mean"}),
    "GenBio-PathFM": row(written.genbio_pathfm, "the authors' network, written out in torch"),
    "OpenPhenom": row(written.openphenom, "the authors' network, written out in torch"),
    "MedImageInsight": row(davit.medimageinsight, "DaViT, written out in torch", TORCHS_EPSILON),
    "iSight": row(written.isight, "CLIP, written out in torch", TORCHS_EPSILON | {"activation": "quick_gelu"}),
}
"""A row for each of :data:`tests.encoders.layouts.LAYOUTS`; recipes say in ``[unseen]`` what is not as usual."""
