"""What the service answers: the parts of its answers, its errors, and the page that explains them."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from biofuse.core.errors import BioFuseError, UnknownFormatError, UnreadableImageError
from biofuse.report.content import Table
from biofuse.report.html import TablePage

NOT_CLINICAL = (
    "For research. Not for clinical use: it is no medical device, and no decision about a person may rest on it."
)


class Fault(BaseModel):
    """Why something cannot be answered."""

    type: str = Field(description="What kind of error it is, for programs.")
    message: str = Field(description="What is wrong.")
    remedy: str = Field(default="", description="What to do about it.")


class Refusal(BaseModel):
    """The answer to a request that is refused as a whole."""

    error: Fault


class PossibleClasses(BaseModel):
    """A prediction set: the classes among which the true one is with the probability asked for."""

    coverage: float = Field(description="That probability; of several labels, that each label that is there is named.")
    class_conditional: bool = Field(description="Whether it holds for the images of each class.")
    classes: list[str] = Field(description="Never none, unless an image may have several labels.")


class Unusualness(BaseModel):
    """How unlike the development data an image is."""

    percentile: float = Field(description="Share of the development data that lie nearer to the others, in per cent.")
    warning: str = Field(default="", description="What to beware of, above the 99th percentile; empty below.")


class ThresholdDecision(BaseModel):
    """What is called at the thresholds of the classes, each decided by itself."""

    threshold: float | str = Field(description="A probability, or how thresholds were chosen on development data.")
    sensitivity: float | None = Field(description="What they were chosen for, where that is how.")
    thresholds: dict[str, float | None] = Field(description="By class; null for one that no development sample has.")
    classes: list[str] = Field(description="Classes whose probability exceeds their threshold.")


class ImageAnswer(BaseModel):
    """What the model says of one image, or why it cannot."""

    file: str = Field(description="Its name, as sent; of several images of one sample the first, and how many more.")
    status: int = Field(description="200, or the status that it would have been answered with by itself.")
    prediction: str | None = Field(default=None, description="The most probable class; several labels joined by '|'.")
    probabilities: dict[str, float] | None = Field(default=None, description="By class, calibrated.")
    set: PossibleClasses | None = Field(default=None, description="Null where the model knows no prediction sets.")
    unusual: Unusualness | None = Field(default=None, description="Null where the model does not know it.")
    decision: ThresholdDecision | None = Field(default=None, description="Null where the model knows no thresholds.")
    error: Fault | None = Field(default=None, description="Why there is no prediction.")


class ModelVersion(BaseModel):
    """Which model answers."""

    version: str = Field(description="Hash of its seal, and so of all its files.")
    biofuse: str = Field(description="Version of BioFuse that runs it.")
    encoders: list[str] = Field(description="What images are embedded with.")
    variant: str = Field(description="Which model of the run: the chosen one, or one that it is compared with.")


class Answer(BaseModel):
    """The answer to a request for predictions: every file that was sent, in order."""

    model: ModelVersion = Field(description="Which model answers.")
    images: list[ImageAnswer] = Field(description="One for each file, in the order sent; with bag=true one for all.")
    warning: str = Field(default=NOT_CLINICAL, description="What the model is not for.")


class ModelFacts(BaseModel):
    """What a user should know of the model."""

    model: ModelVersion
    task: str
    classes: list[str]
    facts: dict[str, str] = Field(description="By heading.")
    warning: str = NOT_CLINICAL


class Health(BaseModel):
    """Whether the service can answer."""

    status: str = Field(description="loading, ready, stopping or failed.")
    model: ModelVersion = Field(description="Which model answers.")
    replaced: bool = Field(description="Whether another model now lies where this was read; it is served on restart.")
    waiting: int = Field(description="Images in the queue.")
    reason: str = Field(default="", description="Why it failed.")


# --- errors


class RefusedError(Exception):
    """Something that is answered with an error."""

    def __init__(self, status: int, fault: Fault, *, retry: int | None = None) -> None:
        super().__init__(fault.message)
        self.status, self.fault = status, fault
        self.headers = {} if retry is None else {"Retry-After": str(retry)}

    def response(self) -> Response:
        """Return the answer."""
        return JSONResponse(Refusal(error=self.fault).model_dump(), self.status, self.headers)


def refused(status: int, kind: str, message: str, remedy: str, retry: int | None = None) -> RefusedError:
    """Return the error that says so.

    Parameters
    ----------
    status : int
        Of the answer.
    kind, message, remedy : str
        Fields of the fault.
    retry : int, optional
        Seconds after which to come again.
    """
    return RefusedError(status, Fault(type=kind, message=message, remedy=remedy), retry=retry)


def fault_of(error: BaseException) -> Fault:
    """Say what went wrong; of what nobody foresaw, only that it did."""
    if isinstance(error, BioFuseError):
        return Fault(type=type(error).__name__, message=error.message, remedy=error.remedy)
    if isinstance(error, MemoryError):
        return Fault(type="MemoryError", message="There is no memory left for this.", remedy="Send less at a time.")
    return Fault(type="InternalError", message="The service failed; its log says why.")


def status_of(error: BaseException) -> int:
    """Return the status of an image that could not be predicted."""
    if isinstance(error, UnknownFormatError):
        return 415
    if isinstance(error, UnreadableImageError):
        return 422
    return 503 if isinstance(error, MemoryError) else 500


class ApiPage(TablePage):
    """What may be asked of the service, as a page that is read.

    Parameters
    ----------
    schema : mapping
        OpenAPI's.
    """

    title = "What may be asked of this service"

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._schema = schema

    @property
    def notes(self) -> tuple[str, ...]:
        """How to ask."""
        return (
            f"BioFuse {self._schema['info']['version']}. {NOT_CLINICAL}",
            "With a shell: curl -F files=@one.png -F files=@two.png 'ADDRESS/predict?coverage=0.9'.",
            "Where a token is asked for: curl -H 'Authorization: Bearer TOKEN' and so on.",
            "With Python: requests.post(ADDRESS + '/predict', files=[('files', open('one.png', 'rb'))]).json()",
            "Programs read /openapi.json, which says the same.",
        )

    def tables(self) -> list[Table]:
        """Return what can be asked, what an answer holds, and what else may be answered."""
        operations = [
            (f"{method.upper()} {path}", operation)
            for path, methods in self._schema["paths"].items()
            for method, operation in methods.items()
        ]
        parameters = [
            (name, f"{each['name']}=", each.get("description", ""))
            for name, operation in operations
            for each in operation.get("parameters", ())
        ]
        statuses = [
            (name, status, said["description"])
            for name, operation in operations
            for status, said in operation["responses"].items()
        ]
        fields = [
            (name, field, said.get("description", ""))
            for name, model in self._schema["components"]["schemas"].items()
            if name in {each.__name__ for each in ANSWERS}
            for field, said in model["properties"].items()
        ]
        asked = [(name, operation["summary"], operation["description"]) for name, operation in operations]
        return [
            Table.of("Requests", ("request", "what for", "more"), asked),
            Table.of("Parameters", ("request", "parameter", "meaning"), parameters),
            Table.of("Answers", ("part", "field", "meaning"), fields),
            Table.of("Statuses", ("request", "status", "meaning"), statuses),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the schema."""
        return dict(self._schema)


ANSWERS = (
    Answer, ImageAnswer, PossibleClasses, Unusualness, ThresholdDecision, Fault, ModelVersion, Health,
)  # fmt: skip
"""What the page lists the fields of."""
