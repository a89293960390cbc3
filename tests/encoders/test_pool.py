"""Every card of the pool describes a network that the libraries can build, at its full size, with these very counts."""

import json
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from biofuse.encoders import EncoderCard, get_card, list_cards, resolve
from biofuse.encoders.facts import ESSENTIAL, FACT_NAMES
from biofuse.encoders.layers import with_layers
from biofuse.encoders.pool import POOL_CARDS
from biofuse.encoders.starter import STARTER_CARDS

PAPER = {
    "biomedclip": 512,
    "pubmedclip": 512,
    "conch": 512,
    "rad_dino": 768,
    "uni": 1024,
    "uni2_h": 1536,
    "hibou_b": 768,
    "prov_gigapath": 1536,
    "chexagent": 1408,
}
"""The paper's nine and their columns: 8,576 together."""

COUNTED_ELSEWHERE = {
    "biomedclip": 86_191_872,
    "rad_dino": 86_580_480,
    "rad_dino_maira_2": 86_580_480,
    "uni": 303_350_784,
    "uni2_h": 681_394_176,
    "prov_gigapath": 1_134_953_984,
    "dinov2_g": 1_134_769_664,
    "chexagent": 1_012_283_776,
    "virchow": 631_229_184,
    "virchow2": 631_239_424,
    "h_optimus_0": 1_134_774_272,
    "h_optimus_1": 1_134_774_272,
    "kaiko_vits16": 21_665_664,
    "kaiko_vits8": 21_670_272,
    "kaiko_vitb16": 85_798_656,
    "kaiko_vitb8": 85_807_872,
    "kaiko_vitl14": 304_370_688,
    "gpfm": 303_227_904,
    "medsiglip_448": 428_565_440,
    "ark_plus": 195_198_516,
    "retfound_mae_cfp": 303_301_632,
    "retfound_mae_oct": 303_301_632,
    "retfound_dinov2_meh": 303_227_904,
    "dinov2_giant": 1_134_774_272,
    "dinov3_large": 303_079_424,
}
"""Parameters as collected, with sources, before these cards were written."""


class Trunk(nn.Module):
    """A timm network as the timm family runs it."""

    def __init__(self, card: EncoderCard) -> None:
        import timm

        super().__init__()
        self.output = card.output
        arguments = with_layers(card.arguments)
        self.network = timm.create_model(card.architecture, pretrained=False, num_classes=0, **arguments)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.network.forward_features(images)
        if self.output == "cls+mean":
            patches = features[:, self.network.num_prefix_tokens :]
            return torch.cat([features[:, 0], patches.mean(1)], dim=1)
        assert (self.network.global_pool == "token") == (self.output == "cls")
        return self.network.forward_head(features, pre_logits=True)


class Conch(nn.Module):
    """CONCH's tower out of open_clip's pooler: another library than the one that loads it."""

    def __init__(self, card: EncoderCard) -> None:
        import timm
        from open_clip.transformer import AttentionalPooler

        super().__init__()
        a = card.arguments
        self.trunk = timm.create_model(
            card.architecture, num_classes=0, img_size=a["img_size"], init_values=a["init_values"]
        )
        self.pool = AttentionalPooler(
            a["pooler_dim"], self.trunk.embed_dim, n_head=a["pooler_heads"], n_queries=a["pooler_queries"]
        )
        if not a.get("pooler_bias", True):
            # The same product of matrices; only the biases are missing in CONCH v1.5.
            self.pool.attn.in_proj_bias = self.pool.attn.out_proj.bias = None
        self.norm = nn.LayerNorm(a["pooler_dim"])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.norm(self.pool(self.trunk.forward_features(images)))[:, 0]


class Transformers(nn.Module):
    """A class of transformers, built from the card's configuration alone."""

    def __init__(self, card: EncoderCard) -> None:
        import transformers

        super().__init__()
        kind = getattr(transformers, card.architecture)
        known = set(kind.config_class().to_dict())
        assert set(card.arguments) <= known, set(card.arguments) - known
        extra: dict[str, Any] = {"add_pooling_layer": False} if card.architecture == "ViTModel" else {}
        self.network = kind(kind.config_class(**card.arguments), **extra)
        self.output = card.output
        self.registers = card.arguments.get("num_register_tokens", 0)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result = self.network(pixel_values=images)
        if self.output == "projected":
            return result.image_embeds
        if result.last_hidden_state.ndim == 4:
            return result.last_hidden_state.mean((2, 3))
        if self.output == "pooled":
            return result.pooler_output
        first = result.last_hidden_state[:, 0]
        if self.output == "cls":
            return first
        return torch.cat([first, result.last_hidden_state[:, 1 + self.registers :].mean(1)], dim=1)


def open_clip_tower(card: EncoderCard) -> nn.Module:
    import open_clip
    from open_clip.model import _build_vision_tower

    config = card.arguments or open_clip.get_model_config(card.architecture)
    return _build_vision_tower(config["embed_dim"], config["vision_cfg"])


