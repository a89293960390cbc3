"""``biofuse encoders verify``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biofuse.cli import options
from biofuse.cli.console import errors, note, say, show_json, show_table

if TYPE_CHECKING:
    from biofuse.encoders.card import EncoderCard


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


def verify(
    names: Annotated[list[str], typer.Argument(help="Names or aliases.", show_default=False)],
    *,
    write: Annotated[
        Path | None, typer.Option("--write", help="Write golden vectors into this folder, to contribute them.")
    ] = None,
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

      biofuse encoders verify uni2_h --write golden/
    """
    from biofuse.encoders.registry import resolve
    from biofuse.extract.options import choose_device

    cards = resolve(names)
    chosen = choose_device(device)
    done = [_verified(card, chosen, write=write, against=against, weights_dir=weights_dir) for card in cards]
    if as_json:
        show_json(done)
    else:
        _show(done)
    if any(each.problem for each in done):
        raise typer.Exit(1)


def _verified(
    card: "EncoderCard", device: str, *, write: Path | None, against: Path | None, weights_dir: Path | None
) -> Verified:
    from biofuse.core.errors import DependencyError, EncoderError
    from biofuse.encoders.availability import available
    from biofuse.encoders.golden import compare, make_golden, read_golden, write_golden
    from biofuse.encoders.places import located
    from biofuse.encoders.registry import load_encoder

    golden = read_golden(card.name, folder=against)
    if golden is None and write is None:
        return Verified(name=card.name, agrees=None)
    try:
        # Before the line that says what is done: a download has a bar of its own.
        (ready,), _ = available([card], weights_dir=weights_dir)
        with errors.status(f"Embedding with {card.name}"):
            path = located(ready, weights_dir=weights_dir)
            made = make_golden(load_encoder(ready, device=device, weights_path=path), device=device)
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


def _show(done: list[Verified]) -> None:
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
