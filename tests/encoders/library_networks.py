"""What published convolutional networks, Swin and SAM compute: classes of torchvision and timm that no loader uses.

Tables of weights are brought from the names of their files to those of the class; see :mod:`tests.encoders.networks`.
"""

import math
import re
from functools import partial

import torch
import torchvision
from tests.encoders.vision_transformers import State, Unseen, linear, under
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import ResNet
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.resnet import Bottleneck
from torchvision.models.swin_transformer import SwinTransformer


def filled(network: nn.Module, state: State) -> nn.Module:
    """Fill a class of another library, whose names the table has been given; tables that it computes are its own."""
    own = network.state_dict()
    computed = {name for name in own if name.endswith(("relative_position_index", "num_batches_tracked"))}
    network.load_state_dict({**{name: own[name] for name in computed}, **state}, strict=True)
    return network.eval()


def respelled(state: State, *pairs: tuple[str, str]) -> dict[str, Tensor]:
    result = {}
    for name, value in state.items():
        for pattern, replacement in pairs:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        result[name] = value
    return result


def torchvision_convnext(pixels: Tensor, state: State, _: Unseen) -> Tensor:
    depths = [len({name.split(".")[2] for name in state if name.startswith(f"features.{2 * stage + 1}.")})
              for stage in range(4)]  # fmt: skip
    widths = [state[f"features.{2 * stage + 1}.0.layer_scale"].shape[0] for stage in range(4)]
    settings = [CNBlockConfig(width, None, depth) for width, depth in zip(widths, depths, strict=True)]
    for setting, after in zip(settings, widths[1:], strict=False):
        setting.out_channels = after
    network = ConvNeXt(settings)
    network.classifier[2] = nn.Identity()
    return filled(network, state)(pixels)


