"""The service as an application: one model, its encoders once they are loaded, its endpoints and pages."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from numpy.typing import NDArray
from prometheus_client import CONTENT_TYPE_LATEST as METRICS_TYPE
from starlette.exceptions import HTTPException

from biofuse.api.service.answers import (
    NOT_CLINICAL,
    Answer,
    ApiPage,
    Fault,
    Health,
    ImageAnswer,
    ModelFacts,
    ModelVersion,
    PossibleClasses,
    Refusal,
    RefusedError,
    ThresholdDecision,
    Unusualness,
    fault_of,
    refused,
    status_of,
)  # fmt: skip
from biofuse.api.service.batching import Batcher, ImageScores, QueueFullError, Upload
from biofuse.api.service.gate import UPLOADS_AT_ONCE, Drain, Gauges, GoneError, Guard, Held, Watch, read_uploads
from biofuse.api.service.options import ServeOptions, Token
from biofuse.api.service.served import Served
from biofuse.core.errors import BioFuseError
from biofuse.core.hashing import generator
from biofuse.data.decoding import FORMATS
from biofuse.evaluation.conformal import TESTED
from biofuse.evaluation.novelty import UNUSUAL
from biofuse.evaluation.operating import DEFAULT_SENSITIVITY, Threshold, read_threshold
from biofuse.extract.options import ExtractOptions
from biofuse.model.model import BioFuseModel
from biofuse.model.resident import ResidentPredictor
from biofuse.report.html import ServicePage

logger = logging.getLogger(__name__)

DEFAULT_COVERAGE = TESTED[0][0]
"""Coverage of prediction sets where none is asked for: the one that is spoken of elsewhere."""

GONE = 499
"""Status that is counted, as nginx does, for who went away before the answer."""


@dataclass(frozen=True, kw_only=True)
class _Question:
    """What a request asks of the model."""

    coverage: float | None
    class_conditional: bool
    threshold: Threshold | None
    sensitivity: float | None


class _Service:
    """One model, its encoders once they are loaded, and everything that requests share."""

    def __init__(
        self, served: Served, *, token: Token | None, options: ServeOptions, extraction: ExtractOptions
    ) -> None:
        self.served, self.token, self.options, self.extraction = served, token, options, extraction
        self.gauges = Gauges()
        self.held = Held(UPLOADS_AT_ONCE * options.most_bytes)
        self.failure: Exception | None = None
        self.news: Callable[[str], None] = logger.info
        self._predictor: ResidentPredictor | None = None
        self._batcher: Batcher | None = None
        self._stopping = False
        self.gauges.queue.set_function(lambda: 0 if self._batcher is None else self._batcher.depth)
        self.gauges.held.set_function(lambda: self.held.now)
        self.gauges.ready.set_function(lambda: float(self.status == "ready"))

    @property
    def model(self) -> BioFuseModel:
        """The model."""
        return self.served.model

    @property
    def status(self) -> str:
        """What it does just now, in a word."""
        if self.failure is not None:
            return "failed"
        if self._stopping:
            return "stopping"
        return "loading" if self._batcher is None else "ready"

    @property
    def version(self) -> ModelVersion:
        """Which model answers."""
        return ModelVersion(
            version=self.served.version,
            biofuse=metadata.version("biofuse-embed"),
            encoders=list(self.model.encoders),
            variant=self.served.variant,
        )

    def load(self) -> None:
        """Load the encoders, and try them once, so that the first request finds everything warm."""
        try:
            start = time.monotonic()
            self._predictor = self.model.resident(options=self.extraction)
            self._predictor.predict([generator(0, "first image").integers(0, 256, (64, 64, 3), dtype=np.uint8)])
            self._batcher = Batcher(self._predictor, capacity=self.options.queue, watch=self.gauges.batch)
            self.news(f"Ready: its encoders were loaded in {time.monotonic() - start:.1f} s.")
        except Exception as error:  # /health says it, and whoever started the service raises it
            self.failure = error
            self.news("The encoders cannot be loaded.")

    def close(self) -> None:
        """Finish what waits, and let go of the encoders."""
        self._stopping = True
        if self._batcher is not None:
            self._batcher.close()
        if self._predictor is not None:
            self._predictor.close()

    def batcher(self) -> Batcher:
        """Return the queue.

        Raises
        ------
        RefusedError
            If it is not ready.
        """
        if self._batcher is None or self.failure is not None:
            fault = Fault(type="NotReady", message=f"The service is {self.status}.", remedy="Ask /health when it is.")
            raise RefusedError(503, fault, retry=5)
        return self._batcher

    def question(
        self, *, coverage: float | None, class_conditional: bool, threshold: str | None, sensitivity: float | None
    ) -> _Question:
        """Return what is asked, with what is asked of this model where nothing is.

        Raises
        ------
        BioFuseError
            If the model cannot be asked that.
        """
        model = self.model
        if coverage is None and model.trust.conformal is not None:
            coverage = DEFAULT_COVERAGE
        if threshold is None and (sensitivity is not None or model.trust.thresholds is not None):
            threshold = "sensitivity"
        rule = None if threshold is None else read_threshold(threshold, sensitivity=sensitivity)
        if rule == "sensitivity" and sensitivity is None:
            sensitivity = DEFAULT_SENSITIVITY
        model.refuse_questions(threshold=rule, sensitivity=sensitivity, coverage=coverage)
        return _Question(
            coverage=coverage, class_conditional=class_conditional, threshold=rule, sensitivity=sensitivity
        )

    def answer(self, uploads: Sequence[Upload], found: ImageScores | BaseException, question: _Question) -> ImageAnswer:
        """Say what was found of one sample, mostly a single image."""
        name = uploads[0].name + (f" and {len(uploads) - 1} more" if len(uploads) > 1 else "")
        if isinstance(found, BaseException):
            self.gauges.errors.labels(fault_of(found).type).inc()
            if status_of(found) == 500:
                logger.error("An image could not be predicted.", exc_info=found)
            return ImageAnswer(file=name, status=status_of(found), error=fault_of(found))
        self.gauges.images.inc(len(uploads))
        model, row = self.model, found.probabilities[None]
        return ImageAnswer(
            file=name,
            status=200,
            prediction=str(model.decide(row)[0]),
            probabilities=dict(zip(model.classes, found.probabilities.tolist(), strict=True)),
            set=self._set(row, question),
            unusual=None if found.novelty is None else _unusualness(found.novelty),
            decision=self._decision(row, question),
        )

    def _set(self, row: NDArray[np.float64], question: _Question) -> PossibleClasses | None:
        if question.coverage is None:
            return None
        each = question.class_conditional
        inside = self.model.sets(row, coverage=question.coverage, class_conditional=each)[0]
        classes = [name for name, there in zip(self.model.classes, inside, strict=True) if there]
        return PossibleClasses(coverage=question.coverage, class_conditional=each, classes=classes)

    def _decision(self, row: NDArray[np.float64], question: _Question) -> ThresholdDecision | None:
        if question.threshold is None:
            return None
        limits = self.model.thresholds(question.threshold, sensitivity=question.sensitivity)
        called = self.model.target.call(row, limits)[0]
        known = [float(limit) if np.isfinite(limit) else None for limit in limits]
        return ThresholdDecision(
            threshold=question.threshold,
            sensitivity=question.sensitivity,
            thresholds=dict(zip(self.model.classes, known, strict=True)),
            classes=[name for name, there in zip(self.model.classes, called, strict=True) if there],
        )


def _unusualness(percentile: float) -> Unusualness:
    if percentile <= UNUSUAL:
        return Unusualness(percentile=percentile)
    many = "all" if percentile >= 100 else f"{percentile:.1f} %"
    return Unusualness(
        percentile=percentile,
        warning="This image is unlike those that the model was fitted on: it lies farther from them than "
        f"{many} of them do from each other. Do not rely on this prediction.",
    )


async def _predicted(
    request: Request, batcher: Batcher, uploads: list[Upload], *, bag: bool
) -> list[ImageScores | BaseException]:
    """Wait until all images of a request are predicted.

    Raises
    ------
    RefusedError
        If the queue is full.
    GoneError
        If the connection was closed meanwhile; those that still wait are taken out of the queue.
    """
    try:
        futures = [asyncio.wrap_future(each) for each in batcher.submit(uploads, bag=bag)]
    except QueueFullError as error:
        raise RefusedError(503, fault_of(error), retry=batcher.patience) from error
    everything = asyncio.gather(*futures, return_exceptions=True)
    closed = asyncio.ensure_future(_closed(request))
    try:
        waited: set[asyncio.Future[Any]] = {everything, closed}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not everything.done():
            raise GoneError
        return everything.result()
    finally:
        everything.cancel()
        closed.cancel()
        await asyncio.gather(everything, closed, return_exceptions=True)


async def _closed(request: Request) -> None:
    """Return when the connection is closed; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- the application


