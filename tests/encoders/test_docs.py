"""The code blocks of docs/add-an-encoder.md run as they stand."""

import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from biofuse.encoders import ENCODERS, ENTRY_POINT_GROUP, EncoderRegistry

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-an-encoder.md"


def code_block(containing: str) -> str:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    (block,) = [block for block in blocks if containing in block]
    return block


@pytest.fixture
def own_registry():
    with ENCODERS.temporary() as own:
        yield own


def run(block: str, tmp_path: Path) -> dict[str, object]:
    file = tmp_path / "user_code.py"
    file.write_text(block, encoding="utf-8")
    names: dict[str, object] = {"__name__": "user_code"}
    exec(compile(block, str(file), "exec"), names)  # noqa: S102
    return names


def test_the_ten_lines(own_registry, tmp_path):
    block = code_block('"mean_colour", dim=3, size=64)\ndef')
    assert len(block.strip().splitlines()) <= 10
    run(block, tmp_path)
    card = own_registry.get_card("mean_colour")
    assert (card.dim, card.preprocessing.output_size) == (3, 64)
    assert card.arguments["code"].startswith("source:")


def test_version_and_facts(own_registry, tmp_path):
    run(code_block('"brightness"'), tmp_path)
    assert own_registry.get_card("brightness").version == 2
    own_registry.load_encoder("brightness")


def test_timm_checkpoint(own_registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict(), "my_vit.safetensors")
    assert run(code_block("register_timm"), tmp_path)["encoder"].card.name == "my_vit"


@pytest.mark.slow
def test_card_as_toml(own_registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=7).state_dict(), "my_vit.safetensors")
    (text,) = re.findall(
        r"^```toml\n(name = .*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    Path("my_vit.toml").write_text(text, encoding="utf-8")
    card = run(code_block('register("my_vit.toml")'), tmp_path)["card"]
    assert own_registry.get_card("my_vit") == card
    assert own_registry.load_encoder("my_vit").card.weights.sha256


def test_builder_entry_point_and_contract(own_registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(3, 8, 3)
    save_file({f"0.{name}": value for name, value in convolution.state_dict().items()}, "my_network.safetensors")
    names = run(code_block('name="my_network"'), tmp_path)
    assert own_registry.load_encoder("my_network").card.weights.sha256

    other = EncoderRegistry((), plugins=False)
    whole = "\n".join(
        [
            code_block('name="my_network"').replace("register(CARD, build)\n", ""),
            code_block('"mean_colour", dim=3, size=64)\ndef').replace('assert_encoder_contract("mean_colour")', ""),
            code_block("def register(registry)"),
        ]
    ).replace("@biofuse.register_encoder(", "@(lambda *a, **k: lambda f: f)(")
    names = run("from biofuse.encoders import register_encoder\n" + whole, tmp_path)
    names["register"](other)
    assert [card.name for card in other.list_cards()] == ["my_network", "mean_colour"]
    contract = run(code_block("def test_contract"), tmp_path)["test_contract"]
    (mark,) = contract.pytestmark
    with monkeypatch.context() as patched:
        patched.setattr("biofuse.testing.load_encoder", other.load_encoder)
        for name in mark.args[1]:
            contract(name)


def test_entry_point_group_is_the_one_that_is_read():
    assert f'[project.entry-points."{ENTRY_POINT_GROUP}"]' in PAGE.read_text(encoding="utf-8")
