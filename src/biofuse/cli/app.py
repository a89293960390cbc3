"""The ``biofuse`` command: its groups, and how failures are shown."""

import logging
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from biofuse import __version__
from biofuse.cli import check, curve, embed, encoders, export, fit, report, serve, store, studies
from biofuse.cli.console import note, show_error, write_what_can_be_written
from biofuse.cli.options import with_config, with_plugins
from biofuse.core.errors import BioFuseError, BioFuseWarning, printable
from biofuse.core.machine import share_arena
from biofuse.core.progress import errors


class _Commands(TyperGroup):
    """The commands; any of them may be stopped and started again."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except WRONG_USAGE as error:
            error.message = printable(error.message)
            raise
        except KeyboardInterrupt:
            note("Stopped. What is finished is kept: give the same command again to go on from here.")
            raise typer.Exit(INTERRUPTED) from None


WRONG_USAGE: Any = typer.BadParameter.__mro__[1]
"""The base of every refusal of an argument, which typer does not export; its message quotes what was given."""

NO_MEMORY = (
    "Close other programs, or do less at a time: `--workers 0`, a smaller `--batch-size`, fewer encoders; images of "
    "very many pixels are better cut into tiles."
)
NO_THREADS = "Raise the limit of processes (`ulimit -u`), or end others; what is finished is kept."

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of the signal, as shells have it."""

app = typer.Typer(
    name="biofuse",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("check")(check.check)
app.command("embed")(embed.embed)
app.command("fit")(fit.fit)
app.command("evaluate")(fit.evaluate)
app.command("predict")(fit.predict)
app.command("curve")(curve.curve)
app.command("serve")(serve.serve)
app.command("report")(report.report)
app.command("compare")(report.compare)
app.command("card")(report.card)
app.command("similar")(export.similar)
app.command("export")(export.export)
app.command("demo")(studies.demo)
app.add_typer(studies.app, name="benchmark")
app.add_typer(encoders.app, name="encoders")
app.add_typer(store.app, name="store")
app.add_typer(report.runs_app, name="runs")
for group in (app, studies.app, encoders.app, store.app, report.runs_app):
    for each in group.registered_commands:
        each.callback = with_config(with_plugins(each.callback)) if each.callback is not None else None


def _version(value: bool) -> None:
    if value:
        typer.echo(f"biofuse {__version__}")
        raise typer.Exit


@app.callback()
def biofuse(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show the full traceback of a failure.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, and how long it takes.")] = False,
    _version_asked: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Find which frozen biomedical foundation models, together, serve your images best.

    [bold]Examples[/bold]

      biofuse demo                     everything once, on a real data set

      biofuse check images/            what is in a data set, and what is wrong with it

      biofuse fit images/ --out run    find the best combination of encoders

      biofuse evaluate run             its test scores, beside what it must be compared with
    """
    _State.debug = debug
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s", handlers=[_Notes()])


class _Notes(logging.Handler):
    """Shows what is logged where everything else is shown, so that bars and lines keep apart."""

    def emit(self, record: logging.LogRecord) -> None:
        note(self.format(record))


def _show_warning(otherwise: Callable[..., None]) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, BioFuseWarning):
            note(f"warning: {message}")  # A user needs what it says, not the line of code that says it.
        elif category.__name__ != "DecompressionBombWarning":  # Pillow's; it names no file, and BioFuse says it itself
            otherwise(message, category, *where, **more)

    return show


class _State:
    """What the outermost handler needs to know of the options; set once per process."""

    debug = False


def main() -> None:
    """Run the command; exit 0, 1 with one clear message, or 2 for wrong usage."""
    write_what_can_be_written()
    try:
        with warnings.catch_warnings(), share_arena():
            warnings.simplefilter("always", BioFuseWarning)
            warnings.showwarning = _show_warning(warnings.showwarning)
            app(prog_name="biofuse")
    except BioFuseError as error:
        if _State.debug:
            raise
        show_error(error)
        sys.exit(1)
    except MemoryError:
        if _State.debug:
            raise
        show_error(BioFuseError("There is no memory left for this.", remedy=NO_MEMORY))
        sys.exit(1)
    except RuntimeError as error:
        if _State.debug or "can't start new thread" not in str(error):
            raise
        show_error(BioFuseError("This process may not start another thread.", remedy=NO_THREADS))
        sys.exit(1)
    except BrokenPipeError:
        errors.quiet = True
        sys.exit(1)
