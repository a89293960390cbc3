"""A model as a service: what it answers, what it refuses, and that it keeps within its bounds."""

import base64
import socket
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from starlette.testclient import TestClient

from biofuse import BioFuseModel
from biofuse.api import serve as serving
from biofuse.api.serve import create_app
from biofuse.api.service.batching import Batcher, QueueFullError, Upload
from biofuse.api.service.options import ServeOptions, Token
from biofuse.api.service.served import Served
from biofuse.core.errors import BioFuseError, BioFuseWarning, DependencyError, UnreadableImageError, WeightsError

TOKEN = "a token of the tests, as it were"  # noqa: S105
SMALL = ServeOptions(max_upload=0.1, queue=4)


def ready(client: TestClient, status: str = "ready") -> TestClient:
    """Wait until the encoders are loaded, or cannot be."""
    deadline = time.monotonic() + 60
    while (said := client.get("/health").json())["status"] == "loading":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert said["status"] == status, said
    return client


@pytest.fixture(scope="module")
def fitted(quick: Any, study: SimpleNamespace) -> Any:
    """Return a fit of two encoders with its run directory."""
    fuse = quick(("t_colour", "t_edge"), head="ridge")
    return fuse.fit(study.images, out=study.root / "served", progress=False).result_


@pytest.fixture(scope="module")
def client(fitted: Any) -> Iterator[TestClient]:
    """Serve the fitted run, with narrow bounds."""
    with TestClient(create_app(Served.load(fitted.run.path), options=SMALL)) as found:
        yield ready(found)


@pytest.fixture(scope="module")
def paths(study: SimpleNamespace) -> list[Any]:
    """Three test images, of different classes."""
    return sorted((study.images / "test").rglob("*.png"))[::8][:3]


@pytest.fixture(scope="module")
def form(paths: Any) -> list[tuple[str, tuple[str, bytes]]]:
    """The same as a form sends them."""
    return [("files", (path.name, path.read_bytes())) for path in paths]


def test_answers_are_those_of_the_model(client: TestClient, form: Any, paths: Any, fitted: Any, study: Any) -> None:
    answer = client.post("/predict?coverage=0.8&sensitivity=0.9", files=form)
    assert answer.status_code == 200
    model = fitted.model
    with warnings.catch_warnings(action="ignore", category=BioFuseWarning):
        frame, _ = model.predict_frame(paths, coverage=0.8, store=study.store, progress=False)
    limits = model.thresholds("sensitivity", sensitivity=0.9)
    for said, (_, row) in zip(answer.json()["images"], frame.iterrows(), strict=True):
        probabilities = [row[f"p_{name}"] for name in model.classes]
        assert said["status"] == 200
        assert list(said["probabilities"]) == list(model.classes)
        assert list(said["probabilities"].values()) == pytest.approx(probabilities, abs=1e-6)
        assert said["prediction"] == row["prediction"]
        assert said["set"] == {"coverage": 0.8, "class_conditional": False, "classes": row["set"].split("|")}
        assert said["unusual"]["percentile"] == pytest.approx(row["novelty"], abs=1e-3)
        assert bool(said["unusual"]["warning"]) == (row["novelty"] > 99)
        called = [name for name, p, limit in zip(model.classes, probabilities, limits, strict=True) if p > limit]
        assert said["decision"]["classes"] == called
    assert [said["file"] for said in answer.json()["images"]] == [path.name for path in paths]
    assert answer.json()["model"]["encoders"] == list(model.encoders)


def test_the_images_of_one_sample_get_one_answer(client: TestClient, form: Any, paths: Any, fitted: Any) -> None:
    (said,) = client.post("/predict?bag=true", files=form).json()["images"]
    with fitted.model.resident() as resident:
        expected = resident.predict_proba([paths])[0]
    assert list(said["probabilities"].values()) == pytest.approx(expected, abs=1e-6)
    assert said["file"] == f"{paths[0].name} and 2 more"
    answer = client.post("/predict?bag=true", files=[*form, TEXT])
    assert answer.status_code == 415
    assert "image 3 of sample 0" in answer.json()["images"][0]["error"]["message"]


