"""Vision towers of open_clip, without their text towers, give what open_clip gives."""

import pytest
import timm
import torch

from biofuse.core.errors import EncoderError
from biofuse.encoders import Preprocessing, load_encoder

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

VISION = {"image_size": 32, "patch_size": 16, "layers": 2, "width": 48, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 24, "heads": 2, "layers": 1}


@pytest.mark.parametrize("quick_gelu", [False, True])
def test_dermlip_equals_the_whole_clip_of_open_clip(publish, equals, filled, images, quick_gelu):
    import open_clip

    whole = filled(open_clip.CLIP(embed_dim=24, vision_cfg=VISION, text_cfg=TEXT, quick_gelu=quick_gelu))
    tower = {"embed_dim": 24, "vision_cfg": VISION, "quick_gelu": quick_gelu}
    card = publish("dermlip_vitb16", whole.state_dict(), side=32, dim=24, architecture="", arguments=tower)
    encoder = equals(card, images, whole.encode_image)
    assert encoder.parameters == sum(parameter.numel() for parameter in whole.visual.parameters())


def test_no_pretrained_weights_are_fetched_for_the_tower(publish, filled, hub):
    trunk = filled(timm.create_model("test_vit", num_classes=0))
    state = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    card = publish("biomedclip", state | {"visual.head.proj.weight": torch.ones(24, 64)}, side=160, dim=24)
    vision = card.arguments["vision_cfg"] | {
        "timm_model_name": "test_vit",
        "image_size": 160,
        "timm_model_pretrained": True,
    }
    with pytest.raises(EncoderError, match=r"its output is constant|all 24 columns"):  # the projection above
        load_encoder(card.model_copy(update={"arguments": {"embed_dim": 24, "vision_cfg": vision}}))
    assert {path.split("/resolve/")[0].lstrip("/") for path in hub.asked("GET")} == {card.weights.repository}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "ViT-of-tomorrow"}, "has no model 'ViT-of-tomorrow', which dermlip_vitb16 names"),
        ({"architecture": "", "arguments": {"embed_dim": 24}}, "names neither a model of open_clip nor"),
        ({"arguments": {"embed_dim": 24, "vision_cfg": VISION, "wheels": 4}}, "quick_gelu, not wheels"),
        ({"arguments": {"embed_dim": 24, "vision_cfg": VISION | {"wheels": 4}}}, "vision towers have no wheels"),
        (
            {"arguments": {"embed_dim": 24, "vision_cfg": {"timm_model_name": "tomorrow"}}},
            "cannot build the vision tower",
        ),
        ({"output": "cls"}, "24 columns of the output 'cls'; .* gives 48"),
        ({"output": "pooled"}, "outputs projected and cls, not 'pooled'"),
        ({"dim": 7}, "promises 7 columns .* gives 24"),
        ({"preprocessing": Preprocessing(size=48, crop=48)}, "images of 48 pixels, but its network is built for 32"),
    ],
)
def test_cards_that_contradict_the_network_are_refused(publish, changes, message):
    import open_clip

    whole = open_clip.CLIP(embed_dim=24, vision_cfg=VISION, text_cfg=TEXT)
    tower = {"embed_dim": 24, "vision_cfg": VISION}
    card = publish("dermlip_vitb16", whole.state_dict(), side=32, dim=24, architecture="", arguments=tower)
    if "timm_model_name" in changes.get("arguments", {}).get("vision_cfg", {}):
        changes = changes | {"preprocessing": card.preprocessing.model_copy(update={"size": 224, "crop": 224})}
    with pytest.raises(EncoderError, match=message):
        load_encoder(card.model_copy(update=changes))
