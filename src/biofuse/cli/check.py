"""``biofuse check``."""

from typing import TYPE_CHECKING

import typer
from rich.markup import escape

import biofuse
from biofuse.cli import options
from biofuse.cli.console import errors, human_bytes, note, output, say, show_json, show_table
from biofuse.core.progress import progress_bars

if TYPE_CHECKING:
    from biofuse.data.check import CheckReport

SHOWN = 10
"""Rows of a long list that are printed; --json has them all."""


def check(
    data: options.Data,
    *,
    label: options.Label = None,
    group: options.Group = None,
    task: options.TaskName = None,
    as_json: options.Json = False,
) -> None:
    """Look at a data set before using it: counts, sizes, modes, duplicates, leaks, unreadable files.

    Exits with 1 if an image cannot be read, or a group lies in several splits: `biofuse fit` refuses both.

    [bold]Examples[/bold]

      biofuse check images/

      biofuse check manifest.csv --label diagnosis --group patient --json
    """
    from biofuse.data.check import check_samples

    samples = biofuse.load_samples(data, label=options.label_option(label), group=group, task=task, torn_groups="allow")
    with progress_bars(console=errors) as bars:
        report = check_samples(samples, progress=bars)
    if as_json:
        show_json(report.to_dict())
    else:
        _show(report)
    if report.unreadable or report.torn_groups:
        raise typer.Exit(1)


def _show(report: "CheckReport") -> None:
    output.print(f"[bold]{escape(report.name)}[/]: {report.n_samples} samples, task {report.task or 'none'}")
    _show_counts(report)
    _show_images(report)
    _show_duplicates(report)
    if report.unreadable:
        rows = [(image.id, image.reason) for image in report.unreadable[:SHOWN]]
        show_table(f"{len(report.unreadable)} images cannot be read", ("id", "reason"), rows)
    if report.torn_groups:
        groups = list(report.torn_groups.items())
        rows = [(name, ", ".join(splits)) for name, splits in groups[:SHOWN]]
        show_table(f"{len(groups)} groups lie in several splits", ("group", "splits"), rows)
    if report.warnings:
        output.print("\n[bold]Worth thinking about[/]")
        for warning in report.warnings:
            say(f"  • {warning}")
    else:
        note("Nothing suspicious was found.")


def _show_counts(report: "CheckReport") -> None:
    splits = list(report.counts)
    names = report.classes or tuple(dict.fromkeys(name for counts in report.counts.values() for name in counts))
    rows = [(name, *(report.counts[split].get(name, 0) for split in splits)) for name in names]
    if rows:
        show_table("", ("class", *splits), [*rows, ("all", *report.split_sizes.values())], numbers=splits)
    if report.n_groups is not None:
        output.print(f"groups: {report.n_groups}")


def _show_images(report: "CheckReport") -> None:
    if report.width is None or report.height is None:
        return
    sizes = [(name, s.minimum, s.median, s.maximum) for name, s in (("width", report.width), ("height", report.height))]
    rows = [(name, *(f"{value:g}" for value in values)) for name, *values in sizes]
    show_table("", ("pixels", "smallest", "median", "largest"), rows, numbers=("smallest", "median", "largest"))
    kinds = ", ".join(f"{count} {name}" for name, count in {**report.formats, **report.modes}.items())
    say(f"files: {kinds}; {human_bytes(report.n_bytes)}")


def _show_duplicates(report: "CheckReport") -> None:
    for overlap in report.duplicates.overlaps:
        classes = ", ".join(f"{count} {name}" for name, count in overlap.by_class.items())
        output.print(
            f"[bold red]leak[/] {overlap.n} of {overlap.n_split} {overlap.split} images are identical to "
            f"{overlap.other} images{escape(f': {classes}' if classes else '')}",
            soft_wrap=not output.is_terminal,
        )
    for repeats in report.duplicates.repeats:
        say(
            f"duplicates in {repeats.split}: {repeats.n_repeated} images repeat among themselves "
            f"({repeats.n_contents} different ones)"
        )
    if report.duplicates.conflicts:
        rows = [(", ".join(c.labels), ", ".join(c.ids)) for c in report.duplicates.conflicts[:SHOWN]]
        title = f"{len(report.duplicates.conflicts)} identical images with different labels"
        show_table(title, ("labels", "ids"), rows)
