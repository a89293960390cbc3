"""Content addresses (BLAKE2b of bytes and of canonical JSON), and random numbers and orders derived from names."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.core.files import open_regular

CHUNK = 1 << 20
"""Bytes read at a time when a file is hashed."""


def digest(*parts: bytes, size: int = 16) -> bytes:
    """Hash byte strings so that no two different sequences of parts collide by concatenation.

    Parameters
    ----------
    *parts : bytes
        What to hash, in order.
    size : int, default 16
        Length of the result in bytes (BLAKE2b-128 by default).
    """
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def digest_bytes(data: bytes | memoryview, *, size: int = 16) -> str:
    """Hexadecimal BLAKE2b of a byte string; equals :func:`digest_file` of a file with these bytes."""
    return hashlib.blake2b(data, digest_size=size).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Encode a JSON value so that equal values give equal bytes: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest_json(value: Any, *, size: int = 16) -> str:
    """Hexadecimal hash of a JSON value, independent of key order."""
    return digest(canonical_json(value), size=size).hex()


def digest_file(path: Path, *, algorithm: str = "blake2b", size: int = 16) -> str:
    """Hexadecimal hash of a file's bytes, read in pieces.

    Parameters
    ----------
    path : Path
        The file.
    algorithm : {"blake2b", "sha256", "md5"}
        ``sha256`` is what model hubs publish; ``md5`` is what MedMNIST publishes.
    size : int, default 16
        Length in bytes for ``blake2b``; the others have a fixed length.
    """
    state: hashlib._Hash | hashlib.blake2b
    if algorithm == "blake2b":
        state = hashlib.blake2b(digest_size=size)
    else:
        state = hashlib.new(algorithm, usedforsecurity=algorithm != "md5")
    with open_regular(path) as file:
        while chunk := file.read(CHUNK):
            state.update(chunk)
    return state.hexdigest()


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


def hash_order(keys: list[str], seed: int | None = None) -> NDArray[np.int64]:
    """Order keys pseudo-randomly by a hash of key and seed, if any, so that shuffled input gives the same order.

    Returns
    -------
    ndarray of int64, shape (n,)
        Indices that sort the keys.
    """
    salt = [] if seed is None else [str(seed).encode()]
    hashes = [digest(*salt, key.encode()) for key in keys]
    return np.array(sorted(range(len(keys)), key=lambda index: (hashes[index], keys[index])), dtype=np.int64)


CONTENT_BYTES = 16
"""Length of a content hash (BLAKE2b-128)."""


Contents = NDArray[np.bytes_]
"""Content hashes as fixed-width bytes, dtype ``S16``, shape (n,); empty (zeros) where an image has none.

To be compared and indexed as an array: numpy strips zero bytes from the end of a single item.
"""


def no_contents(n: int) -> Contents:
    """Return ``n`` empty content hashes."""
    return np.zeros(n, dtype=f"S{CONTENT_BYTES}")


def to_hex(contents: Contents) -> list[str]:
    """Write content hashes as text, for files and people; an empty one is an empty text."""
    raw, width = contents.tobytes().hex(), 2 * contents.dtype.itemsize
    texts = [raw[start : start + width] for start in range(0, len(raw), width)]
    return [text if known else "" for text, known in zip(texts, (contents != b"").tolist(), strict=True)]


def from_hex(texts: Iterable[str]) -> Contents:
    """Read what :func:`to_hex` has written, shape (n,)."""
    return np.array([bytes.fromhex(text) for text in texts], dtype=f"S{CONTENT_BYTES}")
