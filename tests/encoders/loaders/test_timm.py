"""Networks built here give what timm gives."""

import time

import numpy as np
import pytest
import timm
import timm.layers
import torch
from safetensors.torch import load_file, save_file
from torchvision.transforms import Normalize

from biofuse.core.errors import EncoderError, WeightsError, WrongWeightsError
from biofuse.encoders import Preprocessing, get_card, load_encoder, register_timm
from biofuse.encoders.loaders.timm import LAYERS, resampled, with_layers
from biofuse.testing import assert_encoder_contract

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

VIT = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3}


def timm_embedding(network, images, preprocessing):
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        return network.eval()(Normalize(preprocessing.mean, preprocessing.std)(pixels)).numpy()


def test_class_token_equals_timm(make_vit_card, vit_file, images):
    card = make_vit_card(vit_file)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=5, **VIT)
    network.load_state_dict(load_file(vit_file))
    network.reset_classifier(0)
    expected = timm_embedding(network, images, card.preprocessing)
    encoder = load_encoder(card)
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-6)
    with torch.inference_mode():
        tokens = network.forward_features(card.preprocessing.normalise(torch.from_numpy(images)))
    np.testing.assert_allclose(encoder.encode(images), tokens[:, 0].numpy(), atol=1e-6)


def test_pooled_equals_timm(tmp_path, images, registry):
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", num_classes=3)
    path = tmp_path / "resnet.safetensors"
    save_file(network.state_dict(), path)
    card = register_timm(
        "small_resnet",
        "resnet10t",
        checkpoint=path,
        dim=512,
        output="pooled",
        preprocessing=Preprocessing(resize="squash", size=32, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)),
        ignore=("fc.*",),
        parameters=sum(p.numel() for name, p in network.named_parameters() if not name.startswith("fc.")),
        registry=registry,
    )
    assert registry.get_card("small_resnet") == card
    network.reset_classifier(0)
    expected = timm_embedding(network, images, card.preprocessing)
    np.testing.assert_allclose(registry.load_encoder(card).encode(images), expected, atol=1e-6, rtol=1e-5)


def register_vit(path, registry, **options):
    return register_timm(
        "my_vit",
        "vit_tiny_patch16_224",
        **{
            "checkpoint": path,
            "dim": 48,
            "output": "cls",
            "preprocessing": Preprocessing(size=36, crop=32),
            "arguments": VIT,
            "ignore": ("head.*",),
            "registry": registry,
            **options,
        },
    )


def test_registered_checkpoint_keeps_the_contract(vit_file, registry):
    card = register_vit(vit_file, registry, licence="MIT", modality="pathology")
    assert_encoder_contract(registry.load_encoder("my_vit"))
    assert card.weights.sha256 is not None
    assert card.loader == "timm"


def test_a_checkpoint_that_changed_since_is_refused(vit_file, registry):
    register_vit(vit_file, registry)
    save_file({key: value * 2 for key, value in load_file(vit_file).items()}, vit_file)
    with pytest.raises(WeightsError, match="SHA-256"):
        registry.load_encoder("my_vit")


def test_moving_the_checkpoint_keeps_the_fingerprint(vit_file, tmp_path, registry):
    first = register_vit(vit_file, registry).fingerprint()
    moved = vit_file.rename(tmp_path / "moved.safetensors")
    assert register_vit(moved, registry, replace=True).fingerprint() == first


def test_registering_a_missing_checkpoint_fails_at_once(tmp_path, registry):
    with pytest.raises(WeightsError, match="my_vit does not exist"):
        register_vit(tmp_path / "none.safetensors", registry)


def test_random_weights_are_refused(make_vit_card, vit_file):
    with pytest.raises(WeightsError, match="random weights") as caught:
        load_encoder(make_vit_card(vit_file, weights=None))
    assert "checkpoint" in caught.value.remedy


def test_bug_01_another_patch_size_is_refused(make_vit_card, vit_file):
    # The original loaded a 14-pixel DINOv2-g and called it Prov-GigaPath, whose patches are 16 pixels.
    with pytest.raises(WeightsError, match=r"patch_embed\.proj\.weight: \(48, 3, 16, 16\) in the file"):
        load_encoder(make_vit_card(vit_file, arguments=VIT | {"patch_size": 8}))


