"""The fits of a search on Ray against those on this machine."""

import importlib.util

import numpy as np
import pytest

from biofuse.core.errors import BioFuseError, SearchError
from biofuse.core.ray import ray_cluster
from biofuse.search import runner
from biofuse.search.leaderboard import read_sink
from biofuse.search.runner import run_search, score_on_ray
from biofuse.search.strategies import Exhaustive

POOL = ("a", "b", "c")
uses_ray = pytest.mark.enable_socket


@pytest.fixture(scope="module")
def _ray():
    if importlib.util.find_spec("ray") is None:  # not imported: ray_cluster has something to say to it before
        pytest.skip("ray is not installed")
    with ray_cluster():
        yield


@pytest.fixture
def ray(_ray, socket_enabled, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)


def values(board):
    return {row.subset: {m: list(row.folds[m]) for m in board.metrics} for row in board}


@pytest.mark.slow
@uses_ray
def test_scores_and_predictions_on_ray_are_the_local_ones_bit_for_bit_and_resume(ray, tiny, tmp_path):
    scorer = tiny.scorer(*tiny.planted(100), keep_predictions=True)
    sink = tmp_path / "scores.jsonl"
    local = run_search(POOL, Exhaustive(), scorer, workers=1)
    there = run_search(POOL, Exhaustive(), scorer, engine="ray", sink=sink, key="k")
    assert values(local) == values(there)
    assert list(local.out_of_fold) == list(there.out_of_fold)
    for subset, folds in local.out_of_fold.items():
        for one, other in zip(folds, there.out_of_fold[subset], strict=True):
            np.testing.assert_array_equal(one, other)
    assert len(read_sink(sink)) == 7
    sink.write_bytes(b"".join(sink.read_bytes().splitlines(keepends=True)[:4]))
    assert values(run_search(POOL, Exhaustive(), scorer, engine="ray", sink=sink, key="k")) == values(local)


@pytest.mark.slow
@uses_ray
def test_an_error_of_a_fit_on_ray_arrives_as_it_is(ray, tiny):
    def refuses(blocks, labels, *, encoders, seed, threads):
        from biofuse.core.errors import BioFuseError

        raise BioFuseError("no fit today", remedy="tomorrow")

    scorer = tiny.scorer(*tiny.planted(100))
    scorer._fit = refuses
    parts = score_on_ray(scorer, [(("a",), 1), (("b",), 0)])
    with pytest.raises(BioFuseError, match="no fit today") as caught:
        next(parts)
    assert caught.value.remedy == "tomorrow"


def test_an_engine_that_does_not_exist_is_refused(tiny):
    with pytest.raises(SearchError, match="no engine 'slurm'"):
        run_search(POOL, Exhaustive(), tiny.scorer(*tiny.planted(40)), engine="slurm")
