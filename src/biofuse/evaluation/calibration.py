"""Calibration: probabilities that are as often right as they say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import AlignmentError
from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Target

Values = NDArray[np.float64]

BOUND = 10.0
"""Natural logarithm of the largest temperature, and of one over the smallest, as in scikit-learn."""

PRECISION = 64 * float(np.finfo(np.float64).eps)
"""How nearly the logarithm of a temperature is found, as in scikit-learn."""

TINY = float(np.finfo(np.float64).eps)
"""Added to probabilities before their logarithm is taken, as in scikit-learn: some heads give zeros."""

PSEUDO = 1.0
"""Samples of unknown class that a temperature is found with beside the real ones. Without any, a predictor that makes
no mistake on a hundred samples would be taken to make none on a million."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Temperatures that probabilities are brought to: one, or of several labels one for each.

    The logarithms of probabilities are divided by the temperature and normalised (Guo et al. 2017, ICML): above 1 makes
    a predictor less sure, below 1 surer. The most probable class stays, and the order of samples by the probability of
    one of two classes, or of a label.

    Attributes
    ----------
    temperatures : tuple of float
    n : int
        Samples that they were found with.

    Examples
    --------
    >>> import numpy as np
    >>> from biofuse.core.target import Target, Task
    >>> from biofuse.evaluation.calibration import Calibration
    >>> target = Target.numbered(Task.BINARY, 2)
    >>> Calibration(temperatures=(0.5,), n=100).apply(target, np.array([[0.25, 0.75]])).round(3)
    array([[0.1, 0.9]])
    """

    temperatures: tuple[float, ...]
    n: int

    def fits(self, target: Target) -> bool:
        """Whether there is one temperature or, of several labels, one for each."""
        return len(self.temperatures) == (target.n_columns if target.several else 1)

    def apply(self, target: Target, probabilities: Values) -> Values:
        """Return the probabilities at these temperatures, same shape.

        Raises
        ------
        AlignmentError
            If they do not fit the target.
        """
        if not self.fits(target):
            raise AlignmentError(f"{len(self.temperatures)} temperatures do not fit {target.n_columns} {target.noun}.")
        if not target.several:
            return _softmax(_logits(probabilities) / self.temperatures[0])
        columns = zip(probabilities.T, self.temperatures, strict=True)
        return np.column_stack([_softmax(_logits(_pair(column)) / each)[:, 1] for column, each in columns])

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return what is saved: JSON values, and no arrays."""
        return {"temperatures": list(self.temperatures), "n": self.n}, {}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:  # noqa: ARG003 (none)
        """Build it from what :meth:`state` gave.

        Raises
        ------
        ArtifactError
            If that is malformed.
        """
        with reading("calibration"):
            temperatures = tuple(float(each) for each in json["temperatures"])
            if not temperatures or not all(0 < each < np.inf for each in temperatures):
                raise ValueError("a temperature is no positive number")
            return cls(temperatures=temperatures, n=int(json["n"]))


def calibrate(
    target: Target, labels: NDArray[np.int64], probabilities: Values, *, rows: ArrayLike, pseudo: float = PSEUDO
) -> Calibration:
    """Find the temperature of the least log-loss; of several labels, of each by itself.

    It is that of scikit-learn's ``CalibratedClassifierCV(method="temperature")``, but for the samples of unknown class
    that are counted in (:data:`PSEUDO`). A label that all samples have, or none, keeps its probabilities.

    Parameters
    ----------
    target : Target
        What is predicted.
    labels : ndarray of int64
        Shape (m,) class indices, or (m, n_labels) zeros and ones.
    probabilities : ndarray of float64, shape (m, n_classes)
        Of predictors that were not fitted on these samples.
    rows : array-like of int, shape (m,)
        Which sample each is about: one that comes several times, from repeats of cross-validation, counts once.
    pseudo : float
        Samples of unknown class counted in, each as likely of any class.
    """
    n = len(np.unique(np.asarray(rows)))
    smoothing = pseudo / (n + pseudo)
    if not target.several:
        return Calibration(temperatures=(_temperature(_logits(probabilities), labels, smoothing),), n=n)
    temperatures = tuple(
        _temperature(_logits(_pair(column)), truth, smoothing) if 0 < truth.sum() < len(truth) else 1.0
        for column, truth in zip(probabilities.T, labels.T, strict=True)
    )
    return Calibration(temperatures=temperatures, n=n)


def _temperature(logits: Values, truth: NDArray[np.int64], smoothing: float) -> float:
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    # Of every sample the logits of its class, or in the share of samples of unknown class the mean over classes.
    own = (1 - smoothing) * logits[np.arange(len(truth)), truth] + smoothing * logits.mean(axis=1)

    def loss(log_inverse: float) -> float:
        inverse = np.exp(log_inverse)
        return float(np.mean(logsumexp(inverse * logits, axis=1) - inverse * own))

    found = minimize_scalar(loss, bounds=(-BOUND, BOUND), method="bounded", options={"xatol": PRECISION})
    return float(np.exp(-found.x))


def _logits(probabilities: Values) -> Values:
    return np.asarray(np.log(probabilities + TINY))


def _softmax(logits: Values) -> Values:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _pair(column: Values) -> Values:
    return np.column_stack([1 - column, column])
