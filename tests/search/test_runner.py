import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import BioFuseError, SearchError, UndefinedMetricError, option
from biofuse.core.target import Target, Task
from biofuse.data.splits import ValidationPlan, make_folds
from biofuse.predictors.fused import fit_predictor
from biofuse.search import runner
from biofuse.search.rules import select
from biofuse.search.runner import START_SECONDS, TOGETHER, Cost, check_cost, estimate_cost, run_search, score_on_ray
from biofuse.search.scorers import FoldPart, RefitScorer
from biofuse.search.strategies import AllEncoders, Exhaustive, make_strategy

POOL = ("a", "b", "c", "d", "e")


def values(board):
    return {row.subset: {m: list(row.folds[m]) for m in board.metrics} for row in board}


def same_predictions(found, expected):
    assert list(found.out_of_fold) == list(expected.out_of_fold)
    for subset, folds in found.out_of_fold.items():
        for one, other in zip(folds, expected.out_of_fold[subset], strict=True):
            assert one.dtype == np.float32
            np.testing.assert_array_equal(one, other)


def run(scorer, pool=POOL, strategy=None, **options):
    return run_search(pool, strategy or Exhaustive(), scorer, **({"workers": 1} | options))


def test_order_of_rows_changes_nothing(tiny):
    blocks, labels = tiny.planted(120)
    order = np.random.default_rng(3).permutation(120)
    there, shuffled = run(tiny.scorer(blocks, labels)), run(tiny.scorer(blocks.take(order), labels[order]))
    assert values(there) == values(shuffled)  # to the last bit


def test_order_of_encoders_changes_no_choice(tiny):
    blocks, labels = tiny.planted(120)
    order = ("d", "b", "e", "a", "c")
    turned = Blocks(ids=blocks.ids, matrices={name: blocks[name] for name in order})
    there, other = run(tiny.scorer(blocks, labels)), run(tiny.scorer(turned, labels), pool=order)
    assert set(select(there).chosen.subset) == set(select(other).chosen.subset)
    for row in there:
        assert other[row.subset].values("auroc") == pytest.approx(row.values("auroc"), abs=1e-9)


def test_workers_change_nothing(tiny, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)
    scorer = tiny.scorer(*tiny.planted(100), keep_predictions=True)
    alone, together = run(scorer, POOL[:3]), run(scorer, POOL[:3], workers=2)
    assert values(alone) == values(together)
    same_predictions(alone, together)


def test_workers_get_memory_maps_and_one_thread(tiny, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)
    blocks, labels = tiny.planted(4000)

    def spy(scorer, subsets, fold, parent):
        import os

        import numpy as np
        from threadpoolctl import threadpool_info

        mapped = all(isinstance(m, np.memmap) for m in scorer._matrices)
        threads = max([pool["num_threads"] for pool in threadpool_info()], default=1)
        note = json.dumps([os.getpid(), mapped, threads])
        return [replace(scorer.score_fold(subset, fold), notes=(note,)) for subset in subsets]

    monkeypatch.setattr(runner, "_score_piece", spy)
    board = run(tiny.scorer(blocks, labels), POOL[:2], workers=2)
    seen = [json.loads(note) for note in board.notes]
    assert os.getpid() not in {pid for pid, _, _ in seen}
    assert all(mapped for _, mapped, _ in seen)
    assert {threads for _, _, threads in seen} == {1}


class Impatient:
    """Progress that stops the search with Ctrl-C once so many subsets are done."""

    def __init__(self, after):
        self.after, self.done = after, 0

    def begin(self, task, total):
        assert task == "subsets"
        self.total = total

    def advance(self, _task, units):
        self.done += units
        if self.done == self.after:
            raise KeyboardInterrupt


