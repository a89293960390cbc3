"""Scoring subsets, here or on Ray: what a search costs, and how it goes on where it stopped."""

import functools
import itertools
import operator
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from biofuse.core.errors import BioFuseError, SearchError, option
from biofuse.core.machine import exit_with_parent, limit_threads, workers_ignore_interrupts
from biofuse.core.progress import Progress, Silent, Tell, duration
from biofuse.core.ray import cluster_cores, ray_cluster
from biofuse.evaluation.metrics import DEFAULT_METRIC
from biofuse.search.leaderboard import Leaderboard, Predictions, Row, ScoreLog, Subset, check_pool, in_pool_order
from biofuse.search.scorers import (
    FoldPart,
    FoldScores,
    FoldwiseScorer,
    ManyScorer,
    RefitScorer,
    Scorer,
    gather,
)
from biofuse.search.strategies import Strategy

LONG_SECONDS = 3600.0
"""A search expected to take longer is asked for."""

WARM_SECONDS = 5.0
"""A first fit quicker than this is timed again, as is one that would refuse the search: it may be mostly imports. Fits
that take longer are timed once, of one subset."""

SHORT_SECONDS = 0.05
"""A fit quicker than this varies so much that the median of three is taken."""

START_SECONDS = 1.0
"""What starting worker processes takes: most of it is importing numpy and scipy."""

TOGETHER = 1.25
"""Times that a fit takes beside others, with whom it shares caches and memory, where that is not measured: of the
screen on 546 to 20,000 rows, 1.1 to 1.4 with two processes on two cores."""

MEASURED_TOGETHER = 4
"""Fits per process by which it is measured, of which the first finds a process that has just started."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a search will cost.

    Attributes
    ----------
    n_subsets, n_fits : int
        What is left to score; a fit is one subset on one fold.
    seconds_per_fit : float
        Mean of the timed fits, which had a processor to themselves.
    workers : int
        Processes, or threads.
    together : float or None
        Times that a fit takes beside others, as measured here while they ran; None before that.
    """

    n_subsets: int
    n_fits: int
    seconds_per_fit: float
    workers: int
    together: float | None = None

    @property
    def seconds(self) -> float:
        """Expected time by the clock."""
        if self.workers == 1:
            return self.n_fits * self.seconds_per_fit
        seconds = self.n_fits * self.seconds_per_fit * (self.together or TOGETHER) / self.workers
        return seconds + (START_SECONDS if self.together is None and seconds > START_SECONDS else 0)

    def __str__(self) -> str:
        return (
            f"{self.n_subsets:,} subsets, {self.n_fits:,} fits on {self.workers} "
            f"{'core' if self.workers == 1 else 'cores'}: about {duration(self.seconds)} "
            f"(a fit takes {duration(self.seconds_per_fit)})"
        )


