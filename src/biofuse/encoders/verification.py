"""What has been verified of each card without its published weights, and with what: for the documentation.

``tests/encoders/test_recipes.py`` and the loaders' tests hold this page to what is really compared.
"""

from collections.abc import Mapping

from biofuse.encoders.card import EncoderCard

TORCHVISION = "torchvision transforms, written out from the authors' recipe"

ODD = "an odd crop is placed as torchvision does, up to one pixel off"

PREPROCESSING: Mapping[str, str] = {
    "biomedclip": "open_clip image_transform",
    "pubmedclip": f"transformers CLIPImageProcessor; {ODD}",
    "chexagent": "transformers BlipImageProcessor",
    "rad_dino": f"transformers BitImageProcessor; {ODD}",
    "clip_vit_b32": f"transformers CLIPImageProcessor; {ODD}",
    "medsiglip_448": "transformers SiglipImageProcessor",
    "siglip2_base": "transformers SiglipImageProcessor",
    "dinov3_small": "timm create_transform",
    "dinov3_base": "timm create_transform",
    "dinov3_large": "timm create_transform",
    "dinov3_huge_plus": "timm create_transform",
    "h_optimus_0": f"{TORCHVISION}; images of 224 pixels only",
    "h_optimus_1": f"{TORCHVISION}; images of 224 pixels only",
    "medsam": "scikit-image, as the authors' script does; grey levels differ by less than 2 on average",
    **dict.fromkeys(
        (
            "conch",
            "uni",
            "uni2_h",
            "hibou_b",
            "prov_gigapath",
            "dinov2_g",
            "conch_v1_5",
            "hibou_l",
            "virchow",
            "virchow2",
            "phikon",
            "midnight_12k",
            "gpfm",
            "h0_mini",
            "kaiko_vits16",
            "kaiko_vits8",
            "kaiko_vitb16",
            "kaiko_vitb8",
            "kaiko_vitl14",
            "ark_plus",
            "retfound_mae_cfp",
            "retfound_mae_oct",
            "retfound_dinov2_meh",
            "monet",
            "dinov2_small",
            "dinov2_base",
            "dinov2_large",
            "dinov2_giant",
        ),
        TORCHVISION,
    ),
}
"""Encoders, and the implementation that gives the same pixels for real images of odd sizes and modes.

An encoder that is not here has no independent source for its preprocessing, and its card says so.
"""

LOADING: Mapping[str, str] = {
    "biomedclip": "timm and its projection",
    "pubmedclip": "transformers and open_clip",
    "chexagent": "transformers, out of the shards of the whole model",
    "rad_dino": "transformers and timm",
    "conch": "timm and open_clip's pooler",
    "uni2_h": "timm",
    "hibou_b": "transformers and timm",
    "prov_gigapath": "timm",
    "dinov2_g": "timm",
    "conch_v1_5": "timm and its pooler written out",
    "virchow2": "timm",
    "phikon": "transformers",
    "midnight_12k": "timm",
    "kaiko_vitb16": "timm, at full size",
    "ark_plus": "timm, from the names of timm 0.5.4",
    "medsiglip_448": "transformers",
    "medsam": "transformers",
    "retfound_mae_cfp": "timm",
    "dermlip_vitb16": "open_clip",
    "dinov2_giant": "timm, from the names that DINOv2 itself publishes",
    "siglip2_base": "timm",
}
"""Encoders of which a checkpoint in the hub's layout and key names was written at a smaller size, loaded as users load
it, and compared with what another library gives for the same weights: equal to 1e-5."""


def loading(card: EncoderCard) -> str:
    """Say how the loading of a card was compared, or which relative's was."""
    if card.name in LOADING:
        return LOADING[card.name]
    return f"the same code as {RELATIVES[card.loader]}"


RELATIVES: Mapping[str, str] = {
    "timm": "uni2_h",
    "transformers": "hibou_b",
    "open_clip": "biomedclip",
    "conch": "conch",
    "chexagent": "chexagent",
}
"""Of each family, an encoder whose loading was compared."""


def preprocessing(card: EncoderCard) -> str:
    """Say with what a card's preprocessing was compared."""
    return PREPROCESSING.get(card.name, "not compared: no independent source")


def pinned(card: EncoderCard) -> str:
    """Say what keeps the weights from changing."""
    if card.weights is None or not card.weights.pinned:
        return "not yet"
    return "hash" if card.weights.sha256 else "commit"
