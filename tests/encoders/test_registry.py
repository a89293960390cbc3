"""Encoders by name: order, aliases, plug-ins, and what happens when a name is wrong."""

import importlib.metadata
import inspect
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from biofuse.core.errors import BioFuseWarning, DependencyError, EncoderError, UnknownEncoderError
from biofuse.encoders import EncoderCard, EncoderRegistry, get_card, list_cards, load_encoder, register_encoder, resolve
from biofuse.encoders.card import card_from_toml
from biofuse.encoders.loaders import FAMILIES, builder_of
from biofuse.encoders.weights import locate

STARTER = ("efficientnet_lite0", "efficientnet_lite2", "colour", "lbp", "haralick", "gabor", "hog")


def mean(images):
    return images.mean(axis=(1, 2))


def highest(images):
    return images.max(axis=(1, 2))


def names(cards: tuple[EncoderCard, ...]) -> tuple[str, ...]:
    return tuple(card.name for card in cards)


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("starter", STARTER),
        ("hog, lbp", ("hog", "lbp")),
        (["hog", "lbp", "hog"], ("hog", "lbp")),
        ("gabor,starter", ("gabor", *(name for name in STARTER if name != "gabor"))),
        (["lbp,hog", "colour"], ("lbp", "hog", "colour")),
        (("starter", "starter"), STARTER),
    ],
)
def test_resolve_keeps_order_and_removes_duplicates(registry, asked, given):
    assert names(registry.resolve(asked)) == given


@pytest.mark.parametrize(("asked", "close"), [("efficientnet_lit0", "efficientnet_lite0"), ("startr", "starter")])
def test_unknown_name_suggests_close_ones(registry, asked, close):
    with pytest.raises(UnknownEncoderError, match=close) as caught:
        registry.resolve(f"lbp,{asked}")
    assert "biofuse encoders list" in caught.value.remedy


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("UNI", "uni"),
        ("BiomedCLIP", "biomedclip"),
        ("RAD-DINO", "rad_dino"),
        ("rad dino", "rad_dino"),
        ("CONCH", "conch"),
        ("MahmoodLab/UNI2-h", "uni2_h"),
        ("kaiko-ai/midnight", "midnight_12k"),
        ("Midnight", "midnight_12k"),
        ("Ark+", "ark_plus"),
    ],
)
def test_names_are_taken_as_people_write_them(asked, given):
    assert names(resolve(f"hog,{asked}")) == ("hog", given)
    assert get_card(asked).name == given


def test_every_encoder_is_found_by_its_repository_and_in_other_spellings():
    cards = list_cards()
    held = Counter(card.weights.repository for card in cards if card.weights)
    for card in cards:
        repository = card.weights.repository if card.weights and "/" in card.weights.repository else card.name
        if held[repository] > 1:
            repository = card.name  # it does not say which of several is meant
        for asked in (card.name.upper(), card.name.replace("_", "-"), repository, repository.lower()):
            assert names(resolve(asked)) == (card.name,)


def test_a_repository_of_several_encoders_is_refused_with_all_of_them():
    with pytest.raises(UnknownEncoderError, match="'eva_x_tiny' or 'eva_x_small' or 'eva_x_base'"):
        resolve("MapleF/eva_x")


def test_a_name_of_several_is_refused_with_all_of_them(registry):
    registry.register(registry.get_card("lbp").model_copy(update={"name": "l_b_p_2"}))
    registry.register(registry.get_card("lbp").model_copy(update={"name": "lbp2", "version": 3}))
    assert names(registry.resolve("lbp2")) == ("lbp2",)
    with pytest.raises(UnknownEncoderError, match="'LBP-2' can mean 'l_b_p_2' or 'lbp2'"):
        registry.resolve("LBP-2")


@pytest.mark.parametrize(
    ("asked", "close"),
    [("GigaPath", "prov_gigapath"), ("H-optimus", "h_optimus_0' or 'h_optimus_1"), ("UNI3", "uni"), ("hogg", "hog")],
)
def test_near_misses_are_suggested_whatever_their_case(asked, close):
    with pytest.raises(UnknownEncoderError, match=f"Did you mean '{close}'"):
        resolve(asked)


@pytest.mark.parametrize("asked", ["", " , ", []])
def test_nothing_asked_for_is_an_error(registry, asked):
    with pytest.raises(UnknownEncoderError, match="No encoder is named"):
        registry.resolve(asked)


def test_names_are_unique_unless_replaced(registry):
    changed = registry.get_card("lbp").model_copy(update={"version": 2})
    with pytest.raises(EncoderError, match="already an encoder 'lbp'"):
        registry.register(changed)
    registry.register(changed, replace=True)
    assert registry.get_card("lbp").version == 2
    assert names(registry.list_cards()) == STARTER


def test_a_name_is_not_both_an_encoder_and_a_pool(registry):
    card = registry.get_card("lbp")
    with pytest.raises(EncoderError, match="both an encoder's and a pool's"):
        registry.register(card.model_copy(update={"name": "starter"}))
    with pytest.raises(EncoderError, match="both an encoder's and a pool's"):
        registry.register(card.model_copy(update={"name": "new", "pools": ("hog",)}))


