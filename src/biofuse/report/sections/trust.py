"""How far to believe what the model says: calibration before and after, and prediction sets."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from biofuse.evaluation.calibration import (
    BINS,
    Calibration,
    CalibrationTest,
    Estimate,
    Quality,
    Reliability,
    bins_of,
    reliability,
)
from biofuse.evaluation.conformal import SetsTest
from biofuse.evaluation.intervals import share_interval
from biofuse.report import content
from biofuse.report.input import Predicted, ReportInput

ALWAYS = (
    "A set always names the most probable class: where the model is right more often than was asked for, sets hold the "
    "truth more often, too."
)


def trust_section(given: ReportInput) -> content.Section | None:
    """Show how often the chosen model is right as often as it says; None where it was not tested."""
    predicted = given.predicted
    if given.evaluation is None or predicted is None:
        return None
    found, sets = given.evaluation.calibration, given.evaluation.sets
    said = [] if found is None else [str(found)]
    said += [str(each) for each in sets[:1]]
    if (found is not None and found.few_groups) or any(each.few_groups for each in sets):
        said.append("There are too few groups for these intervals to be trusted.")
    basis = given.of_chosen
    return content.Section(
        id="trust",
        title="How far to believe it",
        paragraphs=tuple(said),
        items=(_reliability(predicted, found, basis),),
        more=(
            *([] if found is None else [_qualities(found, basis)]),
            *([] if not sets else [_sets(sets, basis)]),
        ),
    )


def _reliability(predicted: Predicted, tested: CalibrationTest | None, basis: str) -> content.Chart:
    found = reliability(predicted.confidence, predicted.right)
    mean, share = float(predicted.confidence.mean()), float(predicted.right.mean())
    what = "label" if predicted.multilabel else "prediction"
    tendency = "over-confident" if mean > share else "under-confident"
    line = _line("calibrated" if tested and tested.temperatures else "the model", found)
    low, high = _ends(predicted)
    lines = [replace(line, low=low, high=high)]
    if tested is not None and tested.temperatures:
        lines.append(_line("before calibration", reliability(*_before(predicted, tested))))
    return content.Chart(
        id="calibration",
        title="Calibration",
        basis=basis,
        summary=f"Expected calibration error {found.error:.4f} ({BINS} bins of equal width). Probabilities average "
        f"{mean:.3f}, and {share:.3f} of what they speak of is true: on the whole {tendency}. On the diagonal, "
        f"a {what} given 80 % is right four times in five. Bars are 95 % intervals.",
        body=content.LineChart(
            lines=tuple(lines),
            x_axis="probability of the label" if predicted.multilabel else "probability of the predicted class",
            y_axis="share that is right",
            diagonal=True,
            dotted=True,
        ),
        table=content.Table(
            id="calibration-data",
            caption=f"Probability and share that is right, by bin of probability; ECE {found.error:.4f}",
            columns=content.numbers("mean probability", "share right", f"{what}s"),
            rows=tuple(
                (float(a), float(b), int(c))
                for a, b, c in zip(found.confidence, found.accuracy, found.counts, strict=True)
            ),
        ),
    )


def _line(name: str, found: Reliability) -> content.LineSeries:
    return content.LineSeries(name=f"{name}, ECE {found.error:.4f}", x=found.confidence, y=found.accuracy)


def _ends(predicted: Predicted) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the interval of the share that is right in each bin."""
    confidence, right = predicted.confidence, predicted.right
    units = predicted.units.of_row
    if predicted.multilabel:  # an entry of each label that is known
        units = np.broadcast_to(units[:, None], predicted.known.shape)[predicted.known]
    bins = bins_of(confidence)
    grouped = predicted.multilabel or predicted.groups is not None
    found = [share_interval(right[bins == b], units[bins == b], grouped=grouped)[1:] for b in np.unique(bins)]
    low, high = np.array(found).T
    return low, high


def _before(predicted: Predicted, tested: CalibrationTest) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return confidences before calibration: another, at one over the temperatures, takes it back."""
    back = Calibration(temperatures=tuple(1 / each for each in tested.temperatures), n=predicted.n)
    before = back.apply(predicted.target, predicted.probabilities)
    return before[predicted.known] if predicted.multilabel else before.max(axis=1), predicted.right


def _qualities(found: CalibrationTest, basis: str) -> content.Table:
    stages: list[tuple[str, Quality]] = [("before", found.before), ("after", found.after)]
    stages = stages if found.temperatures else stages[:1]
    columns = [*content.words("probabilities")]
    columns += content.numbers(*(stage for stage, _ in stages), decimals=3)
    measures = {"log-loss": "loss", "Brier score": "brier", "expected calibration error": "ece"}
    perfect = (
        f"Perfect probabilities would show an expected calibration error of {found.chance:.3f} on as many samples, and "
        f"in one of twenty draws more than {found.chance_high:.3f}."
    )
    notes = [perfect]
    if len(found.temperatures) == 1:
        surer = "surer" if found.temperatures[0] < 1 else "less sure"
        notes.append(f"The temperature is {found.temperatures[0]:.3f}: it makes the model {surer}.")
    return content.Table(
        id="calibration-scores",
        caption="What calibration does to the probabilities, with 95 % intervals",
        columns=tuple(columns),
        rows=tuple(
            (title, *(_cell(getattr(quality, name)) for _, quality in stages)) for title, name in measures.items()
        ),
        notes=tuple(notes),
        basis=basis,
    )


def _cell(found: Estimate) -> content.Cell:
    return content.spanned(found.estimate, found.low, found.high)


def _sets(sets: tuple[SetsTest, ...], basis: str) -> content.Table:
    return content.Table(
        id="sets",
        caption="Prediction sets: how often they hold the truth, with 95 % intervals, and how many classes they name",
        columns=(
            *content.numbers("asked"),
            *content.words("for"),
            *content.numbers("held", "mean size", decimals=3),
            *content.numbers("one class", decimals=3),
            *content.words("least held"),
            *content.numbers("of it", decimals=3),
        ),
        rows=tuple(
            (
                each.asked,
                "each class" if each.class_conditional else "all",
                content.spanned(each.coverage.estimate, each.coverage.low, each.coverage.high),
                content.spanned(each.size.estimate, each.size.low, each.size.high),
                each.single,
                each.worst,
                each.worst_coverage,
            )
            for each in sets
        ),
        notes=(ALWAYS,),
        basis=basis,
    )
