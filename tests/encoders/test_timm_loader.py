"""Networks built here give what timm gives."""

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torchvision.transforms import Normalize

from biofuse.core.errors import EncoderError, WeightsError
from biofuse.encoders import Preprocessing, assert_encoder_contract, load_encoder, register_timm

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
        ({"output": "projected"}, "outputs cls and pooled, not 'projected'"),
        ({"dim": 512}, "promises 512 dimensions, but vit_tiny_patch16_224 gives 48"),
        ({"preprocessing": Preprocessing(size=224, crop=224)}, "prepares images of 224 pixels, .* built for 32"),
    ],
)
def test_cards_that_contradict_the_network_are_refused(make_vit_card, vit_file, changes, message):
    with pytest.raises(EncoderError, match=message):
        load_encoder(make_vit_card(vit_file, **changes))


def test_another_architecture_is_refused(make_vit_card, vit_file):
    with pytest.raises(WeightsError, match="missing"):
        load_encoder(make_vit_card(vit_file, arguments=VIT | {"depth": 3}))


def test_nan_weights_are_refused(make_vit_card, vit_file):
    state = load_file(vit_file)
    state["norm.weight"][3] = torch.nan
    save_file(state, vit_file)
    with pytest.raises(EncoderError, match="NaN or infinite"):
        load_encoder(make_vit_card(vit_file))


def test_constant_network_is_refused(make_vit_card, vit_file):
    state = load_file(vit_file)
    state["norm.weight"][:] = 0
    save_file(state, vit_file)
    with pytest.raises(EncoderError, match="its output is constant"):
        load_encoder(make_vit_card(vit_file))
