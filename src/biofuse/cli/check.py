"""``biofuse check``."""

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

import biofuse
from biofuse.cli import options
from biofuse.cli.console import human_bytes, output, say, show_json, show_table
from biofuse.core.errors import advised, in_command_words, option
from biofuse.core.progress import progress_bars
from biofuse.core.target import Task
from biofuse.data.config import DataConfig
from biofuse.encoders.registry import resolve
from biofuse.search.config import STARTER

if TYPE_CHECKING:
    from biofuse.data.check import CheckReport, Spread

SHOWN = 5
"""Unreadable images that are printed; --json has them all."""

WORDS = 3
"""Different words that files say of themselves and that are printed."""

CLASSES = 12
"""Classes that have a row of their own, so that one screen holds what there is to see."""


@options.offers(DataConfig)
def check(
    data: options.Data,
    *,
    show: Annotated[
        Path | None,
        typer.Option("--show", metavar="PICTURE", help="Draw images as an encoder receives them: sheet.png, say."),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            help=f"Whose preprocessing --show applies; by default the first of the pool {STARTER}.",
            autocompletion=options.complete_encoders,
        ),
    ] = None,
    as_json: options.Json = False,
    **chosen: Any,
) -> None:
    """Look at a data set before using it: how it is read, counts, sizes, duplicates, leaks, unreadable files.

    The last line is the command to go on with. Exits with 1 if `biofuse fit` would refuse the data: an image cannot be
    read, a group lies in several splits, or a class is a single image or group.

    [bold]Examples[/bold]

      biofuse check images/

      biofuse check manifest.csv --label diagnosis --group patient --json

      biofuse check images/ --show sheet.png --encoder uni2_h
    """
    from biofuse.data.check import check_samples
    from biofuse.data.microscopy import with_windows
    from biofuse.report.sheet import check_sheet, contact_sheet

    if encoder is not None and show is None:
        raise typer.BadParameter("is for --show: say which picture to write.", param_hint="--encoder")
    card = resolve(encoder or STARTER)[0]
    if show is not None:
        check_sheet(show)
    samples = with_windows(biofuse.load_samples(data, torn_groups="allow", progress=True, **chosen))
    with progress_bars() as bars:
        report = check_samples(samples, ungrouped=DataConfig(**chosen).ungrouped, progress=bars)
    command = next_command(data, chosen, report)
    sheet = None if show is None or len(report.unreadable) == len(samples) else contact_sheet(samples, card)
    if sheet is not None and show is not None:
        sheet.write(show)
    if as_json:
        drawn = {} if sheet is None else {"sheet": {"path": str(show), "images": sheet.shown, "encoder": card.name}}
        show_json({**report.to_dict(), **drawn, "next": command})
    else:
        _show(report)
        if sheet is not None:
            say(f"\n{show}: {sheet.shown} images as {card.name} receives them, {sheet.words}.")
        output.print(f"\nnext: [bold]{escape(command)}[/]", soft_wrap=True)
    if report.refusals:
        raise typer.Exit(1)


def next_command(data: str, given: dict[str, Any], report: "CheckReport") -> str:
    """Return the command to go on with: what was chosen stays, and what the report advises is added."""
    found = {**given, **{name: value for name, value in advised(report.warnings).items() if name not in given}}
    if report.task is None and "label" not in found:
        if not any(option("label") in note for note in report.notes):
            return _command("embed", data, {**found, "out": "embeddings.parquet"})
        found["label"] = "COLUMN"
    return _command("fit", data, {**found, "out": "run"})


def _command(name: str, data: str, chosen: dict[str, Any]) -> str:
    return " ".join(
        [f"biofuse {name} {shlex.quote(data)}", *(in_command_words(option(*each)) for each in chosen.items())]
    )


def _show(report: "CheckReport") -> None:
    groups = "" if report.n_groups is None else f" in {report.n_groups} groups"
    images = "" if report.sizes is None else f" of {report.n_images} images ({_range(report.sizes)} each)"
    output.print(
        f"[bold]{escape(report.name)}[/]: {report.n_samples} samples{images}{groups}, task {report.task or 'none'}"
    )
    for note in report.notes:
        say(f"  {note}")
    _list("Meant otherwise?", report.doubts)
    _list("As it is, no model is fitted to this", report.refusals)
    _show_unreadable(report)
    _show_counts(report)
    _show_images(report)
    first = {*report.doubts, *report.refusals}
    _list("Worth thinking about", [warning for warning in report.warnings if warning not in first])
    if not report.warnings:
        say("Nothing suspicious was found.")


def _list(title: str, sentences: Sequence[str]) -> None:
    if sentences:
        output.print(f"\n[bold]{title}[/]")
        for sentence in sentences:
            say(f"  • {sentence}")


def _show_unreadable(report: "CheckReport") -> None:
    if not report.unreadable:
        return
    rows = [(image.id, image.reason) for image in report.unreadable[:SHOWN]]
    more = len(report.unreadable) - len(rows)
    show_table("", ("cannot be read", "why"), [*rows, *([(f"and {more} more", "see --json")] if more else [])])
    for remedy, count in Counter(image.remedy for image in report.unreadable).most_common(3):
        say(f"  {count} of them: {remedy}")


def _show_counts(report: "CheckReport") -> None:
    splits = list(report.counts)
    names = sorted(report.classes, key=lambda name: -sum(counts[name] for counts in report.counts.values()))
    shown = set(names[:CLASSES]) if len(names) > CLASSES + 1 else set(names)
    rows: list[tuple[Any, ...]] = [
        (name, *(report.counts[split][name] for split in splits)) for name in report.classes if name in shown
    ]
    rest = [name for name in report.classes if name not in shown]
    if rest:
        sums = (sum(report.counts[split][name] for name in rest) for split in splits)
        rows.append((f"{len(rest)} smaller classes", *sums))
    if rows:
        what = "class" if report.task is None or Task(report.task).categorical else "samples with"
        total = [("all", *report.split_sizes.values())] if len(rows) > 1 else []
        show_table("", (what, *splits), [*rows, *total], numbers=splits)
    elif set(report.split_sizes) != {"all"}:
        say("splits: " + ", ".join(f"{count} {split}" for split, count in report.split_sizes.items()))
    for split, columns in report.numbers.items():
        for name, spread in columns.items():
            say(f"{name}{'' if split == 'all' else f', {split}'}: {_range(spread)}")


def _range(spread: "Spread") -> str:
    if spread.minimum == spread.maximum:
        return f"{spread.minimum:g}"
    return f"{spread.minimum:g} to {spread.maximum:g} (median {spread.median:g})"


def _show_images(report: "CheckReport") -> None:
    for kind, files in report.files.items():
        said = [f"{name} {_range(spread)}" for name, spread in files.numbers.items()]
        for name, counts in files.words.items():
            several = len(counts) > 1
            shown = [f"{value} ({count})" if several else value for value, count in list(counts.items())[:WORDS]]
            more = f" and {len(counts) - WORDS} others" if len(counts) > WORDS else ""
            said.append(f"{name} {', '.join(shown)}{more}")
        say(f"{files.n} {kind}{'' if files.n == 1 else 's'}{': ' if said else ''}{'; '.join(said)}")
    if report.width is None or report.height is None:
        return
    sizes = f"width {_range(report.width)}, height {_range(report.height)}"
    kinds = ", ".join(f"{count} {name}" for name, count in {**report.formats, **report.modes}.items())
    say(f"pixels: {sizes}; {f'files: {kinds}; ' if kinds else ''}{human_bytes(report.n_bytes)}")
