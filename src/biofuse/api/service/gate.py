"""What every request passes: the token, bounds on what is sent, and counts; no image is written to disk."""

import asyncio
import base64
import binascii
import contextlib
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import PurePath

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from biofuse.api.service.answers import RefusedError, refused
from biofuse.api.service.batching import Upload
from biofuse.api.service.options import ServeOptions, Token
from biofuse.core.errors import printable

UPLOADS_AT_ONCE = 8
"""Of the largest size that all requests together may hold in memory."""

UPLOAD_SECONDS = 120
"""Within which a request must have sent its images."""

LINGER_SECONDS = 15
"""For which the rest of a refused upload is read and dropped: who is still sending would not see the answer."""

LONGEST_NAME = 200
"""Characters that are kept of the name of a file."""

OPEN_PATHS = frozenset({"/health"})
"""What is answered without a token: whoever watches over the service needs no secret for it."""

LATENCIES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds that durations of requests are counted up to."""

SIZES = (1, 2, 4, 8, 16, 32)
"""Images that sizes of batches are counted up to."""


class Gauges:
    """What is measured, in a registry of its own: two services in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "biofuse_requests_total", "Requests answered.", ("path", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "biofuse_request_seconds", "Seconds from the first byte of a request to the end of its answer.", ("path",),
            buckets=LATENCIES, registry=self.registry,
        )  # fmt: skip
        self.images = Counter("biofuse_images_total", "Images predicted.", registry=self.registry)
        self.errors = Counter(
            "biofuse_errors_total", "Images, and requests, refused or failed.", ("type",), registry=self.registry
        )
        self.batches = Histogram(
            "biofuse_batch_images", "Images predicted together.", buckets=SIZES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "biofuse_batch_seconds", "Seconds that a batch took.", buckets=LATENCIES, registry=self.registry
        )
        self.queue = Gauge("biofuse_queue_images", "Images that wait.", registry=self.registry)
        self.held = Gauge("biofuse_upload_bytes", "Bytes of requests under way.", registry=self.registry)
        self.ready = Gauge("biofuse_ready", "1 once the encoders are loaded.", registry=self.registry)

    def batch(self, images: int, seconds: float) -> None:
        """Count a batch."""
        self.batches.observe(images)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Return everything as Prometheus reads it."""
        return generate_latest(self.registry)


# --- what is sent


class GoneError(Exception):
    """Whoever asked has closed the connection."""


class _InMemory(MultiPartParser):
    """Keeps what is sent in memory, whose bounds others watch over: no image is written to disk."""

    spool_max_size = sys.maxsize


class Held:
    """The bytes that all requests together hold in memory."""

    def __init__(self, most: int) -> None:
        self.most, self.now = most, 0

    @contextlib.contextmanager
    def counter(self) -> Iterator[Callable[[int], bool]]:
        """Yield what counts bytes of one request, and tells whether there was room; they are given back at the end."""
        own = 0

        def take(size: int) -> bool:
            nonlocal own
            own += size
            self.now += size
            return self.now <= self.most

        try:
            yield take
        finally:
            self.now -= own


async def read_uploads(
    request: Request, *, options: ServeOptions, take: Callable[[int], bool], patience: Callable[[], int]
) -> list[Upload]:
    """Read the files of a request into memory, counting while they come.

    Parameters
    ----------
    request : Request
    options : ServeOptions
        How much it may send.
    take : callable
        Counts bytes that all requests hold together, and tells whether there was room.
    patience : callable
        Returns after how many seconds to come again.

    Raises
    ------
    RefusedError
        If there is no file, or something else, or too much.
    GoneError
        If the connection was closed meanwhile.
    """
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data":
        raise refused(415, "NotAForm", "Images are sent as a form (multipart/form-data).", "See /docs for an example.")
    most, size = options.most_bytes, request.headers.get("content-length", "")
    too_large = refused(
        413,
        "TooLarge",
        f"A request may send {options.max_upload:g} MB.",
        "Send fewer images at a time, or smaller ones.",
    )
    if size.isdecimal() and int(size) > most:
        raise too_large

    async def counted() -> AsyncGenerator[bytes, None]:
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > most:
                raise too_large
            if not take(len(chunk)):
                raise refused(503, "Busy", "Too much is being sent at once.", "Try again later.", patience())
            yield chunk

    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            parser = _InMemory(request.headers, counted(), max_files=options.queue, max_fields=0)
            form = await parser.parse()
    except TimeoutError as error:
        raise refused(408, "TooSlow", f"The images did not come within {UPLOAD_SECONDS} s.", "Send less.") from error
    except ClientDisconnect as error:
        raise GoneError from error
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise refused(
                413, "TooMany", f"A request may send {options.queue} images.", "Send fewer at a time."
            ) from error
        what = f"The form cannot be read: {error.message}"
        raise refused(400, "BadForm", what, "Send files, and nothing else.") from error
    uploads = [_upload(file, number) for number, (_, file) in enumerate(form.multi_items(), start=1)]
    if not uploads:
        raise refused(422, "NoImage", "No image was sent.", "Send at least one file.")
    return uploads


def _upload(file: UploadFile | str, number: int) -> Upload:
    """Take a file out of the form; of its name, what follows the last slash."""
    assert isinstance(file, UploadFile)  # noqa: S101 (the parser takes no other fields)
    name = PurePath((file.filename or "").replace("\\", "/")).name
    with file.file as content:
        return Upload(name=printable(name)[-LONGEST_NAME:].strip() or f"image {number}", content=content.read())


# --- who asks


class Watch:
    """Counts requests and their time, and says in every answer what browsers must not do with it."""

    def __init__(self, app: ASGIApp, *, gauges: Gauges, paths: Callable[[], frozenset[str]]) -> None:
        self._app, self._gauges, self._paths = app, gauges, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.monotonic(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), *SAFE_HEADERS]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            path = scope["path"] if scope["path"] in self._paths() else "other"
            self._gauges.requests.labels(path, str(status)).inc()
            self._gauges.seconds.labels(path).observe(time.monotonic() - start)


SAFE_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""Answers are about somebody's images: they are kept nowhere, and shown in no page of others."""


