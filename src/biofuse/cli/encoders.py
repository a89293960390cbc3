"""``biofuse encoders``, and the page docs/encoders.md."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from biofuse.cli import options
from biofuse.cli.console import human_bytes, note, output, say, show_json, show_table
from biofuse.cli.options import Json
from biofuse.core.errors import DependencyError, EncoderError, option
from biofuse.core.progress import errors
from biofuse.encoders.card import UNVERIFIED_LAYOUT, EncoderCard, Weights, comparisons, describe, origins
from biofuse.encoders.doctor import Diagnosis, available, diagnose
from biofuse.encoders.hub import endpoint, offline
from biofuse.encoders.reference import compare, make_golden, proof_of, read_golden, write_golden
from biofuse.encoders.registry import EncoderRegistry, list_cards, load_encoder, resolve
from biofuse.encoders.weights import located
from biofuse.extract.options import choose_device

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


def _filters(modality: str | None, commercial: bool, open_only: bool) -> list[Callable[[EncoderCard], bool]]:
    wanted = {name.strip().lower() for name in (modality or "").split(",") if name.strip()}
    filters: list[Callable[[EncoderCard], bool]] = []
    if wanted:
        filters.append(lambda card: card.modality.lower() in wanted)
    if commercial:
        filters.append(lambda card: card.commercial is True)
    if open_only:
        filters.append(lambda card: card.gated is False)
    return filters


def _as_json(card: EncoderCard) -> dict[str, Any]:
    derived = {
        "unverified": list(card.unverified),
        "selectable_by_default": card.selectable_by_default,
        "pinned": card.weights is None or card.weights.pinned,
        "proven": proof_of(card),
    }
    return card.model_dump(mode="json") | derived


def _show_list(cards: Sequence[EncoderCard]) -> None:
    table: dict[str, list[object]] = {
        "name": [card.name for card in cards],
        "title": [card.title for card in cards],
        "trained on": [card.modality for card in cards],
        "columns": [card.dim for card in cards],
        "parameters": [_millions(card.parameters) for card in cards],
        "licence": [_short(card.licence) for card in cards],
        "weights": [{True: "gated", False: "open", None: "unknown"}[card.gated] for card in cards],
        "verified": ["yes" if card.selectable_by_default else "no" for card in cards],
        "proven": [_proven(card) for card in cards],
        "aliases": [", ".join(card.pools) for card in cards],
    }
    if output.width < ROOM_FOR_ALL:
        for column in ("title", "weights", "verified", "proven", "aliases"):
            del table[column]
    rows = list(zip(*table.values(), strict=True))
    show_table(f"{len(cards)} encoders", list(table), rows, numbers=("columns", "parameters"))
    doubtful = sum(not card.selectable_by_default for card in cards)
    if doubtful:
        note(
            f"{doubtful} of them have essential facts that no external source confirms: they are in no alias but "
            "`paper`, and `biofuse encoders show NAME` says what is in doubt."
        )
    more = [f"{card.name}:{variant}" for card in cards for variant in card.variants]
    if more:
        note(f"Further vectors of the same weights: {', '.join(more)}.")


def _proven(card: EncoderCard) -> str:
    """Say who has run an encoder with its published weights, and when; empty where nobody has told."""
    proof = proof_of(card)
    if proof is None:
        return ""
    return f"{proof.date} {proof.by}" + ("" if proof.holds else " (an earlier card)")


@app.command("show")
def show_encoder(
    names: Annotated[
        list[str],
        typer.Argument(
            help="Names, aliases or card files (.toml).", show_default=False, autocompletion=options.complete_encoders
        ),
    ],
    *,
    as_json: Json = False,
) -> None:
    """Show everything that is known about an encoder: its card.

    [bold]Examples[/bold]

      biofuse encoders show uni2_h

      biofuse encoders show starter --json

      biofuse encoders show my_card.toml
    """
    from biofuse.store.store import EmbeddingStore

    cards = resolve(names, find=EmbeddingStore().find_imported)
    if as_json:
        show_json([_as_json(card) for card in cards])
        return
    for card in cards:
        _show_card(card)
        output.print()


def _show_card(card: EncoderCard) -> None:
    from rich.markup import escape
    from rich.table import Table

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


WHERE = {
    "not needed": "none needed",
    "package": "in a package",
    "file": "own file",
    "folder": "in the folder",
    "cache": "in the cache",
    "absent": "not here",
    "unknown": "its own way",
}


@app.command("doctor")
def doctor(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names or aliases; all encoders by default.",
            show_default=False,
            autocompletion=options.complete_encoders,
        ),
    ] = None,
    *,
    load: Annotated[
        bool | None,
        typer.Option(
            "--load/--no-load",
            help=options.with_default(
                "Load those whose weights are here, check and time them.", "where names are given"
            ),
        ),
    ] = None,
    device: options.Device = "auto",
    weights_dir: options.WeightsDir = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Every encoder and every further vector of one: with --json, a matrix.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Say of each encoder what keeps it from running here: library, access, weights, memory, its card's checks.

    Downloads nothing. Exits with 1 if an encoder asked for cannot run.

    [bold]Examples[/bold]

      biofuse encoders doctor

      biofuse encoders doctor --all --json

      biofuse encoders doctor paper --no-load

      biofuse encoders doctor efficientnet_lite0 hog --json
    """
    if names and everything:
        raise EncoderError(
            f"{option('all')} and names of encoders were given.", remedy=f"Give names, or {option('all')}."
        )
    cards = resolve(names) if names else list_cards()
    if everything:
        cards = tuple(each for card in cards for each in (card, *map(card.variant, card.variants)))
    chosen = choose_device(device)
    with errors.status("Looking") as status:
        found = list(
            diagnose(
                cards,
                device=chosen,
                load=bool(names) if load is None else load,
                weights_dir=weights_dir,
                progress=lambda card: status.update(f"Loading {card.name}"),
            )
        )
    if as_json:
        hub = {"endpoint": endpoint(), "offline": offline(), "reachable": _reachable(found)}
        show_json({"device": chosen, "hub": hub, "encoders": [_diagnosis_as_json(each) for each in found]})
    else:
        _show_doctor(found, chosen)
        unasked = [each.name for each in found if each.access in {"not asked", "unreachable"}]
        _show_problems([each for each in found if names or each.name not in unasked])
        guessed = [each.name for each in found if UNVERIFIED_LAYOUT in each.in_doubt]
        if guessed:
            note(
                f"{UNVERIFIED_LAYOUT.capitalize()}: {', '.join(guessed)}. Nobody outside BioFuse was found to describe "
                "how these weights lie in their files, so loading them may be refused; no alias holds them by default."
            )
        if unasked and not names:
            why = "HF_HUB_OFFLINE is set" if offline() else f"{endpoint()} cannot be reached"
            note(f"{len(unasked)} encoders have no weights here, and the hub could not be asked: {why}.")
    if names and not all(each.runs for each in found):
        raise typer.Exit(1)


