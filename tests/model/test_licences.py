"""What several licences mean for one model."""

import pytest

from biofuse.encoders.registry import list_cards
from biofuse.model.licences import combine_licences


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
    assert "forbidden for the whole model" in combine_licences([yes, no]).sentence
    assert "ask its authors" in combine_licences([unknown]).sentence


def test_identifiers_are_those_of_the_hub(hog):
    """The hub's list (huggingface.co/docs/hub/repositories-licenses) has these in lower case."""
    hub = {"cc0-1.0", "bsd-3-clause", "mit", "apache-2.0", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-nc-nd-4.0",
           "cc-by-nc-sa-4.0", "cc-by-sa-4.0", "other"}  # fmt: skip
    assert {combine_licences([card]).identifier for card in list_cards()} <= hub