def test_ctrl_c_leaves_a_file_that_resumes_without_rescoring(tiny, tmp_path):
    blocks, labels = tiny.planted(100)
    whole = run(tiny.scorer(blocks, labels))
    path, calls = tmp_path / "leaderboard.jsonl", []

    with pytest.raises(KeyboardInterrupt):
        run(tiny.scorer(blocks, labels), sink=path, key="k", progress=Impatient(7))
    assert len(path.read_text().splitlines()) == 1 + 7
    resumed = run(tiny.scorer(blocks, labels, calls=calls), sink=path, key="k")
    assert values(resumed) == values(whole)
    done = {encoders for encoders, _, _ in calls}
    assert len(done) == 24
    assert not done & {row.subset for row in list(whole)[:7]}
    calls.clear()
    told = []
    again = run(tiny.scorer(blocks, labels, calls=calls), sink=path, key="k", announce=told.append)
    assert values(again) == values(whole)
    assert not calls
    assert not told


@pytest.mark.slow
def test_ctrl_c_with_workers_leaves_a_file_that_resumes(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)
    blocks, labels = tiny.planted(100)
    path = tmp_path / "leaderboard.jsonl"

    with pytest.raises(KeyboardInterrupt):
        run(tiny.scorer(blocks, labels), POOL[:3], sink=path, key="k", progress=Impatient(1), workers=2)
    assert len(path.read_text().splitlines()) == 1 + 1
    resumed = run(tiny.scorer(blocks, labels), POOL[:3], sink=path, key="k", workers=2)
    assert values(resumed) == values(run(tiny.scorer(blocks, labels), POOL[:3]))


SCRIPT = """
    import sys, time, numpy as np
    from pathlib import Path
    from biofuse.search.runner import run_search
    from biofuse.search.scorers import FoldScores
    from biofuse.search.strategies import Exhaustive

    class Slow:
        encoders, metrics, n_train, n_test = tuple("abcdef"), ("auroc",), (8, 8), (2, 2)
        keeps_predictions = True
        def n_dims(self, subset): return len(subset)
        def score(self, subset):
            time.sleep(0.01)
            # Of the two rows held out in each fold, both of one fold and one of the other.
            kept = np.random.default_rng(len(subset)).random((3, 2)) + ord(subset[0])
            folds = {"auroc": (len(subset) / 7, ord(subset[0]) / 200)}
            return FoldScores(folds=folds, out_of_fold=(kept[:2], kept[2:]))

    board = run_search(Slow.encoders, Exhaustive(), Slow(), sink=Path(sys.argv[1]), key="k")
    kept = [(s, [fold.tobytes() for fold in folds]) for s, folds in board.out_of_fold.items()]
    print(len(board), len(kept), hash(str([[(r.subset, r.folds["auroc"]) for r in board], kept])))
"""


@pytest.mark.slow
def test_killed_at_random_moments_ends_with_the_same_scores_and_predictions(tmp_path):
    script = textwrap.dedent(SCRIPT)
    env = os.environ | {"PYTHONHASHSEED": "0"}
    path = tmp_path / "killed.jsonl"
    random = np.random.default_rng(0)
    kills = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", script, str(path)], env=env, stdout=subprocess.DEVNULL)
        before = path.stat().st_size if path.exists() else 0
        while process.poll() is None and (not path.exists() or path.stat().st_size <= before + 300):
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills
    ends = [
        subprocess.run(
            [sys.executable, "-c", script, str(p)], env=env, capture_output=True, text=True, check=True
        ).stdout
        for p in (path, tmp_path / "whole.jsonl")
    ]
    assert ends[0] == ends[1]
    assert ends[0].startswith("63 63 ")


def test_another_key_starts_anew(tiny, tmp_path):
    blocks, labels = tiny.planted(60)
    path, calls = tmp_path / "leaderboard.jsonl", []
    run(tiny.scorer(blocks, labels), POOL[:2], sink=path, key="logistic")
    run(tiny.scorer(blocks, labels, calls=calls), POOL[:2], sink=path, key="xgboost")
    assert {encoders for encoders, _, _ in calls} == {("a",), ("b",), ("a", "b")}
    assert (tmp_path / "leaderboard.logistic.jsonl").exists()
    with pytest.raises(SearchError, match="needs a key"):
        run(tiny.scorer(blocks, labels), sink=path)


