"""A run's report, put together."""

import importlib.metadata

from biofuse.report.content import Report
from biofuse.report.material import Material
from biofuse.report.predictions import read_predicted
from biofuse.report.sections.answer import answer, facts
from biofuse.report.sections.data import data_section
from biofuse.report.sections.encoders import contribution_section, singles_section
from biofuse.report.sections.fusion_map import map_section
from biofuse.report.sections.mistakes import mistakes_section
from biofuse.report.sections.provenance import provenance_section
from biofuse.report.sections.results import results_section
from biofuse.report.sections.search import cost_section, leaderboard_section
from biofuse.report.sections.similarity import similarity_section


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