def _diagnosis_as_json(found: Diagnosis) -> dict[str, Any]:
    return {**found.model_dump(mode="json"), "fits": found.fits, "runs": found.runs}


def _reachable(found: Sequence[Diagnosis]) -> bool | None:
    """Tell whether the hub answered anything; None where it was not asked."""
    answers = {each.access for each in found} & {"granted", "denied", "not on hub", "unreachable"}
    return None if not answers else answers != {"unreachable"}


def _show_doctor(found: Sequence[Diagnosis], device: str) -> None:
    columns = ("encoder", "runs", "libraries", "weights", "access", "memory", "images/s")
    rows = [
        (
            each.name,
            _verdict(each),
            "missing" if each.missing else "there",
            WHERE[each.weights],
            each.access,
            "?" if each.memory_needed is None else human_bytes(each.memory_needed),
            "" if each.images_per_second is None else f"{each.images_per_second:,.1f}",
        )
        for each in found
    ]
    free = found[0].memory_free if found else None
    room = f", {human_bytes(free)} free" if free is not None else ""
    noun = "encoder" if len(found) == 1 else "encoders"
    show_table(f"{len(found)} {noun} on {device}{room}", columns, rows, numbers=("memory", "images/s"))


def _show_problems(found: Sequence[Diagnosis]) -> None:
    for each in found:
        if each.problem:
            say(f"{each.name}: {each.problem}")
            say(f"  what to do: {each.remedy}")


