import pytest

from biofuse.core.errors import SearchError
from biofuse.search.closed_form import choose, estimate, flops_per_fold
from biofuse.search.leaderboard import all_subsets

ROWS = {"n_train": (400,) * 5, "n_test": (100,) * 5}


def test_cost_decides_the_way():
    few, many = estimate([512] * 9, **ROWS), estimate([512] * 9, n_train=(40_000,), n_test=(10_000,), reduce_to=64)
    assert choose(few, mode="auto", memory_limit=10**12) == "dual"
    assert choose(many, mode="auto", memory_limit=10**12) == "primal"
    assert few["dual"].bytes() >= 8 * 5 * 9 * 400 * 500
    assert many["primal"].bytes() >= 8 * 9 * 64 * 50_000
    assert few["dual"].flops == pytest.approx(511 * 5 * 400**3 * 8 / 3, rel=0.2)
    half = estimate([512] * 9, **ROWS, n_subsets=255)["dual"]
    assert half.flops == pytest.approx(few["dual"].flops * 255 / 511)
    with pytest.raises(SearchError, match="reduce_to"):
        choose(many, mode="dual", memory_limit=8 * 2**30)
    # What costs more operations is taken where only that fits.
    assert choose(many, mode="auto", memory_limit=many["primal"].bytes()) == "primal"


def test_workers_share_one_more_copy_and_each_needs_room_to_work():
    work = estimate([512] * 9, **ROWS)["dual"]
    assert work.bytes(1) == work.held + work.scratch
    assert work.bytes(4) == 2 * work.held + 4 * work.scratch
    with pytest.raises(SearchError, match="memory"):
        choose({"dual": work}, mode="auto", memory_limit=work.bytes(1), workers=2)


@pytest.mark.parametrize("way", ["dual", "primal"])
@pytest.mark.parametrize("reduce_to", [None, 4])
@pytest.mark.parametrize("n_alphas", [1, 15])
def test_expected_operations_are_the_sum_over_all_subsets(way, reduce_to, n_alphas):
    dims, options = (3, 5, 11, 8, 20), {"n_columns": 3, "n_weightings": 2, "n_alphas": n_alphas}
    found = estimate(dims, n_train=(300, 200), n_test=(90, 10), reduce_to=reduce_to, **options)[way].flops
    kept = [dim if reduce_to is None else min(dim, reduce_to) for dim in dims]
    expected = sum(
        flops_per_fold(way, dims=subset, n_train=n, n_test=t, **options)
        for subset in all_subsets(kept)
        for n, t in ((300, 90), (200, 10))
    )
    assert found == pytest.approx(expected, rel=1 / 31)  # the empty subset is counted among the mean
