"""Unlike the development data: how test images are distributed, and the most unusual ones."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from biofuse.evaluation.novelty import UNUSUAL
from biofuse.model.evaluate import Evaluation
from biofuse.model.tables import NOVELTY
from biofuse.report import content
from biofuse.report.input import ReportInput, name_of, picture_of
from biofuse.report.sections.results import SIDE

if TYPE_CHECKING:
    import pandas as pd

SHOWN = 12
"""The most unusual samples that are listed, and shown where their images are at hand."""

EDGES = (*range(0, 100, 10), UNUSUAL, 100)
"""Percentiles between which samples are counted."""


def novelty_section(given: ReportInput) -> content.Section | None:
    """Show which tested samples are unlike the development data; None where the model does not know that."""
    found = given.evaluation
    if found is None or found.novelty is None or NOVELTY not in found.predictions.columns:
        return None
    most = found.predictions.sort_values(NOVELTY, ascending=False, kind="stable").head(SHOWN)
    how = (
        "How far a sample is from its nearest development samples, by the embeddings of the chosen encoders, as a "
        "percentile of the development samples' own distances to those of other groups. Of samples like them, one in "
        f"a hundred lies above {UNUSUAL:.0f}."
    )
    said, warned = ((how,), (str(found.novelty),)) if found.novelty.surprising else ((str(found.novelty), how), ())
    pictures = _pictures(given, most)
    items: tuple[content.Item, ...] = (
        _distribution(found),
        *([content.Gallery(id="novelty-images", title="The most unusual images", pictures=pictures)] * bool(pictures)),
        content.Table(
            id="novelty-list",
            caption=f"The {len(most)} most unusual samples",
            basis=f"embeddings of {name_of(given.chosen, len(given.pool))}",
            columns=(*content.words("sample", "label", "prediction"), *content.numbers("percentile", decimals=1)),
            rows=tuple(
                (str(row["id"]), str(row["label"] or ""), str(row["prediction"]), float(row[NOVELTY]))
                for _, row in most.iterrows()
            ),
        ),
    )
    shown = items[:2] if found.novelty.surprising else ()
    return content.Section(
        id="novelty",
        title="Unlike the development data",
        paragraphs=said,
        warnings=warned,
        items=shown,
        more=items[len(shown) :],
    )


def _pictures(given: ReportInput, most: "pd.DataFrame") -> tuple[content.Picture, ...]:
    found = []
    for _, row in most.iterrows():
        image = None if given.test_images is None else given.test_images.image(str(row["id"]))
        if image is not None:
            caption = (
                f"percentile {row[NOVELTY]:.1f}, labelled {row['label']}, predicted {row['prediction']}: {row['id']}"
            )
            found.append(picture_of(image, side=SIDE, alternative=f"{row['id']}, unusual", caption=caption))
    return tuple(found)


def _distribution(found: Evaluation) -> content.Chart:
    """Count samples by percentile, beside what would be expected."""
    bins = [np.nextafter(edge, 100) if edge == UNUSUAL else edge for edge in EDGES]  # the last is what lies above
    counts, _ = np.histogram(found.predictions[NOVELTY].to_numpy(np.float64), bins=bins)
    expected = np.diff(EDGES) / 100 * found.n
    names = tuple(f"{low:.0f} to {high:.0f}" for low, high in pairwise(EDGES))
    return content.Chart(
        id="novelty-distribution",
        title="Tested samples by percentile",
        summary=f"{counts[-1]:,} of {found.n:,} samples lie above {UNUSUAL:.0f}, where {expected[-1]:.1f} would be "
        f"expected if they were like the development samples, and {expected[0]:.0f} in each ten below {EDGES[-3]}.",
        body=content.BarChart(
            labels=names,
            series=(content.Series(name="samples", values=counts.astype(np.float64)),),
            axis="samples",
        ),
        table=content.Table(
            id="novelty-distribution-data",
            caption="Tested samples by percentile of the development samples' own distances",
            columns=(
                *content.words("percentile"),
                *content.numbers("samples"),
                *content.numbers("expected", decimals=1),
            ),
            rows=tuple(zip(names, counts.tolist(), expected.tolist(), strict=True)),
        ),
    )
