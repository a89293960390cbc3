"""From measured grey values to 8 bits: windows, which say what is black and what is white, and percentiles."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import DataError, did_you_mean, option

WINDOWS: dict[str, tuple[float, float]] = {
    "brain": (40.0, 80.0),
    "stroke": (40.0, 40.0),
    "subdural": (75.0, 215.0),
    "temporal-bone": (600.0, 2800.0),
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft-tissue": (50.0, 400.0),
    "liver": (30.0, 150.0),
    "spine": (50.0, 250.0),
    "bone": (400.0, 1800.0),
}
"""Windows of CT by name: centre and width in Hounsfield units. The usual values that Radiopaedia lists
(https://radiopaedia.org/articles/windowing-ct); of a subdural haematoma, for which it gives ranges (width 130-300,
centre 50-100), their middles."""

PERCENTILES = (0.5, 99.5)
"""Which values become black and white where nothing else says it. nnU-Net (Isensee et al., Nature Methods 2021) and
MedSAM (Ma et al., Nature Communications 2024) cut there."""

BY_PERCENTILES = "percentiles"
"""How the option says that windows which come with the data are passed over."""


@dataclass(frozen=True, kw_only=True)
class Window:
    """Which values are shown: those within ``width`` around ``centre``, in the unit that was measured.

    Attributes
    ----------
    centre, width : float
    name : str or None
        By which it was asked for.
    """

    centre: float
    width: float
    name: str | None = None

    @classmethod
    def of(cls, text: str | None) -> Self | None:
        """Read the option ``window``; None where it names no window.

        Raises
        ------
        DataError
            If it is neither a known name nor two numbers of which the second is positive.

        Examples
        --------
        >>> from biofuse.data.windows import Window
        >>> Window.of("-600,1500").limits, Window.of("brain").limits
        ((-1350.0, 150.0), (0.0, 80.0))
        """
        if text is None or text == BY_PERCENTILES:
            return None
        if text in WINDOWS:
            centre, width = WINDOWS[text]
            return cls(centre=centre, width=width, name=text)
        try:
            centre, width = (float(part) for part in text.split(","))
        except ValueError:
            centre = width = math.nan
        if not (math.isfinite(centre) and math.isfinite(width) and width > 0.0):
            known = [*WINDOWS, BY_PERCENTILES]
            raise DataError(
                f"There is no window {text!r}.",
                remedy=f"{did_you_mean(text, known)}Give its centre and its width, as in {option('window', '40,80')}, "
                f"or one of {', '.join(known)}.",
            )
        return cls(centre=centre, width=width)

    @property
    def limits(self) -> tuple[float, float]:
        """What becomes black, and what becomes white."""
        return self.centre - self.width / 2.0, self.centre + self.width / 2.0

    @property
    def words(self) -> str:
        """Centre and width, and the name where there is one."""
        numbers = f"{self.centre:g},{self.width:g}"
        return f"{self.name} ({numbers})" if self.name else numbers

    def grey(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """Return 8-bit grey of the same shape."""
        return to_grey(values, *self.limits)


def window_text(value: Any) -> str | None:
    """Read what may be given as the option ``window``: a name, ``centre,width`` or two numbers; as text.

    Raises
    ------
    DataError
        If it is none of these.
    """
    if value is None:
        return None
    text = value if isinstance(value, str) else ",".join(f"{part:.17g}" for part in value)
    text = "".join(text.split()).lower().replace("_", "-")
    Window.of(text)
    return text


def to_grey(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """Map values linearly so that ``low`` and below becomes 0, ``high`` and above 255; all 0 where they are the same.

    Parameters
    ----------
    values : ndarray of any shape
        Finite.
    low, high : float

    Returns
    -------
    ndarray of uint8, the same shape
    """
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(np.clip(scaled, 0.0, 255.0)).astype(np.uint8)


def percentile_limits(parts: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """Return which values of images that belong together become black and white: their ``PERCENTILES``.

    Parameters
    ----------
    parts : sequence of ndarray
        Values of one or several images, of any shapes; those that are not finite are left out.
    """
    values = np.concatenate([part[np.isfinite(part)].ravel() for part in parts])
    if not values.size:
        return 0.0, 0.0
    low, high = np.percentile(values, PERCENTILES)
    return float(low), float(high)


COUNTED = 1 << 22
"""Values that are counted at a time, for which they take four times their memory."""


def percentiles(values: NDArray[Any], ranks: Sequence[float], *, without: Sequence[float]) -> tuple[float, ...] | None:
    """Return percentiles, as numpy's with its default method, of the values that are none of those to be left out.

    Integers of at most 16 bits are counted rather than sorted, which takes a quarter to a half of the time.

    Parameters
    ----------
    values : ndarray, shape (n,)
        Finite.
    ranks : sequence of float
        From 0 to 100.
    without : sequence of float

    Returns
    -------
    tuple of float, or None
        None where nothing is left.
    """
    if values.dtype.kind not in "iu" or values.dtype.itemsize > 2:
        kept = values[np.all([values != each for each in without], axis=0)]
        return tuple(np.percentile(kept, ranks).tolist()) if kept.size else None
    lowest = int(np.iinfo(values.dtype).min)
    counts = np.zeros(1 << 8 * values.dtype.itemsize, dtype=np.int64)
    for start in range(0, values.size, COUNTED):
        some = values[start : start + COUNTED].astype(np.int64) - lowest
        counts += np.bincount(some, minlength=counts.size)
    there = np.arange(lowest, lowest + counts.size)
    counts[np.isin(there, without)] = 0
    ends = np.cumsum(counts)
    if not ends[-1]:
        return None
    places = np.asarray(ranks, dtype=np.float64) / 100 * (ends[-1] - 1)
    below, above = (
        there[np.searchsorted(ends, np.round(each), side="right")].astype(np.float64)
        for each in (np.floor(places), np.minimum(np.floor(places) + 1, ends[-1] - 1))
    )
    share = places - np.floor(places)
    # Numpy's own steps, so that not even the last bit differs.
    found = np.where(share < 0.5, below + (above - below) * share, above - (above - below) * (1 - share))
    return tuple(found.tolist())
