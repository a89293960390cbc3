"""Random numbers that depend on names, never on the order in which things happen."""

import numpy as np

from biofuse.core.hashing import digest


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive an independent 32-bit seed from a run's seed and the name of its use.

    Parameters
    ----------
    seed : int
        The run's seed.
    *names : str or int
        What the random numbers are for, e.g. ``"bootstrap", "test"``.
    """
    return int.from_bytes(digest(str(seed).encode(), *(str(name).encode() for name in names), size=4), "little")


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`derive_seed`."""
    return np.random.default_rng(derive_seed(seed, *names))


def hash_order(keys: list[str], seed: int) -> np.ndarray:
    """Order keys pseudo-randomly by a hash of key and seed, so that shuffled input gives the same order.

    Returns
    -------
    ndarray of int64, shape (n,)
        Indices that sort the keys.
    """
    hashes = [digest(str(seed).encode(), key.encode()) for key in keys]
    return np.array(sorted(range(len(keys)), key=lambda index: (hashes[index], keys[index])), dtype=np.int64)
