"""The page in a browser: it asks the network for nothing, and answers pointer, finger and keyboard."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.slow

DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def report(make_run: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("browser") / "report.html"
    path.write_text(make_run(encoders=6, development=120, test=200).page)
    return path


def until(page: Any, condition: str, *, seconds: float = 30) -> None:
    """Wait for a condition; Playwright's own way of waiting is evaluation that the page's policy forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def walk(page: Any) -> None:
    """Open what is closed and scroll to the end, so that everything is drawn."""
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    for y in range(0, page.evaluate("document.documentElement.scrollHeight"), 1200):
        page.evaluate(f"scrollTo(0, {y})")
        page.wait_for_timeout(20)
    until(page, DRAWN)


DRAWN = "document.querySelectorAll('.plot .main-svg').length >= document.querySelectorAll('.plot').length"


@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_everything_is_drawn_fits_the_width_and_has_no_violation_for_axe(
    open_page: Callable[..., Any], violations: Callable[..., Any], report: Path, size: dict[str, int], scheme: str
) -> None:
    page = open_page(report, size, color_scheme=scheme)
    if size is DESKTOP:  # the answer, test results, operating points and mistakes
        assert page.evaluate("document.getElementById('mistakes').getBoundingClientRect().bottom") < 4000
    walk(page)
    assert page.locator(".plot").count() >= 10
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert page.evaluate(
        "[...document.querySelectorAll('main img')].every(image => image.complete && image.naturalWidth > 0)"
    )
    assert violations(page) == []


def first_column(page: Any) -> list[str]:
    return page.locator("#subsets tbody tr:not([hidden]) th").all_inner_texts()


def numbers(page: Any, column: int) -> list[float]:
    return page.evaluate(
        "column => [...document.querySelectorAll('#subsets tbody tr')].map(row => "
        "row.cells[column].querySelector('data')).filter(Boolean).map(cell => Number(cell.value))",
        column,
    )


def test_the_leaderboard_sorts_by_number_and_by_name(open_page: Callable[..., Any], report: Path) -> None:
    page = open_page(report)
    head = page.locator("#subsets thead th").nth(4)
    button = head.locator("button")
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    values = numbers(page, 4)
    assert values == sorted(values, reverse=True)
    assert len(values) < 63  # the others were only screened, and come last
    assert page.locator("#subsets tbody tr").last.locator("td").nth(3).inner_text() == ""
    button.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert numbers(page, 4) == sorted(values)
    page.locator("#subsets thead th button").first.click()
    assert head.get_attribute("aria-sort") is None
    names = page.locator("#subsets tbody th").all_text_contents()
    assert names == sorted(names)


def test_the_leaderboard_filters_by_words(open_page: Callable[..., Any], report: Path) -> None:
    page = open_page(report)
    box = page.get_by_role("searchbox").first
    assert len(first_column(page)) == 10
    page.get_by_role("button", name="Show all 63").click()
    assert len(first_column(page)) == 63
    box.fill("encoder_2 encoder_4 -encoder_0")
    shown = first_column(page)
    assert len(shown) == 2**3
    assert all("encoder_2" in name and "encoder_4" in name and "encoder_0" not in name for name in shown)
    assert page.locator("#leaderboard .tools output").inner_text() == "8 of 8 rows shown (63 in all)"
    box.fill("best single")
    assert len(first_column(page)) == 1


def test_pointing_at_a_sample_shows_its_image(open_page: Callable[..., Any], report: Path) -> None:
    page = open_page(report)
    plot = page.locator("[data-figure=map]")
    plot.scroll_into_view_if_needed()
    page.wait_for_selector("[data-figure=map] .main-svg .point")
    page.wait_for_timeout(300)
    where = plot.evaluate(
        "plot => { const { xaxis, yaxis } = plot._fullLayout; const box = plot.getBoundingClientRect(); "
        "const trace = plot.data[plot.data.length - 1]; "
        "return [box.left + xaxis._offset + xaxis.l2p(trace.x[0]), box.top + yaxis._offset + yaxis.l2p(trace.y[0]), "
        "trace.text.length]; }"
    )
    page.mouse.move(where[0] - 30, where[1] - 30)
    page.mouse.move(where[0], where[1], steps=4)
    tip = page.locator("#tip")
    tip.wait_for(state="visible")
    assert ".png: " in tip.inner_text()
    image = tip.locator(".tile").evaluate("tile => getComputedStyle(tile).backgroundImage")
    assert image.startswith('url("data:image/jpeg;base64,')
    page.mouse.move(5, 5)
    tip.wait_for(state="hidden")


def test_arrow_keys_step_through_the_samples(open_page: Callable[..., Any], report: Path) -> None:
    page = open_page(report)
    plot = page.locator("[data-figure=map]")
    plot.scroll_into_view_if_needed()
    page.wait_for_selector("[data-figure=map] .main-svg .point")
    page.wait_for_timeout(300)
    plot.focus()
    plot.press("ArrowRight")
    first = page.locator("#said").text_content()
    plot.press("ArrowRight")
    second = page.locator("#said").text_content()
    assert first
    assert second
    assert first != second
    assert page.locator("#tip").is_visible()
    plot.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_an_image_is_enlarged_and_the_next_one_too(open_page: Callable[..., Any], report: Path) -> None:
    page = open_page(report)
    images = page.locator("#mistakes .enlarge img")
    images.first.click()
    zoom = page.locator("#zoom")
    assert zoom.locator("img").get_attribute("src") == images.first.get_attribute("src")
    assert zoom.locator("img").bounding_box()["width"] > 2 * images.first.bounding_box()["width"]
    assert zoom.locator("figcaption").inner_text() in page.locator("#mistakes figcaption").all_inner_texts()
    page.keyboard.press("ArrowRight")
    assert zoom.locator("img").get_attribute("src") == images.nth(1).get_attribute("src")
    page.keyboard.press("Escape")
    assert zoom.is_hidden()