def test_a_strategy_sees_only_what_it_asked_for(tiny, tmp_path):
    blocks, labels = tiny.planted(60)
    path, calls = tmp_path / "leaderboard.jsonl", []
    run(tiny.scorer(blocks, labels), POOL[:2], sink=path, key="k")
    board = run(tiny.scorer(blocks, labels, calls=calls), POOL[:2], AllEncoders(), sink=path, key="k")
    assert [row.subset for row in board] == [("a", "b")]
    assert not calls
    found = select(board)
    assert found.chosen.subset == ("a", "b")
    assert found.best_single is None
    assert "only subset that was scored" in found.reason


def test_predictions_are_there_after_a_resume_when_wanted(tiny, tmp_path):
    blocks, labels = tiny.planted(100)
    path = tmp_path / "leaderboard.jsonl"
    without = run(tiny.scorer(blocks, labels), POOL[:2], sink=path, key="k")
    assert without.out_of_fold == {}
    whole = run(tiny.scorer(blocks, labels, keep_predictions=True), POOL[:2])
    board = run(tiny.scorer(blocks, labels, keep_predictions=True), POOL[:2], sink=path, key="k")
    assert values(board) == values(whole)
    same_predictions(board, whole)
    calls = []
    again = run(tiny.scorer(blocks, labels, keep_predictions=True, calls=calls), POOL[:2], sink=path, key="k")
    same_predictions(again, whole)
    assert not calls
    assert run(tiny.scorer(blocks, labels, calls=calls), POOL[:2], sink=path, key="k").out_of_fold == {}
    assert not calls


def test_ctrl_c_keeps_predictions_and_a_resume_scores_only_the_rest(tiny, tmp_path):
    blocks, labels = tiny.planted(100)
    path, calls = tmp_path / "leaderboard.jsonl", []
    whole = run(tiny.scorer(blocks, labels, keep_predictions=True), POOL[:3])

    with pytest.raises(KeyboardInterrupt):
        run(tiny.scorer(blocks, labels, keep_predictions=True), POOL[:3], sink=path, key="k", progress=Impatient(3))
    assert path.read_text().count('"predictions"') == 3
    resumed = run(tiny.scorer(blocks, labels, keep_predictions=True, calls=calls), POOL[:3], sink=path, key="k")
    assert {encoders for encoders, _, _ in calls} == {("a", "c"), ("b", "c"), ("a", "b"), ("a", "b", "c")}
    assert values(resumed) == values(whole)
    same_predictions(resumed, whole)


class Watcher:
    def __init__(self):
        self.total, self.done = 0, []

    def begin(self, _task, total):
        self.total = total

    def advance(self, _task, units):
        self.done.append(units)


@pytest.mark.parametrize("name", ["exhaustive", "greedy", "beam", "all"])
def test_progress_ends_at_its_total_also_where_a_strategy_stops_early(tiny, tmp_path, name):
    scorer, path = tiny.scorer(*tiny.planted(100)), tmp_path / "leaderboard.jsonl"
    for _ in range(2):
        watcher = Watcher()
        run(scorer, strategy=make_strategy(name), sink=path, key="k", progress=watcher)
        assert sum(watcher.done) == watcher.total
        assert min(watcher.done) > 0