def _verdict(found: Diagnosis) -> str:
    if found.problem:
        return "no"
    if found.loads:
        return "yes"
    return "after a download" if found.weights == "absent" else "not tried"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What came of one encoder; ``agrees`` is None where there was nothing to compare it with."""

    name: str
    agrees: bool | None
    cosine: float | None = None
    relative_error: float | None = None
    problem: str = ""
    remedy: str = ""
    made_with: dict[str, str] | None = None
    written: str | None = None


@app.command("verify")
def verify(
    names: Annotated[
        list[str],
        typer.Argument(help="Names or aliases.", show_default=False, autocompletion=options.complete_encoders),
    ],
    *,
    write: Annotated[
        Path | None,
        typer.Option("--write", help="Write golden vectors into this folder, a file per encoder, to contribute them."),
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Who writes them, as `encoders list` will say.")] = "",
    against: Annotated[
        Path | None, typer.Option("--against", help="Compare with golden vectors in this folder, not BioFuse's own.")
    ] = None,
    device: options.Device = "auto",
    weights_dir: options.WeightsDir = None,
    as_json: options.Json = False,
) -> None:
    """Embed a fixed set of real images and compare with golden vectors, to see that it is what others have.

    Downloads weights that are not here. Exits with 1 if an encoder cannot be run or its embeddings are not the golden
    ones (cosine below 0.9999, or more than 1 % off).

    [bold]Examples[/bold]

      biofuse encoders verify starter

      biofuse encoders verify uni2_h --write golden/ --by "A. Person, Hospital"
    """
    cards = resolve(names)
    chosen = choose_device(device)
    done = [_verified(card, chosen, write=write, by=by, against=against, weights_dir=weights_dir) for card in cards]
    if as_json:
        show_json(done)
    else:
        _show_verified(done)
    if any(each.problem for each in done):
        raise typer.Exit(1)


def _verified(
    card: EncoderCard, device: str, *, write: Path | None, by: str, against: Path | None, weights_dir: Path | None
) -> Verified:
    golden = read_golden(card.name, folder=against)
    if golden is None and write is None:
        return Verified(name=card.name, agrees=None)
    try:
        # Before the line that says what is done: a download has a bar of its own.
        (ready,), _ = available([card], weights_dir=weights_dir)
        with errors.status(f"Embedding with {card.name}"):
            path = located(ready, weights_dir=weights_dir)
            made = make_golden(load_encoder(ready, device=device, weights_path=path), device=device, by=by)
    except (EncoderError, DependencyError) as error:
        return Verified(name=card.name, agrees=None, problem=error.message, remedy=error.remedy)
    facts: dict[str, Any] = {"agrees": None}
    if golden is not None:
        result = compare(made, golden)
        facts = {
            "agrees": result.agrees,
            "cosine": result.cosine,
            "relative_error": result.relative_error,
            "problem": result.problem,
            "made_with": dict(golden.made_with),
            "remedy": "" if result.agrees else "Compare the libraries' versions, and the card with its authors' page.",
        }
    # What does not agree may be written too: somebody has to find out which of the two is right.
    written = None if write is None else str(write_golden(card.name, made, write))
    return Verified(name=card.name, written=written, **facts)


def _show_verified(done: list[Verified]) -> None:
    rows = [
        (
            each.name,
            {True: "yes", False: "no", None: "not run" if each.problem else "nothing to compare with"}[each.agrees],
            "" if each.cosine is None else f"{each.cosine:.6f}",
            "" if each.relative_error is None else f"{each.relative_error:.1e}",
        )
        for each in done
    ]
    columns = ("encoder", "as expected", "smallest cosine", "largest error")
    show_table("Embeddings of six fixed images", columns, rows, numbers=columns[2:])
    for each in done:
        if each.problem:
            say(f"{each.name}: {each.problem}")
            if each.remedy:
                say(f"  what to do: {each.remedy}")
        if each.written:
            note(f"Wrote {each.written}.")
    unknown = [each.name for each in done if each.agrees is None and not each.problem and not each.written]
    if unknown:
        note(
            f"There are no golden vectors of {', '.join(unknown)}. Where its weights are known to be right, make them "
            "with --write DIR, and contribute the file."
        )


PAGE = """\
# Encoders

Written from the cards by `make docs`; do not edit.

An encoder is described by a card, a TOML file in `src/biofuse/encoders/cards/`; `biofuse encoders show NAME` tells
all of it. Each fact on a card says where it comes from: `external` (somebody else states it, with the reference),
`computed` (BioFuse worked it out) or `unverified`. Only external facts count as verified. Weights, architecture,
preprocessing, output, dimension and licence are essential: an encoder with an unverified essential is in no alias
(but `paper`, which is the list of the paper) and is used only when asked for by name.

