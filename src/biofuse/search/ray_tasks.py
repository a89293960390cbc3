"""The fits of a search on a Ray cluster."""

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from biofuse.core.errors import BioFuseError, SearchError
from biofuse.extract.ray_cluster import cluster_cores, ray_cluster
from biofuse.heads.threads import limit_threads
from biofuse.search.scorer import FoldPart, FoldwiseScorer
from biofuse.search.subsets import Subset

AHEAD = 4
"""Tasks given to Ray per core before their results are taken: enough to keep it busy, few enough to be stopped."""


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
        As for :func:`biofuse.extract.ray_cluster.ray_cluster`.

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

        remote = ray.remote(_score_fold).options(num_cpus=1)
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


def _score_fold(scorer: FoldwiseScorer, subset: Subset, fold: int) -> FoldPart | BioFuseError:
    try:
        # The first call may load the libraries whose threads are to be limited; those obey the environment that Ray
        # sets for a task of one core.
        with limit_threads(1):
            return scorer.score_fold(subset, fold)
    except BioFuseError as error:
        # As a value: Ray would wrap what is raised in an error of its own.
        return error


__all__ = ["score_on_ray"]