@pytest.fixture
def card_file(tmp_path, vit_file):
    """A card of a checkpoint beside it."""

    def write(**changes: object) -> Path:
        fields = {
            "name": "mine",
            "title": "Mine",
            "modality": "pathology",
            "loader": "timm",
            "output": "cls",
            "dim": 48,
        }
        fields |= {"architecture": "vit_tiny_patch16_224", "licence": "MIT", "source": "a test", "gated": "unknown"}
        arguments = {"img_size": 32, "depth": 2, "embed_dim": 48, "num_heads": 3, "init_values": "null"}
        weights = {"repository": "local", "revision": "1", "file": vit_file.name, "ignore": ["head.*"]}
        tables = {"arguments": arguments, "weights": weights, "preprocessing": {"resize": "squash", "size": 32}}
        lines = [f"{key} = {json.dumps(value)}" for key, value in (fields | changes).items()]
        for table, content in tables.items():
            lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in content.items())]
        path = tmp_path / "mine.toml"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def test_a_card_in_a_file_is_registered(registry, card_file, images):
    card = registry.register(card_file(pools=["starter"]))
    assert registry.get_card("mine") is card
    assert (card.gated, card.arguments["init_values"]) == (None, None)
    assert names(registry.resolve("starter")) == (*STARTER, "mine")
    assert registry.load_encoder("mine").encode(images).shape == (4, 48)


def test_a_card_in_a_file_is_resolved_by_its_path(registry, card_file, monkeypatch, tmp_path):
    path = card_file()
    (card,) = registry.resolve(str(path))
    assert Path(card.weights.file) == tmp_path / "vit.safetensors"
    monkeypatch.chdir(tmp_path)
    assert names(registry.resolve("hog,mine.toml")) == ("hog", "mine")
    assert registry.load_encoder("mine.toml").card.name == "mine"
    assert "mine" not in registry


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dims": 48}, "dims: Extra inputs are not permitted"),
        ({"dim": "many"}, "dim: Input should be a valid integer"),
        ({"loader": "telepathy"}, "'telepathy' is not a loader family"),
    ],
)
def test_a_file_that_is_no_card_says_which_field_is_wrong(registry, card_file, changes, message):
    path = card_file(**changes)
    for ask in (registry.register, registry.resolve):
        with pytest.raises(EncoderError, match=message):
            ask(str(path))


def test_a_file_that_is_not_there_or_no_toml_is_named(registry, tmp_path):
    with pytest.raises(EncoderError, match=r"no card .*absent\.toml"):
        registry.resolve(str(tmp_path / "absent.toml"))
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(EncoderError, match=r"bad\.toml is not a TOML file"):
        registry.resolve(str(tmp_path / "bad.toml"))


def test_two_encoders_of_one_name_are_refused(registry, card_file):
    registry.register(registry.get_card("lbp").model_copy(update={"name": "mine"}))
    with pytest.raises(EncoderError, match="are called 'mine'"):
        registry.resolve(["mine", str(card_file())])


def test_nothing_is_left_of_what_was_temporary(registry):
    with registry.temporary():
        register_encoder("f", dim=3, size=8, registry=registry)(mean)
        registry.register(registry.get_card("lbp").model_copy(update={"version": 2}), replace=True)
        registry.load_encoder("lbp")
    assert names(registry.list_cards()) == STARTER
    assert registry.get_card("lbp").version == 1


def test_own_cards_are_read_only_when_they_are_asked_for(monkeypatch):
    read = []
    monkeypatch.setattr(
        "biofuse.encoders.registry.card_from_toml",
        lambda text, *, name: read.append(name) or card_from_toml(text, name=name),
    )
    own = EncoderRegistry(plugins=False)
    assert names(own.resolve("uni2_h,hog")) == ("uni2_h", "hog")
    assert read == ["uni2_h", "hog"]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_module_that_builds(family):
    builder = builder_of(family)
    assert list(inspect.signature(builder).parameters) == ["card", "device", "precision", "weights_path"]


def test_an_unregistered_card_of_a_known_family_can_be_loaded():
    card = get_card("lbp").model_copy(update={"name": "from_a_saved_model"})
    assert EncoderRegistry(plugins=False).load_encoder(card).card == card


def test_an_unregistered_function_cannot(registry):
    register_encoder("f", dim=3, size=8, registry=registry)(mean)
    with pytest.raises(UnknownEncoderError, match="Nothing here can load f"):
        EncoderRegistry(plugins=False).load_encoder(registry.get_card("f"))


def test_a_saved_card_of_changed_code_is_refused(registry):
    register_encoder("f", dim=3, size=8, registry=registry)(mean)
    saved = registry.get_card("f")
    register_encoder("f", dim=3, size=8, registry=registry, replace=True)(highest)
    with pytest.raises(EncoderError, match="not the one asked for"):
        registry.load_encoder(saved)


