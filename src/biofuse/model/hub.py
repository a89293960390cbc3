"""Models on the Hugging Face hub. Login, cache and endpoint are huggingface_hub's own; no token is touched here."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

from biofuse.core.errors import ArtifactError, HubUnreachableError
from biofuse.core.seals import listed_files
from biofuse.encoders.hub import HubFile, commit_of, download, hub_errors, is_repository, offline
from biofuse.model.card import model_card
from biofuse.model.model import SEAL, BioFuseModel

README = "README.md"
"""The model card's place in a repository."""


def push(
    model: BioFuseModel,
    repository: str,
    *,
    card: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    message: str = "Upload a BioFuse model",
) -> str:
    """Upload a model and its card; see :meth:`BioFuseModel.push_to_hub`."""
    from huggingface_hub import HfApi

    wanted = _file(repository, revision or "main", SEAL)
    if offline():
        raise HubUnreachableError(
            f"HF_HUB_OFFLINE forbids uploading to {repository}.", remedy="Unset it, and try again while online."
        )
    with tempfile.TemporaryDirectory(prefix="biofuse-") as folder:
        saved = model.save(Path(folder) / "model")
        text = card if card is not None else model_card(model, repository=repository)
        (saved / README).write_text(text, encoding="utf-8")
        api = HfApi()
        with hub_errors(wanted):
            api.create_repo(repository, private=private, exist_ok=True, repo_type="model")
            done = api.upload_folder(
                repo_id=repository, folder_path=saved, revision=revision, commit_message=message, repo_type="model"
            )
    return str(done.commit_url)


def pull(repository: str, *, revision: str = "main") -> BioFuseModel:
    """Download a model and load it; see :meth:`BioFuseModel.from_pretrained`."""
    seal = _file(repository, revision, SEAL)
    first = download(seal)
    # All other files are taken at the commit of the first, so that a push in between cannot mix two models.
    at = replace(seal, revision=commit_of(first) or revision)
    with tempfile.TemporaryDirectory(prefix="biofuse-") as name:
        folder = Path(name)
        # Copied out of the cache, where files are links: a model's files must lie in its folder.
        shutil.copyfile(first, folder / SEAL)
        for file in listed_files(folder, name=SEAL):
            target = folder / PurePosixPath(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(download(replace(at, file=file)), target)
        return BioFuseModel.load(folder)


def _file(repository: str, revision: str, file: str) -> HubFile:
    if not is_repository(repository):
        raise ArtifactError(
            f"{repository!r} is neither a folder nor a repository of a model hub.",
            remedy="Repositories are called owner/name.",
        )
    return HubFile(repository=repository, revision=revision, file=file, encoder="a BioFuse model")