def build_app(served: Served, *, token: Token | None, options: ServeOptions, extraction: ExtractOptions) -> FastAPI:
    """Return the application; see :func:`biofuse.api.serve.create_app`."""
    service = _Service(served, token=token, options=options, extraction=extraction)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(asyncio.to_thread(service.load))
        yield
        await loading
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="BioFuse", version=metadata.version("biofuse-embed"), description=f"Predicts images. {NOT_CLINICAL}",
        docs_url=None, redoc_url=None, lifespan=lifespan,
    )  # fmt: skip
    app.state.service = service
    _add_endpoints(app, service)
    _add_pages(app, service)
    paths = frozenset({"/", "/docs", "/openapi.json", *app.openapi()["paths"]})
    app.add_middleware(Guard, token=token, gauges=service.gauges)
    app.add_middleware(Drain)
    app.add_middleware(Watch, gauges=service.gauges, paths=lambda: paths)
    _answer_errors(app, service)
    return app


def failure_of(app: FastAPI) -> Exception | None:
    """Return why the encoders of a service could not be loaded; None where they could, or may still be."""
    service: _Service = app.state.service
    return service.failure


def tell_news(app: FastAPI, tell: Callable[[str], None]) -> None:
    """Have somebody told when the encoders are loaded, or cannot be; from another thread."""
    app.state.service.news = tell


