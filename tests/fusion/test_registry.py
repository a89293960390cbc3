import importlib.metadata
from importlib.metadata import EntryPoint

import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import BioFuseWarning, SearchError
from biofuse.core.registry import Registry
from biofuse.fusion.concatenation import Concatenation, FittedConcatenation
from biofuse.fusion.registry import fusion_registry, make_fusion
from biofuse.testing import assert_fusion_contract


def test_every_registered_fusion_keeps_the_contract() -> None:
    for name in fusion_registry().names():
        assert_fusion_contract(lambda name=name: make_fusion(name))
        assert make_fusion(name).name == name


def test_an_object_passes_through() -> None:
    fusion = Concatenation(scaling="block")
    assert make_fusion(fusion) is fusion


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(SearchError, match="concatenation"):
        make_fusion("concatenate")


def test_entry_points_of_other_packages_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint(name="theirs", value="biofuse.fusion.concatenation:Concatenation", group="biofuse.fusions"),
        EntryPoint(name="ours", value="nowhere:Nothing", group="biofuse.fusions"),
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points if group == "biofuse.fusions" else [])
    registry: Registry = Registry(kind="fusion", group="biofuse.fusions", own={"ours": lambda: "ours"})
    with pytest.warns(BioFuseWarning, match="ours"):
        assert registry.names() == ("ours", "theirs")
    assert registry.get("theirs") is Concatenation
    assert registry.get("ours") == "ours"


def test_a_taken_name_is_refused() -> None:
    registry: Registry = Registry(kind="fusion", group="none", own={"a": lambda: 1})
    registry.add("b", 2)
    assert registry.get("b") == 2
    with pytest.raises(SearchError, match="already"):
        registry.add("a", 3)


class Broken(Concatenation):
    """Fits to whatever it is asked to transform: the leak the contract must notice."""

    def fit(self, blocks: Blocks, labels=None):
        fitted = super().fit(blocks, labels)

        class Leaky(FittedConcatenation):
            def transform(self, blocks: Blocks) -> np.ndarray:
                fused = FittedConcatenation.transform(self, blocks)
                return fused - fused.mean(axis=0) if len(fused) else fused

        return Leaky(encoders=fitted.encoders, dims=fitted.dims, mean=fitted.mean, scale=fitted.scale)


def test_the_contract_notices_rows_that_depend_on_each_other() -> None:
    with pytest.raises(AssertionError, match="other rows"):
        assert_fusion_contract(Broken)
