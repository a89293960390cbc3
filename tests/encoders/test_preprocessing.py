"""Every pixel is torchvision's, and what model files say is put into BioFuse's words exactly, or refused."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from biofuse.core.errors import EncoderError, NotOnHubError, UnreadableImageError
from biofuse.encoders import Preprocessing, get_card, list_cards
from biofuse.encoders.encoder import check_published
from biofuse.encoders.hub import read_json
from biofuse.encoders.preprocessing import from_open_clip, from_processor, from_timm

FILTERS = ["bilinear", "bicubic", "lanczos", "nearest", "box"]


def image_of(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def reference(image: np.ndarray, spec: Preprocessing) -> np.ndarray:
    size = spec.size if spec.resize == "shortest" else (spec.size, spec.size)
    steps = [Resize(size, interpolation=InterpolationMode(spec.interpolation))]
    if spec.crop is not None:
        steps.append(CenterCrop(spec.crop))
    return np.asarray(Compose(steps)(Image.fromarray(image)))


@pytest.mark.parametrize("shape", [(1, 1), (37, 81), (211, 64), (48, 48)])
@pytest.mark.parametrize("crop", [None, 48, 31])
def test_squash_equals_torchvision(shape, crop):
    spec = Preprocessing(resize="squash", size=48, crop=crop)
    image = image_of(*shape)
    assert np.array_equal(spec.apply(image), reference(image, spec))


@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    size=st.integers(1, 96),
    crop=st.integers(1, 96),
    interpolation=st.sampled_from(FILTERS),
)
@example(height=3, width=7, size=5, crop=2, interpolation="bilinear")
@example(height=1, width=1, size=64, crop=57, interpolation="box")
@example(height=40, width=1, size=64, crop=64, interpolation="lanczos")
@example(height=64, width=64, size=64, crop=64, interpolation="nearest")
@settings(max_examples=150, deadline=None)
def test_any_size_equals_torchvision(height, width, size, crop, interpolation):
    spec = Preprocessing(size=size, crop=min(crop, size), interpolation=interpolation)
    image = image_of(height, width)
    result = spec.apply(image)
    assert result.shape == (spec.output_size, spec.output_size, 3)
    assert result.dtype == np.uint8
    assert np.array_equal(result, reference(image, spec))


def test_non_contiguous_images_are_read_as_they_are_shown():
    spec = Preprocessing(size=20, crop=16)
    image = image_of(50, 70)
    for view in (image[::2, ::-1], image.swapaxes(0, 1), image[..., ::-1]):
        assert np.array_equal(spec.apply(view), spec.apply(np.ascontiguousarray(view)))


@pytest.mark.parametrize("value_range", ["0-1", "0-255"])
def test_normalise_equals_torchvision(value_range):
    factor = 1.0 if value_range == "0-1" else 255.0
    mean, std = np.array([0.485, 0.456, 0.406]) * factor, np.array([0.229, 0.224, 0.225]) * factor
    spec = Preprocessing(size=24, crop=24, mean=tuple(mean), std=tuple(std), value_range=value_range)
    batch = np.stack([image_of(24, 24), image_of(24, 24)[::-1]])
    steps = [ToTensor()] if value_range == "0-1" else [ToTensor(), lambda tensor: tensor * 255]
    expected = torch.stack([Compose([*steps, Normalize(mean, std)])(np.ascontiguousarray(image)) for image in batch])
    result = spec.normalise(torch.from_numpy(batch))
    assert result.shape == (2, 3, 24, 24)
    assert result.dtype == torch.float32
    if value_range == "0-1":
        assert torch.equal(result, expected)
    else:
        torch.testing.assert_close(result, expected, atol=1e-6, rtol=1e-6)


def test_normalise_leaves_the_pixels_alone():
    batch = torch.from_numpy(image_of(8, 8)[None])
    before = batch.clone()
    Preprocessing(size=8, crop=8, mean=(9, 9, 9), value_range="0-255").normalise(batch)
    assert torch.equal(batch, before)


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 224},
        {"size": 224, "crop": 225},
        {"size": 224, "crop": 0},
        {"size": 0, "crop": 0},
        {"size": 224, "crop": 224, "std": (1, 0, 1)},
        {"size": 224, "crop": 224, "std": (1, -0.2, 1)},
        {"size": 224, "crop": 224, "mean": (float("nan"), 0, 0)},
        {"size": 224, "crop": 224, "interpolation": "sinc"},
        {"size": 224, "crop": 224, "antialias": False},
        {"resize": "squash", "size": 224, "crop": 300},
    ],
)
def test_contradictory_preprocessing_is_refused(fields):
    with pytest.raises(ValidationError):
        Preprocessing(**fields)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_anything_but_rgb_is_refused(image):
    with pytest.raises(EncoderError, match="uint8 image"):
        Preprocessing(size=4, crop=4).apply(image)


def test_absurdly_elongated_image_is_an_error_not_a_crash():
    with pytest.raises(UnreadableImageError, match="too elongated"):
        Preprocessing(size=224, crop=224).apply(np.zeros((1, 5000, 3), np.uint8))


def test_resize_key_is_shared_by_encoders_that_see_the_same_pixels():
    first = Preprocessing(size=256, crop=224, mean=(0.5, 0.5, 0.5))
    second = Preprocessing(size=256, crop=224, std=(0.1, 0.1, 0.1), value_range="0-255")
    assert first.resize_key == second.resize_key
    assert len({first.resize_key, second.resize_key}) == 1
    for other in ({"size": 255}, {"crop": 223}, {"interpolation": "bilinear"}, {"resize": "squash"}):
        changed = Preprocessing(**({"size": 256, "crop": 224} | other))
        assert changed.resize_key != first.resize_key


def test_bug_04_each_encoder_has_its_own_preprocessing():
    # The original sent ImageNet-normalised tensors to every model.
    cards = {card.name: card.preprocessing for card in list_cards()}
    lite0, lite2 = cards["efficientnet_lite0"], cards["efficientnet_lite2"]
    assert (lite0.size, lite0.crop) == (256, 224)
    assert (lite2.size, lite2.crop) == (292, 260)
    assert {lite0.mean, lite2.mean} == {(127.0, 127.0, 127.0)}
    assert {lite0.std, lite2.std} == {(128.0, 128.0, 128.0)}
    image = image_of(300, 400)
    assert lite0.apply(image).shape == (224, 224, 3)
    assert lite2.apply(image).shape == (260, 260, 3)
    assert cards["lbp"].apply(image).shape == (128, 128, 3)


def test_min_max_stretches_each_image_on_its_own():
    spec = Preprocessing(resize="squash", size=16, value_range="min-max", mean=(0.5, 0, 0), std=(1, 1, 2))
    dim = (image_of(16, 16) // 4 + 10).astype(np.uint8)
    flat = np.full((16, 16, 3), 77, np.uint8)
    batch = spec.normalise(torch.from_numpy(np.stack([dim, image_of(16, 16), flat])))
    expected = (dim.astype(np.float64) - dim.min()) / (dim.max() - dim.min())
    expected = (expected - np.array([0.5, 0, 0])) / np.array([1, 1, 2])
    assert np.allclose(batch[0].permute(1, 2, 0).numpy(), expected, atol=1e-6)
    assert torch.equal(batch[2], torch.tensor([-0.5, 0, 0]).view(3, 1, 1).expand(3, 16, 16))


OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def assert_same(preprocessing, theirs):
    for height, width in ((50, 40), (31, 200), (224, 224), (90, 1), (300, 301)):
        picture = Image.fromarray(image_of(8, 8)).resize((width, height), Image.Resampling.BICUBIC)
        prepared = np.array(preprocessing.apply(np.asarray(picture)))
        ours = preprocessing.normalise(torch.from_numpy(prepared)[None])[0]
        # One grey level of 255, in units of the smallest standard deviation.
        assert (ours - theirs(picture)).abs().max() <= 1.01 / 255 / min(preprocessing.std)


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
        (
            CLIP,
            "CLIPImageProcessor",
            {"resize": "shortest", "size": 36, "crop": 32, "odd_crop": "floor", **OPENAI},
        ),
        (
            BIT,
            "BitImageProcessor",
            {
                "resize": "shortest",
                "size": 40,
                "crop": 32,
                "odd_crop": "floor",
                "mean": (0.5307,) * 3,
                "std": (0.2583,) * 3,
            },
        ),
        (
            VIT,
            "ViTImageProcessor",
            {"resize": "squash", "size": 48, "interpolation": "bilinear", "mean": (0.5,) * 3, "std": (0.5,) * 3},
        ),
    ],
)
def test_image_processors_of_transformers(config, processor, expected):
    preprocessing = from_processor({"image_processor_type": processor} | config, name="mine")
    assert preprocessing == Preprocessing(**expected)
    theirs = getattr(transformers, processor)(**config)
    assert_same(preprocessing, lambda picture: theirs(picture, return_tensors="pt")["pixel_values"][0])


def every_processor():
    """Return the names of all classes of image processors that transformers has, without those for Pillow alone."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    backends = {
        name for entry in IMAGE_PROCESSOR_MAPPING_NAMES.values() for name in (entry.values() if entry else ()) if name
    }
    return sorted(name for name in backends if not name.endswith("Pil"))