class Drain:
    """Reads what is still being sent before a refusal is answered, and drops it, for a while.

    A connection that is closed on somebody who is sending is reset, and the answer lost.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        done = any(name == b"expect" for name, _ in scope["headers"])  # who asks first has sent nothing

        async def watched() -> Message:
            nonlocal done
            message = await receive()
            done = done or message["type"] == "http.disconnect" or not message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] >= 400 and not done:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_SECONDS):
                        while not done:
                            await watched()
            await send(message)

        await self._app(scope, watched, answer)


class Guard:
    """Lets nobody in without the token, where there is one, and no page of another site send images."""

    def __init__(self, app: ASGIApp, *, token: Token | None, gauges: Gauges) -> None:
        self._app, self._token, self._gauges = app, token, gauges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        refusal = None if scope["type"] != "http" else self._refusal(scope)
        if refusal is None:
            await self._app(scope, receive, send)
            return
        self._gauges.errors.labels(refusal.fault.type).inc()
        response = refusal.response()
        if refusal.status == 401:
            # A browser then asks for a password, which is the token; any name will do.
            response.headers["WWW-Authenticate"] = 'Basic realm="BioFuse", charset="UTF-8", Bearer realm="BioFuse"'
        await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> RefusedError | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if self._token is not None and scope["path"] not in OPEN_PATHS:
            given = _credential(headers.get(b"authorization", ""))
            if given is None or not self._token.is_right(given):
                what = "Give the token: Authorization: Bearer TOKEN; or as the password of a browser."
                return refused(401, "Unauthorized", "This service asks for a token.", what)
        if scope["method"] == "POST" and headers.get(b"sec-fetch-site") in {"cross-site", "same-site"}:
            return refused(403, "Forbidden", "Pages of other sites may not send images.", "Use the page at /.")
        return None


def _credential(header: str) -> str | None:
    """Return the token of a header; None where there is none."""
    scheme, _, given = header.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(given.strip(), validate=True).decode("utf-8").partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return None
