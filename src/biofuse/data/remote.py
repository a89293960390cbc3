"""Images on web servers and object stores, each fetched once into a bounded folder of copies on this machine.

An address in a table or a list is fetched only where ``allow_remote`` says so, and one of this machine or of a private
network only where ``allow_private`` does, too: whoever wrote a table shall not reach what only its reader can.
"""

import contextlib
import errno
import functools
import ipaddress
import itertools
import math
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from urllib.request import getproxies

from biofuse.core.errors import BioFuseError, DataError, DependencyError, DiskError, UnreadableImageError, option
from biofuse.core.files import atomic_path, disk_errors, home
from biofuse.core.hashing import digest
from biofuse.data.config import DataConfig
from biofuse.data.decoding import read_file
from biofuse.data.labels import listing
from biofuse.data.lookup import is_address

if TYPE_CHECKING:
    import aiohttp

SCHEMES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
"""Addresses that are fetched, by what they begin with, and the library that fsspec needs for them."""

ATTEMPTS = 3
"""How often a web server is asked that is busy or does not answer."""
CONNECT, SILENCE = 30, 60
"""Seconds for a connection to a web server, and for which it may then say nothing."""
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Answers of web servers that may be others a moment later (RFC 9110, RFC 8470, RFC 6585)."""
IN_USE = 24 * 3600
"""Seconds for which a copy that was read is kept whatever comes: whoever read it may read it again."""
PRIVATE = "lies on this machine or in a private network"

COPIES = "remote"
"""Folder of the copies, below :func:`biofuse.core.files.home`."""


def shown_address(address: str) -> str:
    """Return an address without its query, which may hold a signature that nobody else should read."""
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def address_names(addresses: Sequence[str]) -> list[str]:
    """Name addresses as they are shown; by a hash, too, where two of them differ in what is not shown.

    What is no address keeps its name.
    """
    shown = [shown_address(name) if is_address(name) else name for name in addresses]
    different = Counter(name for _, name in set(zip(addresses, shown, strict=True)))
    return [
        name if different[name] == 1 else f"{name}?{digest(address.encode(), size=4).hex()}"
        for address, name in zip(addresses, shown, strict=True)
    ]


def below_address(root: str, name: str) -> str:
    """Return the address of a relative name below another; one that is whole stays."""
    if is_address(name):
        return name
    return f"{root.rstrip('/')}/{quote(name) if _is_web(root) else name}"


def _is_web(address: str) -> bool:
    """Tell a web server from an object store, whose library asks again by itself."""
    return urlsplit(address).scheme.lower() in {"http", "https"}


@dataclass(frozen=True, kw_only=True)
class RemoteSource:
    """The :class:`~biofuse.data.samples.Source` of an image on another machine.

    Attributes
    ----------
    address : str
        With the signature that it may have.
    private : bool
        Whether it may be of this machine or of a private network.
    n_bytes : int
        How large all copies together may be.
    """

    address: str = field(repr=False)
    private: bool
    n_bytes: int

    @property
    def description(self) -> str:
        """The address, without a signature."""
        return shown_address(self.address)

    @property
    def name(self) -> str:
        """The file's own name."""
        return urlsplit(self.address).path.rpartition("/")[2]

    def read(self) -> bytes:
        """Read the file's bytes, from its copy where there is one.

        Raises
        ------
        UnreadableImageError
            If it is not there, may not be read, or its server does not answer.
        DiskError
            If there is no room for the copy.
        """
        return read_file(self.fetch())

    def fetch(self) -> Path:
        """Return the copy on this machine, made if need be; its name ends as the address does.

        Raises
        ------
        UnreadableImageError
            If it is not there, may not be read, or its server does not answer.
        DiskError
            If there is no room for the copy.
        """
        return _copies(home() / COPIES, self.n_bytes).fetch(self.address, private=self.private)