@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_a_walk_resumes_where_it_was_and_costs_nothing_when_finished(tiny, tmp_path, name):
    blocks, labels = tiny.planted(100)
    path, calls, told = tmp_path / "leaderboard.jsonl", [], []
    whole = run(tiny.scorer(blocks, labels), strategy=make_strategy(name), sink=path, key="k", announce=told.append)
    assert len(whole) < 31 or name == "beam"
    assert told[0].n_subsets >= len(whole)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:8]))
    resumed = run(tiny.scorer(blocks, labels, calls=calls), strategy=make_strategy(name), sink=path, key="k")
    assert values(resumed) == values(whole)
    assert not {encoders for encoders, _, _ in calls} & {tuple(json.loads(line)["subset"]) for line in lines[1:8]}
    calls.clear()
    told.clear()
    again = run(
        tiny.scorer(blocks, labels, calls=calls),
        strategy=make_strategy(name), sink=path, key="k", announce=told.append,
    )  # fmt: skip
    assert values(again) == values(whole)
    assert not calls
    assert not told


def test_every_strategy_sees_the_same_scores(tiny):
    scorer = tiny.scorer(*tiny.planted(100))
    every = values(run(scorer))
    for name in ("greedy", "beam", "all"):
        found = values(run(scorer, strategy=make_strategy(name)))
        assert found == {subset: every[subset] for subset in found}


def test_bug_3_a_search_has_no_way_to_see_test_data():
    for function in (run_search, RefitScorer.__init__):
        assert not [name for name in inspect.signature(function).parameters if "test" in name]


def test_a_metric_undefined_in_every_fold_stops_the_search(tiny):
    blocks, labels = tiny.planted(60)
    scorer = RefitScorer(
        blocks, labels * 0, plan=tiny.plan(blocks.ids), fit=constant, task=Task.BINARY, classes=("no", "yes")
    )
    with pytest.raises(UndefinedMetricError, match="every fold: auroc is undefined in fold 1: no sample of yes"):
        run(scorer)


def constant(blocks, labels, *, encoders, seed, threads):
    class Fitted:
        notes = ("it did not try",)

        def __init__(self):
            self.encoders = encoders

        def predict_proba(self, held_out):
            return np.full((held_out.n_samples, 2), 0.5)

        decision = predict_proba

    return Fitted()


def test_a_defined_fold_is_enough_and_notes_say_the_rest(tiny):
    blocks, labels = tiny.planted(60)
    plan = tiny.plan(blocks.ids, 3)
    labels[plan.folds[1][1]] = 0
    labels[plan.folds[1][0][:4]] = [0, 1, 2, 3]
    board = run(tiny.scorer(blocks, labels, plan=plan), POOL[:2])
    assert np.isnan(board[("a",)].folds["auroc"]).tolist() == [False, True, False]
    assert "auroc is undefined in fold 2: no sample of class 1, class 2, class 3" in board.notes
    assert select(board).notes == board.notes


def test_wrong_requests_are_refused(tiny):
    table = tiny.scorer(*tiny.planted(40))
    with pytest.raises(SearchError, match="no embeddings of z"):
        run(table, ("a", "z"))
    with pytest.raises(SearchError, match="does not compute 'f1'"):
        run(table, ("a",), metric="f1")
    with pytest.raises(SearchError, match="pool is empty"):
        run(table, ())


def test_a_killed_worker_is_a_typed_error(tiny, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)
    parent = os.getpid()

    def fit(blocks, labels, *, encoders, seed, threads):
        import os

        if os.getpid() != parent:
            os._exit(9)

        class Fitted:
            notes = ()

            def __init__(self):
                self.encoders = encoders

            def predict_proba(self, held_out):
                import numpy as np

                return np.full((held_out.n_samples, 4), 0.25)

            decision = predict_proba

        return Fitted()

    blocks, labels = tiny.planted(60)
    with pytest.raises(SearchError, match="worker process"):
        run(tiny.scorer(blocks, labels, fit=fit), POOL[:2], workers=2)


