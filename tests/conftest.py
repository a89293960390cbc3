"""Fixtures that several packages' tests share. None of them reads or writes outside temporary folders and shared/."""

import base64
import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Processes of tests side by side share the cores. Libraries that take all of them in each process wait for one another,
# which makes the algebra of torch twenty times as slow; they read the first when they are imported. By the second,
# BioFuse starts only as many workers as a test asks for, or as its share of the cores: each has libraries to load.
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    _cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _share = max(1, _cores // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(_share))
    os.sched_getaffinity = lambda _: set(range(_share))

import hypothesis
import numpy as np
import pytest
from PIL import Image

from biofuse.blocks.blocks import Blocks
from biofuse.core.hashing import digest_file
from biofuse.core.machine import usable_cores
from biofuse.core.seals import write_sealed
from biofuse.core.target import Task
from biofuse.data.samples import Samples
from biofuse.encoders.registry import get_card
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.search.config import SearchConfig
from biofuse.search.problem import Problem
from biofuse.search.rules import Budget
from biofuse.search.runner import SearchContext
from biofuse.search.search import Search
from biofuse.search.search import run as run_search

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
"""Real images that lie beside the repository where the project is developed; absent elsewhere."""

SEALED = {
    "leaderboard.parquet", "screen.parquet", "samples.parquet", "quarantine.csv", "metrics.json",
    "predictions.parquet", "quarantine-evaluate.csv", "model.json",
}  # fmt: skip
"""Files of a run that its record seals."""

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # read when huggingface_hub is imported, which test modules may do before any fixture
)
os.environ.pop("BIOFUSE_WEIGHTS_DIR", None)
# How long an example takes says what else the machine does.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")
# Rich reads the width of a console once, when it is made; tests set their own afterwards. pytest-xdist sets one.
os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep fixtures of wider scope out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIOFUSE_HOME", str(tmp_path_factory.mktemp("biofuse-home")))
        yield


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give names of folders: pytest's own way looks at all that are there, of which there are thousands."""
    root = tmp_path_factory.mktemp("homes")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def biofuse_home(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty store of its own, outside its ``tmp_path``: no test sees another's embeddings."""
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("BIOFUSE_HOME", str(home))
    return home


# --- Ray: one cluster for all tests that need it, which run first and one after another

_CLUSTER = ExitStack()


@pytest.fixture
def ray(socket_enabled: None) -> Any:
    """Return Ray on two cores of this machine; mark the test ``enable_socket``: its processes talk over sockets."""
    if importlib.util.find_spec("ray") is None:  # not imported: ray_cluster has something to say to it before
        pytest.skip("ray is not installed")
    from biofuse.core import ray as clusters

    if not _CLUSTER._exit_callbacks:
        patch = _CLUSTER.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(clusters, "usable_cores", lambda: 2)
        # Workers that wait are kept for the next test: each that is started imports everything again.
        patch.setenv("RAY_idle_worker_killing_time_threshold_ms", "600000")
        _CLUSTER.enter_context(clusters.ray_cluster())
    return clusters.require_ray()


def pytest_xdist_auto_num_workers() -> int:
    """Run tests in one process more than there are cores: many of them wait for a process, a browser or a kill."""
    return usable_cores() + 1


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Stop the cluster after the last test that needs it."""
    yield
    if nextitem is None or "ray" not in getattr(nextitem, "fixturenames", ()):
        _CLUSTER.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run what takes long first, so that cores end together; files stay whole, since their tests share fixtures."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: ("ray" not in getattr(item, "fixturenames", ()), item.path not in slow))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images beside the repository; skip where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"no real images at {os.path.relpath(SHARED)}")
    return SHARED


@pytest.fixture(scope="session")
def reseal() -> Callable[..., None]:
    """Return a function that makes what a test has changed in a run directory pass for what was written."""

    def write(folder: Path, **changes: Any) -> None:
        record = json.loads((folder / "run.json").read_text()) | changes
        record.pop("checksum", None)
        there = [path for path in folder.rglob("*") if path.name in SEALED]
        files = {path.relative_to(folder).as_posix(): digest_file(path) for path in there}
        write_sealed(folder / "run.json", record | {"files": files})

    return write


class Watching:
    """Progress that remembers totals and counts."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.counts: Counter[str] = Counter()

    def begin(self, task: str, total: int) -> None:
        self.totals[task] = total

    def advance(self, task: str, units: int) -> None:
        self.counts[task] += units


@pytest.fixture
def watching() -> Watching:
    """Return progress that can be looked at."""
    return Watching()


@pytest.fixture
def default_interrupts() -> Iterator[None]:
    """Let Ctrl-C interrupt this process and those it starts, also where it is ignored (a job in the background)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def make_images() -> Callable[..., list[Path]]:
    """Return a function that fills ``folder`` with class folders of small PNGs, learnable from their colour."""

    def make(
        folder: Path, *, classes: tuple[str, ...] = ("blue", "red"), per_class: int = 6, size: int = 24
    ) -> list[Path]:
        generator = np.random.default_rng(0)
        paths = []
        for index, name in enumerate(classes):
            (folder / name).mkdir(parents=True, exist_ok=True)
            level = 200 * index // max(len(classes) - 1, 1)
            for number in range(per_class):
                pixels = generator.integers(0, 56, size=(size, size, 3), dtype=np.uint8)
                pixels[..., 0] += np.uint8(level)
                pixels[..., 2] += np.uint8(200 - level)
                path = folder / name / f"{number:03d}.png"
                Image.fromarray(pixels).save(path)
                paths.append(path)
        return paths

    return make


TOKEN = "hf_a_token_of_the_tests"  # noqa: S105


@dataclass
class HubModel:
    """A repository of the stand-in hub: its files, who may read them, and what goes wrong when they are read."""

    files: dict[str, bytes]
    commit: str = "1" * 40
    gated: bool = False
    refuse: int | None = None
    claimed_sha256: str = ""
    claimed_size: int | None = None
    breaks_after: int | None = None


@dataclass
class StandInHub:
    """A model hub on loopback that speaks as much of the hub's protocol as downloads and small uploads need."""

    endpoint: str
    cache: Path
    models: dict[str, HubModel] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def add(self, repository: str, files: dict[str, bytes], **settings: Any) -> HubModel:
        """Publish a model."""
        self.models[repository] = HubModel(files, **settings)
        return self.models[repository]

    def asked(self, method: str) -> list[str]:
        """Paths that were asked for."""
        return [path for each, path, _ in self.requests if each == method]


def _answer(hub: StandInHub, request: BaseHTTPRequestHandler) -> None:
    headers = {name.lower(): value for name, value in request.headers.items()}
    hub.requests.append((request.command, request.path, headers))
    repository, _, rest = request.path.lstrip("/").partition("/resolve/")
    revision, _, file = rest.partition("/")
    model = hub.models.get(repository)
    if model is None:
        return _refuse(request, 404, "RepoNotFound")
    if model.refuse is not None:
        return _refuse(request, model.refuse, "")
    if model.gated and headers.get("authorization") != f"Bearer {TOKEN}":
        return _refuse(request, 403 if "authorization" in headers else 401, "GatedRepo")
    if revision not in {"main", model.commit}:
        return _refuse(request, 404, "RevisionNotFound")
    if file not in model.files:
        return _refuse(request, 404, "EntryNotFound")
    return _send(model, request, model.files[file], start=int(headers.get("range", "bytes=0-")[6:].partition("-")[0]))


def _accept(hub: StandInHub, request: BaseHTTPRequestHandler) -> None:
    """Take an upload: as much of the protocol as ``create_repo`` and ``upload_folder`` speak."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    hub.requests.append((request.command, request.path, headers))
    body = request.rfile.read(int(headers.get("content-length", "0")))
    if headers.get("authorization") != f"Bearer {TOKEN}":
        return _refuse(request, 401, "")
    place = request.path.removeprefix("/api/models/").split("/")
    repository, action = "/".join(place[:2]), place[2] if len(place) > 2 else ""
    if request.path == "/api/repos/create":
        wanted = json.loads(body)
        name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
        hub.models.setdefault(name, HubModel({}))
        return _say(request, {"url": f"{hub.endpoint}/{name}", "name": name})
    if request.path == "/api/validate-yaml":
        return _say(request, {"warnings": [], "errors": []})
    if repository not in hub.models:
        return _refuse(request, 404, "RepoNotFound")
    if action == "preupload":
        mode = {"uploadMode": "regular", "shouldIgnore": False}
        return _say(request, {"files": [{"path": file["path"], **mode} for file in json.loads(body)["files"]]})
    for line in body.splitlines():
        entry = json.loads(line)
        if entry["key"] == "file":
            hub.models[repository].files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
    commit = hub.models[repository].commit
    answer = {"success": True, "commitOid": commit, "commitUrl": f"{hub.endpoint}/{repository}/commit/{commit}"}
    return _say(request, answer)


def _say(request: BaseHTTPRequestHandler, answer: dict[str, Any]) -> None:
    content = json.dumps(answer).encode()
    request.send_response(200)
    request.send_header("Content-Type", "application/json")
    request.send_header("Content-Length", str(len(content)))
    request.end_headers()
    request.wfile.write(content)


def _refuse(request: BaseHTTPRequestHandler, status: int, code: str) -> None:
    request.send_response(status)
    if code:
        request.send_header("X-Error-Code", code)
    request.send_header("Content-Length", "0")
    request.end_headers()


def _send(model: HubModel, request: BaseHTTPRequestHandler, content: bytes, *, start: int) -> None:
    request.send_response(206 if start else 200)
    request.send_header("X-Repo-Commit", model.commit)
    request.send_header("ETag", f'"{model.claimed_sha256 or hashlib.sha256(content).hexdigest()}"')
    request.send_header("Content-Length", str(model.claimed_size or len(content) - start))
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    request.end_headers()
    if request.command == "HEAD":
        return
    if model.breaks_after is not None and not start:
        content = content[: model.breaks_after]
        request.close_connection = True
    request.wfile.write(content[start:])


@pytest.fixture
def serve() -> Iterator[Callable[[type[BaseHTTPRequestHandler]], str]]:
    """Start a server on loopback and return its address; the test has to be marked ``allow_hosts(["127.0.0.1"])``."""
    servers = []

    def start(handler: type[BaseHTTPRequestHandler]) -> str:
        quiet = type("Quiet", (handler,), {"log_message": lambda *_: None})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), quiet))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def hub(
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    serve: Callable[[type[BaseHTTPRequestHandler]], str],
) -> StandInHub:
    """Run a model hub on loopback, with an empty cache; the test has to be marked ``allow_hosts(["127.0.0.1"])``."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/api/agent-harnesses":  # huggingface_hub asks once a process, for its own purposes
                _refuse(self, 404, "")
            else:
                _answer(there, self)

        do_HEAD = do_GET  # noqa: N815

        def do_POST(self) -> None:
            _accept(there, self)

    there = StandInHub(serve(Handler), tmp_path_factory.mktemp("hub"))
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "ENDPOINT": there.endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": there.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(there.cache),
        "HF_TOKEN_PATH": str(there.cache / "no-token"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return there


# --- commands


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def everything(self) -> str:
        return self.out + self.err


@pytest.fixture
def biofuse(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Return a function that runs ``biofuse *arguments`` here as ``main`` does: with its exit codes and messages."""
    from biofuse.cli import main

    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["biofuse", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return Ran(code, said.out, said.err)

    return run


@pytest.fixture
def succeeds(biofuse: Callable[..., Ran]) -> Callable[..., Ran]:
    """Return a function that runs a command that must succeed."""

    def run(*arguments: object) -> Ran:
        ran = biofuse(*arguments)
        assert ran.code == 0, ran.everything
        assert "Traceback" not in ran.everything
        return ran

    return run


# --- pages


@dataclass(frozen=True)
class Page:
    """A page taken apart."""

    html: str
    tree: Any

    @property
    def ids(self) -> list[str]:
        return [element.get("id") for element in self.tree.iter() if element.get("id")]

    def words(self, id_: str) -> str:
        """All text of an element."""
        return " ".join("".join(self.find(id_).itertext()).split())

    def find(self, id_: str) -> Any:
        return next(element for element in self.tree.iter() if element.get("id") == id_)

    def table(self, id_: str) -> list[dict[str, Any]]:
        """Rows of a table by column: numbers in full precision where there are any, text elsewhere.

        The ends of an interval in the column ``x`` are those of ``low x`` and ``high x``.
        """
        table = self.find(id_)
        heads = ["".join(cell.itertext()) for cell in table.find("thead").find("tr")]
        rows = []
        for row in table.find("tbody").findall("tr"):
            cells = {}
            for head, cell in zip(heads, row, strict=True):
                ends = [float(end.get("value")) for end in cell.iter("data") if cell.find("span") is not None][1:]
                cells |= {head: _cell_value(cell)} | dict(zip((f"low {head}", f"high {head}"), ends, strict=False))
            rows.append(cells)
        return rows

    def figures(self) -> dict[str, Any]:
        """What the page's script draws."""
        return json.loads("".join(self.find("figures").itertext()))


def _cell_value(cell: Any) -> Any:
    number = cell.find("data")
    return "".join(cell.itertext()).strip() if number is None else float(number.get("value"))


def take_apart(html: str) -> Page:
    """Parse strictly: any error of the HTML standard raises. The library of figures is not HTML and left out."""
    import html5lib
    from plotly.offline import get_plotlyjs

    parser = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False)
    return Page(html, parser.parse(html.replace(get_plotlyjs(), "")))


@pytest.fixture(scope="session")
def parse() -> Callable[[str], Page]:
    """Return a function that takes a page apart."""
    return take_apart


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """Start a browser: ``$BIOFUSE_BROWSER``, one that is installed, or Playwright's own; skip where there is none."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as play:
        found = [os.environ.get("BIOFUSE_BROWSER"), *map(shutil.which, BROWSERS), play.chromium.executable_path]
        program = next((path for path in found if path and Path(path).exists()), None)
        if program is None:
            pytest.skip("there is no browser: install chromium, or run `playwright install chromium`")
        try:
            browser = play.chromium.launch(executable_path=program, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"{program} does not start: {error.message.splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a file; afterwards nothing may have been asked of the network or complained of."""
    contexts, requests, complaints = [], [], []

    def visit(path: Path, size: dict[str, int] | None = None, **options: Any) -> Any:
        context = chromium.new_context(viewport=size or {"width": 1280, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(path.as_uri())
        if page.locator("script").count():
            page.wait_for_selector("html[data-ready]")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.fixture(scope="session")
def violations() -> Callable[[Any], list[tuple[str, str, str]]]:
    """Return a function that lists what axe-core finds wrong with a page: rule, impact, first element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()

    def find(page: Any) -> list[tuple[str, str, str]]:
        found = axe.run(page).response["violations"]
        return [(each["id"], each["impact"], each["nodes"][0]["html"]) for each in found]

    return find


# --- searches without images: blocks that are made up


PLANTED = ("a", "b", "c", "d")
"""``a`` and ``b`` each know one bit of the label, ``d`` little of the first, and ``c`` nothing."""

SHARE = {"a": (0, 1.2), "b": (1, 1.2), "c": (0, 0.0), "d": (0, 0.3)}
"""Which bit an encoder knows, and how well."""


@dataclass(frozen=True)
class Unread:
    """A source that blows up when it is touched."""

    description: str

    def read(self):
        """Fail."""
        raise AssertionError(f"a search read {self.description}")


@pytest.fixture(scope="session")
def unread() -> type[Unread]:
    """Return the kind of source that a search must not touch."""
    return Unread


@pytest.fixture(scope="session")
def plant() -> Callable[..., EmbeddingSet]:
    """Return a function that makes up embeddings of four encoders."""

    def make(
        n=48, *, task=Task.MULTICLASS, seed=0, groups=None, val=0, noise=False, pool=PLANTED, contents=None
    ) -> EmbeddingSet:
        random = np.random.default_rng(seed)
        bits = np.array([[row // 2 % 2, row % 2] for row in range(n)])
        names = [f"s{row:03d}" for row in range(n)]
        matrices = {
            name: (
                random.normal(size=(n, 3)) + SHARE[name][1] * (not noise) * (2 * bits[:, [SHARE[name][0]]] - 1)
            ).astype(np.float32)
            for name in PLANTED
        }
        labels = {
            Task.MULTICLASS: 2 * bits[:, 0] + bits[:, 1],
            Task.ORDINAL: bits.sum(axis=1),
            Task.BINARY: bits[:, 0],
            Task.MULTILABEL: bits,
        }[task]
        n_classes = labels.shape[1] if labels.ndim == 2 else labels.max() + 1
        ids = np.array(names, dtype=object)
        hashes = [hashlib.blake2b(each.encode(), digest_size=16).digest() for each in contents or names]
        return EmbeddingSet(
            samples=Samples(
                ids=ids,
                sources=tuple(map(Unread, names)),
                labels=labels.astype(np.int64),
                classes=tuple(f"class {each}" for each in range(n_classes)),
                task=task,
                splits=np.array(["train"] * (n - val) + ["val"] * val, dtype=object),
                groups=None if groups is None else np.array(groups, dtype=object),
                contents=np.array(hashes, dtype="S16"),
                name="planted",
            ),
            blocks=Blocks(ids=ids, matrices={name: matrices[name] for name in pool}),
            cards=tuple(get_card("lbp").model_copy(update={"name": name, "dim": 3}) for name in pool),
        )

    return make


@pytest.fixture(scope="session")
def posed() -> Callable[..., Problem]:
    """Return a function that poses a small search on made-up embeddings."""

    def make(embeddings: EmbeddingSet, **options: object) -> Problem:
        defaults = {"folds": 2, "repeats": 1, "finalists": 2, "encoders": embeddings.blocks.encoders}
        return Problem.from_embeddings(embeddings, SearchConfig(**{**defaults, **options}))

    return make


@pytest.fixture(scope="session")
def searched(posed) -> Callable[..., Search]:
    """Return a function that runs it, in this process."""

    def make(embeddings: EmbeddingSet, *, folder=None, tell=lambda _: None, progress=None, budget=None, **options):
        more = {} if progress is None else {"progress": progress}
        runtime = SearchContext(folder=folder, workers=1, tell=tell, **more)
        return run_search(posed(embeddings, **options), runtime, budget=budget or Budget())

    return make