def test_a_missing_library_gives_the_command(registry):
    def build(card, *, device, precision, weights_path):
        import a_library_that_is_not_there

        return a_library_that_is_not_there

    card = registry.get_card("lbp").model_copy(update={"name": "new", "loader": "x", "requires": ("some-package",)})
    registry.register(card, build)
    with pytest.raises(DependencyError, match="new needs a library") as caught:
        registry.load_encoder("new")
    assert caught.value.remedy == "pip install some-package"


def test_checks_run_at_the_first_load_only(registry, monkeypatch):
    from biofuse.encoders import registry as module

    seen = []
    monkeypatch.setattr(module, "check_encoder", lambda encoder: seen.append(encoder.card.name))
    for _ in range(2):
        registry.load_encoder("lbp")
    assert seen == ["lbp"]
    registry.register(registry.get_card("lbp").model_copy(update={"title": "again"}), replace=True)
    registry.load_encoder("lbp")
    assert seen == ["lbp", "lbp"]


def plugin(name: str, function: object) -> SimpleNamespace:
    return SimpleNamespace(name=name, dist=SimpleNamespace(name=f"{name}-package"), load=lambda: function)


def use_plugins(monkeypatch: pytest.MonkeyPatch, *points: SimpleNamespace) -> list[str]:
    asked = []

    def entry_points(*, group: str) -> tuple[SimpleNamespace, ...]:
        asked.append(group)
        return points

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    return asked


def add_mean(registry: EncoderRegistry) -> None:
    register_encoder("mean", dim=3, size=8, registry=registry)(mean)


def test_plugins_are_found_once_and_late(monkeypatch):
    asked = use_plugins(monkeypatch, plugin("lab", add_mean))
    registry = EncoderRegistry(resolve("starter"))
    assert asked == []
    assert names(registry.list_cards()) == (*STARTER, "mean")
    assert names(registry.resolve("mean")) == ("mean",)
    assert registry.load_encoder("mean").encode(np.full((1, 8, 8, 3), 7, np.uint8)).tolist() == [[7, 7, 7]]
    assert asked == ["biofuse.encoders"]


def test_a_broken_plugin_is_named_and_leaves_nothing_behind(monkeypatch):
    def breaks(registry: EncoderRegistry) -> None:
        register_encoder("half", dim=3, size=8, registry=registry)(mean)
        raise ZeroDivisionError("boom")

    def missing(registry: EncoderRegistry) -> None:
        raise ImportError("no module named cupy")

    use_plugins(monkeypatch, plugin("bad", breaks), plugin("gone", missing), plugin("lab", add_mean))
    with pytest.warns(BioFuseWarning) as caught:
        listed = EncoderRegistry(resolve("starter")).list_cards()
    assert names(listed) == (*STARTER, "mean")
    messages = [str(warning.message) for warning in caught]
    assert "'bad' of bad-package" in messages[0]
    assert "ZeroDivisionError: boom" in messages[0]
    assert "'gone' of gone-package" in messages[1]


def test_a_plugin_cannot_take_a_name(monkeypatch):
    use_plugins(monkeypatch, plugin("thief", lambda r: r.register(get_card("lbp").model_copy(update={"version": 9}))))
    registry = EncoderRegistry(resolve("starter"))
    with pytest.warns(BioFuseWarning, match="thief"):
        assert registry.get_card("lbp").version == 1


def test_module_functions_use_the_default_registry():
    assert names(resolve("starter")) == STARTER
    assert set(STARTER) <= set(names(list_cards()))
    assert load_encoder("lbp").card is get_card("lbp")


def test_listing_loads_no_model_library():
    code = (
        "import sys, biofuse.encoders as e; e.resolve('starter'); [card.fingerprint() for card in e.list_cards()];"
        "heavy = {'torch', 'torchvision', 'timm', 'transformers', 'skimage', 'sklearn', 'scipy', 'pandas'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_variant_is_an_encoder_of_its_own_with_the_weights_of_its_card(tmp_path):
    whole, token = resolve("h0_mini, H0-mini:cls")
    assert (whole.dim, token.dim, token.name, token.base) == (1536, 768, "h0_mini:cls", "h0_mini")
    assert token.weights == whole.weights
    assert token.fingerprint() != whole.fingerprint()
    assert ":" not in token.fingerprint()
    (tmp_path / "h0_mini").mkdir()
    (tmp_path / "h0_mini" / "model.safetensors").write_bytes(b"x")
    assert locate(token, weights_dir=tmp_path) == locate(whole, weights_dir=tmp_path)


def test_a_variant_that_is_not_there_says_which_are():
    with pytest.raises(UnknownEncoderError, match="h0_mini has no vector 'mean'") as caught:
        get_card("h0_mini:mean")
    assert "h0_mini:cls" in caught.value.remedy
    with pytest.raises(UnknownEncoderError, match="uni has no vector 'mean'") as caught:
        get_card("uni:mean")
    assert "it has no other" in caught.value.remedy


def test_no_encoder_can_be_registered_as_a_variant(registry):
    card = get_card("hog").model_copy(update={"name": "hog:fine"})
    with pytest.raises(EncoderError, match="names a vector of the encoder before it"):
        registry.register(card)
