"""What the images of some tested samples argue, where samples are several images."""

import numpy as np

from biofuse.predictors.arguments import BY_ATTENTION
from biofuse.report import content
from biofuse.report.bags import ArguedSample
from biofuse.report.input import Predicted, ReportInput, picture_of
from biofuse.report.sections.results import mistaken_column, worst_mistakes

MISTAKES, RIGHT = 2, 2
"""Samples that are shown: the most confident mistakes, and the surest that are right, of different classes."""

SIDE, OVERVIEW = 128, 480
"""Pixels of an image, and of a slide."""

HOW = {
    True: "An image adds its weight times what it says of the class; all images and a constant add up to its log-odds, "
    "before calibration.",
    False: "What an image adds is by how much the log-odds of the class fall where it is left out.",
}
"""How it was found: by attention, or not."""


def samples_to_argue(predicted: Predicted) -> list[tuple[int, str, int]]:
    """Return the tested samples that are shown: row, what was said of it, and the column of the class it is about."""
    wrong = [(row, what, mistaken_column(predicted, row)) for row, what, _ in worst_mistakes(predicted, MISTAKES)]
    sure = predicted.probabilities.max(axis=1)
    right: dict[int, int] = {}
    for row in np.argsort(-sure, kind="stable").tolist():
        if predicted.agrees[row] and predicted.predictions[row]:
            right.setdefault(int(predicted.probabilities[row].argmax()), row)
    return wrong + [
        (row, f"rightly predicted {predicted.predictions[row]}", column) for column, row in list(right.items())[:RIGHT]
    ]


def bags_section(given: ReportInput) -> content.Section | None:
    """Show the images that argue most for and against a prediction; None where samples are single images."""
    if not given.argued:
        return None
    said = (
        "Of the most confident mistakes, and of the surest predictions that are right: the images that argue most for "
        f"the class, then those that argue most against it. {HOW[given.argued[0].how == BY_ATTENTION]} It is what the "
        "model makes of an image, no finding in it."
    )
    return content.Section(
        id="bags",
        title="Which images decide",
        paragraphs=(said,),
        items=tuple(_gallery(given, number, sample) for number, sample in enumerate(given.argued)),
        more=(_table(given),),
    )


def _gallery(given: ReportInput, number: int, sample: ArguedSample) -> content.Gallery:
    pictures = []
    overview = sample.overview()
    if overview is not None:
        caption = f"the slide; blue tiles argue for {sample.called}, brown ones against it"
        pictures.append(picture_of(overview, side=OVERVIEW, alternative=f"{sample.id}, slide", caption=caption))
    for place in sample.shown:
        image = None if given.test_images is None else given.test_images.open(sample.sources[place])
        if image is not None:
            caption = sample.caption(place)
            pictures.append(picture_of(image, side=SIDE, alternative=f"{sample.id}, {caption}", caption=caption))
    return content.Gallery(
        id=f"bag-{number}",
        title=f"{sample.id}, {sample.said}",
        pictures=tuple(pictures),
        basis=f"{sample.id}, {sample.said} ({sample.probability:.0%}), {len(sample.values)} images: for "
        f"{sample.called}, then against it. {given.of_chosen}",
    )


def _table(given: ReportInput) -> content.Table:
    weighed = any(sample.weights is not None for sample in given.argued)
    rows = [
        (
            sample.id,
            sample.called,
            sample.names[place],
            float(sample.values[place]),
            *([] if sample.weights is None else [float(sample.weights[place])]),
        )
        for sample in given.argued
        for place in np.argsort(-sample.values, kind="stable").tolist()
        if place in sample.shown
    ]
    return content.Table(
        id="bag-list",
        caption="What the images that are shown argue",
        basis=given.of_chosen,
        columns=(
            *content.words("sample", "class", "image"),
            *content.numbers("adds to the log-odds", decimals=2, signed=True),
            *(content.numbers("weight", decimals=3) if weighed else ()),
        ),
        rows=tuple(rows),
    )