def estimate_cost(
    scorer: FoldwiseScorer,
    subsets: Sequence[Subset],
    *,
    workers: int,
    asked: Sequence[Subset] | None = None,
    roughly: bool = False,
) -> tuple[Cost, dict[Subset, FoldPart]]:
    """Time fits of a few subsets on the first fold, and multiply.

    The subset whose number of columns is nearest to the mean, and those in the middle of the lower and the upper third,
    since larger ones take longer than in proportion.

    Parameters
    ----------
    scorer : FoldwiseScorer
        What will score them.
    subsets : sequence of subset
        Those that are left; one at least.
    workers : int
        Processes.
    asked : sequence of subset, optional
        Those that are sure to be scored, all by default. Where a strategy may not want a small or a large one, only a
        usual one is timed.
    roughly : bool, default False
        Whether one usual fit, timed again where it was quick, is enough: where nobody is told what to expect.

    Returns
    -------
    cost : Cost
    first : dict of subset to FoldPart
        The timed fits, so that they need not be done again.
    """
    columns = [scorer.n_dims(subset) for subset in subsets]
    typical = subsets[int(np.abs(np.array(columns) - np.mean(columns)).argmin())]
    ordered = sorted(subsets, key=scorer.n_dims)
    small, large = ordered[len(ordered) // 6], ordered[len(ordered) * 5 // 6]
    n_fits = len(subsets) * len(scorer.n_train)
    part = scorer.score_fold(typical, 0)
    if isinstance(scorer, RefitScorer) and scorer.remembers:  # the first fit is the dearest, and no other is like it
        cost = Cost(n_subsets=len(subsets), n_fits=n_fits, seconds_per_fit=part.seconds, workers=workers)
        return cost, {typical: part}
    if part.seconds < WARM_SECONDS or n_fits * part.seconds / workers > LONG_SECONDS:
        part = scorer.score_fold(typical, 0)
    first = {typical: part if roughly else _steady(scorer, typical, part)}
    others = set() if roughly else {small, large} - {typical}
    if part.seconds < WARM_SECONDS and others <= set(subsets if asked is None else asked):
        first |= {subset: _steady(scorer, subset, scorer.score_fold(subset, 0)) for subset in others}
    mean = float(np.mean([each.seconds for each in first.values()]))
    return Cost(n_subsets=len(subsets), n_fits=n_fits, seconds_per_fit=mean, workers=workers), first


def _steady(scorer: FoldwiseScorer, subset: Subset, part: FoldPart) -> FoldPart:
    if part.seconds >= SHORT_SECONDS:
        return part
    return sorted((scorer.score_fold(subset, 0) for _ in range(3)), key=lambda timed: timed.seconds)[1]


def check_cost(cost: Cost, *, yes: bool) -> None:
    """Refuse a long search that nobody confirmed.

    Raises
    ------
    SearchError
        If it is expected to take more than an hour and ``yes`` is False.
    """
    if cost.seconds > LONG_SECONDS and not yes:
        raise SearchError(
            f"This search would take about {duration(cost.seconds)}: {cost}.",
            remedy=f"Confirm: {option('yes', True)}; or offer fewer encoders, choose a cheaper head, or fewer folds.",
        )


AHEAD = 4
"""Tasks given to Ray per core before their results are taken: enough to keep it busy, few enough to be stopped."""

FEWEST_TOGETHER = 8
"""Subsets at least that a process scores on a fold before it turns to another, where fits share what belongs to the
fold: to make that takes as long as eight fits of logistic regression (.36 and .046 s of processor time; 768 rows, 3,104
columns, 8 classes)."""

SAVED_SECONDS = 60.0
"""Expected time by the clock after which the subsets begun should be done, and kept, before others are begun."""


def score_on_ray(
    scorer: FoldwiseScorer, tasks: Sequence[tuple[Subset, int]], *, address: str | None = None
) -> Generator[FoldPart]:
    """Score folds of subsets on a Ray cluster.

    The scorer is put into Ray's object store once; tasks on one node share its arrays. Every fit has its own seed and
    one thread, so that scores are those of any other way to run them. A lost node's tasks are done again by Ray.

    Parameters
    ----------
    scorer : FoldwiseScorer
    tasks : sequence of (subset, fold)
    address : str, optional
        As for :func:`biofuse.core.ray.ray_cluster`.

    Yields
    ------
    FoldPart
        In the order of the tasks.

    Raises
    ------
    BioFuseError
        Whatever a fit raised.
    SearchError
        If Ray gives a task up.
    """
    with ray_cluster(address):
        import ray
        from ray.exceptions import RayError

        remote = ray.remote(_score_fold_on_ray).options(num_cpus=1)
        shared = ray.put(scorer)
        ahead = AHEAD * cluster_cores(address)
        waiting: deque[Any] = deque()
        left = iter(tasks)
        try:
            while True:
                while len(waiting) < ahead and (task := next(left, None)) is not None:
                    waiting.append(remote.remote(shared, *task))
                if not waiting:
                    return
                found = ray.get(waiting.popleft())
                if isinstance(found, BioFuseError):
                    raise found
                yield found
        except RayError as error:
            raise SearchError(
                f"Ray gave up a fit: {str(error).strip().splitlines()[-1]}",
                remedy="If memory ran out, give Ray fewer cores; what was scored before is kept where the search "
                "writes to a file.",
            ) from error
        finally:
            for each in waiting:
                ray.cancel(each, force=False)


def _score_fold_on_ray(scorer: FoldwiseScorer, subset: Subset, fold: int) -> FoldPart | BioFuseError:
    try:
        # The first call may load the libraries whose threads are to be limited; those obey the environment that Ray
        # sets for a task of one core.
        with limit_threads(1):
            return scorer.score_fold(subset, fold)
    except BioFuseError as error:
        # As a value: Ray would wrap what is raised in an error of its own.
        return error


SHARE_BYTES = 10_000
"""Arrays above this size reach the workers by memory map, once, instead of with every task."""

WORTH_WORKERS = 5.0
"""Seconds of work below which starting processes costs more than it saves."""

ENGINES = ("local", "ray")

TASK = "subsets"
"""What the work is called to those who watch its progress."""


def run_search(
    pool: Sequence[str],
    strategy: Strategy,
    scorer: Scorer,
    *,
    metric: str = DEFAULT_METRIC,
    sink: Path | None = None,
    key: str = "",
    workers: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    progress: Progress | None = None,
    announce: Callable[[Cost], None] | None = None,
    yes: bool = False,
) -> Leaderboard:
    """Score the subsets that a strategy asks for.

    Scores depend neither on the engine, nor on the number of workers, nor on the order of the work: every fit has its
    own seed and one thread.

    Parameters
    ----------
    pool : sequence of str
        The encoders offered.
    strategy : Strategy
        Which subsets to score.
    scorer : Scorer
        How; it holds development data and nothing else.
    metric : str
        The selecting metric: first column of the leaderboard, and an error where it is undefined in every fold.
    sink : Path, optional
        File to which every finished subset is appended at once, and from which an interrupted search goes on. Where
        the scorer keeps predictions, so does a second file beside it, and rows without them are scored again.
    key : str
        Hash of everything that decides the scores (``search_key``); with another key the file starts anew.
    workers : int, optional
        Processes; by default one per core that this process may use, or that the Ray cluster has.
    engine : {"local", "ray"}
        Whether fits run on this machine or on a Ray cluster; few fits run in this process either way.
    ray_address : str, optional
        Cluster for the engine ``ray``; by default that of ``RAY_ADDRESS``, else Ray is started on this machine.
    progress : Progress, optional
        Told of every finished subset; where a strategy stops early, what it did not need counts as finished.
    announce : callable, optional
        Given the expected cost before the work starts, the most it can be where a strategy may stop early; not called
        where no fits are needed.
    yes : bool, default False
        Whether a search of more than an hour is wanted.

    Returns
    -------
    Leaderboard
        A row per scored subset.

    Raises
    ------
    SearchError
        If the pool does not suit the strategy or the scorer, or the search would take long and ``yes`` is False.
    UndefinedMetricError
        If the selecting metric is undefined in every fold.
    """
    if engine not in ENGINES:
        raise SearchError(f"There is no engine {engine!r}.", remedy=f"Use one of: {', '.join(ENGINES)}.")
    names = check_pool(pool)
    columns = _columns(names, scorer, metric)
    if sink is not None and not key:
        raise SearchError("A search that writes to a file needs a key.", remedy="Pass key=search_key(...).")
    planned = strategy.subsets(names)
    with ExitStack() as stack:
        run = _Run(
            pool=names,
            scorer=scorer,
            columns=columns,
            metric=metric,
            planned=planned,
            progress=progress or Silent(),
            workers=workers or (cluster_cores(ray_address) if engine == "ray" else _cores()),
            engine=engine,
            ray_address=ray_address,
            announce=announce,
            yes=yes,
        )
        if sink is not None:
            run.resume(
                stack.enter_context(
                    ScoreLog(
                        sink,
                        key=key,
                        encoders=names,
                        metrics=columns,
                        n_train=scorer.n_train,
                        n_test=scorer.n_test,
                        keep_predictions=scorer.keeps_predictions,
                    )
                )
            )
        run.follow(strategy)
        return Leaderboard(
            encoders=names,
            metrics=columns,
            rows=tuple(run.rows.values()),
            n_train=scorer.n_train,
            n_test=scorer.n_test,
            key=key,
            out_of_fold=run.predictions,
        )


@dataclass(kw_only=True)
class _Run:
    """The state of one search."""

    pool: Subset
    scorer: Scorer
    columns: tuple[str, ...]
    metric: str
    planned: Sequence[Subset]
    progress: Progress
    workers: int
    engine: str
    ray_address: str | None
    announce: Callable[[Cost], None] | None
    yes: bool
    sink: ScoreLog | None = None
    started: bool = False
    known: dict[Subset, Row] = field(default_factory=dict)
    rows: dict[Subset, Row] = field(default_factory=dict)
    predictions: dict[Subset, Predictions] = field(default_factory=dict)
    ready: dict[tuple[Subset, int], FoldPart] = field(default_factory=dict)
    expected: Cost | None = None
    timed: tuple[Cost, Mapping[Subset, FoldPart]] | None = None

    @property
    def folds_held(self) -> int:
        """Of how many folds the scorer keeps what fits share; 0 where every fit is made by itself."""
        return self.scorer.folds_held if isinstance(self.scorer, RefitScorer) else 0

    def resume(self, sink: ScoreLog) -> None:
        """Take over what an earlier search left."""
        self.sink = sink
        wanted = sink.predictions if self.scorer.keeps_predictions else sink.rows
        self.known = {subset: row for subset, row in sink.rows.items() if subset in wanted}

    def follow(self, strategy: Strategy) -> None:
        """Let a strategy ask for scores until it has seen enough."""
        self.progress.begin(TASK, len(self.planned))
        strategy.run(self.pool, self.evaluate)
        if len(self.rows) < len(self.planned):
            self.progress.advance(TASK, len(self.planned) - len(self.rows))

    def evaluate(self, subsets: Sequence[Subset]) -> list[Row]:
        """Score what is not yet scored; see :data:`biofuse.search.strategies.Evaluate`."""
        wanted = [in_pool_order(self.pool, subset) for subset in subsets]
        fresh = [subset for subset in dict.fromkeys(wanted) if subset not in self.rows]
        missing = [subset for subset in fresh if subset not in self.known]
        if len(missing) < len(fresh):
            self._recall([subset for subset in fresh if subset in self.known])
        if missing:
            self._start(missing)
            # Closing stops the workers at once when something is raised here, be it Ctrl-C.
            with closing(self._scores(missing)) as found:
                for subset, scores in zip(missing, found, strict=True):
                    self._add(subset, scores)
        return [self.rows[subset] for subset in wanted]

    def _recall(self, subsets: Sequence[Subset]) -> None:
        self.rows |= {subset: self.known[subset] for subset in subsets}
        if self.sink is not None and self.scorer.keeps_predictions:
            self.predictions |= {subset: self.sink.predictions[subset] for subset in subsets}
        self.progress.advance(TASK, len(subsets))

    def _start(self, missing: Sequence[Subset]) -> None:
        """Once, estimate the cost of what is left, ask where it is long, and decide on workers."""
        if self.started or not isinstance(self.scorer, FoldwiseScorer):
            return
        self.started = True
        left = [subset for subset in self.planned if subset not in self.known] or missing
        with limit_threads(1):
            cost, first = estimate_cost(
                self.scorer, left, workers=self.workers, asked=missing, roughly=self.announce is None
            )
        self.ready |= {(subset, 0): part for subset, part in first.items()}
        self.expected = cost
        self.workers = self.workers if cost.seconds * self.workers > WORTH_WORKERS else 1
        # Where fits share what belongs to a fold, folds have an order of their own.
        if self.workers > 1 and not self.folds_held and max(part.seconds for part in first.values()) < WARM_SECONDS:
            self.timed = cost, first
        elif self.announce is not None:
            self.announce(cost)
        check_cost(cost, yes=self.yes)

    def _measure(self, parts: Iterator[FoldPart], tasks: Sequence[tuple[Subset, int]]) -> None:
        """Take the first parts, of subsets that were timed alone, and announce the cost by what they take together."""
        if self.timed is None:
            return
        (cost, alone), self.timed = self.timed, None
        found = dict(zip(tasks, parts, strict=False))
        self.ready |= found
        ratios = [part.seconds / alone[subset].seconds for (subset, _), part in found.items()]
        cost = replace(cost, together=float(np.median(ratios))) if ratios else cost
        if self.announce is not None:
            self.announce(cost)
        check_cost(cost, yes=self.yes)

    def _add(self, subset: Subset, scores: FoldScores) -> None:
        row = Row(
            subset=subset,
            n_dims=self.scorer.n_dims(subset),
            folds={name: scores.folds[name] for name in self.columns},
            seconds=scores.seconds,
            notes=scores.notes,
        )
        row.quality(self.metric)
        kept = scores.out_of_fold
        predictions = None if kept is None else tuple(np.asarray(fold, dtype=np.float32) for fold in kept)
        if self.sink is not None:
            self.sink.append(row, predictions)
        self.rows[subset] = row
        if predictions is not None:
            self.predictions[subset] = predictions
        self.progress.advance(TASK, 1)

    def _scores(self, subsets: Sequence[Subset]) -> Generator[FoldScores]:
        scorer = self.scorer
        if isinstance(scorer, ManyScorer):
            yield from scorer.score_many(subsets)
            return
        if not isinstance(scorer, FoldwiseScorer):
            yield from map(scorer.score, subsets)
            return
        tasks = [task for task in self._ordered(subsets) if task not in self.ready]
        ahead: list[tuple[Subset, int]] = []
        if self.timed is not None:
            ahead = [task for task in tasks if task[0] in self.timed[1]][: MEASURED_TOGETHER * self.workers]
            tasks = [*ahead, *(task for task in tasks if task not in ahead)]
        parts = self._parts(scorer, tasks)
        try:
            self._measure(parts, ahead)
            arriving = zip(tasks[len(ahead) :], parts, strict=True)
            for subset in subsets:
                wanted = [(subset, fold) for fold in range(len(scorer.n_train))]
                while any(task not in self.ready for task in wanted):
                    self.ready.update([next(arriving)])
                yield gather(self.columns, [self.ready.pop(task) for task in wanted])
        except BrokenProcessPool as error:
            raise SearchError(
                "A worker process of the search was killed, most likely because memory ran out.",
                remedy="Use fewer workers; what was scored before is kept where the search writes to a file.",
            ) from error
        finally:
            with warnings.catch_warnings():
                # Tasks are cancelled on purpose where a search is stopped; joblib takes that for waste.
                warnings.simplefilter("ignore", UserWarning)
                parts.close()

    def _ordered(self, subsets: Sequence[Subset]) -> list[tuple[Subset, int]]:
        """Return what is to be scored, in the order in which it is begun.

        A subset after the other, unless what belongs to a fold does not stay: then some of them, or all, fold by fold.
        """
        folds, size = range(len(self.scorer.n_train)), 1
        if self.folds_held and self.workers > 1:
            size = self._together(len(subsets), n_folds=len(folds))
        elif 0 < self.folds_held < len(folds):
            size = len(subsets)
        pieces = [subsets[begin : begin + size] for begin in range(0, len(subsets), size)]
        return [(subset, fold) for piece in pieces for fold in folds for subset in piece]

    def _together(self, n_subsets: int, *, n_folds: int) -> int:
        """Return how many subsets a process scores on a fold before it turns to another."""
        size = -(-n_subsets // -(-self.workers // n_folds))  # a piece at least for each process
        if self.expected is not None:
            size = min(size, int(SAVED_SECONDS * self.workers / (n_folds * self.expected.seconds_per_fit)))
        return max(size, FEWEST_TOGETHER)

    def _parts(self, scorer: FoldwiseScorer, tasks: Sequence[tuple[Subset, int]]) -> Generator[FoldPart]:
        if self.workers == 1:
            return _serial(scorer, tasks)
        if self.engine == "ray":
            return score_on_ray(scorer, tasks, address=self.ray_address)
        return _parallel(scorer, tasks, self.workers, by_fold=bool(self.folds_held))


def _serial(scorer: FoldwiseScorer, tasks: Sequence[tuple[Subset, int]]) -> Generator[FoldPart]:
    # The timed first fit has loaded every library that could start threads.
    with limit_threads(1):
        for subset, fold in tasks:
            yield scorer.score_fold(subset, fold)


def _parallel(
    scorer: FoldwiseScorer, tasks: Sequence[tuple[Subset, int]], workers: int, *, by_fold: bool = False
) -> Generator[FoldPart]:
    """Score in processes; ``by_fold``, neighbouring tasks on the same fold go to the same one together."""
    from joblib import Parallel, delayed, parallel_config

    turns = itertools.groupby(tasks, key=operator.itemgetter(1)) if by_fold else ((task[1], [task]) for task in tasks)
    pieces = [(fold, [subset for subset, _ in piece]) for fold, piece in turns]
    with (
        parallel_config(backend="loky", n_jobs=workers, inner_max_num_threads=1),
        Parallel(return_as="generator", max_nbytes=SHARE_BYTES, mmap_mode="r") as parallel,
    ):
        with workers_ignore_interrupts():  # the call starts the workers and gives them their first tasks
            results = parallel(delayed(_score_piece)(scorer, subsets, fold, os.getpid()) for fold, subsets in pieces)
        for found in results:
            yield from found


def _score_piece(scorer: FoldwiseScorer, subsets: Sequence[Subset], fold: int, parent: int) -> list[FoldPart]:
    _end_with(parent)
    return [scorer.score_fold(subset, fold) for subset in subsets]


@functools.cache
def _end_with(parent: int) -> None:
    """Start, once in a worker process, what ends it when its parent is killed: tasks it was given would go on."""
    exit_with_parent(parent)


def _cores() -> int:
    from joblib import cpu_count

    return max(1, int(cpu_count()))


def _columns(pool: Subset, scorer: Scorer, metric: str) -> tuple[str, ...]:
    missing = [name for name in pool if name not in scorer.encoders]
    if missing:
        raise SearchError(f"There are no embeddings of {', '.join(missing)}.", remedy="Extract them first.")
    if metric not in scorer.metrics:
        raise SearchError(
            f"The search does not compute {metric!r}.", remedy=f"Choose one of {', '.join(scorer.metrics)}."
        )
    return (metric, *(name for name in scorer.metrics if name != metric))


@dataclass(frozen=True, kw_only=True)
class SearchContext:
    """How a search is run; nothing of it changes a result.

    Attributes
    ----------
    folder : Path or None
        Where scores are kept as they come in; a killed search goes on from there.
    workers : int or None
        Processes; by default one per core.
    progress : Progress
    tell : callable
        Receives news line by line.
    yes : bool
        Whether a search of more than an hour is wanted.
    engine : {"local", "ray"}
        Where predictors are fitted while subsets are scored.
    ray_address : str or None
        Cluster for the engine ``ray``.
    device : str
        The torch device that a screen of many operations may use, as for ``ExtractOptions``.
    """

    folder: Path | None = None
    workers: int | None = None
    progress: Progress = field(default_factory=Silent)
    tell: Tell = lambda _: None
    yes: bool = False
    engine: str = "local"
    ray_address: str | None = None
    device: str = "cpu"

    @contextmanager
    def cluster(self) -> Iterator[None]:
        """Keep one connection to the Ray cluster, where there is one, for all that is scored in this context."""
        if self.engine == "ray":
            with ray_cluster(self.ray_address):
                yield
        else:
            yield

    def sink(self, name: str) -> Path | None:
        """Return the file in which the scores of one stage are kept."""
        return None if self.folder is None else self.folder / f"{name}.jsonl"

    def below(self, name: str) -> Self:
        """Return the same for a part of the search that keeps its scores in a folder of its own, without news."""
        folder = None if self.folder is None else self.folder / name
        return replace(self, folder=folder, progress=Silent(), tell=lambda _: None)
