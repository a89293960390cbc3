"""Encoders that are asked for by where they lie."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
from safetensors.torch import save
from timm.data import create_transform, resolve_data_config

from biofuse.core.errors import (
    EncoderError,
    HubUnreachableError,
    NotOnHubError,
    UnknownEncoderError,
    WeightsError,
)
from biofuse.encoders import get_card, load_encoder, pin, resolve
from biofuse.encoders.loaders import adhoc_card, is_adhoc
from biofuse.encoders.loaders.transformers import NOT_BUILT, VISION_MODELS

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])


@pytest.fixture
def images():
    return np.random.default_rng(5).integers(0, 256, (2, 160, 160, 3), dtype=np.uint8)


def as_bytes(state):
    return save({key: value.contiguous().clone() for key, value in state.items()})


@pytest.mark.parametrize(
    ("name", "adhoc"),
    [("timm:resnet18", True), ("hf:a/b", True), ("open_clip:x", True), ("resnet18", False), ("zip:x", False)],
)
def test_a_prefix_makes_a_name_ad_hoc(name, adhoc):
    assert is_adhoc(name) is adhoc


def test_timm_by_tag_is_what_timm_gives(hub, equals, filled, images):
    # test_vit is the smallest transformer of timm: 160 pixels, 0.3 M parameters.
    network = filled(timm.create_model("test_vit"))
    hub.add("timm/test_vit.r160_in1k", {"model.safetensors": as_bytes(network.state_dict())})
    (card,) = resolve("timm:test_vit.r160_in1k")
    assert (card.name, card.dim, card.output, card.licence) == ("timm-test_vit.r160_in1k", 64, "cls", "apache-2.0")
    network.reset_classifier(0)
    encoder = equals(pin(card), images, network)
    assert encoder.parameters == card.parameters
    assert encoder.card.weights.sha256 is not None
    assert load_encoder("timm:test_vit.r160_in1k").card == encoder.card


def test_preprocessing_is_timms_own():
    card = get_card("timm:convnext_atto.d2_in1k")
    theirs = create_transform(
        **resolve_data_config(pretrained_cfg=timm.models.get_pretrained_cfg(card.title).to_dict())
    )
    resize, crop = theirs.transforms[:2]
    assert (card.preprocessing.size, card.preprocessing.crop) == (resize.size, crop.size[0])
    assert card.preprocessing.interpolation == resize.interpolation.value


def test_without_a_tag_timm_is_asked_for_its_default():
    assert adhoc_card("timm:test_vit") == adhoc_card("timm:test_vit.r160_in1k")


def test_a_tag_of_another_size_gets_its_own_size():
    usual, larger = adhoc_card("timm:caformer_s18.sail_in1k"), adhoc_card("timm:caformer_s18.sail_in1k_384")
    assert (usual.preprocessing.output_size, larger.preprocessing.output_size) == (224, 384)
    assert usual.dim == larger.dim


@pytest.mark.parametrize(
    "name", ["resnet10t", "mobilenetv3_small_050", "convnext_atto", "swin_tiny_patch4_window7_224"]
)
def test_the_dimension_is_that_of_the_network_without_its_classifier(name):
    card = adhoc_card(f"timm:{name}")
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=0).eval()
        side = card.preprocessing.output_size
        assert network(torch.zeros(1, 3, side, side)).shape == (1, card.dim)


def test_random_weights_are_refused_unless_allowed(images):
    with pytest.raises(HubUnreachableError):  # the hub is offline here, and nothing takes its place
        load_encoder("timm:test_vit")
    (card,) = resolve("timm:test_vit", allow_random_weights=True)
    assert card.name == "timm-test_vit.r160_in1k.random"
    assert card.weights.model_dump(include={"repository", "revision", "file"}) == {
        "repository": "random",
        "revision": "0",
        "file": "",
    }
    assert "random weights" in card.title
    assert "nothing was learned" in card.notes[0]
    trained = adhoc_card("timm:test_vit")
    assert card.fingerprint().rpartition("-")[2] != trained.fingerprint().rpartition("-")[2]
    assert load_encoder(card).encode(images).shape == (2, 64)


@pytest.mark.slow
def test_random_weights_are_always_the_same_and_leave_the_callers_numbers_alone(images):
    (card,) = resolve("timm:test_vit", allow_random_weights=True)
    torch.manual_seed(1)
    first = load_encoder(card)
    following = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(3), following)
    np.testing.assert_array_equal(load_encoder(card).encode(images), first.encode(images))
    assert pin(card) == card == first.card
    other = card.model_copy(update={"weights": card.weights.model_copy(update={"revision": "1"})})
    assert np.abs(load_encoder(other).encode(images) - first.encode(images)).max() > 0.01
    assert other.fingerprint() != card.fingerprint()


def test_only_timm_encoders_get_random_weights(hub):
    with pytest.raises(NotOnHubError):
        resolve("hf:owner/none", allow_random_weights=True)
    cards = resolve("lbp,timm:test_vit", allow_random_weights=True)
    assert [card.name for card in cards] == ["lbp", "timm-test_vit.r160_in1k.random"]


def test_a_card_of_another_family_cannot_ask_for_random_weights():
    (card,) = resolve("timm:test_vit", allow_random_weights=True)
    other = get_card("rad_dino").model_copy(update={"weights": card.weights})
    with pytest.raises(WeightsError):
        load_encoder(other)


TIMM_CONFIG = {
    "architecture": "test_vit",
    "num_classes": 7,
    "num_features": 64,
    "global_pool": "avg",
    "model_args": {"init_values": 1e-5, "num_classes": 7},
    "pretrained_cfg": {
        "tag": "mine",
        "custom_load": False,
        "input_size": [3, 160, 160],
        "fixed_input_size": True,
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.1, 0.2, 0.3],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 7,
        "classifier": "head",
    },
}
"""``config.json`` as timm writes it."""


@pytest.mark.slow
def test_a_repository_of_timms(hub, equals, filled, images):
    network = filled(timm.create_model("test_vit", num_classes=7, init_values=1e-5, global_pool="avg"))
    config = TIMM_CONFIG
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": as_bytes(network.state_dict())}
    model = hub.add("Owner/My.Model", files)
    card = adhoc_card("timm:Owner/My.Model")
    assert (card.name, card.output, card.weights.revision) == ("timm-owner-my.model", "pooled", model.commit)
    assert card.preprocessing.mean == (0.1, 0.2, 0.3)
    network.reset_classifier(0)
    equals(card, images, network)


WITHOUT_POOLING = TIMM_CONFIG | {"global_pool": "", "model_args": {"global_pool": "", "fc_norm": False}}


def test_a_network_without_pooling_is_refused_and_says_how_to_state_one(hub):
    hub.add("owner/map", {"config.json": json.dumps(WITHOUT_POOLING).encode(), "model.safetensors": b"not read"})
    with pytest.raises(EncoderError, match="timm:owner/map gives no vector per image") as caught:
        resolve("timm:owner/map")
    assert "timm:owner/map with :cls, :mean, :cls+mean at its end" in caught.value.remedy
    with pytest.raises(UnknownEncoderError, match="states the pooling 'max'"):
        resolve("timm:owner/map:max")


POOLED = {
    "cls": lambda tokens: tokens[:, 0],
    "mean": lambda tokens: tokens[:, 1:].mean(1),
    "cls+mean": lambda tokens: torch.cat((tokens[:, 0], tokens[:, 1:].mean(1)), dim=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("pooling", POOLED)
def test_a_stated_pooling_is_of_the_normalised_tokens(hub, equals, filled, images, pooling):
    network = filled(timm.create_model("test_vit", num_classes=7, global_pool="token"))
    files = {"config.json": json.dumps(WITHOUT_POOLING).encode(), "model.safetensors": as_bytes(network.state_dict())}
    hub.add("owner/map", files)
    (card,) = resolve(f"timm:hf-hub/owner/map:{pooling}")
    assert card.name == f"timm-owner-map-{pooling.replace('+', '-')}"
    equals(card, images, lambda pixels: POOLED[pooling](network.forward_features(pixels)))


@pytest.mark.parametrize(
    ("asked", "card", "says"),
    [
        ("timm:vit_small_patch16_dinov3.lvd1689m", "dinov3_small", "resize is shortest there and squash on the card"),
        ("timm:vit_base_patch16_siglip_224.v2_webli", "siglip2_base", "interpolation is bicubic there and bilinear"),
        ("timm:vit_small_patch14_reg4_dinov2.lvd142m", "dinov2_small", "size is 518 there and 256 on the card"),
    ],
)
def test_an_ad_hoc_name_that_disagrees_with_the_card_of_its_weights_is_an_error_that_names_both(asked, card, says):
    with pytest.raises(EncoderError, match=f"{asked} and the card {card} are of the same weights") as caught:
        resolve(asked)
    assert says in caught.value.message
    assert f"Use {card}" in caught.value.remedy


DINOV2 = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 28, "patch_size": 14}
CLIP = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
PROCESSOR = {
    "size": {"shortest_edge": 28},
    "crop_size": {"height": 28, "width": 28},
    "do_center_crop": True,
    "resample": 3,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}


@pytest.fixture
def publish(hub, filled, tmp_path):
    """Return a function that fills a network of transformers, and publishes it as its own library writes it."""

    def publish(repository, network, **files):
        filled(network).save_pretrained(tmp_path)
        content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        return hub.add(repository, content | {"preprocessor_config.json": json.dumps(PROCESSOR).encode()} | files)

    return publish


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Dinov2Model", {}),
        ("Dinov2WithRegistersModel", {"use_swiglu_ffn": True}),
        ("ViTModel", {"intermediate_size": 96}),
    ],
)
def test_a_repository_of_transformers(publish, equals, small_images, kind, options):
    network = getattr(transformers, kind)(getattr(transformers, kind.replace("Model", "Config"))(**DINOV2, **options))
    model = publish("owner/vision", network)
    (card,) = resolve("hf:owner/vision")
    assert (card.name, card.architecture, card.dim) == ("hf-owner-vision", kind, 48)
    assert card.weights.revision == model.commit
    assert card.preprocessing.mean == (0.5, 0.4, 0.3)
    encoder = equals(card, small_images, lambda pixels: network(pixel_values=pixels).last_hidden_state[:, 0])
    assert encoder.card.parameters == encoder.parameters


VIT = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "image_size": 28}
STAGES = {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4, "image_size": 64, "patch_size": 4}
CONVOLUTIONS = {"depths": [1, 1], "hidden_sizes": [16, 32], "embedding_size": 16}
CONVNEXT = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}

CLASSES = {
    "Aimv2VisionModel": VIT | {"patch_size": 14},
    "BeitModel": VIT | {"patch_size": 14},
    "BitModel": CONVOLUTIONS | {"num_groups": 4},
    "ConvNextModel": CONVNEXT,
    "ConvNextV2Model": CONVNEXT,
    "DINOv3ConvNextModel": CONVNEXT,
    "DINOv3ViTModel": VIT | {"patch_size": 14, "num_register_tokens": 4},
    "Data2VecVisionModel": VIT | {"patch_size": 14},
    "DeiTModel": VIT | {"patch_size": 14},
    "FocalNetModel": {"embed_dim": 24, "depths": [1, 1], "focal_levels": [1, 1], "focal_windows": [3, 3]},
    "IJepaModel": VIT | {"patch_size": 14},
    "LevitModel": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [1, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
        "attention_ratio": [2, 2, 2],
        "mlp_ratio": [2, 2, 2],
    },
    "MLCDVisionModel": VIT | {"patch_size": 14, "num_key_value_groups": 1},
    "PixioModel": VIT | {"patch_size": 14, "n_cls_tokens": 3},
    "RegNetModel": CONVOLUTIONS,
    "ResNetModel": CONVOLUTIONS,
    "SwinModel": STAGES,
    "Swinv2Model": STAGES,
    "ViTMSNModel": VIT | {"patch_size": 14},
}
"""Small networks of classes of transformers, by what their configurations are made of."""


def vector(network, pixels):
    """What the class gives: its own pooling, else its class token, or for the one without any the mean."""
    output = network(pixel_values=pixels)
    pooled = getattr(output, "pooler_output", None)
    if pooled is not None and not isinstance(network, transformers.DeiTModel):  # that one's is for training only
        return pooled.flatten(1)
    tokens = output.last_hidden_state
    return tokens.mean(1) if isinstance(network, transformers.IJepaModel) else tokens[:, 0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_that_gives_one_vector_is_built_by_name(publish, equals, kind):
    side = 28 if CLASSES[kind].get("patch_size") == 14 else 64
    images = np.random.default_rng(5).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    square = {"height": side, "width": side}
    processor = json.dumps(PROCESSOR | {"size": {"shortest_edge": side}, "crop_size": square}).encode()
    configuration = getattr(transformers, kind.removesuffix("Model") + "Config")(**CLASSES[kind])
    options = {"add_pooling_layer": True} if kind == "Data2VecVisionModel" else {}
    network = getattr(transformers, kind)(configuration, **options)
    publish("owner/vision", network, **{"preprocessor_config.json": processor})
    (card,) = resolve("hf:owner/vision")
    assert card.architecture == kind
    equals(card, images, lambda pixels: vector(network, pixels))


def test_the_encoder_of_a_masked_autoencoder_sees_every_patch(publish, equals, small_images):
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    whole = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(**VIT, **decoder, decoder_intermediate_size=16, patch_size=14, mask_ratio=0.0)
    )
    publish("owner/mae", whole)
    card = adhoc_card("hf:owner/mae")
    assert (card.architecture, card.weights.prefix) == ("ViTModel", "vit.")
    equals(card, small_images, lambda pixels: whole.vit(pixel_values=pixels).last_hidden_state[:, 0])


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
def test_the_vision_tower_of_a_repository_with_two(publish, equals, small_images, kind):
    vision = CLIP | {"image_size": 28, "patch_size": 14}
    text = CLIP | {"vocab_size": 50, "max_position_embeddings": 8}
    config = getattr(transformers, f"{kind}Config")(vision_config=vision, text_config=text)
    if kind == "CLIP":
        config.projection_dim = 24
    network = getattr(transformers, f"{kind}Model")(config)
    publish("owner/two-towers", network)
    card = adhoc_card("hf:owner/two-towers")
    assert card.dim == (24 if kind == "CLIP" else 48)
    equals(card, small_images, lambda pixels: network.get_image_features(pixel_values=pixels).pooler_output)


def test_a_network_with_registers_that_calls_itself_dinov2_keeps_them(publish):
    config = transformers.Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=4)
    network = transformers.Dinov2WithRegistersModel(config)
    said = {**config.to_dict(), "model_type": "dinov2"}
    publish("owner/hibou", network, **{"config.json": json.dumps(said).encode()})
    card = adhoc_card("hf:owner/hibou")
    assert card.architecture == "Dinov2WithRegistersModel"
    load_encoder(card)


def test_a_model_with_a_head_is_read_without_it(publish):
    network = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**DINOV2, num_labels=5))
    publish("owner/head", network)
    card = adhoc_card("hf:owner/head")
    assert card.weights.prefix == "dinov2."
    load_encoder(card)


def test_every_type_of_transformers_that_sees_images_is_built_or_refused_with_a_reason():
    from transformers.models.auto import modeling_auto as auto

    listed = {*auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES, *auto.MODEL_FOR_IMAGE_MAPPING_NAMES}
    listed |= {*auto.MODEL_FOR_BACKBONE_MAPPING_NAMES, "siglip2_vision_model"}
    assert not listed - {*VISION_MODELS, *NOT_BUILT}
    assert not {*VISION_MODELS} & {*NOT_BUILT}


def test_a_type_that_is_refused_says_why_and_what_to_use(hub):
    hub.add("owner/naflex", {"config.json": b'{"model_type": "siglip2"}', "preprocessor_config.json": b"{}"})
    with pytest.raises(EncoderError, match="does not build: it sees an image at its own aspect") as caught:
        resolve("hf:owner/naflex")
    assert "siglip2_so400m" in caught.value.remedy


def test_a_processor_of_its_own_code_is_refused_and_says_what_to_write(publish):
    network = transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2))
    publish("owner/own", network, **{"preprocessor_config.json": b'{"image_processor_type": "CuriaImageProcessor"}'})
    with pytest.raises(EncoderError, match="the class CuriaImageProcessor, which transformers does not have") as caught:
        resolve("hf:owner/own")
    assert "docs/add-an-encoder.md" in caught.value.remedy


def test_a_repository_that_biofuse_cannot_build_says_what_it_can(hub):
    hub.add("owner/bert", {"config.json": b'{"model_type": "bert"}', "preprocessor_config.json": b"{}"})
    with pytest.raises(EncoderError, match="owner/bert is of the model type 'bert'") as caught:
        resolve("hf:owner/bert")
    assert "dinov2" in caught.value.remedy
    hub.add("owner/timm", {"config.json": b'{"architecture": "resnet18"}'})
    with pytest.raises(EncoderError) as caught:
        resolve("hf:owner/timm")
    assert "timm:owner/timm" in caught.value.remedy
    with pytest.raises(EncoderError, match="holds no model of timm") as caught:
        resolve("timm:owner/bert")
    assert "hf:owner/bert" in caught.value.remedy


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("preprocessor_config.json", r"preprocessor_config\.json"),
        ("model.safetensors", r"has none of the files model\.safetensors"),
    ],
)
def test_without_published_preprocessing_or_weights_there_is_no_encoder(publish, file, message):
    network = transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2 | {"num_hidden_layers": 1}))
    del publish("owner/bare", network).files[file]
    with pytest.raises(NotOnHubError, match=message):
        resolve("hf:owner/bare")


VISION = {"image_size": 32, "patch_size": 16, "layers": 2, "width": 48, "head_width": 16}
TEXT = {"context_length": 8, "vocab_size": 50, "width": 24, "heads": 2, "layers": 1}


def test_a_repository_of_open_clips(hub, equals, filled):
    import open_clip

    whole = filled(open_clip.CLIP(embed_dim=24, vision_cfg=VISION, text_cfg=TEXT, quick_gelu=True))
    config = {
        "model_cfg": {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True},
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
    }
    content = {"open_clip_config.json": json.dumps(config).encode()}
    hub.add("owner/clip", content | {"open_clip_model.safetensors": as_bytes(whole.state_dict())})
    card = adhoc_card("open_clip:owner/clip")
    assert (card.name, card.dim, card.preprocessing.size) == ("open_clip-owner-clip", 24, 32)
    equals(card, np.random.default_rng(5).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8), whole.encode_image)


def test_a_tag_of_open_clips_names_repository_activation_and_preprocessing(hub):
    import open_clip

    table = open_clip.get_pretrained_cfg("ViT-B-32", "openai")
    repository = table["hf_hub"].rstrip("/")
    hub.add(repository, {"open_clip_model.safetensors": b"not read yet"})
    card = adhoc_card("open_clip:ViT-B-32/openai")
    assert card.weights.repository == repository
    assert card.weights.file == "open_clip_model.safetensors"
    assert card.arguments == {"quick_gelu": True}
    assert (card.preprocessing.mean, card.dim) == (table["mean"], 512)
    assert card.parameters == get_card("clip_vit_b32").parameters


@pytest.mark.parametrize(
    ("name", "message", "remedy"),
    [
        ("timm:nothing_of_the_kind", "timm .* has no model 'nothing_of_the_kind'", "list_models"),
        ("timm:resnet18.no_such_tag", "has no weights 'no_such_tag' for resnet18", "a1_in1k"),
        ("timm:vit_giant_patch14_224", "are on no model hub", "register_timm"),
        ("timm:", "does not say where an encoder lies", "timm:NAME"),
        ("hf:just-a-name", "is not a model repository", "hf:OWNER/NAME"),
        ("hf:a/b/c", "is not a model repository", "hf:OWNER/NAME"),
        ("open_clip:ViT-B-32", "does not name weights", "openai, laion400m"),
        ("open_clip:ViT-B-32/none", "does not name weights", "openai, laion400m"),
        ("open_clip:nothing", "is not a model repository", "open_clip:MODEL/TAG"),
    ],
)
def test_names_that_lead_nowhere_say_what_would(name, message, remedy):
    with pytest.raises(EncoderError, match=message) as caught:
        resolve(name)
    assert remedy in caught.value.remedy


def test_an_unknown_prefix_is_an_unknown_encoder():
    with pytest.raises(UnknownEncoderError, match="no encoder or pool 'zip:x'"):
        resolve("zip:x")
