import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import SearchError
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
