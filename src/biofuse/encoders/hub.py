"""Files of model hubs, through huggingface_hub: its cache, login, offline mode and endpoint are used as they are.

Nothing here reads, writes or shows a token; the library sends the one it finds.
"""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub

from biofuse.core import files
from biofuse.core.errors import (
    AccessDeniedError,
    DiskError,
    EncoderError,
    HubUnreachableError,
    NotOnHubError,
    UnavailableWeightsError,
    UnknownEncoderError,
)

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+")
"""How the name of a repository on a hub looks: ``owner/name``."""

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a model repository.

    Attributes
    ----------
    repository : str
        ``owner/name``.
    revision : str
        Commit, branch or tag.
    file : str
        Path inside the repository.
    encoder : str
        Whose weights they are.
    title : str
        The model's name as its authors write it.
    page : str
        Where access is asked for; by default the repository's page.
    elsewhere : str
        What a message offers in place of a download, such as where to put the file by hand.
    gated : bool
        Whether access is known to have to be asked for.
    fetch : str
        The command that gets it where there is a network; empty: ``hf download`` of this file does.
    """

    repository: str
    revision: str
    file: str
    encoder: str
    title: str = ""
    page: str = ""
    elsewhere: str = ""
    gated: bool = False
    fetch: str = ""

    def __str__(self) -> str:
        return f"{self.file} of {self.repository} (for {self.encoder})"

    @property
    def command(self) -> str:
        """The command that downloads it, of the very revision: of another it would not be found."""
        at = "" if self.revision == "main" else f" --revision {self.revision}"
        return self.fetch or f"hf download {self.repository} {self.file}{at}"


def endpoint() -> str:
    """Return the address of the hub in use."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def offline() -> bool:
    """Tell whether the user has forbidden requests to the hub (``HF_HUB_OFFLINE``)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def is_repository(name: str) -> bool:
    """Tell whether a card's ``repository`` is one of a hub."""
    return REPOSITORY.fullmatch(name) is not None


def cached(wanted: HubFile) -> Path | None:
    """Return where the file lies in the hub's cache, or None; asks no server."""
    found = huggingface_hub.try_to_load_from_cache(wanted.repository, wanted.file, revision=wanted.revision)
    return Path(found) if isinstance(found, str) else None


def download(wanted: HubFile) -> Path:
    """Return the file in the hub's cache, downloading it first if it is not there.

    A file at a commit is taken from the cache without a request. A branch is looked up, unless offline mode is on or
    the hub cannot be asked: then what was last downloaded of it is used. A lost connection is taken up where it broke.

    Raises
    ------
    AccessDeniedError
        If the model is gated or private, and this user has no access.
    NotOnHubError
        If the repository, revision or file does not exist (any more).
    HubUnreachableError
        If the file is not in the cache, and the hub is offline, unreachable or broken.
    DiskError
        If the cache's disk is full or may not be written to.
    """
    here = cached(wanted)
    if here is not None and (COMMIT.fullmatch(wanted.revision) or offline()):
        return here
    try:
        # Asked once before the library asks, which would try for half a minute while there is no network.
        size = ask(wanted)
    except (HubUnreachableError, AccessDeniedError):
        if here is not None:
            return here
        raise
    if here is None:
        _require_space(wanted, size)
    with hub_errors(wanted):
        try:
            return Path(huggingface_hub.hf_hub_download(wanted.repository, wanted.file, revision=wanted.revision))
        except RuntimeError as error:  # what hf_xet, which fetches large files in pieces, raises
            raise unreachable(wanted, str(error).partition("\n")[0]) from error


