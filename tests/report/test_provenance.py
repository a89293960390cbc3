"""Versions, hashes, and which encoders may have seen the data."""

from collections.abc import Callable
from typing import Any

import pytest

from biofuse.report.sections.provenance import contamination


@pytest.mark.parametrize("name", ["chestmnist", "ChestMNIST 224", "chestmnist_64"])
def test_an_encoder_that_has_seen_the_data_is_warned_of(make_run: Callable[..., Any], name: str) -> None:
    cards = {"encoder_1": {"overlaps": {"chestmnist": "NIH ChestX-ray14 is in its training data."}}}
    made = make_run(name=name, cards=cards)
    (warning,) = contamination(made.given)
    assert warning.startswith("encoder_1 (")
    assert "NIH ChestX-ray14" in warning
    assert warning in next(section for section in made.report.sections if section.id == "provenance").warnings


def test_data_of_another_name_are_no_warning_but_still_listed(
    make_run: Callable[..., Any], parse: Callable[[str], Any]
) -> None:
    made = make_run(cards={"encoder_1": {"overlaps": {"chestmnist": "It is."}}})
    assert contamination(made.given) == []
    assert parse(made.page).table("overlaps") == [{"encoder": "encoder_1", "data set": "chestmnist", "why": "It is."}]


def test_versions_and_hashes_are_on_the_page(make_run: Callable[..., Any], parse: Callable[[str], Any]) -> None:
    made = make_run()
    page, record = parse(made.page), made.given.record
    versions = {row["what"]: row["version"] for row in page.table("versions")}
    assert versions["numpy"] == record.environment.libraries["numpy"]
    row = page.table("encoders")[0]
    assert row["weights"] == f"owner/name @ {'a' * 12}"
    assert row["SHA-256"] == "b" * 12
    assert record.encoders[0].fingerprint.endswith("-" + row["fingerprint"] + record.encoders[0].fingerprint[-20:])