SEARCH_AND_HANG = """
import os, sys, time
from biofuse.search.runner import _parallel


class Slow:
    def score_fold(self, subset, fold):
        print(os.getpid(), flush=True)
        time.sleep(60)


list(_parallel(Slow(), [(("a",), 0), (("a",), 1)], 2))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="processes are killed in another way there")
def test_workers_end_with_a_killed_parent(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(SEARCH_AND_HANG)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        workers = [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        deadline = time.monotonic() + 20
        while any(map(_runs, workers)) and time.monotonic() < deadline:
            time.sleep(0.2)
        left = [worker for worker in workers if _runs(worker)]
    assert not left


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# --- what scores, with the real folds, fusion and heads


THREE = ("a", "b", "c")


def fitted_search(tiny, blocks, labels, task, *, head="logistic", workers=1, groups=None):
    folds = make_folds(labels, ids=blocks.ids, groups=groups, n_folds=4, n_repeats=1, seed=1)
    plan = ValidationPlan.cross_validation(
        folds.folds, ids=blocks.ids, groups=groups, n_repeats=folds.n_repeats, notes=folds.notes
    )
    n_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    fit = partial(fit_predictor, head=head, target=Target.numbered(task, n_classes))
    return run_search(THREE, Exhaustive(), tiny.scorer(blocks, labels, plan=plan, fit=fit, task=task), workers=workers)


@pytest.mark.parametrize("task", [task for task in Task if task.categorical])
@pytest.mark.parametrize("head", ["logistic", "ridge"])
def test_planted_winner(tiny, task, head):
    blocks, labels = tiny.planted(160, task=task)
    found = select(fitted_search(tiny, blocks, labels, task, head=head), rule="one_se")
    # Block a alone knows the binary label; the others need both bits.
    assert set(found.chosen.subset) >= ({"a"} if task is Task.BINARY else {"a", "b"})
    assert found.chosen.n_encoders <= 2
    assert found.better_than_chance


@pytest.mark.slow
def test_shuffled_rows_and_more_workers_give_the_same_board(tiny, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)
    blocks, labels = tiny.planted(120)
    groups = np.array([f"g{i // 3}" for i in range(120)], dtype=object)
    order = np.random.default_rng(0).permutation(120)
    one = fitted_search(tiny, blocks, labels, Task.MULTICLASS, groups=groups)
    two = fitted_search(tiny, blocks.take(order), labels[order], Task.MULTICLASS, groups=groups[order], workers=2)
    assert [row.folds for row in one] == [row.folds for row in two]


# --- what it will cost


class Timed:
    """Fits that say they take a second per column."""

    encoders, metrics, n_train, n_test, keeps_predictions = ("a", "b"), ("auroc",), (8, 8), (2, 2), False

    def n_dims(self, subset):
        return 3 * len(subset)

    def score(self, _subset):
        raise AssertionError

    def score_fold(self, subset, _fold):
        return FoldPart(values={"auroc": 0.5}, seconds=float(self.n_dims(subset)) * 100)


def test_cost_is_that_of_the_timed_fits_times_their_number():
    three = [("a",), ("b",), ("a", "b")]
    cost, first = estimate_cost(Timed(), three, workers=2)
    (subset,) = first
    assert (len(subset), first[subset].seconds) == (1, 300.0)  # the usual number of columns
    assert (cost.n_subsets, cost.n_fits, cost.workers) == (3, 6, 2)
    assert cost.seconds == 300 * TOGETHER * 6 / 2 + START_SECONDS
    assert "3 subsets, 6 fits on 2 cores: about 18.8 minutes" in str(cost)

    class Quick(Timed):
        def score_fold(self, subset, fold):
            return replace(super().score_fold(subset, fold), seconds=float(len(subset)))

    cost, first = estimate_cost(Quick(), three, workers=1)
    assert set(first) == {("a",), ("a", "b")}  # small and usual, and large
    assert cost.seconds == pytest.approx((1 + 2) / 2 * 6)


def test_quick_fits_are_timed_more_than_once():
    class Unsteady(Timed):
        def __init__(self, *times):
            self.times = iter(times)

        def score_fold(self, _subset, _fold):
            return FoldPart(values={"auroc": 0.5}, seconds=next(self.times))

    for times, expected in (((9.0,), 9.0), ((2.0, 0.5), 0.5), ((2.0, 0.01, 0.8, 0.02, 0.01), 0.02)):
        cost, _ = estimate_cost(Unsteady(*times), [("a",)], workers=1)
        assert cost.seconds_per_fit == expected


def test_where_nobody_is_told_one_fit_is_timed_twice():
    calls = []

    class Counting(Timed):
        def score_fold(self, subset, _fold):
            calls.append(subset)
            return FoldPart(values={"auroc": 0.5}, seconds=0.01)

    cost, first = estimate_cost(Counting(), [("a",), ("b",), ("a", "b")], workers=1, roughly=True)
    assert calls == [("a",), ("a",)]
    assert (cost.n_fits, cost.seconds_per_fit, list(first)) == (6, 0.01, [("a",)])


def test_what_fits_take_beside_others_is_measured_before_the_time_is_told(monkeypatch):
    class Beside(Timed):
        seconds, order = 1.0, ()

        def score_fold(self, subset, fold):
            self.order = (*self.order, (subset, fold))
            return FoldPart(values={"auroc": 0.5}, seconds=self.seconds)

    def together(scorer, tasks, _workers, *, by_fold):
        assert not by_fold
        scorer.seconds = 1.75
        return (scorer.score_fold(*task) for task in tasks)

    monkeypatch.setattr(runner, "_parallel", together)
    scorer, told = Beside(), []
    board = run_search(("a", "b"), Exhaustive(), scorer, workers=2, announce=told.append)
    assert [row.subset for row in board] == [("a",), ("b",), ("a", "b")]
    (cost,) = told
    assert (cost.together, cost.seconds) == (1.75, 6 * 1.75 / 2)
    assert scorer.order[-4:] == (
        (("a",), 1),
        (("a", "b"), 1),
        (("b",), 0),
        (("b",), 1),
    )  # those that were timed come first


def test_more_than_an_hour_is_asked_for():
    cost = Cost(n_subsets=1, n_fits=1, seconds_per_fit=3601.0, workers=1)
    with pytest.raises(SearchError, match="about 60 minutes") as error:
        check_cost(cost, yes=False)
    assert option("yes", True) in error.value.remedy
    check_cost(cost, yes=True)
    check_cost(replace(cost, seconds_per_fit=3599.0), yes=False)

    class Slower(Timed):
        def score_fold(self, subset, fold):
            return replace(super().score_fold(subset, fold), seconds=5000.0)

    told = []
    with pytest.raises(SearchError, match="would take about"):
        run_search(("a", "b"), Exhaustive(), Slower(), workers=1, announce=told.append)
    assert told[0].n_fits == 6
    assert len(run_search(("a", "b"), Exhaustive(), Slower(), workers=1, yes=True)) == 3


uses_ray = pytest.mark.enable_socket


@pytest.mark.slow
@uses_ray
def test_scores_and_predictions_on_ray_are_the_local_ones_bit_for_bit_and_resume(ray, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "WORTH_WORKERS", 0.0)
    scorer = tiny.scorer(*tiny.planted(100), keep_predictions=True)
    sink = tmp_path / "scores.jsonl"
    local = run_search(THREE, Exhaustive(), scorer, workers=1)
    there = run_search(THREE, Exhaustive(), scorer, engine="ray", sink=sink, key="k")
    assert values(local) == values(there)
    same_predictions(local, there)
    assert len(sink.read_text().splitlines()) == 1 + 7
    sink.write_bytes(b"".join(sink.read_bytes().splitlines(keepends=True)[:4]))
    assert values(run_search(THREE, Exhaustive(), scorer, engine="ray", sink=sink, key="k")) == values(local)


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
        run_search(THREE, Exhaustive(), tiny.scorer(*tiny.planted(40)), engine="slurm")