def ask(wanted: HubFile, *, timeout: float | None = None) -> int | None:
    """Ask the hub whether it would hand out a file to this user, without downloading it.

    Parameters
    ----------
    wanted : HubFile
    timeout : float, optional
        Seconds to wait for an answer; by default ``HF_HUB_ETAG_TIMEOUT``.

    Returns
    -------
    int or None
        Its size in bytes, where the hub says so.

    Raises
    ------
    AccessDeniedError, NotOnHubError, HubUnreachableError
        As :func:`download`.
    """
    from huggingface_hub import constants

    if offline():
        page = wanted.page or f"{endpoint()}/{wanted.repository}"
        run = f"ask for access at {page}, then run" if wanted.gated else "run"
        raise HubUnreachableError(
            f"{wanted} is not on this machine, and HF_HUB_OFFLINE forbids asking for it.",
            remedy=_or(f"While online, {run} `{wanted.command}`", wanted),
        )
    with hub_errors(wanted):
        url = huggingface_hub.hf_hub_url(wanted.repository, wanted.file, revision=wanted.revision)
        found = huggingface_hub.get_hf_file_metadata(url, timeout=timeout or constants.HF_HUB_ETAG_TIMEOUT)
    return found.size


def commit_of(path: Path) -> str | None:
    """Return the commit that a file of the hub's cache belongs to; None for any other file."""
    parts = path.parts
    places = [place for place, part in enumerate(parts) if part == "snapshots"]
    commits = [parts[place + 1] for place in places if COMMIT.fullmatch(parts[place + 1])]
    return commits[-1] if commits else None


def claimed_sha256(path: Path) -> str | None:
    """Return the SHA-256 under which the hub published a file of its cache; None for a small or any other file."""
    if commit_of(path) is None or not path.is_symlink():
        return None
    blob = Path(os.path.normpath(path.parent / path.readlink()))
    return blob.name if blob.parent.name == "blobs" and SHA256.fullmatch(blob.name) else None


def _require_space(wanted: HubFile, size: int | None) -> None:
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    folder = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(folder).free
    if size is not None and size > free:
        raise DiskError(
            f"{wanted} takes {size / 1e9:.2f} GB, and {folder} has room for {free / 1e9:.2f} GB.",
            remedy="Free some space, or set HF_HOME to a folder on another disk.",
        )


@contextlib.contextmanager
def hub_errors(wanted: HubFile) -> Iterator[None]:
    """Turn what can go wrong between here and the hub into one error each that says what to do."""
    from huggingface_hub import errors

    # Whatever HTTP library this release of huggingface_hub uses, these are the roots of its errors.
    transport: tuple[type[Exception], ...] = (*errors.HfHubHTTPError.__bases__, OSError)
    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _refusal(wanted, error) from error
    except errors.HFValidationError as error:
        raise NotOnHubError(
            f"{wanted.repository!r}, which {wanted.encoder} comes from, cannot be a repository of a hub.",
            remedy="Correct the repository on its card.",
        ) from error
    except (errors.LocalEntryNotFoundError, errors.FileMetadataError, errors.OfflineModeIsEnabled) as error:
        raise unreachable(wanted, str(error).partition("\n")[0]) from error
    except transport as error:
        if isinstance(error, OSError) and error.errno is not None:
            _disk_error(wanted, error)
        raise unreachable(wanted, f"{type(error).__name__}: {error}".partition("\n")[0]) from error


