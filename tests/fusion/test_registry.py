import pytest

from biofuse.core.errors import SearchError
from biofuse.fusion.base import FUSIONS, fusion_registry, make_fusion
from biofuse.fusion.concatenation import Concatenation
from biofuse.testing import assert_fusion_contract


def test_own_fusions_are_registered_in_order_and_begin_with_the_default() -> None:
    assert fusion_registry().names()[: len(FUSIONS)] == tuple(FUSIONS)
    assert tuple(FUSIONS) == ("concatenation", "pca", "whitening", "weighted", "mean")


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
