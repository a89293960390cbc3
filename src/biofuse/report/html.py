"""Pages: a run's report, plain pages of tables, the page of a service. One file each; none fetches from elsewhere."""

import base64
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import metadata, resources
from typing import Any

from biofuse.core.errors import in_command_words
from biofuse.report.content import Cell, Chapter, Gallery, Report, ScatterPlot, Section, Table
from biofuse.report.draw import DARK, DARK_PALETTE, LIGHT, PALETTE, css_variables, make_figure
from biofuse.report.input import ReportInput
from biofuse.report.plates import Plate
from biofuse.report.sections import (
    bags,
    choice,
    curve,
    data,
    maps,
    novelty,
    operating,
    results,
    risks,
    subgroups,
    trust,
    values,
)

PARTS: tuple[tuple[str, tuple[Callable[[ReportInput], Section | None], ...]], ...] = (
    (
        "On test data",
        (
            results.results_section,
            values.values_section,
            risks.risks_section,
            operating.operating_section,
            results.mistakes_section,
            bags.bags_section,
            trust.trust_section,
            subgroups.subgroups_section,
            novelty.novelty_section,
        ),
    ),
    (
        "The choice",
        (
            choice.leaderboard_section,
            choice.contribution_section,
            choice.cost_section,
            curve.curve_section,
        ),
    ),
    ("The data", (data.data_section, maps.map_section)),
    ("Provenance", (data.provenance_section,)),
)
"""The page after its answer, in the order in which it is read: a section that has nothing to say of a run is None."""


def build_report(given: ReportInput) -> Report:
    """Say everything there is to say about a run.

    Raises
    ------
    ArtifactError
        If a file of the run does not belong to the others.
    """
    record = given.record
    made = f"fitted with BioFuse {record.version} on {record.started[:10]}"
    return Report(
        title=f"{given.title}: which encoders serve best",
        subtitle=f"Run {given.name}, {record.task}, {len(given.pool)} encoders, {made}",
        answer=choice.answer(given),
        facts=choice.facts(given),
        picture=choice.picture(given),
        parts=tuple(
            Chapter(title=title, sections=tuple(filter(None, (make(given) for make in sections))))
            for title, sections in PARTS
        ),
        footer=f"Written by BioFuse {_version()}. For research; not a medical device, not for clinical use.",
    )


def render_html(report: Report) -> str:
    """Return the page.

    What is in it may come from anywhere, class names and file names among it: all of it is escaped, and a content
    security policy lets no script run but the two that are meant, and nothing be fetched from anywhere.
    """
    from plotly.offline import get_plotlyjs

    plotly, script = get_plotlyjs(), _read("report.js")
    page = _templates().get_template("report.html.j2")
    figures = embedded_json(_figures(report))
    return str(
        page.render(
            report=report, figures=figures, plotly=plotly, script=script, style=_style(), policy=_policy(plotly, script)
        )
    )


class TablePage(ABC):
    """Something that is read as tables: on a page of its own, in a notebook, or as JSON.

    The page has no script and can be read in print, in light and in dark.
    """

    @property
    @abstractmethod
    def title(self) -> str:
        """What the page is called."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """What must be known to read the tables."""

    @property
    def links(self) -> Mapping[str, str]:
        """Other pages that belong to it: what they are called, and their relative addresses."""
        return {}

    def galleries(self) -> tuple[Gallery, ...]:
        """Return the pictures that stand before the tables."""
        return ()

    def plates(self) -> Sequence[Plate]:
        """Return the figures that stand after the first table, and may be written as files."""
        return ()

    @abstractmethod
    def tables(self) -> list[Table]:
        """Return the tables, the most important one first."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""

    def to_html(self) -> str:
        """Return one self-contained page."""
        page = _templates().get_template("tables.html.j2")
        return str(page.render(page=self, version=_version(), style=_style()))

    def _repr_html_(self) -> str:
        return str(_templates().get_template("macros.html.j2").module.tables_of(self.tables()))


@dataclass(frozen=True, kw_only=True)
class ServicePage:
    """The page of a service: images are dropped on it, and it shows what the model says of them.

    Attributes
    ----------
    data : str
        What the development data are called.
    facts : mapping of str to str
        What a user should know of the model, by heading.
    several : bool
        Whether an image may have several labels.
    positive : str
        Of two classes the one that is looked for; empty where there is none.
    formats : sequence of str
        File formats that are read.
    megabytes : float
        That may be sent at a time.
    coverage : float or None
        Of the prediction set, where none is chosen; None where the model knows none.
    warning : str
        What the model is not for.
    """

    data: str
    facts: Mapping[str, str]
    several: bool
    positive: str
    formats: Sequence[str]
    megabytes: float
    coverage: float | None
    warning: str

    @property
    def coverages(self) -> tuple[float, ...]:
        """What may be chosen; none where the model knows no prediction sets."""
        return () if self.coverage is None else tuple(sorted({0.8, 0.9, 0.95, 0.99, self.coverage}))

    def to_html(self) -> str:
        """Return the page; its script asks nobody but the service that it comes from."""
        script = _read("service.js")
        settings = {"several": self.several, "positive": self.positive, "megabytes": self.megabytes}
        return str(
            _templates()
            .get_template("service.html.j2")
            .render(
                page=self,
                settings=embedded_json(settings),
                version=_version(),
                style=_style() + _read("service.css"),
                script=script,
                policy=f"{_policy(script)}; connect-src 'self'",
            )
        )


@lru_cache(maxsize=1)
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("biofuse.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_said,
    )
    environment.tests["cell_object"] = lambda value: isinstance(value, Cell)
    return environment


def _said(value: Any) -> Any:
    """Name options in a sentence as on the command line, where the commands are that a page tells to give."""
    return in_command_words(value) if type(value) is str else value


def _version() -> str:
    return metadata.version("biofuse-embed")


def _read(name: str) -> str:
    return (resources.files("biofuse.report") / "templates" / name).read_text(encoding="utf-8")


def _style() -> str:
    light, dark = css_variables(PALETTE, LIGHT), css_variables(DARK_PALETTE, DARK)
    # While it is printed a page is light: its script says when.
    colours = (
        f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root:not([data-printing]) {{ {dark} }} }}\n"
    )
    return colours + _read("report.css")


def embedded_json(value: Any) -> str:
    """Return JSON that can stand inside a ``script`` element: without any character that HTML knows."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _figures(report: Report) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for chart in report.charts:
        figure = json.loads(make_figure(chart).to_json())
        found[chart.id] = {"data": figure["data"], "layout": figure["layout"]}
        if isinstance(chart.body, ScatterPlot) and chart.body.thumbnails is not None:
            found[chart.id]["sheet"] = vars(chart.body.thumbnails)
    return found


def _policy(*scripts: str) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes}"
