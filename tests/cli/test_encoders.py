import json

import pytest

STARTER = ["efficientnet_lite0", "efficientnet_lite2", "colour", "lbp", "haralick", "gabor", "hog"]


def test_list_has_every_encoder_with_whole_names(succeeds):
    said = succeeds("encoders", "list").out
    lines = said.splitlines()
    for name in STARTER:
        assert any(line.split()[:1] == [name] for line in lines)
    assert any("Histograms of oriented gradients" in line and "324" in line for line in lines)


def test_list_keeps_names_whole_on_a_narrow_terminal(succeeds, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = succeeds("encoders", "list").out.splitlines()
    assert max(map(len, lines)) <= 80
    for name in STARTER:
        assert sum(line.split()[:1] == [name] for line in lines) == 1
    assert any("BSD-3-Clause" in line for line in lines)


def test_list_json_is_every_card(succeeds):
    cards = json.loads(succeeds("encoders", "list", "--json").out)
    by_name = {card["name"]: card for card in cards}
    assert set(STARTER) <= set(by_name)
    assert by_name["haralick"]["dim"] == 36
    assert by_name["efficientnet_lite0"]["licence"] == "Apache-2.0"


def test_show_gives_the_whole_card(succeeds):
    said = succeeds("encoders", "show", "haralick").out
    for fact in ("licence", "BSD-3-Clause", "preprocessing", "Haralick, R. M.", "fingerprint"):
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
