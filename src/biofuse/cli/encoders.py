"""``biofuse encoders``."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biofuse.cli.console import note, output, say, show_json, show_table
from biofuse.cli.options import Json

if TYPE_CHECKING:
    from biofuse.encoders.card import EncoderCard

app = typer.Typer(no_args_is_help=True, help="The encoders there are, and what is known about each.")

ROOM_FOR_ALL = 120
"""Columns of output from which the list shows more than what fits on a narrow terminal."""

SHORT_LICENCE = 16
"""Letters; the list says "own terms" for licences whose names are longer, which `encoders show` gives whole."""

MULTIPLES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9}


def _count(text: str) -> float:
    """Read a number such as ``100M`` or ``1.2B``."""
    try:
        number = float(text.rstrip("kKmMbBgG"))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is not a number such as 100M or 1.2B.") from error
    suffix = text[len(text.rstrip("kKmMbBgG")) :].lower()
    if len(suffix) > 1:
        raise typer.BadParameter(f"{text!r} is not a number such as 100M or 1.2B.")
    return number * MULTIPLES.get(suffix, 1)


@app.command("list")
def list_encoders(
    *,
    modality: Annotated[
        str | None, typer.Option("--modality", help="Only those trained on these, separated by commas.")
    ] = None,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="Only those whose licence allows commercial use.")
    ] = False,
    open_only: Annotated[
        bool, typer.Option("--open", help="Only those whose weights need no request for access.")
    ] = False,
    max_params: Annotated[
        str | None, typer.Option("--max-params", help="Only networks of at most so many parameters: 100M, 1.2B.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the encoders that are registered.

    [bold]Examples[/bold]

      biofuse encoders list

      biofuse encoders list --modality pathology --open --max-params 100M

      biofuse encoders list --commercial --json
    """
    from biofuse.encoders.registry import list_cards

    everything = list_cards()
    cards = [card for card in everything if all(keeps(card) for keeps in _filters(modality, commercial, open_only))]
    if max_params is not None:
        most = _count(max_params)
        cards = [card for card in cards if card.parameters is not None and card.parameters <= most]
    if as_json:
        show_json([_as_json(card) for card in cards])
        return
    if not cards:
        known = ", ".join(sorted({card.modality for card in everything}))
        note(f"No encoder is like that. They are trained on: {known}.")
        return
    _show_list(cards)


def _filters(modality: str | None, commercial: bool, open_only: bool) -> list[Callable[["EncoderCard"], bool]]:
    wanted = {name.strip().lower() for name in (modality or "").split(",") if name.strip()}
    filters: list[Callable[[EncoderCard], bool]] = []
    if wanted:
        filters.append(lambda card: card.modality.lower() in wanted)
    if commercial:
        filters.append(lambda card: card.commercial is True)
    if open_only:
        filters.append(lambda card: card.gated is False)
    return filters


def _as_json(card: "EncoderCard") -> dict[str, Any]:
    derived = {
        "unverified": list(card.unverified),
        "selectable_by_default": card.selectable_by_default,
        "pinned": card.weights is None or card.weights.pinned,
    }
    return card.model_dump(mode="json") | derived


def _show_list(cards: "Sequence[EncoderCard]") -> None:
    table: dict[str, list[object]] = {
        "name": [card.name for card in cards],
        "title": [card.title for card in cards],
        "trained on": [card.modality for card in cards],
        "columns": [card.dim for card in cards],
        "parameters": [_millions(card.parameters) for card in cards],
        "licence": [_short(card.licence) for card in cards],
        "weights": [{True: "gated", False: "open", None: "unknown"}[card.gated] for card in cards],
        "verified": ["yes" if card.selectable_by_default else "no" for card in cards],
        "aliases": [", ".join(card.pools) for card in cards],
    }
    if output.width < ROOM_FOR_ALL:
        for column in ("title", "weights", "verified", "aliases"):
            del table[column]
    rows = list(zip(*table.values(), strict=True))
    show_table(f"{len(cards)} encoders", list(table), rows, numbers=("columns", "parameters"))
    doubtful = sum(not card.selectable_by_default for card in cards)
    if doubtful:
        note(
            f"{doubtful} of them have essential facts that no external source confirms: they are in no alias but "
            "`paper`, and `biofuse encoders show NAME` says what is in doubt."
        )


@app.command("show")
def show_encoder(
    names: Annotated[list[str], typer.Argument(help="Names or aliases.", show_default=False)], *, as_json: Json = False
) -> None:
    """Show everything that is known about an encoder: its card.

    [bold]Examples[/bold]

      biofuse encoders show uni2_h

      biofuse encoders show starter --json
    """
    from biofuse.encoders.registry import resolve
    from biofuse.store.store import EmbeddingStore

    cards = resolve(names, find=EmbeddingStore().find_imported)
    if as_json:
        show_json([_as_json(card) for card in cards])
        return
    for card in cards:
        _show_card(card)
        output.print()


def _show_card(card: "EncoderCard") -> None:
    from rich.markup import escape
    from rich.table import Table

    from biofuse.encoders.describe import describe, origins

    say(f"{card.title} ({card.name})")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for subject, text in describe(card).items():
        grid.add_row(subject, escape(text))
    # Before its weights are read, an encoder whose hash is not known has no final fingerprint.
    known = card.weights is None or card.weights.sha256 is not None
    grid.add_row("fingerprint", card.fingerprint() if known else "known when its weights are first read")
    output.print(grid)
    facts = origins(card)
    if facts:
        output.print()
        show_table("Where these facts come from", ("fact", "source", "reference"), facts)


def _short(licence: str) -> str:
    return licence if len(licence) <= SHORT_LICENCE else "own terms"


def _millions(parameters: int | None) -> str:
    return "none" if not parameters else f"{parameters / 1e6:,.1f} M"
