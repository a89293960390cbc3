"""A Ray cluster to work on: the one that an address names, or one on this machine for as long as it is needed."""

import logging
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from biofuse.core.errors import BioFuseError, DependencyError, option
from biofuse.core.machine import available_memory, usable_cores

ADDRESS_VARIABLE = "RAY_ADDRESS"
"""Ray's own environment variable for the cluster to use."""

STORE_BYTES, STORE_SHARE = 2_000_000_000, 0.2
"""Most memory in which a local Ray keeps decoded images under way, and the share of the free memory that it may be.
What does not fit waits: Ray Data starts no further decode tasks. Ray would take 30 % of all memory."""

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to Ray's makers
    "RAY_DATA_USAGE_DISABLED": "1",
}
"""Environment for Ray in this process, where the user has not set something else."""

LOCAL_SETTINGS = {"RAY_BACKEND_LOG_LEVEL": "fatal"}
"""Environment in which a local Ray is started: the log of its processes is in Ray's own folder."""


def named_address(address: str | None) -> str | None:
    """Return the address of the cluster to use, given or from the environment; None means one on this machine."""
    return address or os.environ.get(ADDRESS_VARIABLE) or None


def require_ray(address: str | None = None) -> Any:
    """Import Ray, and return it.

    A local Ray listens on all network addresses of the machine, and runs what it is sent; so where no cluster is named,
    it is made to ask for a secret that only this process and those it starts know. Ray reads that when it is imported,
    for the life of the process: a program that imports Ray by itself has its own say.

    Raises
    ------
    DependencyError
        If it is not installed.
    """
    os.environ |= {name: value for name, value in SETTINGS.items() if name not in os.environ}
    if named_address(address) is None and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray.data
    except ImportError as error:
        raise DependencyError(
            f"The Ray engine needs Ray, which cannot be imported: {error}.",
            remedy=f"pip install 'biofuse-embed[ray]', or leave {option('engine', 'ray')} out.",
        ) from error
    return ray


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[None]:
    """Be connected to a Ray cluster while the context lasts.

    A connection that the program has already is used and left alone. Otherwise one is made to the address given or in
    ``RAY_ADDRESS``; without either, Ray is started on this machine, and stopped again.

    Parameters
    ----------
    address : str, optional
        As for ``ray.init``: ``host:port``, or ``auto`` for a cluster that runs on this machine.

    Raises
    ------
    DependencyError
        If Ray is not installed.
    BioFuseError
        If there is no cluster at the address.
    """
    where = named_address(address)
    ray = require_ray(address)
    if ray.is_initialized():
        with _quiet():
            yield
        return
    with _quiet():
        if where is None:
            _start(ray)
        else:
            _connect(ray, where)
        try:
            yield
        finally:
            ray.shutdown()


def cluster_resources(address: str | None = None) -> dict[str, float]:
    """Return what a cluster has of each resource, as Ray names them; a local Ray is not started for that."""
    if _is_ours(address):
        import torch

        return {"CPU": usable_cores(), "GPU": torch.cuda.device_count()}
    with ray_cluster(address):
        resources: dict[str, float] = require_ray(address).cluster_resources()
        return {name: float(amount) for name, amount in resources.items()}


def cluster_cores(address: str | None = None) -> int:
    """Return the number of cores of a cluster; a local Ray is not started for that."""
    return usable_cores() if _is_ours(address) else max(int(cluster_resources(address).get("CPU", 1)), 1)


def _is_ours(address: str | None) -> bool:
    """Tell whether Ray is to be started on this machine, and has not been."""
    ray = require_ray(address)
    return named_address(address) is None and not ray.is_initialized()


def _connect(ray: Any, where: str) -> None:
    try:
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BioFuseError(
            f"There is no Ray cluster at {where}: {str(error).splitlines()[0]}",
            remedy=f"Start one with `ray start --head`, or leave {option('ray_address')} and RAY_ADDRESS out for a "
            "local one.",
        ) from error


def _start(ray: Any) -> None:
    with _environment(LOCAL_SETTINGS):
        ray.init(
            address="local",
            num_cpus=usable_cores(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=min(STORE_BYTES, int(STORE_SHARE * available_memory())),
        )


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray Data's own news off the screen: BioFuse tells its own."""
    loggers = [logging.getLogger(name) for name in ("ray", "ray.data")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
