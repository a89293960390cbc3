"""The ``biofuse`` command: its groups, and how failures are shown."""

import logging
import sys
from typing import Annotated

import typer

from biofuse import __version__
from biofuse.cli import check, demo, embed, encoders, fit, predict, store
from biofuse.cli.console import errors, show_error
from biofuse.core.errors import BioFuseError

app = typer.Typer(
    name="biofuse",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("check")(check.check)
app.command("embed")(embed.embed)
app.command("fit")(fit.fit)
app.command("evaluate")(fit.evaluate)
app.command("predict")(predict.predict)
app.command("demo")(demo.demo)
app.add_typer(encoders.app, name="encoders")
app.add_typer(store.app, name="store")


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
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")


class _State:
    """What the outermost handler needs to know of the options; set once per process."""

    debug = False


def main() -> None:
    """Run the command; exit 0, 1 with one clear message, or 2 for wrong usage."""
    try:
        app()
    except BioFuseError as error:
        if _State.debug:
            raise
        show_error(error)
        sys.exit(1)
    except BrokenPipeError:
        errors.quiet = True
        sys.exit(1)