def test_bug_01_another_number_of_parameters_is_refused(make_vit_card, vit_file):
    true = load_encoder(make_vit_card(vit_file)).parameters
    load_encoder(make_vit_card(vit_file, parameters=true))
    with pytest.raises(WeightsError, match=f"{true:,} parameters, its card says {true + 1:,}"):
        load_encoder(make_vit_card(vit_file, parameters=true + 1))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "vit_of_tomorrow"}, "cannot build 'vit_of_tomorrow' for small_vit"),
        ({"arguments": VIT | {"wheels": 4}}, "cannot build"),
        ({"output": "pooled"}, "promises the output 'pooled', but its network pools by 'token'"),
        ({"arguments": VIT | {"global_pool": "avg"}}, "promises the output 'cls', but its network pools by 'avg'"),
        ({"output": "projected"}, "promises the output 'projected', but its network has a last layer of 0 columns"),
        ({"arguments": VIT | {"num_classes": 5}}, "promises the output 'cls', but its network has a last layer of 5"),
        ({"output": "cls+mean"}, "promises the output 'cls\\+mean', but its network pools by 'token'"),
        ({"arguments": VIT | {"global_pool": ""}}, "promises the output 'cls', but its network pools by ''"),
        ({"output": "descriptor"}, "gives the outputs cls, pooled, cls\\+mean and projected, not 'descriptor'"),
        ({"architecture": "hf-hub:owner/name"}, "cannot build 'hf-hub:owner/name' for small_vit: it has no such model"),
        (
            {
                "arguments": VIT | {"global_pool": "", "class_token": False, "no_embed_class": True},
                "output": "cls+mean",
            },
            "promises the output 'cls\\+mean', but its network has no class token",
        ),
        ({"dim": 512}, "promises 512 dimensions, but vit_tiny_patch16_224 gives 48"),
        ({"preprocessing": Preprocessing(size=224, crop=224)}, "prepares images of 224 pixels, .* built for 32"),
    ],
)
def test_cards_that_contradict_the_network_are_refused(make_vit_card, vit_file, changes, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(make_vit_card(vit_file, **changes))


SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3}


SWIGLU = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}


def test_prov_gigapath_equals_timm_and_has_patches_of_16_pixels(publish, equals, filled, images):
    network = filled(
        timm.models.VisionTransformer(
            img_size=32,
            patch_size=16,
            embed_dim=48,
            depth=2,
            num_heads=3,
            mlp_ratio=5.33334,
            init_values=1e-5,
            num_classes=0,
            **SWIGLU,
        )
    )
    state = network.state_dict()
    card = publish("prov_gigapath", state, side=32, dim=48, shape=SMALL | {"img_size": 32})
    equals(card, images, lambda pixels: network.forward_features(pixels)[:, 0])
    dinov2 = publish("prov_gigapath", state, side=28, dim=48, shape=SMALL | {"img_size": 28, "patch_size": 14})
    with pytest.raises(WrongWeightsError, match=r"patch_embed\.proj\.weight: \(48, 3, 16, 16\) in .*\(48, 3, 14"):
        load_encoder(dinov2)


def test_a_last_layer_is_the_projection(make_vit_card, vit_file, images):
    network = timm.create_model("vit_tiny_patch16_224", num_classes=5, **VIT)
    network.load_state_dict(load_file(vit_file))
    card = make_vit_card(vit_file, output="projected", dim=5, arguments=VIT | {"num_classes": 5})
    weights = card.weights.model_copy(update={"ignore": ()})
    card = card.model_copy(update={"weights": weights})
    expected = timm_embedding(network, images, card.preprocessing)
    np.testing.assert_allclose(load_encoder(card).encode(images), expected, atol=1e-5)