def timm_convnext(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """facebookresearch/ConvNeXt, under timm's names."""

    def place(found: re.Match[str]) -> str:
        return f"features.{2 * int(found[1]) + (0 if found[2] == 'downsample' else 1)}."

    spelled = {
        re.sub(r"^stages\.(\d+)\.(downsample|blocks)\.", place, name): value.reshape(-1, 1, 1)
        if name.endswith("gamma")
        else value
        for name, value in state.items()
    }
    parts = (("conv_dw", "0"), ("norm", "2"), (r"mlp\.fc1", "3"), (r"mlp\.fc2", "5"))
    inside = [(rf"(features\.\d*[13579]\.\d+)\.{part}\.", rf"\1.block.{number}.") for part, number in parts]
    names = [(r"^stem\.", "features.0."), (r"gamma$", "layer_scale"), (r"^head\.norm\.", "classifier.0.")]
    return torchvision_convnext(pixels, respelled(spelled, *names, *inside), unseen)


def swin(pixels: Tensor, state: State, *, stem: nn.Module | None = None) -> Tensor:
    """microsoft/Swin-Transformer, under the names of timm 0.5.4, where each stage ends with the reduction."""
    projects = "projector.weight" in state
    tables = {name: value for name, value in state.items() if name.endswith("relative_position_bias_table")}
    firsts = [tables[name] for name in sorted(tables) if ".blocks.0." in name]
    depths = [len([name for name in tables if name.startswith(f"layers.{stage}.")]) for stage in range(len(firsts))]
    window = (math.isqrt(len(firsts[0])) + 1) // 2
    network = SwinTransformer(
        [4, 4], state["patch_embed.norm.weight"].shape[0], depths, [table.shape[1] for table in firsts],
        [window, window], num_classes=state["projector.weight"].shape[0] if projects else 1,
    )  # fmt: skip
    if not projects:
        network.head = nn.Identity()
    if stem is not None:
        network.features[0][0] = stem
    given = {name: value for name, value in state.items() if not name.endswith("relative_position_index")}
    given = {re.sub(r"^layers\.(\d+)\.downsample", lambda at: f"features.{2 * int(at[1]) + 2}", name): value
             for name, value in given.items()}  # fmt: skip
    given = {re.sub(r"^layers\.(\d+)\.blocks", lambda at: f"features.{2 * int(at[1]) + 1}", name): value
             for name, value in given.items()}  # fmt: skip
    names = ((r"^patch_embed\.proj\.", "features.0.0."), (r"^patch_embed\.norm\.", "features.0.2."))
    names += ((r"mlp\.fc1\.", "mlp.0."), (r"mlp\.fc2\.", "mlp.3."), (r"^projector\.", "head."))
    return filled(network, respelled(given, *names))(pixels)


def ark(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """jlianglab/Ark: Ark_Plus/Pretraining/models.py; the projector, or what it is given."""
    if unseen.output == "mean":
        state = {name: value for name, value in state.items() if not name.startswith("projector.")}
    return swin(pixels, state)


def ctranspath(pixels: Tensor, state: State, _: Unseen) -> Tensor:
    """Xiyue-Wang/TransPath: ctran.py, whose patches come from convolutions."""
    stem, before = [], 3
    for name in ("patch_embed.proj.0", "patch_embed.proj.3"):
        after = state[f"{name}.weight"].shape[0]
        stem += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
    return swin(
        pixels, state, stem=nn.Sequential(*stem, nn.Conv2d(before, state["patch_embed.norm.weight"].shape[0], 1))
    )


def sam(pixels: Tensor, state: State, _: Unseen, *, heads: int, windows: bool) -> Tensor:
    """facebookresearch/segment-anything: modeling/image_encoder.py, as timm has it; the mean over positions."""
    grid, width = state["pos_embed"].shape[1], state["pos_embed"].shape[-1]
    patch = state["patch_embed.proj.weight"].shape[-1]
    tables = [state[name] for name in sorted(state) if name.endswith("rel_pos_h")]
    window = (len(tables[0]) + 1) // 2 if windows else 0
    network = VisionTransformerSAM(
        img_size=grid * patch, patch_size=patch, embed_dim=width, depth=len(tables), num_heads=heads,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / width, use_rel_pos=True, window_size=window,
        global_attn_indexes=tuple(number for number, table in enumerate(tables) if len(table) == 2 * grid - 1),
        neck_chans=state["neck.0.weight"].shape[0], num_classes=0, norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip
    for block, table in zip(network.blocks, tables, strict=True):
        block.attn.rel_pos_h, block.attn.rel_pos_w = (nn.Parameter(torch.empty_like(table)) for _ in "hw")
    return filled(network, state).forward_features(pixels).mean((2, 3))


def transformers_sam(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    names = ((r"^layers\.", "blocks."), (r"layer_norm(?=\d\.)", "norm"), ("patch_embed.projection", "patch_embed.proj"))
    names += ((r"mlp\.lin", "mlp.fc"), (r"neck\.conv1", "neck.0"), (r"neck\.norm1", "neck.1"))
    names += ((r"neck\.conv2", "neck.2"), (r"neck\.norm2", "neck.3"))
    return sam(pixels, respelled(state, *names), unseen, heads=unseen.heads, windows=True)


def sam_without_windows(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """MouseLand/cellpose: cellpose/vit_sam.py; tables of relative positions are resampled whenever it runs."""
    return sam(pixels, respelled(state, (r"mlp\.lin", "mlp.fc")), unseen, heads=unseen.heads, windows=False)


def resnet_maps(pixels: Tensor, state: State) -> Tensor:
    depths = [len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")}) for stage in range(1, 5)]
    network = ResNet(Bottleneck, depths)
    network.fc = nn.Identity()
    channels = state["conv1.weight"].shape[1]
    network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    network = filled(network, state)
    pixels = pixels.mean(1, keepdim=True) if channels == 1 else pixels
    return nn.Sequential(*list(network.children())[:-2])(pixels)


def resnet(pixels: Tensor, state: State, _: Unseen) -> Tensor:
    return resnet_maps(pixels, state).mean((2, 3))


def numbered_resnet(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    parts = {0: "conv1", 1: "bn1", 4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
    return resnet(pixels, respelled(state, *((rf"^{number}\.", f"{name}.") for number, name in parts.items())), unseen)


def densenet(pixels: Tensor, state: State, _: Unseen) -> Tensor:
    inside = {name.partition(".norm1.weight")[0] for name in state if name.endswith(".norm1.weight")}
    blocks = [len([name for name in inside if f"denseblock{block}." in name]) for block in range(1, 5)]
    first, channels = state["features.conv0.weight"].shape[:2]
    growth = state["features.denseblock1.denselayer1.conv2.weight"].shape[0]
    network = torchvision.models.DenseNet(growth, blocks, first)
    network.features.conv0 = nn.Conv2d(channels, first, 7, 2, 3, bias=False)
    network.classifier = nn.Identity()
    return filled(network, state)(pixels.mean(1, keepdim=True))


def flair(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """jusiro/FLAIR: flair/modeling/model.py VisionModel and ProjectionLayer; of unit length before and after."""
    mean = resnet_maps(pixels, under(state, "model.")).mean((2, 3))
    if unseen.output == "mean":
        return mean
    mean = functional.normalize(mean, dim=-1)
    return functional.normalize(linear(mean, state, "projection_head_vision.projection"), dim=-1)


def biovil(pixels: Tensor, state: State, unseen: Unseen) -> Tensor:
    """microsoft/hi-ml: health_multimodal/image/model/model.py and encoder.py, without an earlier image."""
    inner = under(state, "encoder.encoder.")
    maps = resnet_maps(pixels, {name: value for name, value in inner.items() if not name.startswith("fc.")})
    if "encoder.backbone_to_vit.weight" in state:
        maps = functional.conv2d(maps, state["encoder.backbone_to_vit.weight"])
        missing = state["encoder.missing_previous_emb"].expand(len(maps), -1, *maps.shape[2:])
        maps = torch.cat((maps, missing), 1)
    if unseen.output == "projected":
        at = "projector.model"
        maps = functional.conv2d(maps, state[f"{at}.0.weight"])
        running = (state[f"{at}.1.running_mean"], state[f"{at}.1.running_var"])
        maps = functional.relu(
            functional.batch_norm(maps, *running, state[f"{at}.1.weight"], state[f"{at}.1.bias"], eps=1e-5)
        )
        maps = functional.conv2d(maps, state[f"{at}.3.weight"], state[f"{at}.3.bias"])
    return maps.mean((2, 3))
