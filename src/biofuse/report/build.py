"""A run's report, put together."""

import importlib.metadata
from pathlib import Path

from biofuse.core.files import write_text
from biofuse.model.card import model_card
from biofuse.model.model import BioFuseModel
from biofuse.report.compare import RunSummary
from biofuse.report.content import Report
from biofuse.report.input import Material, read_predicted
from biofuse.report.sections.answer import answer, facts
from biofuse.report.sections.data import data_section
from biofuse.report.sections.encoders import contribution_section, singles_section
from biofuse.report.sections.maps import map_section, similarity_section
from biofuse.report.sections.provenance import provenance_section
from biofuse.report.sections.results import mistakes_section, results_section
from biofuse.report.sections.search import cost_section, leaderboard_section


def build_report(material: Material) -> Report:
    """Say everything there is to say about a run.

    Raises
    ------
    ArtifactError
        If a file of the run does not belong to the others.
    """
    run, predicted = material.run, read_predicted(material)
    version = importlib.metadata.version("biofuse-embed")
    made = f"fitted with BioFuse {run.version} on {run.started[:10]}"
    return Report(
        title=f"{material.title}: which encoders serve best",
        subtitle=f"Run {material.name}, {run.task}, {len(material.pool)} encoders, {made}",
        answer=answer(material),
        facts=facts(material),
        sections=(
            data_section(material),
            leaderboard_section(material),
            singles_section(material),
            contribution_section(material),
            cost_section(material),
            similarity_section(material),
            results_section(material, predicted),
            map_section(material),
            mistakes_section(material, predicted),
            provenance_section(material),
        ),
        footer=f"Written by BioFuse {version}. For research; not a medical device, not for clinical use.",
    )


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
