"""What does serving a model cost, and does the service bear what clients do? Runs one, and asks it over loopback.

``python perf/serve.py RUN IMAGES`` prints one JSON object: the latency of one image and images per second against a
direct call of the resident predictor; statuses of many uploads at once; memory and open files after many requests,
after an upload of a gigabyte, and after connections that were closed early; what is answered when the model is replaced
on disk; and how it ends. RUN is copied first, and IMAGES is a folder of image files.
"""

import argparse
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from biofuse.api.service.served import Served
from biofuse.model.model import BioFuseModel

BOUNDARY = "perf-boundary"
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
END = f"\r\n--{BOUNDARY}--\r\n".encode()
CHUNK = 1 << 20
TOGETHER = 32
PATIENCE = 600


def start_of(name: str) -> bytes:
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"'
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode()


def form(contents: list[bytes]) -> bytes:
    parts = [start_of(f"{number}.png") + content for number, content in enumerate(contents)]
    return b"\r\n".join(parts) + END


class Server:
    """A service in a process of its own."""

    def __init__(self, run: Path, log: Path) -> None:
        with log.open("w") as file:
            command = [sys.executable, "-m", "biofuse", "serve", str(run), "--port", "0"]
            self.process = subprocess.Popen(command, stderr=file)
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/", log.read_text())):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(log.read_text())
            time.sleep(0.1)
        self.port = int(found[1])
        while self.health()["status"] != "ready":
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(log.read_text())
            time.sleep(0.2)

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, HEADERS if body is not None else {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def predict(self, body: Any) -> int:
        return self.ask("POST", "/predict", body)[0]

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.ask("GET", "/health")[1])
        return found

    def memory(self, field: str = "VmRSS") -> float:
        """Megabytes; ``VmHWM`` is the most so far."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+)", text)[1]) / 1000  # type: ignore[index]

    def files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208


def timed(work: Callable[[], Any], times: int) -> float:
    """Return the median seconds of one."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def speed(server: Server, model: BioFuseModel, images: list[bytes], *, times: int) -> dict[str, Any]:
    """Time direct calls and requests in turns, since other work on the machine comes and goes."""
    some = [images[number % len(images)] for number in range(TOGETHER)]
    found: dict[str, list[float]] = {name: [] for name in ("direct one", "served one", "direct many", "served many")}
    one, many = form(images[:1]), form(some)

    def singly() -> None:
        with ThreadPoolExecutor(TOGETHER) as pool:
            if set(pool.map(server.predict, [form([image]) for image in some])) != {200}:
                raise SystemExit("a request was refused")

    found["served singly"] = []
    with model.resident() as predictor:
        for _ in range(3):
            found["direct one"].append(timed(lambda: predictor.predict(images[:1]), times))
            found["served one"].append(timed(lambda: server.predict(one), times))
            found["direct many"].append(timed(lambda: predictor.predict(some), max(times // 10, 1)))
            found["served many"].append(timed(lambda: server.predict(many), max(times // 10, 1)))
            found["served singly"].append(timed(singly, max(times // 10, 1)))
    seconds = {name: statistics.median(values) for name, values in found.items()}
    return {
        "milliseconds_of_one_image": {
            "direct": round(1000 * seconds["direct one"], 1),
            "served": round(1000 * seconds["served one"], 1),
            "ratio": round(seconds["served one"] / seconds["direct one"], 3),
        },
        "images_per_second": {
            f"direct, {TOGETHER} together": round(TOGETHER / seconds["direct many"], 1),
            f"served, {TOGETHER} in a request": round(TOGETHER / seconds["served many"], 1),
            f"served, {TOGETHER} requests at once": round(TOGETHER / seconds["served singly"], 1),
        },
    }


def at_once(server: Server, images: list[bytes], n: int) -> dict[int, int]:
    barrier = threading.Barrier(n)

    def upload(number: int) -> int:
        barrier.wait()
        return server.predict(form([images[number % len(images)]]))

    with ThreadPoolExecutor(n) as pool:
        return dict(Counter(pool.map(upload, range(n))))


def flat(server: Server, images: list[bytes], n: int) -> dict[str, Any]:
    """Ask again and again, eight at a time; memory is looked at ten times on the way."""
    before = {"memory": server.memory(), "files": server.files()}
    memory, statuses = [], Counter[int]()
    with ThreadPoolExecutor(8) as pool:
        for part in range(10):
            bodies = [form([images[(part + number) % len(images)]]) for number in range(n // 10)]
            statuses.update(pool.map(server.predict, bodies))
            memory.append(round(server.memory()))
    return {
        "requests": n,
        "statuses": dict(statuses),
        "resident_mb_before": round(before["memory"]),
        "resident_mb_on_the_way": memory,
        "files_before": before["files"],
        "files_after": server.files(),
    }


def too_large(server: Server, megabytes: float) -> dict[str, Any]:
    """Send it with its length said before, and in pieces whose number is not."""

    def pieces() -> Iterator[bytes]:
        yield start_of("large.png")
        for _ in range(round(megabytes * 1_000_000 / CHUNK)):
            yield bytes(CHUNK)
        yield END

    before, statuses = server.memory("VmHWM"), {}
    for name in ("length said", "in pieces"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        size = sum(map(len, pieces()))
        try:
            more = {"Content-Length": str(size)} if name == "length said" else {}
            connection.request("POST", "/predict", pieces(), HEADERS | more)
            statuses[name] = connection.getresponse().status
        finally:
            connection.close()
    return {"megabytes": megabytes, "statuses": statuses, "peak_grew_mb": round(server.memory("VmHWM") - before)}


def bytes_held(server: Server) -> float:
    found = re.search(r"^biofuse_upload_bytes (\S+)$", server.ask("GET", "/metrics")[1].decode(), re.MULTILINE)
    return float(found[1])  # type: ignore[index]


def closed(server: Server, images: list[bytes], n: int) -> dict[str, Any]:
    """Close connections amid the upload, and before the answer."""
    files, body = server.files(), form(images[:1])
    for number in range(n):
        sent = body if number % 2 else body[: len(body) // 2]
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: {HEADERS['Content-Type']}\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + sent)
    deadline = time.monotonic() + PATIENCE
    while (server.files() > files or bytes_held(server)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return {
        "connections": n,
        "files_before": files,
        "files_after": server.files(),
        "bytes_held_after": bytes_held(server),
        "status_after": server.predict(body),
    }


def stopped(server: Server, images: list[bytes]) -> dict[str, Any]:
    """Tell it to stop while it works."""
    with ThreadPoolExecutor(1) as pool:
        last = pool.submit(server.predict, form([images[number % len(images)] for number in range(2 * TOGETHER)]))
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        return {"status_of_what_was_under_way": last.result(), "exit_code": server.process.wait(PATIENCE)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--at-once", type=int, default=200)
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--times", type=int, default=50, help="requests, of which the median counts")
    arguments = parser.parse_args()
    files = sorted(path for path in arguments.images.rglob("*") if path.suffix in {".png", ".jpg", ".jpeg"})
    images = [path.read_bytes() for path in files[:: max(len(files) // 100, 1)]]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        shutil.copytree(arguments.run, run)
        served = Served.load(run)
        server = Server(run, Path(folder) / "log")
        try:
            found = {
                "encoders": list(served.model.encoders),
                "load_before": os.getloadavg()[0],
                **speed(server, served.model, images, times=arguments.times),
                "at_once": {"requests": arguments.at_once, "statuses": at_once(server, images, arguments.at_once)},
                "flat": flat(server, images, arguments.requests),
                "too_large": too_large(server, arguments.megabytes),
                "no_image": server.predict(form([b"no image"])),
                "closed": closed(server, images, 50),
            }
            BioFuseModel.load(run, variant="best_single").save(run / "model")
            health = server.health()
            found["replaced"] = {
                "said": health["replaced"],
                "version_kept": health["model"]["version"] == served.version,
                "status": server.predict(form(images[:1])),
            }
            found["stopped"] = stopped(server, images)
            found["log"] = (Path(folder) / "log").read_text().splitlines()[1:]
        finally:
            server.process.kill()
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
