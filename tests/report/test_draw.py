"""Figures as files: one SVG and one PNG per chart, the same every time."""

import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from biofuse.core.target import Task
from biofuse.report.draw import static_figure, write_figures


@pytest.mark.slow
def test_every_chart_becomes_an_svg_and_a_png(make_run: Callable[..., Any], tmp_path: Path) -> None:
    charts = make_run().report.charts
    written = write_figures(charts, tmp_path / "figures")
    assert {path.name for path in written} == {f"{chart.id}.{kind}" for chart in charts for kind in ("svg", "png")}
    for path in written:
        if path.suffix == ".svg":
            assert ET.parse(path).getroot().tag.endswith("svg")  # noqa: S314 - written here
        else:
            picture = Image.open(path)
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            pixels = np.asarray(picture.convert("L"))
            assert pixels.shape[1] > 1200
            assert pixels.std() > 5


@pytest.mark.slow
def test_equal_figures_are_equal_files(make_run: Callable[..., Any], tmp_path: Path) -> None:
    charts = make_run().report.charts[:3]
    first, second = write_figures(charts, tmp_path / "a"), write_figures(charts, tmp_path / "b")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_names_are_not_read_as_formulas(make_run: Callable[..., Any], tmp_path: Path) -> None:
    made = make_run(classes=("a_$x^2$", "b $\\frac", "<b>c</b>"), task=Task.MULTICLASS)
    chart = next(chart for chart in made.report.charts if chart.id == "confusion")
    write_figures([chart], tmp_path)
    assert "a_$x^2$" in (tmp_path / "confusion.svg").read_text()


def test_curves_of_the_files_are_those_of_the_page(make_run: Callable[..., Any]) -> None:
    chart = next(chart for chart in make_run().report.charts if chart.id == "roc")
    drawn = static_figure(chart).axes[0].get_lines()[1:]
    for line, own in zip(drawn, chart.body.lines, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), own.x)
        np.testing.assert_array_equal(line.get_ydata(), own.y)