def test_the_layout_that_dinov2_itself_publishes_is_known(publish, equals, filled, small_images):
    shape = SMALL | {"img_size": 28}
    name = "vit_giant_patch14_reg4_dinov2"
    network = filled(timm.create_model(name, num_classes=0, **shape))
    new = network.state_dict()
    state = {key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): value for key, value in new.items()}
    # There the class token has a position, which timm has added to it.
    position = torch.randn(1, 1, 48)
    state |= {
        "register_tokens": state.pop("reg_token"),
        "pos_embed": torch.cat((position, new["pos_embed"]), dim=1),
        "cls_token": new["cls_token"] - position,
        "mask_token": torch.ones(1, 48),
    }
    card = publish("dinov2_giant", state, side=28, dim=48, shape=shape)
    equals(card, small_images, lambda pixels: network.forward_features(pixels)[:, 0])


@pytest.mark.parametrize("how", ["size", "scale"])
def test_positions_are_resampled_as_their_authors_do(how):
    # Written out: DeiT's function of RETFound's repository, and DINO's of CONCH v1.5's.
    published = torch.randn(1, 1 + 14 * 14, 8, generator=torch.Generator().manual_seed(2))
    grid = published[:, 1:].reshape(1, 14, 14, 8).permute(0, 3, 1, 2)
    interpolate = torch.nn.functional.interpolate
    if how == "size":
        grid = interpolate(grid, size=(28, 28), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).flatten(1, 2)
    else:
        ratio = (28 + 0.1) / np.sqrt(14 * 14)
        grid = interpolate(grid, scale_factor=(ratio, ratio), mode="bicubic").permute(0, 2, 3, 1).view(1, -1, 8)
    ours = resampled(published, tokens=1 + 28 * 28, how=how)
    assert torch.equal(ours, torch.cat((published[:, :1], grid), dim=1))


@pytest.mark.parametrize("extra", [{}, {"text.w": torch.ones(3)}])
def test_timm_may_drop_no_weight_that_the_card_does_not_list(publish, equals, filled, small_images, extra):
    # timm would take the trunk out of an open_clip checkpoint, and leave the rest without a word.
    shape = SMALL | {"img_size": 28}
    network = filled(timm.create_model("vit_giant_patch14_reg4_dinov2", num_classes=0, **shape))
    state = {f"visual.trunk.{key}": value for key, value in network.state_dict().items()}
    card = publish("dinov2_giant", state | extra, side=28, dim=48, shape=shape)
    if extra:
        with pytest.raises(WrongWeightsError, match="unexpected"):
            load_encoder(card)
    else:
        equals(card, small_images, lambda pixels: network.forward_features(pixels)[:, 0])


@pytest.mark.slow
def test_a_vit_b_of_full_size_runs_end_to_end(publish):
    card = get_card("kaiko_vitb16")
    torch.manual_seed(0)
    network = timm.create_model(card.architecture, num_classes=0, **card.arguments).eval()
    full = publish("kaiko_vitb16", network.state_dict(), side=224, parameters=card.parameters)
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    start = time.perf_counter()
    encoder = load_encoder(full)
    pixels = full.preprocessing.normalise(torch.from_numpy(images))
    with torch.inference_mode():
        expected = network.forward_features(pixels)[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode(images), expected, atol=1e-4, rtol=1e-4)
    assert time.perf_counter() - start < 120


def test_names_become_classes_and_the_rest_stays():
    given = {"mlp_layer": "timm.layers.SwiGLUPacked", "act_layer": "torch.nn.SiLU", "depth": 3, "global_pool": "token"}
    assert with_layers({"act_layer": "silu"}) == {"act_layer": "silu"}
    made = with_layers(given)
    assert made == {
        "mlp_layer": timm.layers.SwiGLUPacked,
        "act_layer": torch.nn.SiLU,
        "depth": 3,
        "global_pool": "token",
    }
    assert given["act_layer"] == "torch.nn.SiLU"


@pytest.mark.parametrize("name", LAYERS)
def test_every_known_layer_exists(name):
    assert callable(with_layers({"mlp_layer": name})["mlp_layer"])


@pytest.mark.parametrize("name", ["os.system", "torch.load", "timm.layers.Mlp"])
def test_any_other_name_is_refused(name):
    with pytest.raises(EncoderError, match="not a layer that a card may name"):
        with_layers({"mlp_layer": name})
