"""Batch normalisation folded into the convolution before it: the same embeddings, with fewer passes over memory."""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_normalisations(
    network: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], probe: torch.Tensor, *, tolerance: float
) -> int:
    """Fold batch normalisations into the convolutions that they follow, in a network in inference mode.

    In inference a normalisation multiplies and shifts each channel by constants, which the convolution can do by
    itself. What follows what is seen by running the network: the input of one is the output of the other. Afterwards it
    has to give the same as before, or everything is put back, as where a convolution's output has another use besides.

    Parameters
    ----------
    network : torch.nn.Module
        Changed in place. One that has nothing to fold, or cannot be run on ``probe``, stays as it is.
    forward : callable
        Runs it.
    probe : torch.Tensor, shape (n, 3, height, width)
        Normalised images to run it on.
    tolerance : float
        How far the result may differ, relative to its largest value.

    Returns
    -------
    int
        How many were folded.
    """
    if not any(_is_constant(module) for module in network.modules()):
        return 0
    try:
        with torch.inference_mode():
            before, followers = _run(network, forward, probe)
    except Exception:  # any that a network may raise; whoever embeds with it hears of it, by the encoder's name
        return 0
    old: dict[str, nn.Module] = {}
    for name, follower in followers.items():
        old |= {each: network.get_submodule(each) for each in (name, follower)}
        _put(network, name, fuse_conv_bn_eval(old[name], old[follower]))  # type: ignore[type-var, arg-type]
        _put(network, follower, getattr(old[follower], "act", None) or nn.Identity().eval())
    with torch.inference_mode():
        after = forward(probe)
    if bool((after - before).abs().max() <= tolerance * before.abs().max()):
        return len(followers)
    for name, module in old.items():
        _put(network, name, module)
    return 0


def _run(
    network: nn.Module, forward: Callable[[torch.Tensor], torch.Tensor], probe: torch.Tensor
) -> tuple[torch.Tensor, dict[str, str]]:
    """Run a network; return what it gives, and by convolution the normalisation whose input is that one's output."""
    outputs: list[tuple[str, torch.Tensor]] = []
    inputs: list[tuple[str, torch.Tensor]] = []
    names = {module: name for name, module in network.named_modules()}

    def keep_output(module: nn.Module, _given: Any, output: torch.Tensor) -> None:
        outputs.append((names[module], output))

    def keep_input(module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        inputs.append((names[module], given[0]))

    hooks = [module.register_forward_hook(keep_output) for module in names if isinstance(module, nn.Conv2d)]
    hooks += [module.register_forward_pre_hook(keep_input) for module in names if _is_constant(module)]
    try:
        result = forward(probe)
    finally:
        for hook in hooks:
            hook.remove()
    runs = Counter(name for name, _ in (*outputs, *inputs))
    return result, {
        convolution: normalisation
        for normalisation, given in inputs
        for convolution, output in outputs
        if output is given and runs[convolution] == runs[normalisation] == 1
    }


def _is_constant(module: nn.Module) -> bool:
    """Tell whether a module is a normalisation by constants, of torch or, with an activation behind it, of timm."""
    timm: Any = sys.modules.get("timm.layers")
    known = type(module) is nn.BatchNorm2d or (timm is not None and type(module) is timm.BatchNormAct2d)
    return known and not module.training and module.running_mean is not None


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    """Replace a part of a network, by its name."""
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)
