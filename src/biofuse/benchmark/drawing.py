"""Pictures of a demo or benchmark run: sample images with their predictions, and the main scores side by side."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biofuse.core.errors import AlignmentError, DataError
from biofuse.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG, CHOSEN, OTHER = "#0072b2", "#d55e00", "#0072b2", "#595959"
"""Blue and vermilion of the Okabe-Ito palette, told apart by people with any colour vision; grey for the rest."""

TITLE_CHARACTERS = 27
"""Longest line that fits above one image of a contact sheet."""

DPI = 150
"""Pixels per inch of the pictures."""

METADATA = {"Software": None}
"""Leaves matplotlib's version out of the file, so that equal pictures are equal files."""


def draw_predictions(
    images: Sequence[Image.Image | NDArray[np.uint8]],
    titles: Sequence[str],
    correct: Sequence[bool],
    path: Path,
    *,
    heading: str = "",
    columns: int = 6,
) -> Path:
    """Draw a contact sheet of images with their predictions.

    A right prediction has a thin blue solid frame and a tick, a wrong one a thick vermilion dashed frame and a cross,
    so that the two differ in more than colour.

    Parameters
    ----------
    images : sequence of PIL images or uint8 arrays of shape (height, width) or (height, width, 3)
        What to show, in reading order.
    titles : sequence of str
        A few short lines for each image; :func:`prediction_title` makes them.
    correct : sequence of bool
        Whether each prediction is right.
    path : Path
        The PNG to write; replaced if it exists.
    heading : str, optional
        A line above the sheet.
    columns : int, default 6
        Most images in a row.

    Returns
    -------
    Path
        The path given.

    Raises
    ------
    DataError
        If there is nothing to draw.
    AlignmentError
        If the three sequences differ in length.
    """
    if not len(images) == len(titles) == len(correct):
        raise AlignmentError(
            f"{len(images)} images, {len(titles)} titles and {len(correct)} marks cannot be one sheet."
        )
    if not images:
        raise DataError("There are no images to draw.")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    wrapped = [_wrap(title) for title in titles]
    lines = max(title.count("\n") + 1 for title in wrapped)
    # At least two images wide, or the key below would not fit.
    figure = _figure(width=2.05 * max(columns, 2), height=(1.9 + 0.17 * lines) * rows + (0.6 if heading else 0.35))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(images) :]:
        axis.set_visible(False)
    for axis, image, title, right in zip(axes, images, wrapped, correct, strict=False):
        _draw_image(axis, np.asarray(image), title, right=right)
    figure.supxlabel("✓ solid frame: right      ✗ dashed frame: wrong", fontsize=8)
    if heading:
        figure.suptitle(heading, fontsize=11, fontweight="bold")
    return _save(figure, path)


def prediction_title(*, true: str, predicted: str, probability: float) -> str:
    """Word the title of one image: the prediction with its probability in per cent, then the truth."""
    return f"{predicted} ({probability:.0%})\ntrue: {true}"


def draw_leaderboard(  # noqa: PLR0917 - four columns of one table, a title and a path
    names: Sequence[str],
    means: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    title: str,
    path: Path,
    *,
    xlabel: str = "",
    chosen: int | None = None,
) -> Path:
    """Draw scores with their intervals as a horizontal dot plot, the first name on top.

    Parameters
    ----------
    names : sequence of str
        What was scored, e.g. best single encoder, chosen subset, all encoders; may have several lines.
    means, lows, highs : sequence of float
        Score and the ends of its interval; ``nan`` ends draw no interval.
    title : str
        What the picture says.
    path : Path
        The PNG to write; replaced if it exists.
    xlabel : str, optional
        The metric and the kind of interval, e.g. "test AUROC, 95 % bootstrap interval".
    chosen : int, optional
        Index of the row to emphasise.

    Returns
    -------
    Path
        The path given.

    Raises
    ------
    DataError
        If there is nothing to draw, or a low end lies above a high one.
    AlignmentError
        If the sequences differ in length.
    """
    if not len(names) == len(means) == len(lows) == len(highs):
        raise AlignmentError(f"{len(names)} names, {len(means)} means, {len(lows)} lows and {len(highs)} highs differ.")
    if not names:
        raise DataError("There are no scores to draw.")
    for name, low, high in zip(names, lows, highs, strict=True):
        if low > high:
            raise DataError(f"The interval of {name!r} is upside down: {low} to {high}.")
    lines = sum(name.count("\n") + 1 for name in names)
    figure = _figure(width=8.0, height=1.25 + 0.22 * lines + 0.24 * len(names))
    axis = figure.subplots()
    for row, (name, mean, low, high) in enumerate(zip(names, means, lows, highs, strict=True)):
        _draw_score(axis, row, (mean, low, high), name=name, emphasised=row == chosen)
    axis.set_yticks(range(len(names)), labels=list(names))
    if chosen is not None:
        axis.get_yticklabels()[chosen].set_fontweight("bold")
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.margins(x=0.1)
    axis.set_xlabel(xlabel)
    axis.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axis.grid(axis="x", color="#e3e3e3", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)
    return _save(figure, path)


def _draw_image(axis: "Axes", pixels: NDArray[np.uint8], title: str, *, right: bool) -> None:
    colour = RIGHT if right else WRONG
    # vmin and vmax: without them matplotlib stretches every grey image to its own range.
    axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        # Spines have square caps by default, which close the gaps between dashes.
        spine.set(edgecolor=colour, linewidth=1.5 if right else 3.5, capstyle="butt")
        spine.set_linestyle("-" if right else (0, (2.5, 1.3)))
    axis.set_title(f"{'✓' if right else '✗'} {title}", fontsize=8, color=colour, fontweight="bold", linespacing=1.25)


def _wrap(title: str) -> str:
    return "\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, TITLE_CHARACTERS) or [""])


def _draw_score(axis: "Axes", row: int, score: tuple[float, float, float], *, name: str, emphasised: bool) -> None:
    mean, low, high = score
    colour = CHOSEN if emphasised else OTHER
    if math.isfinite(low) and math.isfinite(high):
        axis.plot([low, high], [row, row], color=colour, linewidth=2.5, solid_capstyle="butt")
    axis.plot([mean], [row], marker="D" if emphasised else "o", markersize=9, color=colour, label=name)
    axis.annotate(
        f"{mean:.3f}",
        (mean, row),
        xytext=(0, 8),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        color=colour,
        fontweight="bold" if emphasised else "normal",
    )


def _figure(*, width: float, height: float) -> "Figure":
    """Return an empty figure in inches that needs no display: made without pyplot, which keeps global state."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.07)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")


def _save(figure: "Figure", path: Path) -> Path:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata=METADATA)
    return path