BUILDERS = {
    "timm": Trunk,
    "conch": Conch,
    "transformers": Transformers,
    "chexagent": Transformers,
    "open_clip": open_clip_tower,
}


MEASURED: dict[str, tuple[int, int, float]] = {}
"""Of networks seen before: several cards share one."""


def measured(card: EncoderCard) -> tuple[int, int, float]:
    key = json.dumps([card.loader, card.architecture, card.arguments, card.output, card.preprocessing.output_size])
    if key not in MEASURED:
        MEASURED[key] = measure(card)
    return MEASURED[key]


def measure(card: EncoderCard) -> tuple[int, int, float]:
    """Return columns, parameters and GFLOPs of the network that a card describes."""
    with torch.device("meta"), torch.no_grad():
        network = BUILDERS[card.loader](card).eval().requires_grad_(False)
        side = card.preprocessing.output_size
        with FlopCounterMode(display=False) as counter:
            embedding = network(torch.empty(1, 3, side, side))
    return (
        embedding.shape[1],
        sum(parameter.numel() for parameter in network.parameters()),
        counter.get_total_flops() / 1e9,
    )


def names(cards: tuple[EncoderCard, ...]) -> list[str]:
    return [card.name for card in cards]


def each(cards: tuple[EncoderCard, ...]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("card", cards, ids=lambda card: card.name)


@each(POOL_CARDS)
def test_the_network_at_full_size_is_the_one_on_the_card(card):
    dim, parameters, gflops = measured(card)
    assert dim == card.dim
    assert parameters == card.parameters
    assert gflops == pytest.approx(card.gflops, rel=1e-3)


@pytest.mark.parametrize(("name", "parameters"), COUNTED_ELSEWHERE.items())
def test_parameters_are_those_that_were_collected(name, parameters):
    assert get_card(name).parameters == parameters


@each((*STARTER_CARDS, *POOL_CARDS))
def test_cards_are_complete(card):
    assert EncoderCard.model_validate_json(card.model_dump_json()) == card
    for field in ("title", "licence", "source", "citation", "modality", "precision_note"):
        assert getattr(card, field) or card.weights is None, field
    assert card.training_data or card.weights is None
    assert card.gated is False or card.page.startswith("https://")
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz") and name.endswith("mnist") for name in card.overlaps)


@each(POOL_CARDS)
def test_every_fact_says_where_it_comes_from(card):
    assert tuple(card.facts) == tuple(name for name in FACT_NAMES if name in card.facts)
    assert set(card.facts) == set(FACT_NAMES)
    assert card.parameters is not None
    assert card.gflops is not None
    assert all(fact.reference for fact in card.facts.values())


def test_there_are_at_least_36_cards_beside_the_starter_pool():
    assert len(POOL_CARDS) >= 36
    assert len({card.name for card in list_cards()}) == len(list_cards())
    assert set(names(POOL_CARDS)) | set(names(STARTER_CARDS)) <= set(names(list_cards()))


def test_the_paper_has_nine_encoders_with_8576_columns():
    cards = resolve("paper")
    assert {card.name: card.dim for card in cards} == PAPER
    assert sum(card.dim for card in cards) == 8576


def test_gigapath_is_not_dinov2():
    real, used = get_card("prov_gigapath"), get_card("dinov2_g")
    assert real.arguments["patch_size"] == 16
    assert "patch_size" not in used.arguments
    assert real.parameters - used.parameters == 184_320
    assert any("Prov-GigaPath" in note for note in used.notes)


@pytest.mark.parametrize("alias", ["pathology", "radiology", "general", "open"])
def test_an_alias_holds_nothing_with_unverified_essentials(alias):
    cards = resolve(alias)
    assert cards
    assert all(card.selectable_by_default for card in cards)
    if alias == "open":
        assert all(card.gated is False for card in cards)
    else:
        assert all(card.modality == alias for card in cards)


@each(tuple(card for card in POOL_CARDS if card.unverified))
def test_an_encoder_with_unverified_essentials_is_in_no_alias_but_the_papers(card):
    assert set(card.pools) <= {"paper"}
    assert set(card.unverified) <= set(ESSENTIAL)


@each(POOL_CARDS)
def test_a_licence_that_is_not_known_promises_nothing(card):
    if card.facts["licence"].source != "external":
        assert card.commercial is not True
    if card.licence.startswith("CC-BY-NC"):
        assert card.commercial is not True


@each(POOL_CARDS)
def test_weights_are_pinned_or_said_not_to_be(card):
    assert card.weights is not None
    if card.weights.repository == "manual":
        assert "path has to be given" in " ".join(card.notes)
    elif not card.weights.pinned:
        assert card.weights.revision == "main"
    else:
        assert len(card.weights.revision) == 40


def test_the_schema_of_cards_can_be_exported():
    schema = EncoderCard.model_json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert {"name", "weights", "facts", "overlaps", "gated"} <= set(schema["properties"])