For every encoder below the whole architecture is built without weights in BioFuse's tests, and its columns, its
number of parameters and its operations per image must be the card's. No published weights could be loaded in writing
these cards; the starter pool's, which install with BioFuse, are compared with stored vectors. How the weights of the
others lie in their files was read in the code of somebody who loads them, which the card names as the source of its
`layout`; the tests build such a file and load it. Where nobody was found the layout is unverified. [What each is
compared with](#what-each-is-compared-with) stands below. Files are checked when they are loaded: names of all weights,
the grid of positions, number of parameters, dimension, hash, and that embeddings are finite and differ between images.

A commit or hash pins the weights. Where none is known, the card follows `main` and says so; the hash of the file is
recorded when it is first read, and is part of the embeddings' fingerprint from then on.

`prov_gigapath` is the real tile encoder (patches of 16 pixels). The column "Prov-GigaPath" of the published results
was made with DINOv2 ViT-g/14: `dinov2_g` here, with the original's preprocessing, so that it can be reproduced.
"""

COMPARED_WITH = """\
## What each is compared with

In BioFuse's tests, where no published weights can be had. *Network*: a file is written as the published one is laid
out, with random weights, fewer and narrower layers, and all else as published (image size, patches, positions,
registers, pooling); it is loaded as users load it, and its vectors are those of the implementation named here, to 1e-5
of their largest component (or of one). *Preprocessing*: the implementation named here gives the same pixels for 28 real
images of odd sizes and modes (grey, palette, transparent, 16-bit, one pixel high). Neither implementation is BioFuse's
or made from the card. Further vectors of a card are compared too; they have a row where what they are compared with
differs.
"""

PAGE_COLUMNS = (
    "name",
    "encoder",
    "trained on",
    "columns",
    "parameters",
    "GFLOPs",
    "licence",
    "access",
    "pinned",
    "unverified",
)


def encoders_page() -> str:
    """Return the page docs/encoders.md."""
    registry = EncoderRegistry(plugins=False)
    cards = registry.list_cards()
    aliases = [(f"`{alias}`", ", ".join(f"`{name}`" for name in names)) for alias, names in registry.aliases().items()]
    rows = [
        (
            f"`{card.name}`",
            card.title,
            card.modality,
            f"{card.dim:,}",
            f"{card.parameters / 1e6:,.1f} M" if card.parameters else "",
            f"{card.gflops:,.4g}" if card.gflops else "",
            card.licence + {True: "", False: " (not commercial)", None: " (commercial use unclear)"}[card.commercial],
            {True: "gated", False: "open", None: "unknown"}[card.gated],
            _pinned(card.weights),
            ", ".join(card.unverified),
        )
        for card in cards
    ]
    total = sum(card.weight_bytes("bf16") or 0 for card in cards) / 1e9
    paper = sum(card.weight_bytes("bf16") or 0 for card in cards if "paper" in card.pools) / 1e9
    memory = f"The weights of the paper's nine take {paper:.1f} GB in bf16, those of all encoders here {total:.1f} GB"
    parts = [
        PAGE,
        f"## Aliases\n\n{_markdown(('alias', 'encoders'), aliases)}",
        f"## All {len(cards)}\n\n{_markdown(PAGE_COLUMNS, rows)}",
        f"{memory}; twice that in fp32.\n",
        f"{COMPARED_WITH}\n{_markdown(('encoder', 'network', 'preprocessing'), _compared_rows(cards)).rstrip()}\n",
    ]
    return "\n".join(parts)


def _compared_rows(cards: Iterable[EncoderCard]) -> list[tuple[str, str, str]]:
    """Return what the encoders with weights are compared with; of further vectors, where that is something else."""
    rows = []
    for card in cards:
        if card.weights is None:
            continue
        rows.append((f"`{card.name}`", *comparisons(card)))
        further = [card.variant(name) for name in card.variants]
        rows += [(f"`{each.name}`", *comparisons(each)) for each in further if comparisons(each) != comparisons(card)]
    return rows


def _markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _pinned(weights: Weights | None) -> str:
    """Say in a word what keeps the weights from changing."""
    if weights is None:
        return ""
    if not weights.pinned:
        return "not yet"
    return "hash" if weights.sha256 else "commit"
