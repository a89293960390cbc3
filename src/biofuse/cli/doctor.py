"""``biofuse encoders doctor``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from biofuse.cli import options
from biofuse.cli.console import errors, human_bytes, note, say, show_json, show_table

if TYPE_CHECKING:
    from biofuse.encoders.doctor import Diagnosis

WEIGHTS = {
    "not needed": "none needed",
    "package": "in a package",
    "file": "own file",
    "folder": "in the folder",
    "cache": "in the cache",
    "absent": "not here",
    "unknown": "its own way",
}


def doctor(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names or aliases; all encoders by default.", show_default=False)
    ] = None,
    *,
    load: Annotated[
        bool | None,
        typer.Option(
            "--load/--no-load",
            help="Load those whose weights are here, check and time them.",
            show_default="where names are given",
        ),
    ] = None,
    device: options.Device = "auto",
    weights_dir: options.WeightsDir = None,
    as_json: options.Json = False,
) -> None:
    """Say of each encoder what keeps it from running here: library, access, weights, memory, its card's checks.

    Downloads nothing. Exits with 1 if an encoder asked for cannot run.

    [bold]Examples[/bold]

      biofuse encoders doctor

      biofuse encoders doctor paper --no-load

      biofuse encoders doctor efficientnet_lite0 hog --json
    """
    from biofuse.encoders.doctor import diagnose
    from biofuse.encoders.hub import endpoint, offline
    from biofuse.encoders.registry import list_cards, resolve
    from biofuse.extract.options import choose_device

    cards = resolve(names) if names else list_cards()
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
        show_json({"device": chosen, "hub": hub, "encoders": [_plain(each) for each in found]})
    else:
        _show(found, chosen)
        unasked = [each.name for each in found if each.access in {"not asked", "unreachable"}]
        _show_problems([each for each in found if names or each.name not in unasked])
        if unasked and not names:
            why = "HF_HUB_OFFLINE is set" if offline() else f"{endpoint()} cannot be reached"
            note(f"{len(unasked)} encoders have no weights here, and the hub could not be asked: {why}.")
    if names and not all(each.runs for each in found):
        raise typer.Exit(1)


def _plain(found: "Diagnosis") -> dict[str, Any]:
    return {**found.model_dump(mode="json"), "fits": found.fits, "runs": found.runs}


def _reachable(found: Sequence["Diagnosis"]) -> bool | None:
    """Tell whether the hub answered anything; None where it was not asked."""
    answers = {each.access for each in found} & {"granted", "denied", "not on hub", "unreachable"}
    return None if not answers else answers != {"unreachable"}


def _show(found: Sequence["Diagnosis"], device: str) -> None:
    columns = ("encoder", "runs", "libraries", "weights", "access", "memory", "images/s")
    rows = [
        (
            each.name,
            _verdict(each),
            "missing" if each.missing else "there",
            WEIGHTS[each.weights],
            each.access,
            "?" if each.memory_needed is None else human_bytes(each.memory_needed),
            "" if each.images_per_second is None else f"{each.images_per_second:,.1f}",
        )
        for each in found
    ]
    free = found[0].memory_free if found else None
    room = f", {human_bytes(free)} free" if free is not None else ""
    show_table(f"{len(found)} encoders on {device}{room}", columns, rows, numbers=("memory", "images/s"))


def _show_problems(found: Sequence["Diagnosis"]) -> None:
    for each in found:
        if each.problem:
            say(f"{each.name}: {each.problem}")
            say(f"  what to do: {each.remedy}")


def _verdict(found: "Diagnosis") -> str:
    if found.problem:
        return "no"
    if found.loads:
        return "yes"
    return "after a download" if found.weights == "absent" else "not tried"
