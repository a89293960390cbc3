"""What licences mean together, and which encoders may have seen the data."""

from collections.abc import Callable
from typing import Any

import pytest

from biofuse.report.sections.provenance import contamination, licence_sentences

Cards = Callable[..., Any]


def test_free_licences_together_are_free(make_card: Cards) -> None:
    said, warnings = licence_sentences([make_card("a"), make_card("b", licence="Apache-2.0")])
    assert "allows commercial use (MIT, Apache-2.0)" in said[0]
    assert warnings == []
    assert "not legal advice" in said[-1]


def test_one_licence_that_forbids_commerce_forbids_it_for_all(make_card: Cards) -> None:
    said, warnings = licence_sentences([make_card("a"), make_card("b", licence="CC-BY-NC-ND-4.0", commercial=False)])
    assert "must not be used commercially: the licence of b (CC-BY-NC-ND-4.0)" in warnings[0]
    assert any("forbids handing on changed weights" in warning for warning in warnings)
    assert not any("allows commercial use" in sentence for sentence in said)


def test_what_is_not_known_is_not_called_free(make_card: Cards) -> None:
    for chosen, lacking in (([make_card("a", licence="unknown", commercial=None)], []), ([make_card("b")], ["a"])):
        said, warnings = licence_sentences(chosen, lacking)
        assert "is not known: a does not say" in warnings[0]
        assert not any("allows commercial use" in sentence for sentence in said)


@pytest.mark.parametrize("licence", ["CC-BY-NC-SA-4.0", "AGPL-3.0", "GPL-3.0-only"])
def test_share_alike_licences_are_named(make_card: Cards, licence: str) -> None:
    _, warnings = licence_sentences([make_card("a", licence=licence)])
    assert any(f"a ({licence})" in warning and "same licence" in warning for warning in warnings)


def test_gated_encoders_have_to_be_asked_for(make_card: Cards) -> None:
    said, _ = licence_sentences([make_card("a", gated=True), make_card("b")])
    assert any("ask for access to a first" in sentence for sentence in said)


@pytest.mark.parametrize("name", ["chestmnist", "ChestMNIST 224", "chestmnist_64"])
def test_an_encoder_that_has_seen_the_data_is_warned_of(make_run: Callable[..., Any], name: str) -> None:
    cards = {"encoder_1": {"overlaps": {"chestmnist": "NIH ChestX-ray14 is in its training data."}}}
    made = make_run(name=name, cards=cards)
    (warning,) = contamination(made.material)
    assert warning.startswith("encoder_1 (")
    assert "NIH ChestX-ray14" in warning
    assert warning in next(section for section in made.report.sections if section.id == "provenance").warnings


def test_data_of_another_name_are_no_warning_but_still_listed(
    make_run: Callable[..., Any], parse: Callable[[str], Any]
) -> None:
    made = make_run(cards={"encoder_1": {"overlaps": {"chestmnist": "It is."}}})
    assert contamination(made.material) == []
    assert parse(made.page).table("overlaps") == [{"encoder": "encoder_1", "data set": "chestmnist", "why": "It is."}]


def test_versions_and_hashes_are_on_the_page(make_run: Callable[..., Any], parse: Callable[[str], Any]) -> None:
    made = make_run()
    page, record = parse(made.page), made.run.read()
    versions = {row["what"]: row["version"] for row in page.table("versions")}
    assert versions["numpy"] == record.environment["libraries"]["numpy"]
    row = page.table("encoders")[0]
    assert row["weights"] == f"owner/name @ {'a' * 12}"
    assert row["SHA-256"] == "b" * 12
    assert record.encoders[0]["fingerprint"].endswith(
        "-" + row["fingerprint"] + record.encoders[0]["fingerprint"][-20:]
    )