REFUSALS: Mapping[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The form cannot be read."},
    401: {"model": Refusal, "description": "No token, or another one."},
    403: {"model": Refusal, "description": "Sent by a page of another site."},
    408: {"model": Refusal, "description": "The images did not come in time."},
    413: {"model": Refusal, "description": "More bytes, or images, than one request may send."},
    415: {"model": Answer, "description": "No file is an image of a format that is read; or no form was sent."},
    422: {"model": Answer, "description": "No image can be predicted; or a parameter cannot be what it is."},
    503: {"model": Refusal, "description": "Not ready, or too much to do: come again after Retry-After seconds."},
}
"""What else a request for predictions may be answered."""

FORM: Mapping[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["files"],
                    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            }
        },
    }
}
"""The body of such a request; it is read by hand, so that its size is watched while it comes."""


def _add_endpoints(app: FastAPI, service: _Service) -> None:
    @app.post(
        "/predict",
        response_model=Answer,
        responses={207: {"model": Answer, "description": "Some images cannot be predicted."}, **REFUSALS},
        openapi_extra=dict(FORM),
        summary="Predict images",
        response_description="All images are predicted.",
    )
    async def predict(
        request: Request,
        coverage: Annotated[
            float | None,
            Query(gt=0, lt=1, description=f"Of the prediction set; {DEFAULT_COVERAGE} by default."),
        ] = None,
        *,
        class_conditional: Annotated[
            bool, Query(description="Whether the coverage shall hold for the images of each class.")
        ] = False,
        threshold: Annotated[
            str | None, Query(description="A probability, youden or sensitivity: what is decided at.")
        ] = None,
        sensitivity: Annotated[
            float | None, Query(gt=0, le=1, description=f"To be found; {DEFAULT_SENSITIVITY} by default.")
        ] = None,
        bag: Annotated[
            bool, Query(description="Whether the files are the images of one sample, which gets one answer.")
        ] = False,
    ) -> Response:
        """Predict one or several images, sent as files of a form.

        Every file has an entry in the answer, in the order sent, with a status of its own: one that cannot be read
        hides none of the others. The answer's status is 200 where all are predicted, 207 where some are, and that of
        the files where none is. Nothing of an image is kept.
        """
        batcher = service.batcher()
        question = service.question(
            coverage=coverage, class_conditional=class_conditional, threshold=threshold, sensitivity=sensitivity
        )
        with service.held.counter() as take:
            uploads = await read_uploads(request, options=service.options, take=take, patience=lambda: batcher.patience)
            found = await _predicted(request, batcher, uploads, bag=bag)
        samples = [uploads] if bag else [[upload] for upload in uploads]
        images = [service.answer(several, each, question) for several, each in zip(samples, found, strict=True)]
        answer = Answer(model=service.version, images=images)
        return JSONResponse(answer.model_dump(mode="json"), _overall([each.status for each in images]))

    @app.get(
        "/health",
        response_model=Health,
        responses={503: {"model": Health, "description": "It cannot."}},
        summary="Ask whether it can answer",
        response_description="It can.",
    )
    def health() -> Response:
        """Tell whether the encoders are loaded (200), or not yet, not any more, or not at all (503)."""
        failure = service.failure
        said = Health(
            status=service.status,
            model=service.version,
            replaced=service.served.replaced,
            waiting=0 if service.status != "ready" else service.batcher().depth,
            reason="" if failure is None else fault_of(failure).message,
        )
        return JSONResponse(said.model_dump(mode="json"), 200 if said.status == "ready" else 503)

    @app.get("/model", summary="Ask what the model is", response_description="What is known of it.")
    def model() -> ModelFacts:
        """Return what a user should know of the model."""
        return ModelFacts(
            model=service.version,
            task=str(service.model.task),
            classes=list(service.model.classes),
            facts=dict(service.served.facts()),
        )

    @app.get("/metrics", response_class=PlainTextResponse, summary="Ask for measurements", response_description="Text.")
    def metrics() -> Response:
        """Return counts and times as Prometheus reads them."""
        return Response(service.gauges.text(), media_type=METRICS_TYPE)


