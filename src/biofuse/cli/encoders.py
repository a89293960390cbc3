"""``biofuse encoders``."""

from typing import Annotated

import typer

from biofuse.cli.console import output, show_json, show_table
from biofuse.cli.options import Json

app = typer.Typer(no_args_is_help=True, help="The encoders there are, and what is known about each.")

ROOM_FOR_TITLES = 110
"""Columns of output from which the list shows titles beside names."""


@app.command("list")
def list_encoders(*, as_json: Json = False) -> None:
    """List every registered encoder.

    [bold]Examples[/bold]

      biofuse encoders list

      biofuse encoders list --json
    """
    from biofuse.encoders.registry import list_cards

    cards = list_cards()
    if as_json:
        show_json([card.model_dump(mode="json") for card in cards])
        return
    table: dict[str, list[object]] = {
        "name": [card.name for card in cards],
        "title": [card.title for card in cards],
        "trained\non": [card.modality for card in cards],
        "columns": [card.dim for card in cards],
        "parameters": [_millions(card.parameters) for card in cards],
        "licence": [card.licence for card in cards],
        "aliases": [", ".join(card.pools) for card in cards],
    }
    if output.width < ROOM_FOR_TITLES:
        del table["title"]
    rows = list(zip(*table.values(), strict=True))
    show_table(f"{len(cards)} encoders", list(table), rows, numbers=("columns", "parameters"))


@app.command("show")
def show_encoder(
    names: Annotated[list[str], typer.Argument(help="Names or aliases.", show_default=False)], *, as_json: Json = False
) -> None:
    """Show everything that is known about an encoder: its card.

    [bold]Examples[/bold]

      biofuse encoders show efficientnet_lite0

      biofuse encoders show starter --json
    """
    from biofuse.encoders.registry import resolve

    cards = resolve(names)
    if as_json:
        show_json([card.model_dump(mode="json") for card in cards])
        return
    for card in cards:
        facts = card.model_dump(mode="json")
        rows = [(key, _fact(value)) for key, value in facts.items() if value not in (None, "", (), [], {})]
        show_table(card.title, ("fact", "value"), [*rows, ("fingerprint", card.fingerprint())])
        output.print()


def _fact(value: object) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{key}: {item}" for key, item in value.items() if item not in (None, "", []))
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    return str(value)


def _millions(parameters: int | None) -> str:
    return "none" if not parameters else f"{parameters / 1e6:.1f} M"
