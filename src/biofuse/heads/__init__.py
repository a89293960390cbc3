"""Classifiers on a fused matrix."""

from biofuse.heads.contract import assert_head_contract
from biofuse.heads.lda import LDA
from biofuse.heads.lightgbm_trees import FittedLightGBM, LightGBM
from biofuse.heads.limits import check_limits, within_limits
from biofuse.heads.linear import FittedLinear
from biofuse.heads.logistic import Logistic
from biofuse.heads.neighbours import FittedNeighbours, Neighbours
from biofuse.heads.outputs import CERTAIN, Outputs
from biofuse.heads.protocol import ClassWeight, Features, FittedHead, Head, Limits, Scores
from biofuse.heads.registry import (
    CHEAP_HEADS,
    ENTRY_POINT_GROUP,
    OWN_HEADS,
    HeadFactory,
    head_registry,
    make_head,
)
from biofuse.heads.ridge import Ridge
from biofuse.heads.trees import FittedTrees, XGBoost

__all__ = [
    "CERTAIN",
    "CHEAP_HEADS",
    "ENTRY_POINT_GROUP",
    "LDA",
    "OWN_HEADS",
    "ClassWeight",
    "Features",
    "FittedHead",
    "FittedLightGBM",
    "FittedLinear",
    "FittedNeighbours",
    "FittedTrees",
    "Head",
    "HeadFactory",
    "LightGBM",
    "Limits",
    "Logistic",
    "Neighbours",
    "Outputs",
    "Ridge",
    "Scores",
    "XGBoost",
    "assert_head_contract",
    "check_limits",
    "head_registry",
    "make_head",
    "within_limits",
]