def remote_sources(addresses: Sequence[str], config: DataConfig, where: str) -> tuple[list[RemoteSource], list[str]]:
    """Return the sources of addresses, and a note of whence they are fetched; nothing is fetched here.

    Parameters
    ----------
    addresses : sequence of str
    config : DataConfig
        Whether that is allowed.
    where : str
        What names them, for messages.

    Raises
    ------
    DataError
        If it is not allowed, or an address is of another kind or holds a password.
    DependencyError
        If a library is missing.
    """
    if not addresses:
        return [], []
    first, n = shown_address(addresses[0]), len(addresses)
    if not config.allow_remote:
        raise DataError(
            f"{where}: {n} image(s) are addresses, such as {first}, which are fetched only where that is allowed.",
            remedy=f"If you trust them, give {option('allow_remote', True)}; or download them.",
        )
    for address in addresses:
        parts = urlsplit(address)
        if parts.scheme.lower() not in SCHEMES:
            raise DataError(
                f"{shown_address(address)} is an address of a kind that is not fetched.",
                remedy=f"There are {listing([f'{scheme}://' for scheme in SCHEMES])}; or download it.",
            )
        if "@" in parts.netloc:
            raise DataError(
                f"{shown_address(address)} is given with a name or a password in it.",
                remedy="Give addresses without: web servers are logged in to by a .netrc file or by signed addresses.",
            )
    _require_libraries({urlsplit(address).scheme.lower() for address in addresses})
    hosts = Counter(urlsplit(address).netloc for address in addresses)
    fetched = f"{n} image(s) are fetched from {listing([host for host, _ in hosts.most_common()])}"
    sources = [
        RemoteSource(
            address=address, private=config.allow_private, n_bytes=int(config.remote_cache * 1e9)
        )
        for address in addresses
    ]  # fmt: skip
    return sources, [f"{where}: {fetched}, each once; copies are kept in {home() / COPIES}."]


def _require_libraries(schemes: Iterable[str]) -> None:
    from importlib.util import find_spec

    missing = [name for name in dict.fromkeys(["fsspec", *(SCHEMES[each] for each in schemes)]) if not find_spec(name)]
    if missing:
        raise DependencyError(
            f"Fetching files needs {', '.join(missing)}, which is not installed.",
            remedy="pip install 'biofuse-embed[remote]'",
        )


# --- copies


class Copies:
    """Copies of remote files in one folder, the longest unread of which make way for new ones.

    Parameters
    ----------
    folder : Path
        Made if need be, for its owner only.
    n_bytes : int
        What they may take together; a single file that is larger is refused.
    """

    def __init__(self, folder: Path, n_bytes: int) -> None:
        self.folder = folder
        self.n_bytes = n_bytes
        self._held: int | None = None
        self._lock = threading.Lock()

    def fetch(self, address: str, *, private: bool) -> Path:
        """Return the copy of a file, fetched if there is none; see :meth:`RemoteSource.fetch`."""
        name = re.sub(r"[^A-Za-z0-9._-]", "_", urlsplit(address).path.rpartition("/")[2])
        path = self.folder / f"{digest(address.encode()).hex()}-{name[-LONGEST_NAME:]}"
        if path.exists():
            with disk_errors(path):
                _mark_read(path)
            return path
        with disk_errors(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            _download(address, temporary, private=private, n_bytes=self.n_bytes)
        self._make_room(path)
        return path

    def _make_room(self, new: Path) -> None:
        with self._lock, disk_errors(self.folder):
            _mark_read(new)
            if self._held is not None and self._held + new.stat().st_size <= self.n_bytes:
                self._held += new.stat().st_size
                return
            there = []
            for path in self.folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # another process has made room, too
                    there.append((path.stat().st_atime, path, path.stat().st_size))
            total, now = sum(size for _, _, size in there), time.time()
            for read, path, size in sorted(there):
                if total <= self.n_bytes:
                    break
                if now - read < IN_USE:
                    new.unlink(missing_ok=True)
                    raise DiskError(
                        f"Copies of remote files that were read within a day take all of their "
                        f"{self.n_bytes / 1e9:g} GB in {self.folder}.",
                        remedy=_more_room(total),
                    )
                path.unlink(missing_ok=True)
                total -= size
            self._held = total


LONGEST_NAME = 80
"""Characters of a file's own name in that of its copy."""

_copies = functools.lru_cache(maxsize=8)(Copies)
"""One per folder and process, which knows about how large it is."""


def _mark_read(path: Path) -> None:
    """Note when a copy was read, which many disks do not; when it was written stays."""
    now = path.stat()
    os.utime(path, ns=(time.time_ns(), now.st_mtime_ns))


# --- the network


def _download(address: str, path: Path, *, private: bool, n_bytes: int) -> None:
    for attempt in itertools.count(1):
        try:
            _file_system(address, private=private).get_file(address, str(path), callback=_meter(address, n_bytes))
        except BioFuseError:
            raise
        except Exception as error:  # every store has errors of its own
            if attempt == ATTEMPTS or not (_is_web(address) and _is_passing(error)):
                # Not "from error": the libraries' own words may hold the address with its signature.
                raise _refusal(address, error) from None
            time.sleep(attempt)
        else:
            return


def _meter(address: str, most: int) -> Any:
    """Return what stops a download that is larger than all copies may be."""
    from fsspec.callbacks import Callback

    def refuse(size: int | None, n_bytes: int) -> None:
        if max(size or 0, n_bytes) > most:
            raise DiskError(
                f"{shown_address(address)} is larger than all copies of remote files may be ({most / 1e9:g} GB).",
                remedy=_more_room(max(size or 0, n_bytes)),
            )

    return Callback(hooks={"size": refuse})


def _more_room(n_bytes: int) -> str:
    return f"Allow more: {option('remote_cache', math.ceil(n_bytes / 1e9) * 2)}."


def _file_system(address: str, *, private: bool) -> Any:
    import fsspec

    scheme = urlsplit(address).scheme.lower()
    if not _is_web(address):
        return fsspec.filesystem(scheme)
    import aiohttp

    # The file as it lies there: not unpacked on the way, and the address as it was signed.
    client = {
        "timeout": aiohttp.ClientTimeout(total=None, sock_connect=CONNECT, sock_read=SILENCE),
        "headers": {"Accept-Encoding": "identity"},
        "auto_decompress": False,
        "trust_env": True,
    }
    guard = {} if private else {"get_client": _public_client}
    return fsspec.filesystem(scheme, client_kwargs=client, encoded="%" in address, **guard)


async def _public_client(**chosen: Any) -> "aiohttp.ClientSession":
    import aiohttp

    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=_public_socket), **chosen)


