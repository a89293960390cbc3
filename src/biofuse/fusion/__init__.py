"""How the blocks of a subset become one matrix."""

from biofuse.fusion.components import PrincipalComponents, Whitening
from biofuse.fusion.concatenation import Concatenation, FittedConcatenation
from biofuse.fusion.contract import assert_fusion_contract
from biofuse.fusion.mean import ProjectedMean
from biofuse.fusion.plugins import PluginRegistry
from biofuse.fusion.projection import FittedProjection
from biofuse.fusion.protocol import Arrays, FittedFusion, Fusion
from biofuse.fusion.registry import ENTRY_POINT_GROUP, fusion_registry, make_fusion
from biofuse.fusion.weighted import FittedWeightedConcatenation, WeightedConcatenation

__all__ = [
    "ENTRY_POINT_GROUP",
    "Arrays",
    "Concatenation",
    "FittedConcatenation",
    "FittedFusion",
    "FittedProjection",
    "FittedWeightedConcatenation",
    "Fusion",
    "PluginRegistry",
    "PrincipalComponents",
    "ProjectedMean",
    "WeightedConcatenation",
    "Whitening",
    "assert_fusion_contract",
    "fusion_registry",
    "make_fusion",
]
