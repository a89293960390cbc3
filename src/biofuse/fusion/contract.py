"""The contract test that the author of a fusion runs, and that BioFuse runs on its own."""

import json
from collections.abc import Callable

import numpy as np

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError
from biofuse.fusion.protocol import FittedFusion, Fusion

DIMS = {"wide": 30, "narrow": 3, "middle": 8}
"""Encoders of the made-up pool, of different widths, not in alphabetical order."""


def assert_fusion_contract(factory: Callable[[], Fusion], *, tolerance: float = 1e-5) -> None:
    """Fail unless a fusion keeps every promise that the rest of BioFuse relies on.

    Parameters
    ----------
    factory : callable
        Gives a new, unfitted fusion.
    tolerance : float, default 1e-5
        Largest difference allowed where the order of the training rows changes.

    Raises
    ------
    AssertionError
        If a promise is broken; the message says which.
    """
    blocks, labels = _blocks(40)
    more, _ = _blocks(7, seed=1)
    fusion = factory()
    json.dumps(fusion.options, allow_nan=False)
    fitted = fusion.fit(blocks, labels)
    fused = fitted.transform(more)
    _expect(fused.dtype == np.float32, f"{fusion.name}: the fused matrix is {fused.dtype}, not float32.")
    _expect(fused.shape == (7, fitted.dim), f"{fusion.name}: shape {fused.shape} for 7 rows and dim {fitted.dim}.")
    _expect(bool(np.isfinite(fused).all()), f"{fusion.name}: the fused matrix is not finite.")
    _expect(fitted.encoders == blocks.encoders, f"{fusion.name}: encoders are not in pool order.")
    _expect(fitted.transform(more.take(np.arange(0))).shape == (0, fitted.dim), f"{fusion.name}: fails on zero rows.")
    _rows_and_blocks(fusion, fitted, more, fused)
    order = np.random.default_rng(2).permutation(blocks.n_samples)
    again = fusion.fit(blocks.take(order), labels[order]).transform(more)
    _expect(np.allclose(again, fused, atol=tolerance), f"{fusion.name}: the order of the training rows matters.")
    _survives_saving(fusion, fitted, more, fused)
    _fits_what_is_unusual(fusion, blocks, labels, more)


def _fits_what_is_unusual(fusion: Fusion, blocks: Blocks, labels: np.ndarray, more: Blocks) -> None:
    flat = Blocks(ids=blocks.ids, matrices={**blocks.matrices, "narrow": np.ones_like(blocks["narrow"])})
    several = (labels[:, None] == np.arange(3)).astype(np.int64)
    few, one = np.arange(12), np.arange(1)
    for case, given, known in (
        ("more columns than rows", blocks.take(few), labels[few]),
        ("a single row", blocks.take(one), labels[one]),
        ("a block without variance", flat, labels),
        ("one class alone", blocks, np.zeros_like(labels)),
        ("several labels for each row", blocks, several),
    ):
        fitted = fusion.fit(given, known)
        fused = fitted.transform(more)
        usable = fused.shape == (7, fitted.dim) and fitted.dim > 0 and bool(np.isfinite(fused).all())
        _expect(usable, f"{fusion.name}: cannot be fitted on {case}.")


def _rows_and_blocks(fusion: Fusion, fitted: FittedFusion, more: Blocks, fused: np.ndarray) -> None:
    order = np.array([3, 0, 6])
    _expect(
        np.allclose(fitted.transform(more.take(order)), fused[order], atol=1e-6),
        f"{fusion.name}: a row of the fused matrix depends on the other rows.",
    )
    turned = Blocks(ids=more.ids, matrices={name: more[name] for name in reversed(more.encoders)})
    extended = Blocks(ids=more.ids, matrices={"unknown": more["wide"], **turned.matrices})
    for given in (turned, extended):
        _expect(
            np.array_equal(fitted.transform(given), fused),
            f"{fusion.name}: the order of the blocks given, or one too many, changes the result.",
        )
    try:
        fitted.transform(more.only(["wide", "middle"]))
    except AlignmentError:
        return
    raise AssertionError(f"{fusion.name}: a missing block raises no AlignmentError.")


def _survives_saving(fusion: Fusion, fitted: FittedFusion, more: Blocks, fused: np.ndarray) -> None:
    values, arrays = fitted.state()
    restored = fusion.restore(json.loads(json.dumps(values, allow_nan=False)), arrays)
    _expect(restored.encoders == fitted.encoders, f"{fusion.name}: the restored fusion has other encoders.")
    _expect(np.array_equal(restored.transform(more), fused), f"{fusion.name}: the restored fusion differs.")


def _blocks(n: int, *, seed: int = 0) -> tuple[Blocks, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    matrices = {
        name: (rng.standard_normal((n, dim)) * 5 + 2 + labels[:, None]).astype(np.float32) for name, dim in DIMS.items()
    }
    ids = np.array([f"sample-{row}" for row in range(n)], dtype=object)
    return Blocks(ids=ids, matrices=matrices), labels


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
