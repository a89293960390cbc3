"""What model files say about preparing images is put into BioFuse's words exactly, or refused."""

import json

import numpy as np
import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image

from biofuse.core.errors import EncoderError, NotOnHubError
from biofuse.encoders import Preprocessing, get_card
from biofuse.encoders.encoder import check_published
from biofuse.encoders.hub import read_json
from biofuse.encoders.preprocessing import from_open_clip, from_processor, from_timm

OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}

SHAPES = [(50, 40), (31, 200), (224, 224), (90, 1), (300, 301)]


def pictures():
    generator = np.random.default_rng(2)
    for height, width in SHAPES:
        rough = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        yield Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)


def ours(preprocessing, picture):
    prepared = preprocessing.apply(np.asarray(picture))
    return preprocessing.normalise(torch.from_numpy(np.array(prepared))[None])[0]


def assert_same(preprocessing, theirs):
    for picture in pictures():
        # One grey level of 255, in units of the smallest standard deviation.
        allowed = 1.01 / 255 / min(preprocessing.std)
        assert (ours(preprocessing, picture) - theirs(picture)).abs().max() <= allowed


CLIP = {
    "crop_size": 32,
    "do_center_crop": True,
    "do_normalize": True,
    "do_resize": True,
    "image_mean": list(OPENAI["mean"]),
    "image_std": list(OPENAI["std"]),
    "resample": 3,
    "size": 36,
}
"""As the first CLIP repositories wrote it."""

BIT = {
    "crop_size": {"height": 32, "width": 32},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5307, 0.5307, 0.5307],
    "image_processor_type": "BitImageProcessor",
    "image_std": [0.2583, 0.2583, 0.2583],
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 40},
}
"""As rad-dino writes it."""

VIT = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "size": {"height": 48, "width": 48},
}


@pytest.mark.parametrize(
    ("config", "processor", "expected"),
    [
        (CLIP, transformers.CLIPImageProcessor, {"resize": "shortest", "size": 36, "crop": 32, **OPENAI}),
        (
            BIT,
            transformers.BitImageProcessor,
            {"resize": "shortest", "size": 40, "crop": 32, "mean": (0.5307,) * 3, "std": (0.2583,) * 3},
        ),
        (
            VIT,
            transformers.ViTImageProcessor,
            {"resize": "squash", "size": 48, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        ),
    ],
)
def test_image_processors_of_transformers(config, processor, expected):
    preprocessing = from_processor(config, name="mine")
    assert preprocessing == Preprocessing(**expected)
    theirs = processor(**config)
    assert_same(preprocessing, lambda picture: theirs(picture, return_tensors="pt")["pixel_values"][0])


def test_values_that_are_not_rescaled_or_normalised():
    config = {key: value for key, value in VIT.items() if not key.startswith("image_")}
    plain = from_processor({**config, "do_normalize": False, "do_rescale": False}, name="mine")
    assert plain == Preprocessing(resize="squash", size=48, interpolation="bilinear", value_range="0-255")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"do_pad": True}, "padded"),
        ({"do_resize": False}, "not resized"),
        ({"size": {"longest_edge": 1024}}, "longest_edge"),
        ({"size": {"height": 48, "width": 64}}, "width"),
        ({"size": {"shortest_edge": 48}}, "any aspect"),
        ({"size": None}, "size None"),
        ({"resample": 5}, "filter 5"),
        ({"rescale_factor": 0.5}, "multiplied by 0.5"),
        ({"image_mean": None, "image_std": [1, 1, 1]}, "mean"),
        ({"image_std": [0, 1, 1]}, "std must be positive"),
    ],
)
def test_a_processor_that_does_more_is_refused(change, message):
    with pytest.raises(EncoderError, match=message) as caught:
        from_processor(VIT | change, name="mine")
    assert "mine" in caught.value.message


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "vit_base_patch16_224.orig_in21k", "vit_small_patch14_dinov2"])
def test_pretrained_configurations_of_timm(name):
    config = timm.models.get_pretrained_cfg(name).to_dict()
    preprocessing = from_timm(config, name="mine")
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    assert_same(preprocessing, theirs)


@pytest.mark.parametrize("crop", [0.9, 1.0])
def test_squashed_configurations_of_timm(crop):
    config = timm.models.get_pretrained_cfg("resnet18").to_dict() | {"crop_mode": "squash", "crop_pct": crop}
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
    assert_same(from_timm(config, name="mine"), theirs)


@pytest.mark.parametrize("change", [{"crop_mode": "border"}, {"input_size": (1, 32, 32)}, {"input_size": (3, 32, 48)}])
def test_a_configuration_of_timm_that_does_more_is_refused(change):
    with pytest.raises(EncoderError, match="mine is published with a preprocessing"):
        from_timm(timm.models.get_pretrained_cfg("resnet18").to_dict() | change, name="mine")


@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_configurations_of_open_clip(mode):
    config = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic", "resize_mode": mode}
    preprocessing = from_open_clip(config, name="mine", size=40)
    full = open_clip.transform.PreprocessCfg(size=40, **config)
    assert_same(preprocessing, open_clip.transform.image_transform_v2(full, is_train=False))


def test_what_a_configuration_of_open_clip_leaves_out_is_its_default():
    assert from_open_clip({}, name="mine", size=224) == Preprocessing(size=224, crop=224, **OPENAI)


def test_padding_of_open_clip_is_refused():
    with pytest.raises(EncoderError, match="resize mode 'longest'"):
        from_open_clip({"resize_mode": "longest"}, name="mine", size=40)


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_a_broken_configuration_file_is_named(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(EncoderError, match=r"config\.json is not a configuration file"):
        read_json(path)


@pytest.fixture
def rad_dino(hub):
    def publish(**said):
        card = get_card("rad_dino")
        config = BIT | {"size": {"shortest_edge": 518}, "crop_size": {"height": 518, "width": 518}} | said
        files = {card.weights.processor: json.dumps(config).encode()}
        hub.add(card.weights.repository, files, commit=card.weights.revision)
        return card

    return publish


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_card_that_agrees_with_its_repository_passes(rad_dino):
    check_published(rad_dino())


@pytest.mark.allow_hosts(["127.0.0.1"])
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"image_mean": [0.5, 0.5307, 0.5307]}, "mean is"),
        ({"size": {"shortest_edge": 560}}, "size is 560 there and 518 on the card"),
        ({"resample": 2}, "interpolation is bilinear there and bicubic on the card"),
        ({"do_center_crop": False, "size": {"height": 518, "width": 518}}, "resize is squash there .* crop is None"),
    ],
)
def test_a_card_that_disagrees_with_its_repository_is_refused(rad_dino, said, message):
    with pytest.raises(EncoderError, match=f"disagrees with the card of rad_dino: .*{message}"):
        check_published(rad_dino(**said))


@pytest.mark.allow_hosts(["127.0.0.1"])
def test_a_processor_that_the_repository_does_not_have_is_an_error(hub):
    card = get_card("rad_dino")
    hub.add(card.weights.repository, {}, commit=card.weights.revision)
    with pytest.raises(NotOnHubError, match=r"preprocessor_config\.json"):
        check_published(card)


def test_offline_and_without_the_file_nothing_is_compared():
    check_published(get_card("rad_dino"))
    check_published(get_card("lbp"))
    check_published(get_card("uni2_h"))
