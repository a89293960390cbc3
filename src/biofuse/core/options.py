"""Options declared once, as fields of a model; Python, the command line, option files and the docs derive theirs."""

import inspect
import textwrap
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Self, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from biofuse.core.errors import BioFuseError, did_you_mean, option

Panel = Literal["Data", "Search", "Running", "Advanced"]
"""The headings under which options stand in help and docs, in this order."""

Documented = TypeVar("Documented", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Option:
    """What surfaces need to know of a field beside its type, default, limits and description.

    Attributes
    ----------
    panel : {"Data", "Search", "Running", "Advanced"}
        Where it stands; rarely needed ones under Advanced.
    short : str
        A flag of one letter, beside ``--name-of-the-field``.
    metavar : str
        What stands for the value in help; by default the name of its type.
    env : str
        Environment variable that the command line reads it from.
    shown : str
        The default in words, where its value says nothing: ``"by cores"``.
    names : callable, optional
        Returns the values there are, where other packages may bring some.
    several : bool
        Whether the flag may be given again, for one more value.
    off : str
        The flag that turns it off, of an option that is on by default; it has no other.
    """

    panel: Panel
    short: str = ""
    metavar: str = ""
    env: str = ""
    shown: str = ""
    names: Callable[[], Sequence[str]] | None = None
    several: bool = False
    off: str = ""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """One option as surfaces show it.

    Attributes
    ----------
    name : str
        Of the field.
    field : FieldInfo
    option : Option
    """

    name: str
    field: FieldInfo
    option: Option

    @property
    def flag(self) -> str:
        """The long option of the command line."""
        return self.option.off or "--" + self.name.replace("_", "-")

    @property
    def types(self) -> tuple[Any, ...]:
        """The types a value may have, None left out."""
        kind = self.field.annotation
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        return tuple(each for each in kinds if each is not NoneType)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values there are to choose from; none where there is no list of them."""
        if self.option.names is not None:
            return tuple(self.option.names())
        return tuple(value for kind in self.types if get_origin(kind) is Literal for value in get_args(kind))

    @property
    def default(self) -> str:
        """The default for a reader; empty where there is none."""
        if self.option.shown or self.field.default is None or self.field.default is False:
            return self.option.shown
        value = self.field.default
        return ",".join(value) if isinstance(value, tuple) else str(value)

    @property
    def type_words(self) -> str:
        """The type for a reader."""
        if self.choices:
            return "{" + ", ".join(f'"{choice}"' for choice in self.choices) + "}"
        if any(get_origin(kind) is tuple for kind in self.types):
            return "str or sequence of str"
        return " or ".join(getattr(kind, "__name__", None) or str(kind) for kind in map(_plain, self.types))

    def documentation(self, indent: str) -> str:
        """Return the entry of a numpydoc section."""
        quoted = f'"{self.default}"' if isinstance(self.field.default, str) else self.default
        default = f", default {quoted}" if self.default else ", optional"
        inside = indent + "    "
        text = textwrap.fill(self.field.description or "", 120, initial_indent=inside, subsequent_indent=inside)
        return f"{indent}{self.name} : {self.type_words}{default}\n{text}"


class Options(BaseModel):
    """Base of option objects: frozen, and refusing what they do not know with a typed error that says what to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    _refusal: ClassVar[type[BioFuseError]] = BioFuseError

    def __init__(self, **chosen: Any) -> None:
        try:
            super().__init__(**chosen)
        except ValidationError as error:
            problems = error.errors()
            unknown = [str(each["loc"][0]) for each in problems if each["type"] == "extra_forbidden"]
            if unknown:
                raise unknown_option(unknown[0], type(self).model_fields, self._refusal) from error
            raise self._refusal("\n".join(map(_explain, problems))) from error

    @classmethod
    def offers(cls) -> tuple[Offer, ...]:
        """Return the options that users may choose, panel by panel; a field without an :class:`Option` is internal."""
        found = [
            Offer(name=name, field=field, option=each)
            for name, field in cls.model_fields.items()
            for each in field.metadata
            if isinstance(each, Option)
        ]
        return tuple(sorted(found, key=lambda offer: get_args(Panel).index(offer.option.panel)))

    @classmethod
    def of(cls, options: Self | None, chosen: dict[str, Any]) -> Self:
        """Return what was chosen by name, and of the rest what ``options`` say; the defaults where there are none."""
        return (options or cls()).but(**chosen) if chosen else options or cls()

    def but(self, **changes: Any) -> Self:
        """Return the same with some fields changed.

        Raises
        ------
        BioFuseError
            If there is no such field, or it cannot have that value.
        """
        return type(self)(**{**{name: getattr(self, name) for name in self.model_fields_set}, **changes})


def divide(chosen: dict[str, Any], *models: type[Options]) -> tuple[dict[str, Any], ...]:
    """Share out options given by name among the models they belong to.

    Raises
    ------
    BioFuseError
        If one belongs to none of them.
    """
    known = [{offer.name for offer in model.offers()} for model in models]
    for name in chosen:
        if not any(name in names for names in known):
            raise unknown_option(name, set().union(*known))
    return tuple({name: value for name, value in chosen.items() if name in names} for names in known)


def unknown_option(name: str, known: Iterable[str], refusal: type[BioFuseError] = BioFuseError) -> BioFuseError:
    """Return the error for an option that does not exist, with the one that may have been meant."""
    names = sorted(known)
    return refusal(f"There is no option {name!r}.", remedy=f"{did_you_mean(name, names)}There are: {', '.join(names)}.")


def accepts(
    *models: type[Options], leaving: Collection[str] = (), unset: bool = False
) -> Callable[[Documented], Documented]:
    """Show the fields of option objects in the signature and the documentation of what takes them as ``**chosen``.

    The entry of ``**chosen`` in the docstring's parameters gives way to one entry per field.

    Parameters
    ----------
    *models : type of Options
    leaving : collection of str
        Fields that it does not take.
    unset : bool, default False
        Whether None, which stands for "not chosen", is shown as the default in the signature: scikit-learn compares
        that with the attribute of a new estimator.
    """

    def show(target: Documented) -> Documented:
        function: Any = target.__init__ if inspect.isclass(target) else target
        signature = inspect.signature(function)
        named = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        rest = next(each for each in signature.parameters.values() if each.kind is inspect.Parameter.VAR_KEYWORD)
        taken = {each.name for each in named}
        taken |= set(leaving)
        offers = [offer for model in models for offer in model.offers() if offer.name not in taken]
        function.__signature__ = signature.replace(
            parameters=[
                *named,
                *(
                    inspect.Parameter(
                        offer.name,
                        inspect.Parameter.KEYWORD_ONLY,
                        default=None if unset else offer.field.default,
                        annotation=offer.field.annotation,
                    )
                    for offer in offers
                ),
            ]
        )
        target.__doc__ = _documented(target.__doc__ or "", rest.name, offers)
        return target

    return show


def _documented(text: str, rest: str, offers: Iterable[Offer]) -> str:
    lines = text.splitlines()
    start = next((row for row, line in enumerate(lines) if line.strip().startswith(f"**{rest}")), None)
    if start is None:
        return text
    indent = lines[start][: len(lines[start]) - len(lines[start].lstrip())]
    end = start + 1
    while end < len(lines) and lines[end].startswith(indent + " "):
        end += 1
    return "\n".join([*lines[:start], *(offer.documentation(indent) for offer in offers), *lines[end:]])


def _plain(kind: Any) -> Any:
    return get_origin(kind) or kind


def _explain(detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"])
    said = str(detail["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{option(field)} cannot be {detail['input']!r}: {said}."
