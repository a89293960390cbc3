import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError
from biofuse.core.target import MISSING, Target, Task
from biofuse.fusion.concatenation import Concatenation
from biofuse.heads.base import cheap_heads, make_head
from biofuse.predictors import shared
from biofuse.predictors.fused import fit_predictor
from biofuse.predictors.shared import FusedFits

DIMS = {"wide": 70, "narrow": 3, "middle": 30}
SUBSETS = [("wide", "narrow", "middle"), ("wide",), ("middle", "narrow"), ("narrow",)]
TARGETS = [
    Target.numbered(Task.BINARY, 2),
    Target.numbered(Task.MULTICLASS, 4),
    Target.numbered(Task.MULTILABEL, 3),
    Target.numbered(Task.VALUE, 1),
]


def planted(target: Target, n: int = 50, seed: int = 0):
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (n, target.n_columns))
    labels = {
        Task.MULTILABEL: np.where(rng.random(bits.shape) < 0.1, MISSING, bits),
        Task.VALUE: bits[:, 0] + rng.standard_normal(n),
    }.get(target.kind, rng.permutation(np.arange(n) % target.n_columns))
    signal = bits.sum(axis=1) if labels.ndim == 2 else labels
    matrices = {
        name: (rng.standard_normal((n, dim)) * 3 + signal[:, None]).astype(np.float32) for name, dim in DIMS.items()
    }
    matrices["wide"][:5] = matrices["wide"][5:10]  # rows that need no coordinate of their own
    return Blocks(ids=rng.permutation([f"case {i}" for i in range(n)]).astype(object), matrices=matrices), labels


@pytest.mark.parametrize("kept", [0, shared.PRODUCTS_BYTES], ids=["products anew", "products kept"])
@pytest.mark.parametrize("scaling", ["none", "block"])
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.kind))
def test_subsets_fitted_from_shared_products_are_those_fitted_from_their_columns(target, scaling, kept, monkeypatch):
    monkeypatch.setattr(shared, "PRODUCTS_BYTES", kept)
    blocks, labels = planted(target)
    new, _ = planted(target, seed=1)
    fusion, weights = Concatenation(scaling=scaling), np.random.default_rng(2).uniform(0.5, 2, len(labels))
    options = {"fusion": fusion, "target": target, "sample_weight": weights}
    # Rows that are the same may be pivots in either order, which shows where a label has rows of its own; the minimum
    # is known to 4e-5 (TOLERANCES of the logistic head).
    within = 4e-5 if target.several else 1e-6
    for name in cheap_heads(target):
        fits = FusedFits(blocks, labels, head=make_head(name), **options)
        for subset in SUBSETS:
            found = fits.predictor(subset, seed=7)
            alone = fit_predictor(blocks, labels, encoders=subset, head=name, seed=7, **options)
            assert (found.encoders, found.notes) == (alone.encoders, alone.notes)
            np.testing.assert_allclose(found.predict_proba(new), alone.predict_proba(new), atol=within)
            np.testing.assert_allclose(found.decision(new), alone.decision(new), atol=10 * within)


def test_the_products_of_a_subset_are_those_of_its_blocks_added_up(monkeypatch):
    blocks, labels = planted(TARGETS[1])
    multiplied, products = [], shared._products
    monkeypatch.setattr(shared, "_products", lambda matrix: multiplied.append(matrix.shape[1]) or products(matrix))
    fits = FusedFits(blocks, labels, head=make_head("ridge"), fusion=Concatenation(), target=TARGETS[1])
    for subset in SUBSETS:
        fits.predictor(subset, seed=0)
    assert sorted(multiplied) == sorted(DIMS.values())


def test_a_subset_names_blocks_that_are_there_once():
    blocks, labels = planted(TARGETS[0])
    fits = FusedFits(blocks, labels, head=make_head("ridge"), fusion=Concatenation(), target=TARGETS[0])
    for wrong in ([], ["wide", "wide"], ["other"]):
        with pytest.raises(AlignmentError):
            fits.predictor(wrong, seed=0)