def _refusal(wanted: HubFile, error: Exception) -> UnavailableWeightsError:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    login = f"hf auth login{_token_in_the_way()}"
    kind: type[UnavailableWeightsError] = NotOnHubError
    match error:
        case errors.GatedRepoError():
            kind = AccessDeniedError
            message = f"{wanted.title or wanted.encoder} is gated, and this user has no access to {wanted.repository}."
            page = wanted.page or f"{endpoint()}/{wanted.repository}"
            remedy = f"Ask for access at {page}, then log in on this machine: {login}"
        case errors.RepositoryNotFoundError():
            message = f"There is no model repository {wanted.repository} (for {wanted.encoder}), or it is private."
            remedy = f"Correct its name; if it is private, log in: {login}"
        case errors.RevisionNotFoundError():
            message = f"{wanted.repository} (for {wanted.encoder}) has no revision {wanted.revision!r} any more."
            remedy = _or("Name another revision on the card, which makes it another encoder", wanted)
        case errors.EntryNotFoundError():
            message = f"{wanted.repository} (for {wanted.encoder}) has no file {wanted.file!r} at {wanted.revision!r}."
            remedy = _or("Correct file or revision on the card", wanted)
        case errors.DisabledRepoError():
            message = f"The hub has closed {wanted.repository} (for {wanted.encoder})."
            remedy = _or(f"See {endpoint()}/{wanted.repository}", wanted)
        case _ if status in {401, 403}:
            kind = AccessDeniedError
            message = f"The hub refuses {wanted} to this user (HTTP {status})."
            remedy = f"Log in with a token that may read it: {login}"
        case _:
            return unreachable(wanted, f"it answered HTTP {status}")
    return kind(message, remedy=remedy)


def unreachable(wanted: HubFile, why: str) -> HubUnreachableError:
    """Return the error for a file that the hub could not be asked for, and why it could not."""
    return HubUnreachableError(
        f"{wanted} is not on this machine, and it could not be had from {endpoint()}: {why}",
        remedy=_or("Check the network, the proxy and HF_ENDPOINT, and try again", wanted),
    )


def _disk_error(wanted: HubFile, error: OSError) -> None:
    from huggingface_hub import constants

    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        raise DiskError(
            f"The disk is full: {wanted} does not fit under {constants.HF_HUB_CACHE}.",
            remedy="Free some space, or set HF_HOME to a folder on another disk.",
        ) from error
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        raise DiskError(
            f"Cannot write to the hub's cache {constants.HF_HUB_CACHE}: {os.strerror(error.errno).lower()}.",
            remedy="Make the folder writable, or set HF_HOME to another one.",
        ) from error


def _token_in_the_way() -> str:
    # The library prefers the variable to a login, which has sent many users looking for the wrong mistake.
    return " (HF_TOKEN is set, and is used in place of that login)" if os.environ.get("HF_TOKEN") else ""


def _or(remedy: str, wanted: HubFile) -> str:
    return f"{remedy}, or {wanted.elsewhere}." if wanted.elsewhere else f"{remedy}."


def read_json(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Raises
    ------
    EncoderError
        If it is not a JSON object.
    """
    try:
        content = files.read_json(path)
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} is not a configuration file: {error}.", remedy="Download it again.") from error
    if not isinstance(content, dict):
        raise EncoderError(f"{path} is not a configuration file: it holds no object.", remedy="Download it again.")
    return content


def read_config(
    repository: str, file: str, asked: str, *, form: str, revision: str = "main"
) -> tuple[dict[str, Any], str]:
    """Return a configuration file of a repository, and the commit it was read at.

    Raises
    ------
    UnknownEncoderError
        If what is asked for is not the name of a repository.
    UnavailableWeightsError
        If the file cannot be had.
    """
    if not is_repository(repository):
        raise UnknownEncoderError(
            f"{asked}: {repository!r} is not a model repository (owner/name).",
            remedy=f"Use {form}.",
        )
    path = download(HubFile(repository=repository, revision=revision, file=file, encoder=asked))
    return read_json(path), commit_of(path) or revision


def first_file(repository: str, revision: str, files: Sequence[str], asked: str) -> str:
    """Return the first of the files that the repository has.

    Raises
    ------
    NotOnHubError
        If it has none of them.
    """
    wanted = [HubFile(repository=repository, revision=revision, file=file, encoder=asked) for file in files]
    here = [one.file for one in wanted if cached(one) is not None]
    if here:
        return here[0]
    for one in wanted:
        try:
            ask(one)
        except NotOnHubError:
            continue
        return one.file
    raise NotOnHubError(
        f"{repository} (for {asked}) has none of the files {', '.join(files)}.",
        remedy="Register the encoder under a name of its own, with the file it has.",
    )
