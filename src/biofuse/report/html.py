"""A page of tables as one HTML file: no script, no network, readable in print, light and dark."""

import base64
import hashlib
import importlib.metadata
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biofuse.core.files import write_text
from biofuse.report.content import Column, Points, Report
from biofuse.report.draw import Table, make_figure


def render_page(
    title: str, tables: Sequence[Table], *, lead: Sequence[str] = (), links: Mapping[str, str] | None = None
) -> str:
    """Return a whole HTML document.

    Parameters
    ----------
    title : str
    tables : sequence of Table
    lead : sequence of str
        Paragraphs before the first table.
    links : mapping of str to str, optional
        Other pages that belong to it: what they are called, and their relative addresses.
    """
    version = importlib.metadata.version("biofuse-embed")
    page = _template("tables.html.j2").render(title=title, lead=lead, links=links or {}, tables=tables, version=version)
    return str(page)


def render_tables(tables: Sequence[Table]) -> str:
    """Return the tables alone, for a notebook."""
    return str(_template("macros.html.j2").module.tables_of(tables))


def _template(name: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("biofuse.report", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


FOLDER = "templates"
"""Where the page's template, style and script lie in this package."""


def write_html(report: Report, path: Path) -> Path:
    """Write a report atomically and return its path.

    Raises
    ------
    DiskError
        If it cannot be written.
    """
    write_text(path, render_html(report))
    return path


def render_html(report: Report) -> str:
    """Return the page.

    What is in it may come from anywhere, class names and file names among it: all of it is escaped, and a content
    security policy lets no script run but the two that are meant, and nothing be fetched from anywhere.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=PackageLoader("biofuse.report", FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    plotly, script, style = get_plotlyjs(), _read("report.js"), _read("report.css")
    return environment.get_template("report.html.j2").render(
        report=report,
        figures=embedded_json(_figures(report)),
        plotly=plotly,
        script=script,
        style=style,
        policy=_policy(plotly, script),
        Points=Points,
    )


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
        sheet = chart.body.sheet if isinstance(chart.body, Points) else None
        found[chart.id] = {"data": figure["data"], "layout": figure["layout"]}
        if sheet is not None:
            found[chart.id]["sheet"] = {
                "source": sheet.source, "columns": sheet.columns, "rows": sheet.rows, "side": sheet.side,
            }  # fmt: skip
    return found


def _cell(value: Any, column: Column) -> str:
    return column.text(value)


def _read(name: str) -> str:
    return (importlib.resources.files("biofuse.report") / FOLDER / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {hashes}"
