"""The pages of benchmarks and comparisons in a browser."""

from pathlib import Path

import pytest

from biofuse.studies.suite import SuiteOutcome, benchmark_medmnist

pytestmark = pytest.mark.slow

SHOWN = [({"width": 1280, "height": 900}, "light"), ({"width": 390, "height": 844}, "dark")]


@pytest.fixture(scope="module")
def out(fuse, archives, tmp_path_factory):
    """Run two sets, and write both kinds of page."""
    folder = tmp_path_factory.mktemp("pages")
    outcome = benchmark_medmnist(fuse, ["octmnist", "breastmnist"], out=folder, root=archives, size=28, progress=False)
    (folder / "benchmark.html").write_text(outcome.to_html())
    (folder / "compare.html").write_text(outcome.comparison.to_html())
    own = SuiteOutcome(
        comparison=outcome.comparison, finished=outcome.finished, reused=outcome.reused, failed=outcome.failed
    )
    (folder / "own.html").write_text(own.to_html())
    return folder


@pytest.mark.parametrize("name", ["benchmark.html", "compare.html", "own.html"])
@pytest.mark.parametrize("shown", SHOWN)
def test_the_page_fits_has_no_violation_for_axe_and_needs_no_network(name, shown, out, open_page, violations):
    size, scheme = shown
    page = open_page(out / name, size, color_scheme=scheme)
    assert page.locator("table").count() >= 4
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert violations(page) == []


def test_every_run_has_its_report_and_the_page_leads_there(out, open_page):
    page = open_page(out / "benchmark.html")
    links = page.locator("nav a")
    assert links.all_text_contents() == ["octmnist", "breastmnist"]
    links.first.click()
    page.wait_for_selector("html[data-ready]")
    assert Path(page.url.removeprefix("file://")) == (out / "octmnist" / "report.html").resolve()
    assert page.locator("#subsets tbody tr").count() == 3


def test_wide_tables_scroll_by_keyboard_and_keep_their_first_column(out, open_page):
    page = open_page(out / "compare.html", {"width": 390, "height": 844})
    region = page.locator(".scroll").first
    region.focus()
    for _ in range(4):
        region.press("ArrowRight")
    page.wait_for_timeout(500)
    assert region.evaluate("region => region.scrollLeft") > 0
    head = region.locator("tbody th").first.bounding_box()
    assert head["x"] == pytest.approx(region.bounding_box()["x"], abs=2)
