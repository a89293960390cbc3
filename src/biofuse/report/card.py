"""The model card of a run."""

from pathlib import Path

from biofuse.core.files import write_text
from biofuse.model import BioFuseModel
from biofuse.model.card import model_card
from biofuse.report.comparison import RunSummary

README = "README.md"


def card_of_run(path: Path | str, *, repository: str = "OWNER/NAME") -> str:
    """Return the model card of a finished run; its test scores are those of its last evaluation.

    Raises
    ------
    ArtifactError
        If there is no complete run at ``path``, or it is damaged.
    """
    summary = RunSummary.read(Path(path))
    model = BioFuseModel.load(path)
    record = summary.record.model_dump(mode="json")
    return model_card(model, run=record, metrics=summary.metrics, repository=repository)


def write_card(path: Path | str, *, out: Path | None = None, repository: str = "OWNER/NAME") -> Path:
    """Write the model card of a run, into the run by default, and return where it is.

    Raises
    ------
    ArtifactError
        As for :func:`card_of_run`.
    DiskError
        If it cannot be written.
    """
    target = out or Path(path) / README
    write_text(target, card_of_run(path, repository=repository))
    return target
