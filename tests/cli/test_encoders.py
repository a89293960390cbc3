import json

import pytest

STARTER = ["efficientnet_lite0", "efficientnet_lite2", "colour", "lbp", "haralick", "gabor", "hog"]


def test_list_has_every_encoder_with_whole_names(succeeds):
    said = succeeds("encoders", "list").out
    lines = said.splitlines()
    for name in STARTER:
        assert any(line.split()[:1] == [name] for line in lines)
    (row,) = [line for line in lines if line.split()[:1] == ["hog"]]
    assert "Histograms" in row
    assert "324" in row


def test_list_keeps_names_whole_on_a_narrow_terminal(succeeds, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = succeeds("encoders", "list").out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in STARTER:
        assert sum(line.split()[:1] == [name] for line in lines) == 1
    assert any("BSD-3-Clause" in line for line in lines)
    assert any("CC-BY-NC-ND-4.0" in line for line in lines)


def test_list_json_is_every_card(succeeds):
    cards = json.loads(succeeds("encoders", "list", "--json").out)
    by_name = {card["name"]: card for card in cards}
    assert set(STARTER) <= set(by_name)
    assert by_name["haralick"]["dim"] == 36
    assert by_name["efficientnet_lite0"]["licence"] == "Apache-2.0"


def listed(succeeds, *options: str) -> dict[str, dict]:
    return {card["name"]: card for card in json.loads(succeeds("encoders", "list", "--json", *options).out)}


def test_list_has_at_least_36_encoders_with_the_papers_nine(succeeds):
    cards = listed(succeeds)
    assert len(cards) >= 36 + len(STARTER)
    paper = {name for name, card in cards.items() if "paper" in card["pools"]}
    assert paper == {
        "biomedclip",
        "pubmedclip",
        "chexagent",
        "conch",
        "rad_dino",
        "uni",
        "uni2_h",
        "hibou_b",
        "prov_gigapath",
    }
    assert all(cards[name]["weights"]["repository"] for name in paper)


def test_list_filters_by_what_encoders_were_trained_on(succeeds):
    assert {card["modality"] for card in listed(succeeds, "--modality", "radiology").values()} == {"radiology"}
    both = listed(succeeds, "--modality", "dermatology,ophthalmology")
    assert {card["modality"] for card in both.values()} == {"dermatology", "ophthalmology"}


def test_list_filters_by_licence_access_and_size_together(succeeds):
    commercial, free = listed(succeeds, "--commercial"), listed(succeeds, "--open")
    assert all(card["commercial"] is True for card in commercial.values())
    assert {"uni", "gpfm", "clip_vit_b32"}.isdisjoint(commercial)
    assert all(card["gated"] is False for card in free.values())
    assert "uni" not in free
    small = listed(succeeds, "--max-params", "22M")
    assert "kaiko_vits16" in small
    assert "kaiko_vitb16" not in small
    together = listed(succeeds, "--commercial", "--open", "--max-params", "1.2B", "--modality", "general")
    assert {"dinov2_small", "dinov2_giant"} <= set(together) <= set(commercial) & set(free)


@pytest.mark.parametrize(("most", "names"), [("3371008", True), ("3.4M", True), ("3371007", False), ("3k", False)])
def test_list_reads_numbers_of_parameters(succeeds, most, names):
    assert ("efficientnet_lite0" in listed(succeeds, "--max-params", most)) is names


@pytest.mark.parametrize("wrong", ["many", "10X", "10MM", ""])
def test_list_refuses_what_is_not_a_number(wrong, biofuse):
    ran = biofuse("encoders", "list", "--max-params", wrong)
    assert ran.code == 2
    assert "is not a number" in ran.err


def test_list_says_when_nothing_is_like_that(succeeds):
    ran = succeeds("encoders", "list", "--modality", "astronomy")
    assert "pathology" in ran.err
    assert ran.out.strip() == ""


def test_json_says_what_is_verified_and_pinned(succeeds):
    cards = listed(succeeds)
    assert cards["uni2_h"]["selectable_by_default"] is True
    assert cards["uni2_h"]["pinned"] is True
    assert cards["gpfm"]["unverified"] == ["licence"]
    assert cards["virchow"]["pinned"] is False


def test_show_reads_like_a_model_card(succeeds):
    said = succeeds("encoders", "show", "uni2_h").out
    for part in (
        "UNI2-h (uni2_h)",
        "no commercial use",
        "https://huggingface.co/MahmoodLab/UNI2-h",
        "1,536 columns",
        "681,394,176 parameters",
        "bf16 is advised",
        "overlaps",
        "Nature Medicine",
        "Where these facts come from",
        "computed",
    ):
        assert part in said


def test_show_gives_the_whole_card(succeeds):
    said = succeeds("encoders", "show", "haralick").out
    for fact in ("licence", "BSD-3-Clause", "128 x 128", "Haralick, R. M.", "fingerprint", "haralick-15094c9f31"):
        assert fact in said


def test_show_understands_aliases_and_json(succeeds):
    cards = json.loads(succeeds("encoders", "show", "starter", "--json").out)
    assert {card["name"] for card in cards} == set(STARTER)


@pytest.mark.parametrize("wrong", ["haralik", "no_such_encoder"])
def test_show_unknown_name(wrong, fails):
    ran = fails("encoders", "show", wrong)
    assert wrong in ran.err
    if wrong == "haralik":
        assert "haralick" in ran.err


def test_show_tells_what_a_card_in_a_file_says(succeeds, fails, tmp_path):
    card = tmp_path / "mine.toml"
    text = """
        name = "mine"
        title = "My ViT"
        modality = "pathology"
        loader = "timm"
        architecture = "vit_tiny_patch16_224"
        output = "cls"
        dim = 192
        licence = "MIT"
        source = "our paper"
        weights = {repository = "owner/mine", revision = "main", file = "model.safetensors"}
        preprocessing = {resize = "shortest", size = 256, crop = 224}
        [facts]
        licence.source = "external"
        licence.reference = "LICENSE of our repository"
    """
    card.write_text(text, encoding="utf-8")
    said = succeeds("encoders", "show", str(card)).out
    assert "My ViT (mine)" in said
    assert "model.safetensors of owner/mine" in said
    assert "LICENSE of our repository" in said
    (shown,) = json.loads(succeeds("encoders", "show", str(card), "--json").out)
    assert shown["dim"] == 192
    assert "preprocessing" in shown["unverified"]
    card.write_text(text.replace("dim = 192", "dims = 192"), encoding="utf-8")
    assert "dims" in fails("encoders", "show", str(card)).err


def test_show_tells_what_was_compared(succeeds):
    said = " ".join(succeeds("encoders", "show", "uni2_h").out.split())
    assert "loading: timm preprocessing: torchvision transforms" in said
