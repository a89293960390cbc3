"""What several licences mean for one model."""

import pytest

from biofuse.encoders.registry import list_cards
from biofuse.model.card import combine_licences, licence_sentences


@pytest.fixture(scope="module")
def hog():
    return next(card for card in list_cards() if card.name == "hog")


def cards(hog, *licences, commercial=True):
    return [hog.model_copy(update={"licence": licence, "commercial": commercial}) for licence in licences]


@pytest.mark.parametrize(
    ("licences", "combined"),
    [
        (["MIT"], "mit"),
        (["BSD-3-Clause", "Apache-2.0", "MIT"], "apache-2.0"),
        (["Apache-2.0", "CC-BY-NC-ND-4.0"], "cc-by-nc-nd-4.0"),
        (["CC-BY-NC-ND-4.0", "CC-BY-NC-4.0"], "cc-by-nc-nd-4.0"),
        (["CC-BY-NC-SA-4.0", "CC-BY-NC-SA-4.0"], "cc-by-nc-sa-4.0"),
        (["CC-BY-NC-SA-4.0", "CC-BY-NC-ND-4.0"], "other"),
        (["CC-BY-NC-SA-4.0", "MIT"], "other"),
        (["unknown"], "other"),
        (["Some-Lab-Terms-1.0", "MIT"], "other"),
    ],
)
def test_the_strictest_where_they_can_be_ordered_and_otherwise_other(licences, combined, hog):
    for order in (licences, licences[::-1]):
        found = combine_licences(cards(hog, *order))
        assert found.identifier == combined
    if combined == "other":
        assert all(licence in found.name for licence in licences)


def test_commercial_use_is_allowed_only_where_every_licence_says_so(hog):
    yes, no, unknown = (cards(hog, "MIT", commercial=allowed)[0] for allowed in (True, False, None))
    assert combine_licences([yes, yes]).commercial is True
    assert combine_licences([yes, unknown]).commercial is None
    assert combine_licences([yes, unknown, no]).commercial is False


def test_identifiers_are_those_of_the_hub(hog):
    """The hub's list (huggingface.co/docs/hub/repositories-licenses) has these in lower case."""
    hub = {"cc0-1.0", "cc-by-2.0", "bsd-3-clause", "mit", "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0",
           "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "other"}  # fmt: skip
    assert {combine_licences([card]).identifier for card in list_cards()} <= hub


def named(hog, name, **changes):
    return hog.model_copy(update={"name": name, "licence": "MIT", "commercial": True, "gated": False, **changes})


def test_free_licences_together_are_free(hog):
    said, warnings = licence_sentences([named(hog, "a"), named(hog, "b", licence="Apache-2.0")])
    assert "allows commercial use (MIT, Apache-2.0)" in said[0]
    assert warnings == []
    assert "not legal advice" in said[-1]


def test_one_licence_that_forbids_commerce_forbids_it_for_all(hog):
    said, warnings = licence_sentences([named(hog, "a"), named(hog, "b", licence="CC-BY-NC-ND-4.0", commercial=False)])
    assert "must not be used commercially: the licence of b (CC-BY-NC-ND-4.0)" in warnings[0]
    assert any("forbids handing on changed weights" in warning for warning in warnings)
    assert not any("allows commercial use" in sentence for sentence in said)


def test_what_is_not_known_is_not_called_free(hog):
    silent = named(hog, "a", licence="unknown", commercial=None)
    for chosen, lacking in (([silent], []), ([named(hog, "b")], ["a"])):
        said, warnings = licence_sentences(chosen, lacking)
        assert "is not known: a does not say" in warnings[0]
        assert not any("allows commercial use" in sentence for sentence in said)


@pytest.mark.parametrize("licence", ["CC-BY-NC-SA-4.0", "AGPL-3.0", "GPL-3.0-only"])
def test_share_alike_licences_are_named(hog, licence):
    _, warnings = licence_sentences([named(hog, "a", licence=licence)])
    assert any(f"a ({licence})" in warning and "same licence" in warning for warning in warnings)


def test_gated_encoders_have_to_be_asked_for(hog):
    said, _ = licence_sentences([named(hog, "a", gated=True), named(hog, "b")])
    assert any("ask for access to a first" in sentence for sentence in said)
