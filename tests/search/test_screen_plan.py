import re

import numpy as np
import pytest

from biofuse.core.errors import SearchError
from biofuse.search.screen import measure_speed, plan_screen

NINE = (512, 512, 512, 768, 768, 1024, 1408, 1536, 1536)
GIB = 2**30


def plan(n, *, dims=NINE, classes=2, **options):
    sizes = {"n_train": (n * 4 // 5,) * 5, "n_test": (n // 5,) * 5}
    options = {"memory_limit": 12 * GIB, "workers": 2, "speed": lambda *_: 4e10} | options
    return plan_screen(dims, **sizes, n_columns=1 if classes == 2 else classes, **options)


def test_few_rows_are_screened_whole_by_products_of_rows():
    found = plan(546)
    assert (found.mode, found.reduce_to, found.n_subsets) == ("dual", None, 511)
    assert 5 < found.seconds < 30
    assert re.fullmatch(r"Screen: 511 subsets by products of rows, about 0\.\d GiB and \d+ seconds", str(found))


def test_many_rows_are_reduced_as_little_as_patience_allows():
    found = plan(7007, classes=7)
    assert (found.mode, found.reduce_to) == ("primal", 128)
    assert "by products of columns, each block reduced to 128 components" in str(found)
    assert found.seconds < 300
    slow = plan(89_996, classes=9)
    assert (slow.mode, slow.reduce_to) == ("primal", 64)
    assert slow.memory < 8 * GIB
    assert plan(7007, classes=7, patience=30).reduce_to == 64
    assert plan(7007, classes=7, patience=1e9, memory_limit=64 * GIB).reduce_to is None


def test_narrow_blocks_are_not_reduced_to_more_than_they_have():
    found = plan(89_996, dims=(32, 48, 64), patience=0)
    assert found.reduce_to is None
    assert plan(89_996, dims=(32, 48, 100), patience=0).reduce_to == 64


def test_a_wish_is_followed():
    assert plan(546, reduce_to=32).reduce_to == 32
    assert plan(7007, reduce_to=None, memory_limit=64 * GIB).reduce_to is None
    assert plan(546, n_subsets=100).seconds < plan(546).seconds
    assert plan(546, workers=1).seconds > 1.5 * plan(546).seconds


def test_too_little_memory_is_refused_with_a_remedy():
    small = plan(7007, memory_limit=2 * GIB, patience=1e9)
    assert small.reduce_to is not None  # what fits is taken
    assert small.memory <= 2 * GIB
    for options in ({"memory_limit": GIB // 100}, {"reduce_to": None, "memory_limit": GIB}):
        with pytest.raises(SearchError, match="GiB of memory") as error:
            plan(89_996, **options)
        assert "reduce_to=64" in error.value.remedy


def test_the_speed_is_measured_here():
    speeds = [measure_speed(what, 200, 40) for what in ("dual", "primal", "products")]
    assert np.isfinite(speeds).all()
    assert min(speeds) > 1e6
    found = plan(200, dims=(20, 30, 10), speed=None, memory_limit=None)
    assert 0 < found.seconds < 60
