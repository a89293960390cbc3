"""Options of the commands: those of the option objects, derived; the few that are no fields; and those from a file."""

import functools
import inspect
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BeforeValidator, TypeAdapter, ValidationError
from rich.prompt import Prompt

from biofuse.api.service.options import ServeOptions
from biofuse.cli.console import note
from biofuse.core.errors import BioFuseError, UnsettledTaskError, did_you_mean, in_command_words, option, squashed
from biofuse.core.files import open_regular
from biofuse.core.options import Offer, Options, Panel, unknown_option
from biofuse.core.progress import errors
from biofuse.data.config import DataConfig
from biofuse.extract.options import ExtractOptions
from biofuse.runs.tracking import TRACKERS
from biofuse.search.config import SearchConfig

DATA_PANEL: Panel = "Data"
RUN_PANEL: Panel = "Running"

NATIVE = (str, int, float, bool, Path)
"""Types that the command line reads by itself."""

Command = Callable[..., None]

Data = Annotated[
    str,
    typer.Argument(
        help="A folder of class folders, a manifest (.csv, .tsv, .parquet), a MedMNIST .npz file or name.",
        show_default=False,
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        "--store", help="Folder of the embedding store; by default in the user cache.", rich_help_panel=RUN_PANEL
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Track = Annotated[
    list[str] | None,
    typer.Option(
        "--track",
        metavar=f"[{'|'.join(TRACKERS)}]",
        help="Tell a tracker of experiments of parameters, scores and report; its own variables say where.",
        rich_help_panel=RUN_PANEL,
    ),
]
Device = Annotated[
    str, typer.Option("--device", help=ExtractOptions.model_fields["device"].description, rich_help_panel=RUN_PANEL)
]
WeightsDir = Annotated[
    Path | None,
    typer.Option(
        "--weights-dir",
        help=ExtractOptions.model_fields["weights_dir"].description,
        envvar="BIOFUSE_WEIGHTS_DIR",
        rich_help_panel=RUN_PANEL,
    ),
]


def offers(*models: type[Options]) -> Callable[[Command], Command]:
    """Give a command that takes ``**chosen`` an option for every field of option objects.

    The command receives what the user chose, and nothing of the rest.

    Parameters
    ----------
    *models : type of Options
    """
    offered = [offer for model in models for offer in model.offers()]

    def derive(command: Command) -> Command:
        signature = inspect.signature(command)
        own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        taken = {each.name for each in own}
        derived = [offer for offer in offered if offer.name not in taken]
        parameters = [
            inspect.Parameter(offer.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(offer))
            for offer in derived
        ]
        by_name = {offer.name: offer for offer in derived}

        @functools.wraps(command)
        def run(**given: Any) -> None:
            read = {n: _value(by_name[n], value) if n in by_name else value for n, value in given.items()}
            chosen = {name: value for name, value in read.items() if name not in by_name or value is not None}
            try:
                command(**chosen)
            except UnsettledTaskError as error:
                if "task" not in by_name or not (sys.stdin.isatty() and sys.stderr.isatty()):
                    raise
                command(**{**chosen, "task": _ask_for_task(error)})

        return _with_signature(run, sorted([*own, *parameters], key=_place))

    return derive


def _ask_for_task(error: UnsettledTaskError) -> str:
    """Ask at a terminal how the numbers of a label are meant."""
    note(error.message)
    for way, meaning in error.ways.items():
        note(f"  {way}: {meaning}")
    chosen = Prompt.ask("Which is it?", choices=list(error.ways), console=errors)
    note(f"The same without being asked: {option('task', chosen)}.")
    return chosen


def _value(offer: Offer, value: Any) -> Any:
    """Return what was chosen; None for nothing. A flag that may be repeated, but was not, has one value, not a list."""
    if not offer.option.several:
        return value
    return None if not value else value[0] if len(value) == 1 else value


def _place(parameter: inspect.Parameter) -> int:
    """Put arguments and what has no panel first, and the panels into their order."""
    panel = getattr(parameter.annotation.__metadata__[0], "rich_help_panel", None)
    return get_args(Panel).index(panel) if panel in get_args(Panel) else -1


def _with_signature(function: Command, parameters: list[inspect.Parameter]) -> Command:
    changed: Any = function
    changed.__signature__ = inspect.Signature(parameters, return_annotation=None)
    changed.__annotations__ = {each.name: each.annotation for each in parameters} | {"return": None}
    return function


def _annotation(offer: Offer) -> Any:
    """Return the type of one option and how it is read and shown."""
    option, (kind, *_) = offer.option, offer.types
    description = offer.field.description or ""
    if option.names is not None:
        description = f"{description} One of {', '.join(offer.choices)}."
    if option.several:
        return _asked(offer, list[str] | None, description, metavar=option.metavar)
    reads: dict[str, Any] = {}
    native = (kind in NATIVE or get_origin(kind) is Literal) and not _reads_more(offer)
    if option.names is not None or not native:
        kind, reads = Any if native is False else kind, {"parser": _reader(offer), "metavar": _metavar(offer)}
    else:
        limits = {key: getattr(each, key) for each in offer.field.metadata for key in ("ge",) if hasattr(each, key)}
        reads = {"min": limits["ge"]} if limits else {}
        reads |= {"metavar": option.metavar} if option.metavar else {}
    if offer.name == "encoders":
        reads["autocompletion"] = complete_encoders
    elif offer.choices and "parser" in reads:
        reads["autocompletion"] = _completion(offer)
    return _asked(offer, kind | None if kind is not Any else Any, description, **reads)


def _asked(offer: Offer, kind: Any, description: str, **reads: Any) -> Any:
    option = offer.option
    flags = [f" /{option.off}"] if option.off else [offer.flag, *([option.short] if option.short else [])]
    return Annotated[
        kind,
        typer.Option(
            *flags,
            help=with_default(description, offer.default) if offer.default and not option.off else description,
            envvar=option.env or None,
            rich_help_panel=option.panel,
            **reads,
        ),
    ]


def _reads_more(offer: Offer) -> bool:
    """Tell whether the field takes more than the values it then has, such as other names of a metric."""
    return any(isinstance(each, BeforeValidator) for each in offer.field.metadata)


def _metavar(offer: Offer) -> str:
    if offer.option.metavar or offer.option.names is not None:
        return offer.option.metavar or "NAME"
    return f"[{'|'.join(offer.choices)}]" if offer.choices else "NAME"


def with_default(help_text: str, words: str) -> str:
    """Return the help of an option with its default in words, which the library would put into brackets of its own."""
    return rf"{help_text} [dim]\[default: {words}][/dim]"


def _reader(offer: Offer) -> Callable[[Any], Any]:
    """Return what reads the value of one option: what its field does, and a look at the names there are."""
    adapter: TypeAdapter[Any] = TypeAdapter(offer.field.rebuild_annotation())

    def read(value: Any) -> Any:
        try:
            found = adapter.validate_python(value)
        except ValidationError as error:
            raise typer.BadParameter(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
        except BioFuseError as error:
            raise typer.BadParameter(in_command_words(f"{error.message} {error.remedy}".strip())) from error
        if offer.option.names is None or found in offer.choices:
            return found
        alike = [name for name in offer.choices if squashed(name) == squashed(found)]
        if len(alike) == 1:
            return alike[0]
        hint = did_you_mean(found, offer.choices)
        raise typer.BadParameter(f"{found!r} is not one of {', '.join(map(repr, offer.choices))}. {hint}".rstrip())

    read.__name__ = offer.name
    return read


def _completion(offer: Offer) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [name for name in offer.choices if name.startswith(incomplete)]

    return complete


def complete_encoders(incomplete: str) -> list[str]:
    """Complete the last of several names of encoders and pools that commas separate."""
    from biofuse.encoders.registry import ENCODERS

    before, comma, last = incomplete.rpartition(",")
    names = (*ENCODERS.names(), *ENCODERS.aliases())
    return [f"{before}{comma}{name}" for name in names if squashed(name).startswith(squashed(last))]


def with_plugins(command: Command) -> Command:
    """Give a command ``--plugin FILE.py``, which is run before names of encoders, heads and fusions are looked up."""

    @functools.wraps(command)
    def run(*, plugin: list[Path] | None = None, **given: Any) -> None:  # noqa: ARG001
        command(**given)

    asked = inspect.Parameter(
        "plugin",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            list[Path] | None,
            typer.Option(
                "--plugin",
                help="Run a Python file that registers encoders, heads or fusions of your own; may be repeated.",
                metavar="FILE.py",
                is_eager=True,
                callback=_load_plugins,
            ),
        ],
    )
    return _with_signature(run, [*inspect.signature(command).parameters.values(), asked])


def _load_plugins(plugin: list[Path] | None) -> list[Path] | None:
    if plugin:
        from biofuse.encoders.plugins import load_plugin

        for each in plugin:
            load_plugin(each)
    return plugin


def with_config(command: Command) -> Command:
    """Give a command ``--config FILE.toml``, from which it takes what the command line leaves out."""

    @functools.wraps(command)
    def run(*, config: Path | None = None, **given: Any) -> None:  # noqa: ARG001
        command(**given)

    asked = inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[
            Path | None,
            typer.Option(
                "--config",
                help='Take options from a file: out = "run", batch_size = 32, ... The command line wins.',
                metavar="FILE.toml",
                is_eager=True,
                callback=_read_config,
            ),
        ],
    )
    return _with_signature(run, [*inspect.signature(command).parameters.values(), asked])


def _read_config(context: typer.Context, config: Path | None) -> Path | None:
    if config is None:
        return None
    try:
        with open_regular(config) as file:
            content = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(f"{config} cannot be read: {error}") from error
    options = {
        each.name: each
        for each in context.command.params
        if each.param_type_name == "option" and each.name not in {"config", "help"}
    }
    long = {name.replace("_", "-"): name for name in options}
    long |= {flag.removeprefix("--"): name for name, each in options.items() for flag in each.opts if flag[:2] == "--"}
    found = {}
    # Plugins first: values of other options may be names that they register.
    for key, value in sorted(content.items(), key=lambda each: each[0] != "plugin"):
        name = long.get(key.replace("_", "-"))
        if name is None:
            refused = unknown_option(key, long)
            raise typer.BadParameter(in_command_words(f"{config}: {refused.message} {refused.remedy}"))
        found[name] = _from_file(context, options[name], value, f"{config}: {key}")
    context.default_map = {**(context.default_map or {}), **found}
    return config


def _from_file(context: typer.Context, option: Any, value: Any, where: str) -> Any:
    """Read one value as the command line would read its text."""
    if getattr(option, "is_flag", False):
        if not isinstance(value, bool):
            raise typer.BadParameter(f"{where} is true or false, not {value!r}.")
        return value
    if isinstance(value, dict):
        raise typer.BadParameter(f"{where} is a table; options stand at the top of the file.")
    several = option.multiple or option.nargs != 1
    texts = [str(each) for each in (value if isinstance(value, list) else [value])]
    read = texts if several else ",".join(texts)
    try:
        option.process_value(context, read)
    except typer.BadParameter as error:
        raise typer.BadParameter(f"{where} = {value!r}: {error.message}") from error
    return read


PAGE = """# Options

Written from the option objects by `make docs`; do not edit.

Every option is a field of one of these objects, and is offered in the same way everywhere: as a flag of each command
that reads data, searches or extracts, as a key of `--config FILE.toml` (see [Concepts](concepts.md#options)), and by
name in Python.
"""


PARTS: tuple[tuple[str, type[Options], str], ...] = (
    (
        "Data",
        DataConfig,
        (
            "`biofuse.DataConfig`, and by name in `load_samples`, `biofuse.fit`, `BioFuse.fit`, `embed`, "
            "`embed_batches`, `evaluate`, `BioFuseModel`; `biofuse check`, `embed`, `fit`, `evaluate` (where "
            "`--split-column` is the column of splits), `predict`, `similar`, `benchmark data`, `store export`, "
            "`store import`, `store verify`."
        ),
    ),
    (
        "Search",
        SearchConfig,
        (
            "`biofuse.SearchConfig`, and by name in `biofuse.fit`, `BioFuse`, `FusionClassifier`; `biofuse fit`, "
            "`demo`, `benchmark`."
        ),
    ),
    (
        "Extraction",
        ExtractOptions,
        (
            "`biofuse.ExtractOptions`, and by name in `biofuse.fit`, `BioFuse`, `embed`, `embed_batches`, `evaluate`, "
            "`BioFuseModel`; `biofuse embed`, `fit`, `evaluate`, `predict`, `similar`, `report`, `demo`, "
            "`benchmark`, `store verify`."
        ),
    ),
    ("Serving", ServeOptions, "`biofuse.api.service.options.ServeOptions`; `biofuse serve`."),
)


def options_page() -> str:
    """Return the page docs/options.md."""
    lines = [PAGE]
    for title, model, where in PARTS:
        lines += [f"## {title}", "", where, ""]
        lines += ["| in Python | on the command line | values | default | meaning |", "|---|---|---|---|---|"]
        lines += [_row(offer) for offer in model.offers()]
        lines.append("")
    return "\n".join(lines)


def _row(offer: Offer) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (offer.flag, offer.option.short) if flag)
    values = ", ".join(offer.choices) or offer.option.metavar or offer.type_words
    if offer.field.examples:
        values = f"{values}, such as {offer.field.examples[0]}"
    if offer.option.env:
        flags = f"{flags}, or the variable `{offer.option.env}`"
    cells = (f"`{offer.name}`", flags, values, offer.default, offer.field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
