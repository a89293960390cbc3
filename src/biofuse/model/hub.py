"""Fitted models on the Hugging Face hub.

Login, cache and endpoint are huggingface_hub's own; no token is touched here.
"""

import shutil
from dataclasses import replace
from pathlib import Path, PurePosixPath

from biofuse.core.errors import ArtifactError, HubUnreachableError
from biofuse.core.seals import listed_files
from biofuse.encoders.hub import HubFile, commit_of, download, hub_errors, is_repository, offline
from biofuse.model.folder import SEAL

README = "README.md"
"""Where the model card lies in a repository of a hub."""


def upload(folder: Path, repository: str, *, private: bool | None, revision: str | None, message: str) -> str:
    """Upload a sealed folder and return the address of the commit; see :meth:`BioFuseModel.push_to_hub`."""
    from huggingface_hub import HfApi

    wanted = _file(repository, revision or "main")
    if offline():
        raise HubUnreachableError(
            f"HF_HUB_OFFLINE forbids uploading to {repository}.", remedy="Unset it, and try again while online."
        )
    api = HfApi()
    with hub_errors(wanted):
        api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
        done = api.upload_folder(
            repo_id=repository, folder_path=folder, revision=revision, commit_message=message, repo_type="model"
        )
    return str(done.commit_url)


def download_folder(folder: Path, repository: str, *, revision: str) -> None:
    """Copy a seal and every file that it lists into an empty folder; see :meth:`BioFuseModel.from_pretrained`."""
    wanted = _file(repository, revision)
    first = download(wanted)
    # All other files are taken at the commit of the first, so that a push in between cannot mix two models.
    at = replace(wanted, revision=commit_of(first) or revision)
    # Copied out of the cache, where files are links: a model's files must lie in its folder.
    shutil.copyfile(first, folder / SEAL)
    for file in listed_files(folder, name=SEAL):
        target = folder / PurePosixPath(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(download(replace(at, file=file)), target)


def _file(repository: str, revision: str) -> HubFile:
    if not is_repository(repository):
        raise ArtifactError(
            f"{repository!r} is neither a folder nor a repository of a model hub.",
            remedy="Repositories are called owner/name.",
        )
    return HubFile(repository=repository, revision=revision, file=SEAL, encoder="a BioFuse model")