def taken(name):
    try:
        return from_processor({"image_processor_type": name}, name="mine")
    except EncoderError:
        return None


TAKEN = {name: preprocessing for name in every_processor() if (preprocessing := taken(name)) is not None}


def test_the_classes_of_image_processors_that_encoders_have_are_taken():
    usual = "BitImageProcessor CLIPImageProcessor ViTImageProcessor SiglipImageProcessor BlipImageProcessor"
    more = "ConvNextImageProcessor DeiTImageProcessor DINOv3ViTImageProcessor BeitImageProcessor"
    assert set(f"{usual} {more}".split()) <= set(TAKEN)
    assert {TAKEN[name].interpolation for name in ("ViTImageProcessor", "BitImageProcessor")} == {"bilinear", "bicubic"}
    assert not {"DetrImageProcessor", "SamImageProcessor", "Siglip2ImageProcessor"} & set(TAKEN)


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_file_leaves_out_is_as_its_class_has_it(name):
    # The backend of torch rounds grey levels otherwise than Pillow; where a class has no other, by two at most.
    exact = hasattr(transformers, f"{name}Pil")
    theirs = getattr(transformers, f"{name}Pil" if exact else name)()
    ours = TAKEN[name]
    levels = 255 if ours.value_range == "0-1" else 1
    for height, width in ((47, 64), (300, 301)):
        pixels = np.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=np.uint8)
        theirs_made = theirs(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
        made = ours.normalise(torch.from_numpy(np.array(ours.apply(pixels)))[None])[0]
        apart = (made - theirs_made).abs() * max(ours.std) * levels
        assert apart.max() <= (0.001 if exact else 2.0), (height, width)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 48}, {"resize": "squash", "crop": None}),
        ({"image_processor_type": "ViTImageProcessorFast", "size": 48}, {"interpolation": "bilinear"}),
        ({"feature_extractor_type": "CLIPFeatureExtractor", "size": 48, "crop_size": 32}, {"crop": 32, "size": 48}),
        (
            {"image_processor_type": "CLIPImageProcessor"},
            {"crop": 224, "odd_crop": "floor", "interpolation": "bicubic"},
        ),
        ({"image_processor_type": "DeiTImageProcessor"}, {"resize": "squash", "size": 256, "crop": 224}),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}, {"resize": "squash"}),
    ],
)
def test_files_of_older_styles_and_short_ones_mean_what_their_class_does(config, says):
    made = from_processor(config, name="mine")
    assert {field: getattr(made, field) for field in says} == says


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
        ({"size": None}, "neither size nor a class"),
        ({"resample": None}, "neither resample nor a class"),
        ({"size": 48}, "without the class that says whether"),
        (
            {"image_processor_type": "CuriaImageProcessor"},
            "class CuriaImageProcessor, which transformers does not have",
        ),
        ({"image_processor_type": "DetrImageProcessor"}, "what DetrImageProcessor .* in steps of its own"),
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
    import open_clip

    full = open_clip.transform.PreprocessCfg(size=40, **config)
    assert_same(preprocessing, open_clip.transform.image_transform_v2(full, is_train=False))


def test_what_a_configuration_of_open_clip_leaves_out_is_its_default():
    assert from_open_clip({}, name="mine", size=224) == Preprocessing(size=224, crop=224, **OPENAI)


def test_padding_of_open_clip_is_refused():
    with pytest.raises(EncoderError, match="resize mode 'longest'"):
        from_open_clip({"resize_mode": "longest"}, name="mine", size=40)


@pytest.mark.parametrize("content", ["{", "[1]", "", "[" * 200_000], ids=["open", "list", "empty", "deep"])
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
