"""Parts by name: made when asked for, other packages' beside BioFuse's own, and nothing left of what was temporary."""

import contextlib
import importlib.metadata
from importlib.metadata import EntryPoint

import pytest

from biofuse.core.errors import BioFuseWarning, DependencyError, SearchError
from biofuse.core.registry import Registry
from biofuse.fusion.concatenation import Concatenation


def make(**options) -> Registry:
    return Registry(kind="part", group="biofuse.parts", own={"one": lambda: "ours", "two": lambda: 2}, **options)


def use_points(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [EntryPoint(name=name, value=value, group="biofuse.parts") for name, value in values.items()]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == "biofuse.parts" else [])


def test_own_parts_are_made_when_they_are_asked_for_and_once():
    made = []
    registry = Registry(kind="part", group="none", own={"one": lambda: made.append(1) or made})
    assert registry.names() == ("one",)
    assert made == []
    assert registry.get("one") is registry.get("one")
    assert made == [1]


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced():
    registry = make()
    registry.add("three", 3)
    assert registry.get("three") == 3
    with pytest.raises(SearchError, match="already a part named 'one'"):
        registry.add("one", 3)
    registry.get("one")
    registry.add("one", 4, replace=True)
    assert registry.get("one") == 4
    assert registry.names() == ("one", "two", "three")


def test_an_unknown_name_suggests_what_is_spelled_alike_and_lists_all():
    with pytest.raises(SearchError, match="no part named 'on'") as caught:
        make().get("on")
    assert "Did you mean 'one'?" in caught.value.remedy
    assert "one, two" in caught.value.remedy


def test_entry_points_are_found_at_the_first_use_and_imported_when_asked_for(monkeypatch):
    use_points(monkeypatch, theirs="biofuse.fusion.concatenation:Concatenation", one="nowhere:Nothing")
    registry = make()
    with pytest.warns(BioFuseWarning, match="plug-in 'one' of an unknown package cannot be used: .* taken"):
        assert registry.names() == ("one", "two", "theirs")
    assert registry.get("theirs") is Concatenation
    assert registry.get("one") == "ours"
    assert make(plugins=False).names() == ("one", "two")


def test_an_entry_point_that_cannot_be_imported_is_named_when_it_is_asked_for(monkeypatch):
    use_points(monkeypatch, broken="nowhere:Nothing")
    registry = make()
    assert registry.get("two") == 2
    with pytest.raises(DependencyError, match="The part 'broken' of an unknown package cannot be used: ModuleNotFound"):
        registry.get("broken")


def test_nothing_is_left_of_what_was_temporary(monkeypatch):
    use_points(monkeypatch, theirs="biofuse.fusion.concatenation:Concatenation")
    registry = make()
    with contextlib.suppress(ZeroDivisionError), registry.temporary() as same:
        assert same is registry
        registry.add("three", 3)
        registry.add("one", 1, replace=True)
        assert registry.names() == ("one", "two", "theirs", "three")
        raise ZeroDivisionError
    assert registry.names() == ("one", "two", "theirs")
    assert registry.get("one") == "ours"
