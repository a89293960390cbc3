"""The page of a service in a browser: images are dropped on it, and it says what the model says of them."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from biofuse.api.serve import create_app
from biofuse.api.service.served import Served

pytestmark = [pytest.mark.slow, pytest.mark.allow_hosts(["127.0.0.1"])]

DESKTOP, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def fitted(quick: Any, draw: Any, study: SimpleNamespace) -> Any:
    """Return a fit of two classes, of which one is looked for, with its run directory."""
    draw(study.root / "two", classes=("benign", "malignant"), each=16)
    return (
        quick(("t_colour", "t_edge"), head="ridge")
        .fit(study.root / "two", out=study.root / "two-run", progress=False)
        .result_
    )


@pytest.fixture
def address(fitted: Any) -> Iterator[str]:
    """Serve it on loopback."""
    config = uvicorn.Config(create_app(Served.load(fitted.run.path)), port=0, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@pytest.fixture
def visit(chromium: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Return a function that opens an address of the service; nothing may have been asked of anybody else."""
    contexts, requests, complaints = [], [], []

    def go(path: str = "", size: dict[str, int] = DESKTOP, **options: Any) -> Any:
        context = chromium.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address + path)
        if page.locator("script").count():
            page.wait_for_selector("html[data-ready]")
        return page

    yield go
    for context in contexts:
        context.close()
    assert [text for text in complaints if "the server responded with a status of 415" not in text] == []
    assert [url for url in requests if not url.startswith((address, "data:", "blob:"))] == []


@pytest.fixture
def sent(study: SimpleNamespace, tmp_path: Path) -> list[Path]:
    """Return a benign image, a malignant one, and a text whose name would be markup."""
    images = sorted((study.root / "two").rglob("*.png"))
    (tmp_path / "<b>notes<b>.png").write_text("no image")
    return [images[0], images[-1], tmp_path / "<b>notes<b>.png"]


@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_dropped_images_are_answered_and_axe_finds_no_violation(
    visit: Callable[..., Any], violations: Callable[..., Any], sent: list[Path], size: dict[str, int], scheme: str
) -> None:
    page = visit(size=size, color_scheme=scheme)
    page.locator("#coverage").select_option("0.8")
    page.set_input_files("#files", sent)
    page.get_by_text("3 images done.", exact=True).wait_for()
    shown = page.locator("#results > li")
    for place in (0, 1):
        said = shown.nth(place).inner_text()
        assert "Most probable: " in said
        assert "such a list holds the true class for 80 %." in said
        assert ": malignant." in said or ": not malignant." in said
        assert shown.nth(place).locator("tbody tr").count() == 2
    assert "No prediction. <b>notes<b>.png: not an image of a known format" in shown.nth(2).inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert violations(page) == []
    page.get_by_role("button", name="Remove all").press("Enter")
    assert shown.count() == 0
    assert page.evaluate("document.activeElement.id") == "files"


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_page_for_programs_can_be_read(
    visit: Callable[..., Any], violations: Callable[..., Any], size: dict[str, int]
) -> None:
    page = visit("docs", size=size)
    assert "POST /predict" in page.inner_text("main")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    assert violations(page) == []