def _overall(statuses: list[int]) -> int:
    """Return the status of an answer about several images."""
    if set(statuses) == {200}:
        return 200
    if 200 in statuses:
        return 207
    return statuses[0] if len(set(statuses)) == 1 else 422


def _add_pages(app: FastAPI, service: _Service) -> None:
    page = ServicePage(
        data=service.served.data,
        facts=service.served.facts(),
        several=service.model.target.several,
        positive=service.model.target.positive or "",
        formats=FORMATS,
        megabytes=service.options.max_upload,
        coverage=DEFAULT_COVERAGE if service.model.trust.conformal is not None else None,
        warning=NOT_CLINICAL,
    ).to_html()
    docs = ApiPage(app.openapi()).to_html()

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return HTMLResponse(page)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> Response:
        return HTMLResponse(docs)


def _answer_errors(app: FastAPI, service: _Service) -> None:
    """Give all errors one form."""

    def refuse(refused: RefusedError) -> Response:
        service.gauges.errors.labels(refused.fault.type).inc()
        return refused.response()

    @app.exception_handler(RefusedError)
    async def refuse_request(_: Request, error: RefusedError) -> Response:
        return refuse(error)

    @app.exception_handler(GoneError)
    async def gone(_: Request, __: GoneError) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(BioFuseError)
    async def unfit(_: Request, error: BioFuseError) -> Response:
        return refuse(RefusedError(422, fault_of(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        said = "; ".join(f"{each['loc'][-1]}: {each['msg']}" for each in error.errors())
        return refuse(refused(422, "BadParameter", said, "See /docs for what may be asked."))

    @app.exception_handler(HTTPException)
    async def unknown(request: Request, error: HTTPException) -> Response:
        what = f"{request.method} {request.url.path}: {error.detail}."
        response = refuse(refused(error.status_code, "NoSuchThing", what, "See /docs for what there is."))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        return refuse(RefusedError(500, fault_of(error)))
