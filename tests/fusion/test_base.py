import itertools

import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, DataError, SearchError
from biofuse.fusion.base import FUSIONS, fusion_registry, make_fusion
from biofuse.fusion.concatenation import Concatenation, WeightedConcatenation
from biofuse.fusion.projections import PrincipalComponents, ProjectedMean, Whitening
from biofuse.testing import assert_fusion_contract

DIMS = {"zeta": 5, "alpha": 12, "mid": 1}
LABELS = np.arange(30) % 3


def make_blocks(n: int = 30, *, dims: dict[str, int] = DIMS) -> Blocks:
    rng = np.random.default_rng(0)
    matrices = {name: (rng.standard_normal((n, dim)) * 30 + 100).astype(np.float32) for name, dim in dims.items()}
    return Blocks(ids=np.array([f"s{i}" for i in range(n)], dtype=object), matrices=matrices)


def test_own_fusions_are_registered_in_order_and_begin_with_the_default() -> None:
    assert fusion_registry().names()[: len(FUSIONS)] == tuple(FUSIONS)
    assert tuple(FUSIONS) == ("concatenation", "pca", "whitening", "weighted", "mean")


@pytest.mark.parametrize(
    "fusion",
    [
        *(make_fusion(name) for name in FUSIONS),
        *(
            Concatenation(scaling=scaling, standardise=standardise)
            for scaling, standardise in itertools.product(["none", "block"], [True, False])
        ),
        *(
            kind(components=components, scaling=scaling)
            for kind, scaling, components in itertools.product(
                [PrincipalComponents, Whitening], ["none", "block"], [1, 5, 1000]
            )
        ),
        *(WeightedConcatenation(rows=rows) for rows in (500, 20)),
        *(ProjectedMean(**options) for options in ({"dim": 2}, {"components": 3}, {"ridge": 1e-3})),
    ],
    ids=repr,
)
def test_keeps_the_contract(fusion) -> None:
    assert_fusion_contract(lambda: fusion, tolerance=1e-4 if isinstance(fusion, ProjectedMean) else 1e-5)


def test_an_object_passes_through() -> None:
    fusion = Concatenation(scaling="block")
    assert make_fusion(fusion) is fusion


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(SearchError, match="concatenation"):
        make_fusion("concatenate")


def test_every_name_is_that_of_its_fusion() -> None:
    assert [make_fusion(name).name for name in fusion_registry().names()] == list(fusion_registry().names())


@pytest.mark.parametrize("name", FUSIONS)
def test_the_same_rows_give_the_same_matrix_bit_for_bit(name: str) -> None:
    train = make_blocks()
    first, second = (make_fusion(name).fit(train, LABELS).transform(train) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", FUSIONS)
def test_blocks_that_cannot_be_fused_are_named(name: str) -> None:
    fusion, blocks = make_fusion(name), make_blocks()
    fitted = fusion.fit(blocks, LABELS)
    with pytest.raises(AlignmentError, match="alpha"):
        fitted.transform(blocks.only(["zeta", "mid"]))
    # Bug 11 of the original: unknown encoders were taken to have 512 columns.
    with pytest.raises(AlignmentError, match=r"alpha has 13 columns.* 12"):
        fitted.transform(make_blocks(dims=DIMS | {"alpha": 13}))
    for nothing in (make_blocks(0), Blocks(ids=np.array(["a"], dtype=object), matrices={})):
        with pytest.raises(DataError):
            fusion.fit(nothing, np.zeros(len(nothing.ids), dtype=np.int64))
    for bad in (np.nan, np.inf):
        blocks["mid"][4, 0] = bad
        for act in (lambda: fusion.fit(blocks, LABELS), lambda: fitted.transform(blocks)):
            with pytest.raises(DataError, match="'s4' by mid"):
                act()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *(
            (kind, options)
            for kind in (PrincipalComponents, Whitening)
            for options in ({"components": 0}, {"scaling": "x"})
        ),
        *itertools.product([ProjectedMean], [{"dim": 0}, {"components": 0}, {"ridge": 0.0}, {"ridge": np.inf}]),
        (WeightedConcatenation, {"rows": 0}),
    ],
)
def test_options_that_make_no_sense_are_refused(kind, options: dict) -> None:
    with pytest.raises(SearchError, match=next(iter(options))):
        kind(**options)
