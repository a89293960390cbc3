"""Folding of batch normalisations: the network gives what it gave before, whatever its layers are wired like."""

import copy

import pytest
import timm.layers
import torch
from torch import nn

from biofuse.encoders.folding import fold_normalisations


class Wired(nn.Module):
    """A convolution and a normalisation, and one way of what may come between and behind them."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv = nn.Conv2d(3, 4, 3, bias=way == "with a bias")
        self.norm = nn.BatchNorm2d(4)
        if way == "with an activation":
            self.norm = timm.layers.BatchNormAct2d(4, act_layer=nn.ReLU6)
        self.second = nn.Conv2d(4, 4, 1)
        self.fails = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.fails, "a network that fails"
        made = self.conv(x)
        between = made.relu() if self.way == "an activation between" else made
        out = self.norm(between)
        if self.way == "the convolution used besides":
            out = out + made
        if self.way == "the normalisation used twice":
            out = self.norm(self.second(out))
        return out.mean((2, 3))


FOLDED = {"plain": 1, "with a bias": 1, "with an activation": 1}


def network(way: str) -> Wired:
    torch.manual_seed(0)
    made = Wired(way)
    with torch.no_grad():
        for values in (made.norm.running_mean, made.norm.running_var, made.norm.weight, made.norm.bias):
            values.uniform_(0.5, 2)
    return made.eval().requires_grad_(False)


@pytest.mark.parametrize(
    "way", [*FOLDED, "an activation between", "the convolution used besides", "the normalisation used twice"]
)
def test_a_network_gives_what_it_gave_before(way):
    made, probe, other = network(way), torch.randn(2, 3, 9, 9), torch.randn(5, 3, 9, 9)
    layers = dict(made.named_modules())
    expected = copy.deepcopy(made)(other)
    assert fold_normalisations(made, made, probe, tolerance=1e-4) == FOLDED.get(way, 0)
    torch.testing.assert_close(made(other), expected, rtol=1e-5, atol=1e-5)
    kept = dict(made.named_modules())["norm"] is layers["norm"]
    assert kept == (way not in FOLDED)


def test_a_network_that_fails_or_is_in_training_stays_as_it_is():
    broken, training = network("plain"), network("plain").train()
    broken.fails = True
    for made in (broken, training):
        assert fold_normalisations(made, made, torch.randn(1, 3, 9, 9), tolerance=1e-4) == 0
        assert isinstance(made.norm, nn.BatchNorm2d)


def test_a_network_of_timm_is_folded_whole():
    made = timm.create_model("test_efficientnet", num_classes=0).eval().requires_grad_(False)
    before = sum(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    images = torch.randn(2, 3, 64, 64)
    expected = made(images)
    assert fold_normalisations(made, made, images, tolerance=1e-4) == before > 5
    assert not any(isinstance(module, nn.BatchNorm2d) for module in made.modules())
    torch.testing.assert_close(made(images), expected, rtol=1e-5, atol=1e-5)
