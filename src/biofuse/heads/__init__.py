"""Classifiers on a fused matrix."""

from biofuse.heads.contract import assert_head_contract
from biofuse.heads.linear import FittedLinear
from biofuse.heads.logistic import Logistic
from biofuse.heads.neighbours import FittedNeighbours, Neighbours
from biofuse.heads.outputs import CERTAIN, Outputs
from biofuse.heads.protocol import ClassWeight, Features, FittedHead, Head, Limits, Scores
from biofuse.heads.registry import ENTRY_POINT_GROUP, HeadFactory, head_registry, make_head
from biofuse.heads.ridge import Ridge
from biofuse.heads.trees import FittedTrees, XGBoost

__all__ = [
    "CERTAIN",
    "ENTRY_POINT_GROUP",
    "ClassWeight",
    "Features",
    "FittedHead",
    "FittedLinear",
    "FittedNeighbours",
    "FittedTrees",
    "Head",
    "HeadFactory",
    "Limits",
    "Logistic",
    "Neighbours",
    "Outputs",
    "Ridge",
    "Scores",
    "XGBoost",
    "assert_head_contract",
    "head_registry",
    "make_head",
]