TEXT = ("files", ("notes.txt", b"no image"))
CUT = ("files", ("cut.ppm", b"P6 9 9 255 " + b"\0" * 40))
HEADERS = {"Content-Type": "multipart/form-data; boundary=x"}
PART = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("status", "kind", "address", "sent"),
    [
        (415, "UnknownFormatError", "", {"files": [TEXT]}),
        (422, "UnreadableImageError", "", {"files": [CUT]}),
        (422, None, "", {"files": [CUT, TEXT]}),
        (415, "NotAForm", "", {"json": {"image": "a"}}),
        (422, "NoImage", "", {"content": b"--x--\r\n", "headers": HEADERS}),
        (400, "BadForm", "", {"content": b"nonsense", "headers": HEADERS}),
        (400, "BadForm", "", {"files": [TEXT], "data": {"coverage": "0.9"}}),
        (413, "TooLarge", "", {"files": [("files", ("large.png", b"\0" * 200_000))]}),
        (413, "TooLarge", "", {"content": iter([PART, *[b"\0" * 50_000] * 3]), "headers": HEADERS}),
        (413, "TooMany", "", {"files": [TEXT] * 5}),
        (422, "BadParameter", "?coverage=2", {"files": [TEXT]}),
        (422, "UndefinedMetricError", "?threshold=much", {"files": [TEXT]}),
    ],
)
def test_what_cannot_be_answered_says_why(
    client: TestClient, status: int, kind: str | None, address: str, sent: dict[str, Any]
) -> None:
    answer = client.post(f"/predict{address}", **sent)
    assert answer.status_code == status, answer.text
    said = answer.json()
    faults = [said["error"]] if "error" in said else [image["error"] for image in said["images"]]
    assert all(fault["message"] and fault["remedy"] for fault in faults)
    assert kind is None or {fault["type"] for fault in faults} == {kind}
    assert client.get("/metrics").text.count("biofuse_upload_bytes 0.0") == 1


def test_one_bad_file_hides_none_of_the_others(client: TestClient, form: Any) -> None:
    answer = client.post("/predict", files=[form[0], TEXT, CUT, form[1]])
    assert answer.status_code == 207
    images = answer.json()["images"]
    assert [image["status"] for image in images] == [200, 415, 422, 200]
    assert [image["prediction"] is None for image in images] == [False, True, True, False]
    alone = client.post("/predict", files=[form[1]]).json()["images"][0]
    assert images[3]["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-6)


@pytest.mark.parametrize(("method", "address", "status"), [("GET", "/predict", 405), ("GET", "/nothing", 404)])
def test_what_there_is_not_is_said_alike(client: TestClient, method: str, address: str, status: int) -> None:
    answer = client.request(method, address)
    assert (answer.status_code, answer.json()["error"]["type"]) == (status, "NoSuchThing")
    assert answer.headers["cache-control"] == "no-store"


def test_measurements_count_what_happened(client: TestClient, form: Any) -> None:
    def counted() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    before = counted()
    client.post("/predict", files=[form[0], form[1], TEXT])
    client.get("/wp-login.php")
    after = counted()
    for name, more in {
        "biofuse_images_total": 2,
        'biofuse_errors_total{type="UnknownFormatError"}': 1,
        'biofuse_requests_total{path="/predict",status="207"}': 1,
        'biofuse_request_seconds_count{path="/predict"}': 1,
        'biofuse_requests_total{path="other",status="404"}': 1,
    }.items():
        assert after[name] - before.get(name, 0) == more, name
    assert (after["biofuse_queue_images"], after["biofuse_ready"]) == (0, 1)
    until, predicted = time.monotonic() + 10, 0.0
    while predicted < 3 and time.monotonic() < until:  # a batch is counted once it is over: after its answers
        predicted = counted()["biofuse_batch_images_sum"] - before["biofuse_batch_images_sum"]
    assert predicted == 3


def test_no_image_is_written_to_disk(fitted: Any, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda _: pytest.fail("written to disk"))
    large = ("files", ("large.png", form[0][1][1] + b"\0" * 3_000_000))  # more than starlette keeps in memory
    with TestClient(create_app(Served.load(fitted.run.path))) as client:
        assert ready(client).post("/predict", files=[large]).status_code == 200


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (None, 401),
        ("Bearer another token of the tests", 401),
        ("Basic !", 401),
        (f"Bearer {TOKEN}", 200),
        (f"Basic {base64.b64encode(f'me:{TOKEN}'.encode()).decode()}", 200),
    ],
)
def test_without_the_token_only_health_is_answered(
    fitted: Any, monkeypatch: pytest.MonkeyPatch, header: str | None, status: int
) -> None:
    monkeypatch.setenv("BIOFUSE_SERVE_TOKEN", TOKEN)
    client = TestClient(create_app(fitted.model, token=Token.read(None)))
    headers = {} if header is None else {"Authorization": header}
    for address in ("/", "/docs", "/openapi.json", "/model", "/metrics"):
        answer = client.get(address, headers=headers)
        assert answer.status_code == status
        assert ("www-authenticate" in answer.headers) == (status == 401)
    assert client.post("/predict", headers=headers, files=[TEXT]).status_code in {status, 503}
    assert client.get("/health").json()["status"] == "loading"