def _public_socket(where: tuple[Any, ...]) -> socket.socket:
    """Open a socket to a public address or to the user's proxy: here redirects end, too, and names that change."""
    family, kind, protocol, _, (host, *_) = where
    address = ipaddress.ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    if not address.is_global and host not in _proxies():
        raise OSError(errno.ENETUNREACH, PRIVATE)
    return socket.socket(family, kind, protocol)


def _proxies() -> set[str]:
    hosts = {host for proxy in getproxies().values() if (host := urlsplit(proxy).hostname)}
    return {str(where[0]) for host in hosts for *_, where in socket.getaddrinfo(host, None)}


def _status(error: Exception) -> int | None:
    said = getattr(error, "status", None) or getattr(error, "code", None)
    return int(said) if isinstance(said, int) or (isinstance(said, str) and said.isdecimal()) else None


def _is_passing(error: Exception) -> bool:
    if isinstance(error, FileNotFoundError | PermissionError) or PRIVATE in str(error):
        return False
    return _status(error) in PASSING or isinstance(error, TimeoutError | OSError) or "Payload" in type(error).__name__


def _refusal(address: str, error: Exception) -> UnreadableImageError:
    """Say in words of ours why a file could not be fetched."""
    shown, status, kind = shown_address(address), _status(error), type(error).__name__
    if PRIVATE in str(error):
        return UnreadableImageError(
            f"{shown}: {PRIVATE}.", remedy=f"If it is meant to be fetched: {option('allow_private', True)}."
        )
    if isinstance(error, FileNotFoundError) or status in {404, 410}:
        return UnreadableImageError(f"{shown}: is not there (404).", remedy="Correct the address.")
    if isinstance(error, PermissionError) or status in {401, 403} or "Credential" in kind:
        return UnreadableImageError(f"{shown}: may not be read ({status or 403}).", remedy=_log_in(address))
    if status is not None:
        return UnreadableImageError(f"{shown}: the server answered {status}.", remedy="Try again later.")
    if isinstance(error, TimeoutError):
        return UnreadableImageError(
            f"{shown}: the server said nothing for {SILENCE} s.", remedy="Try again later, or download it."
        )
    said = str(error).replace(address, shown).partition("?")[0].strip().rstrip(".") or kind
    return UnreadableImageError(f"{shown}: cannot be fetched: {said}.", remedy="Check the address and the connection.")


def _log_in(address: str) -> str:
    return {
        "s3": "AWS's own variables and files say who you are; for public buckets set FSSPEC_S3_ANON=true.",
        "gs": "Log in with `gcloud auth application-default login`; for public buckets set FSSPEC_GS_TOKEN=anon.",
    }.get(urlsplit(address).scheme.lower(), "A .netrc file may say who you are; a signed address may have expired.")