def test_a_figure_is_saved_at_300_dots_per_inch(open_page: Callable[..., Any], report: Path, tmp_path: Path) -> None:
    page = open_page(report)
    page.locator("[data-figure=roc]").scroll_into_view_if_needed()  # figures are drawn when they are near
    page.locator("[data-figure=roc] .main-svg").first.wait_for()
    with page.expect_download() as saved:
        page.locator("[data-save=roc]").click()
    saved.value.save_as(tmp_path / "roc.png")
    assert Image.open(tmp_path / "roc.png").width == pytest.approx(6.5 * 300, abs=2)


def test_colours_follow_the_theme(open_page: Callable[..., Any], report: Path) -> None:
    page = open_page(report, color_scheme="light")
    page.locator("[data-figure=roc]").scroll_into_view_if_needed()
    page.wait_for_selector("[data-figure=roc] .main-svg")
    colour = "document.querySelector('[data-figure=roc]')._fullLayout.font.color"
    before = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    until(page, f"{colour} !== {before!r}")


def test_it_prints_on_white_with_every_figure(open_page: Callable[..., Any], report: Path, tmp_path: Path) -> None:
    page = open_page(report, color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    until(page, DRAWN)
    assert page.evaluate("document.querySelector('[data-figure=roc]')._fullLayout.font.color") == "#1b1f24"
    printed = page.pdf(path=tmp_path / "report.pdf")
    assert printed.startswith(b"%PDF")
    assert len(printed) > 100_000


def test_names_that_look_like_html_are_shown_as_they_are(
    open_page: Callable[..., Any], make_run: Callable[..., Any], tmp_path: Path
) -> None:
    classes = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<b>a&b</b>")
    (tmp_path / "report.html").write_text(make_run(classes=classes).page)
    page = open_page(tmp_path / "report.html")
    page.on("dialog", lambda _: pytest.fail("a name was run as a script"))
    page.locator("[data-figure=confusion]").scroll_into_view_if_needed()
    page.wait_for_selector("[data-figure=confusion] .ytick text")
    labels = page.locator("[data-figure=confusion] .ytick text").all_text_contents()
    assert "<b>a&b</b>" in labels
    assert page.locator("[data-figure=confusion] .ytick b").count() == 0


def test_a_large_report_opens_with_every_subset_and_2000_points(
    open_page: Callable[..., Any], large_page: Path
) -> None:
    # How quickly is measured by perf/report.py; here it may only not take for ever on a busy machine.
    start = time.perf_counter()
    page = open_page(large_page)
    assert time.perf_counter() - start < 30
    assert page.locator("#subsets tbody tr").count() == 511
    page.locator("[data-figure=map]").scroll_into_view_if_needed()
    page.wait_for_selector("[data-figure=map] .main-svg .point")
    assert page.evaluate("document.querySelector('[data-figure=map]').data.reduce((n, t) => n + t.x.length, 0)") == 2000


@pytest.mark.slow
def test_what_is_written_on_a_heat_map_can_be_read(open_page: Callable[..., Any], report: Path) -> None:
    """WCAG 2 asks for a contrast of 4.5."""
    for scheme in ("light", "dark"):
        page = open_page(report, color_scheme=scheme)
        for name in ("similarity", "confusion"):
            page.locator(f"[data-figure={name}]").scroll_into_view_if_needed()
            page.wait_for_selector(f"[data-figure={name}] .heatmap-label text")
            assert min(page.locator(f"[data-figure={name}]").evaluate(CONTRASTS)) >= 4.5, (scheme, name)


CONTRASTS = """plot => {
  const [trace, layout] = [plot.data[0], plot._fullLayout];
  const light = (parts) => {
    const linear = (share) => (share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = parts.map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const hex = (colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
  const stops = trace.colorscale.map(([at, colour]) => [at, hex(colour)]);
  const behind = (value) => {
    const at = Math.max(0, Math.min(1, (value - trace.zmin) / (trace.zmax - trace.zmin)));
    const place = Math.max(1, stops.findIndex(([stop]) => stop >= at));
    const [[from, a], [to, b]] = [stops[place - 1], stops[place]];
    return a.map((part, index) => part + (b[index] - part) * (at - from) / (to - from));
  };
  const cells = trace.z.flatMap((row, i) => row.map((value, j) => [trace.text[i][j], value]));
  const byText = new Map(cells.filter(([text, value]) => value !== null && text));
  return [...plot.querySelectorAll(".heatmap-label text")].map((element) => {
    const ink = light(numbers(getComputedStyle(element).fill));
    const ground = light(behind(byText.get(element.textContent.replace("\u2212", "-"))));
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
  });
}"""
