import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from biofuse.cli.encoders import encoders_page
from biofuse.encoders import EncoderRegistry, Preprocessing, register_encoder
from biofuse.encoders.registry import ENCODERS

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

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
    assert "network: a vision transformer, written out in torch preprocessing: torchvision transforms" in said


@pytest.mark.slow
def test_doctor_says_what_runs(succeeds):
    said = succeeds("encoders", "doctor", "efficientnet_lite0", "hog").out
    lines = {line.split()[0]: line for line in said.splitlines() if line.split()}
    assert lines["efficientnet_lite0"].split()[1] == "yes"
    assert "in a package" in lines["efficientnet_lite0"]
    assert "none needed" in lines["hog"]


def test_doctor_json_is_every_diagnosis(succeeds):
    found = json.loads(succeeds("encoders", "doctor", "hog", "lbp", "--json", "--device", "cpu").out)
    assert found["device"] == "cpu"
    assert found["hub"]["reachable"] is None
    assert [each["name"] for each in found["encoders"]] == ["hog", "lbp"]
    assert all(each["runs"] and each["loads"] and each["images_per_second"] > 0 for each in found["encoders"])


def test_what_was_asked_for_and_cannot_run_is_exit_code_1(biofuse, hub):
    hub.add("microsoft/rad-dino", {}, gated=True)
    ran = biofuse("encoders", "doctor", "hog", "rad_dino")
    assert ran.code == 1
    assert "hf auth login" in ran.out
    assert "Traceback" not in ran.everything
    found = json.loads(biofuse("encoders", "doctor", "rad_dino", "--json").out)
    assert found["hub"] == {"endpoint": hub.endpoint, "offline": False, "reachable": True}
    assert found["encoders"][0]["access"] == "denied"


def test_what_was_asked_for_and_is_out_of_reach_says_what_to_do(biofuse):
    ran = biofuse("encoders", "doctor", "uni")
    assert ran.code == 1
    assert "HF_HUB_OFFLINE" in ran.out
    assert "BIOFUSE_WEIGHTS_DIR" in ran.out


def test_the_whole_pool_without_a_network_is_a_survey_and_no_failure(succeeds):
    ran = succeeds("encoders", "doctor")
    assert "HF_HUB_OFFLINE is set" in ran.err
    assert any(line.split()[:2] == ["hog", "not"] for line in ran.out.splitlines())
    assert "images/s" in ran.out


def test_all_is_a_matrix_of_every_encoder_and_vector_that_says_what_nobody_has_seen(succeeds, fails):
    matrix = {
        each["name"]: each for each in json.loads(succeeds("encoders", "doctor", "--all", "--json").out)["encoders"]
    }
    assert {"uni2_h", "h0_mini", "h0_mini:cls", "biomedclip:trunk"} <= set(matrix)
    assert matrix["h0_mini:cls"]["in_doubt"] == ""
    assert matrix["hog"]["runs"]
    assert not matrix["uni2_h"]["runs"]
    guessed = [name for name, each in matrix.items() if each["in_doubt"].startswith("unverified layout")]
    assert "dermlip_vitb16" in guessed
    said = succeeds("encoders", "doctor")
    assert "Unverified layout:" in said.err
    assert "dermlip_vitb16" in said.err
    assert "--all" in fails("encoders", "doctor", "hog", "--all").err


def test_the_list_says_who_has_proven_an_encoder(succeeds):
    cards = {card["name"]: card for card in json.loads(succeeds("encoders", "list", "--json").out)}
    assert cards["hog"]["proven"] == {"by": "BioFuse", "date": "2026-11-24", "sha256": "", "holds": True}
    assert cards["uni"]["proven"] is None


def test_doctor_keeps_names_whole_on_a_narrow_terminal(succeeds, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = succeeds("encoders", "doctor", "--no-load", "starter").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:1] == ["efficientnet_lite2"] for line in lines)


def test_a_weights_folder_that_is_not_there_is_one_message(fails, tmp_path):
    assert "does not exist" in fails("encoders", "doctor", "hog", "--weights-dir", tmp_path / "nowhere").err


@pytest.fixture
def unknown():
    """Register an encoder that nobody has golden vectors of."""

    with ENCODERS.temporary():

        @register_encoder("t_unknown", dim=3, preprocessing=Preprocessing(resize="squash", size=8))
        def unknown(images):
            return images.mean(axis=(1, 2))

        yield "t_unknown"


def test_descriptors_are_what_they_were(succeeds):
    said = succeeds("encoders", "verify", "hog", "lbp").out
    rows = {line.split()[0]: line.split()[1:] for line in said.splitlines() if line.split()}
    assert rows["hog"][0] == rows["lbp"][0] == "yes"
    assert float(rows["hog"][1]) >= 0.9999


def test_embeddings_that_are_not_the_golden_ones_are_exit_code_1(biofuse, succeeds, tmp_path):
    succeeds("encoders", "verify", "hog", "--write", tmp_path)
    path = tmp_path / "hog.safetensors"
    with safe_open(path, framework="numpy") as file:
        facts = file.metadata()
    save_file({"embeddings": load_file(path)["embeddings"][::-1].copy()}, path, metadata=facts)
    ran = biofuse("encoders", "verify", "hog", "--against", tmp_path)
    assert ran.code == 1
    assert "not the golden ones" in ran.out
    (found,) = json.loads(biofuse("encoders", "verify", "hog", "--against", tmp_path, "--json").out)
    assert found["agrees"] is False
    assert found["cosine"] < 0.9999


def test_new_golden_vectors_are_written_and_hold(succeeds, unknown, tmp_path):
    ran = succeeds("encoders", "verify", unknown)
    assert "nothing to compare with" in ran.out
    assert "--write" in ran.err
    ran = succeeds("encoders", "verify", unknown, "--write", tmp_path / "golden")
    assert "t_unknown.safetensors" in ran.err
    (found,) = json.loads(succeeds("encoders", "verify", unknown, "--against", tmp_path / "golden", "--json").out)
    assert found["agrees"] is True


def test_an_encoder_that_cannot_be_run_is_named_and_the_others_are_verified(biofuse, tmp_path):
    ran = biofuse("encoders", "verify", "rad_dino", "hog", "--write", tmp_path)
    assert ran.code == 1
    assert "HF_HUB_OFFLINE" in ran.out
    assert (tmp_path / "hog.safetensors").is_file()
    assert not (tmp_path / "rad_dino.safetensors").exists()


def test_the_page_of_all_encoders_is_up_to_date_and_whole():
    page = encoders_page()
    written = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
    assert written.read_text(encoding="utf-8") == page, "run: make docs"
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for card in EncoderRegistry(plugins=False).list_cards():
        (row,) = [row for row in rows if row.startswith(f"| `{card.name}` | {card.title} |")]
        assert all(fact in row for fact in card.unverified)
    for table in re.split(r"\n(?!\|)", page):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) <= 1
