"""What a model knows of how far it may be believed, from development data only."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError
from biofuse.core.files import read_json, write_bytes, write_text
from biofuse.core.seals import Arrays, Sealed
from biofuse.core.target import Labels, Target
from biofuse.evaluation.calibration import Calibration, calibrate
from biofuse.evaluation.conformal import Conformal
from biofuse.evaluation.novelty import Novelty
from biofuse.evaluation.operating import Thresholds
from biofuse.evaluation.risks import KnownRisks
from biofuse.evaluation.values import KnownValues
from biofuse.predictors.fused import below
from biofuse.search.out_of_fold import OutOfFold

RECORD, ARRAYS = "trust.json", "trust.safetensors"
"""Files beside the predictor; a model of a version that knew nothing of the kind has neither."""


class Known(Protocol):
    """One thing that a model knows: immutable, and saved as JSON values and arrays.

    Its class has ``restore(json, arrays)``, which builds it from them.
    """

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what is saved: JSON values, and arrays by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trust:
    """What a model knows of how far it may be believed; None where it was not found out.

    One thing more is a field here and a row of :data:`PARTS`.

    Attributes
    ----------
    calibration : Calibration or None
        What brings probabilities to be as often right as they say.
    novelty : Novelty or None
        What tells images apart that are unlike the development data.
    conformal : Conformal or None
        What true classes were given, from which prediction sets follow.
    thresholds : Thresholds or None
        What each threshold of a calibrated probability finds and spares.
    values : KnownValues or None
        How far predicted values were off, from which prediction intervals follow.
    risks : KnownRisks or None
        What brings risks of an event to be as they say, and what divides them into risk groups.
    """

    calibration: Calibration | None = None
    novelty: Novelty | None = None
    conformal: Conformal | None = None
    thresholds: Thresholds | None = None
    values: KnownValues | None = None
    risks: KnownRisks | None = None

    @classmethod
    def learn(
        cls, target: Target, labels: Labels, found: OutOfFold, *, units: NDArray[np.object_] | None = None
    ) -> Self:
        """Learn from what a predictor says of samples that it was not fitted on.

        Parameters
        ----------
        target : Target
        labels : ndarray of int64 or float64
            Of the development rows.
        found : OutOfFold
            The predictions.
        units : ndarray of str, shape (n,), optional
            What stays together, of the development rows; every row is one by default.
        """
        truth, rows = labels[found.rows], found.rows
        of = rows if units is None else units[rows].astype(str)
        if target.measured:
            return cls(values=KnownValues.learn(target, truth, found.probabilities, units=of))
        if target.timed:
            return cls(risks=KnownRisks.learn(target, truth, found.probabilities))
        calibration = calibrate(target, truth, found.probabilities, rows=rows)
        probabilities = calibration.apply(target, found.probabilities)
        return cls(
            calibration=calibration,
            conformal=Conformal.learn(target, truth, probabilities, units=of),
            thresholds=Thresholds.learn(target, truth, probabilities, rows=rows),
        )

    def calibrated(self, target: Target, probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return calibrated probabilities, same shape; what is given where nothing is known of how to calibrate it."""
        if self.risks is not None:
            return self.risks.apply(probabilities)
        return probabilities if self.calibration is None else self.calibration.apply(target, probabilities)

    def fits(self, target: Target) -> bool:
        """Whether what is known is about this target."""
        parts = (self.calibration, self.conformal, self.thresholds, self.values, self.risks)
        return all(part is None or part.fits(target) for part in parts)

    def save(self, folder: Path) -> None:
        """Write what is known to a folder, to be sealed with the model; nothing where nothing is known.

        Raises
        ------
        DiskError
            If it cannot be written.
        """
        from safetensors.numpy import save

        content: dict[str, Any] = {}
        arrays: Arrays = {}
        for field in fields(self):
            part: Known | None = getattr(self, field.name)
            if part is not None:
                content[field.name], own = part.state()
                arrays |= {f"{field.name}.{name}": np.ascontiguousarray(array) for name, array in own.items()}
        if content:
            write_text(folder / RECORD, json.dumps(content, indent=2, allow_nan=False) + "\n")
            write_bytes(folder / ARRAYS, save(arrays))

    @classmethod
    def load(cls, sealed: Sealed) -> Self:
        """Read what :meth:`save` wrote; nothing is known where there are no such files.

        Parameters
        ----------
        sealed : Sealed
            The model's folder, verified.

        Raises
        ------
        ArtifactError
            If a file is malformed, or of a version that knew more.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        if RECORD not in sealed.files:
            return cls()
        place = sealed.path(RECORD)
        try:
            content, arrays = dict(read_json(place)), load_file(sealed.path(ARRAYS))
        except (SafetensorError, OSError, TypeError, ValueError) as error:
            raise ArtifactError(f"{place} cannot be read: {error}", remedy="Fit again, or restore the file.") from error
        if set(content) - set(PARTS):
            raise ArtifactError(
                f"{place} holds {', '.join(sorted(set(content) - set(PARTS)))}, which this version of BioFuse does not "
                "know.",
                remedy="Update BioFuse: pip install -U biofuse-embed.",
            )
        return cls(**{name: PARTS[name](state, below(f"{name}.", arrays)) for name, state in content.items()})


PARTS: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, NDArray[Any]]], Any]] = {
    "calibration": Calibration.restore,
    "conformal": Conformal.restore,
    "thresholds": Thresholds.restore,
    "novelty": Novelty.restore,
    "values": KnownValues.restore,
    "risks": KnownRisks.restore,
}
"""What builds each field of :class:`Trust` from JSON values and arrays."""