def test_pages_of_other_sites_may_not_send_images(client: TestClient, form: Any) -> None:
    assert client.post("/predict", files=form, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert client.post("/predict", files=form, headers={"Sec-Fetch-Site": "same-origin"}).status_code == 200


def test_a_token_that_can_be_guessed_or_is_not_there_is_refused(tmp_path: Any) -> None:
    (tmp_path / "token").write_text("secret\n")
    for file, words in {"token": "16 characters", "none": "cannot be read"}.items():
        with pytest.raises(BioFuseError, match=words):
            Token.read(tmp_path / file)


def test_a_model_that_is_replaced_on_disk_is_served_on(fitted: Any, form: Any, tmp_path: Any) -> None:
    folder = fitted.model.save(tmp_path / "model")
    other = BioFuseModel.load(fitted.run.path, variant="best_single")
    with TestClient(create_app(folder)) as client:
        before = ready(client).post("/predict", files=form).json()
        assert client.get("/health").json()["replaced"] is False
        other.save(folder)
        health, after = client.get("/health").json(), client.post("/predict", files=form).json()
    assert health["replaced"] is True
    assert health["model"] == before["model"] == after["model"]
    assert [image["probabilities"] for image in after["images"]] == [
        pytest.approx(image["probabilities"], abs=1e-9) for image in before["images"]
    ]
    assert Served.load(folder).version != before["model"]["version"]


def test_encoders_that_cannot_be_loaded_are_said(fitted: Any, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise WeightsError("The weights are gone.", remedy="Get them.")

    monkeypatch.setattr(BioFuseModel, "resident", fail)
    with TestClient(create_app(fitted.model)) as client:
        health = ready(client, "failed").get("/health")
        assert (health.status_code, health.json()["reason"]) == (503, "The weights are gone.")
        answer = client.post("/predict", files=form)
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0


def test_the_libraries_of_the_extra_are_asked_for(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "LIBRARIES", ("fastapi", "no_such_library"))
    with pytest.raises(DependencyError, match="no_such_library") as caught:
        create_app(fitted.model)
    assert "biofuse-embed[serve]" in caught.value.remedy


@pytest.mark.enable_socket
def test_a_port_that_everybody_reaches_is_warned_of_unless_there_is_a_token(
    fitted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    options = ServeOptions(host="0.0.0.0", port=0)  # noqa: S104
    with pytest.warns(BioFuseWarning, match=r"Whoever reaches http://0\.0\.0\.0:\d+/ .* is answered"):
        serving.serve(fitted.run.path, options=options, tell=said.append)
    assert [line.split()[0] for line in said] == ["Serving", "Stopped."]
    monkeypatch.setenv("BIOFUSE_SERVE_TOKEN", TOKEN)
    serving.serve(fitted.run.path, options=options, tell=said.append)  # a warning would be an error


@pytest.mark.enable_socket
def test_a_port_that_is_taken_is_said(fitted: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BioFuseError, match=f"Cannot listen at 127.0.0.1, port {port}"):
            serving.serve(fitted.run.path, options=ServeOptions(port=port))


# --- the queue, with a predictor that waits until it may go on


class Slow:
    """Predicts when it is let; refuses black images, as no predictor should."""

    def __init__(self, model: BioFuseModel) -> None:
        self.model, self.go, self.batches = model, threading.Event(), []

    def predict(self, images: list[Any]) -> pd.DataFrame:
        assert self.go.wait(30)
        self.batches.append(len(images))
        if any(not image.any() for image in images):
            raise RuntimeError("black")
        return pd.DataFrame({f"p_{name}": [image.mean() for image in images] for name in self.model.classes})


@pytest.fixture
def slow(fitted: Any) -> Slow:
    return Slow(fitted.model)


@pytest.fixture
def start(slow: Slow) -> Iterator[Callable[..., Batcher]]:
    made: list[Batcher] = []

    def make(**options: Any) -> Batcher:
        made.append(Batcher(slow, **options))  # type: ignore[arg-type]
        return made[0]

    yield make
    slow.go.set()
    for each in made:
        each.close()


def ppm(level: int) -> Upload:
    return Upload(name=f"{level}.ppm", content=b"P6 1 1 255 " + bytes([level] * 3))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_images_of_different_requests_are_predicted_together_in_order(slow: Slow, start: Any) -> None:
    batcher = start(capacity=100, at_once=8, wait=60.0)
    futures = [future for level in range(1, 17) for future in batcher.submit([ppm(level)])]
    slow.go.set()
    assert [round(future.result(30).probabilities[0]) for future in futures] == list(range(1, 17))
    assert slow.batches == [8, 8]


def test_a_full_queue_takes_all_of_a_request_or_nothing(slow: Slow, start: Any) -> None:
    batcher = start(capacity=3, at_once=1, wait=0.0)
    running = [batcher.submit([ppm(1)])[0] for _ in range(2)]
    until(lambda: batcher.depth == 0)
    batcher.submit([ppm(2), ppm(3)])
    with pytest.raises(QueueFullError, match="2 images wait already, and 3 may"):
        batcher.submit([ppm(4), ppm(5)])
    assert batcher.depth == 2
    assert 1 <= batcher.patience <= 60
    assert not any(future.done() for future in running)


def test_images_that_nobody_waits_for_leave_the_queue(slow: Slow, start: Any) -> None:
    batcher = start(capacity=3, at_once=1, wait=0.0)
    for _ in range(2):
        batcher.submit([ppm(1)])
    until(lambda: batcher.depth == 0)
    left = batcher.submit([ppm(2), ppm(3), ppm(4)])
    assert left[1].cancel()
    assert batcher.depth == 2
    slow.go.set()
    assert left[2].result(30)
    with pytest.raises(CancelledError):
        left[1].result()


def test_an_image_that_fails_fails_alone(slow: Slow, start: Any) -> None:
    slow.go.set()
    futures = start(capacity=9, at_once=4, wait=60.0).submit(
        [ppm(1), ppm(0), Upload(name="odd", content=b"odd"), ppm(2)]
    )
    assert [round(futures[place].result(30).probabilities[0]) for place in (0, 3)] == [1, 2]
    with pytest.raises(RuntimeError, match="black"):
        futures[1].result(30)
    with pytest.raises(UnreadableImageError, match="odd"):
        futures[2].result(30)


def test_what_waits_is_predicted_before_the_queue_closes(slow: Slow, start: Any) -> None:
    batcher = start(capacity=9, at_once=1, wait=0.0)
    futures = batcher.submit([ppm(level) for level in range(1, 6)])
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(QueueFullError, match="stopping"):
        until(lambda: batcher.submit([]) != [])
    slow.go.set()
    closing.join(30)
    assert not closing.is_alive()
    assert np.isfinite([future.result(0).probabilities[0] for future in futures]).all()


def test_who_comes_when_the_queue_is_full_is_told_when_to_come_again(
    slow: Slow, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow.close = lambda: None  # type: ignore[attr-defined]
    slow.go.set()
    monkeypatch.setattr(BioFuseModel, "resident", lambda *_, **__: slow)
    with TestClient(create_app(slow.model, options=ServeOptions(queue=2))) as client:
        ready(client)
        slow.go.clear()
        answers: list[Any] = []

        def ask() -> None:
            answers.append(client.post("/predict", files=[form[0], form[1]]))

        waiting = [threading.Thread(target=ask, daemon=True) for _ in range(5)]
        for thread in waiting:  # at most two are under way, and one fills the queue
            thread.start()
        until(lambda: any(answer.status_code == 503 for answer in answers))
        refused = next(answer for answer in answers if answer.status_code == 503)
        slow.go.set()
        for thread in waiting:
            thread.join(30)
    assert refused.json()["error"]["type"] == "QueueFullError"
    assert int(refused.headers["retry-after"]) >= 1
    assert {answer.status_code for answer in answers} == {200, 503}
