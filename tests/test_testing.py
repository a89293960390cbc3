"""The contracts of heads and fusions notice what breaks them; that of encoders is tested beside the encoders."""

import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.target import Target
from biofuse.fusion.concatenation import Concatenation, FittedConcatenation
from biofuse.heads.logistic import Logistic
from biofuse.testing import assert_fusion_contract, assert_head_contract


class Forgetful(Logistic):
    """Drops the columns of absent classes, as a bare scikit-learn classifier does."""

    def fit(self, X, labels, *, target, **_):
        present, codes = np.unique(labels, return_inverse=True)
        if not target.several and 1 < len(present) < target.n_columns:
            return super().fit(X, codes, target=Target.numbered(target.kind, len(present)))
        return super().fit(X, labels, target=target)


def test_the_contract_notices_dropped_columns() -> None:
    with pytest.raises(AssertionError, match="columns"):
        assert_head_contract(Forgetful)


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
