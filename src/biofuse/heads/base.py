"""What maps a fused matrix to probabilities."""

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError, DataError, SearchError, option
from biofuse.core.machine import limit_threads
from biofuse.core.registry import Registry
from biofuse.core.seals import Arrays, OwnPart, reading
from biofuse.core.target import MISSING, Labels, Target, Task
from biofuse.heads.hazard import PartialLikelihood
from biofuse.heads.masked import PARTS, FittedPerLabel, fit_per_label, has_gaps

Features = NDArray[np.float32] | NDArray[np.float64]
"""A fused matrix, shape (n, d)."""

Scores = NDArray[np.float64]
"""One column per class or label, shape (n, n_classes)."""

ClassWeight = Mapping[int, float] | Literal["balanced"] | None
"""As scikit-learn's ``class_weight``: ``balanced`` is n / (classes present * rows of the class), or total weights in
place of numbers of rows where there are sample weights; a mapping gives the weight of class indices, 1 where none is
given. For multi-label tasks it holds for each label by itself, so that the keys are 0 (absent) and 1 (present)."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The largest problem for which a head is meant; None where there is no limit of its own.

    Attributes
    ----------
    rows, features, classes : int or None
        Training rows, columns, and classes (or labels).
    smaller : int or None
        The smaller of rows and columns.
    cells : int or None
        Rows times columns.
    reason : str
        What happens beyond.
    """

    rows: int | None = None
    features: int | None = None
    classes: int | None = None
    smaller: int | None = None
    cells: int | None = None
    reason: str = ""

    def exceeded_by(self, *, rows: int, features: int, classes: int) -> str:
        """Say in words which limit a problem exceeds; empty if none."""
        asked = {
            "rows": (rows, self.rows),
            "features": (features, self.features),
            "classes": (classes, self.classes),
            "of both rows and features": (min(rows, features), self.smaller),
            "rows times features": (rows * features, self.cells),
        }
        over = [f"{n:,} {what} (limit {most:,})" for what, (n, most) in asked.items() if most is not None and n > most]
        return f"{', '.join(over)}: {self.reason}" if over else ""


class FittedHead(Protocol):
    """A head after fitting; immutable."""

    @property
    def n_classes(self) -> int:
        """Columns of its probabilities."""

    @property
    def n_features(self) -> int:
        """Columns of the matrices it takes."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a careful user would want to know about the fit: absent classes, no convergence."""

    def predict_proba(self, X: Features) -> Scores:
        """Return probabilities.

        Parameters
        ----------
        X : ndarray, shape (n, n_features)
            Any number of rows, zero included.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            Rows sum to 1; for multi-label tasks every column is a probability by itself. Columns of classes that
            were absent at fitting are 0.

        Raises
        ------
        DataError
            If the number of columns is wrong or a value is not finite.
        """

    def decision(self, X: Features) -> Scores:
        """Return values to rank by, finer than probabilities that round to 0 or 1.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
            Log-odds or decision values where the head has them, else probabilities; for two classes the columns are
            the negative and the positive of one value. Columns of absent classes are constant and finite.
        """

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return everything :meth:`restore` needs: JSON values and arrays."""

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose :meth:`state` this is.

        Raises
        ------
        ArtifactError
            If the state is malformed.
        """


class Head(Protocol):
    """A classifier's options; immutable, fitted into a new object."""

    @property
    def name(self) -> str:
        """The name it is registered under."""

    @property
    def limits(self) -> Limits:
        """The largest problem for which it is meant."""

    @property
    def options(self) -> dict[str, Any]:
        """Its options as JSON values, for records and resume keys."""

    def fit(
        self,
        X: Features,
        labels: Labels,
        *,
        target: Target,
        sample_weight: NDArray[np.float64] | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> FittedHead:
        """Learn from training rows.

        Parameters
        ----------
        X : ndarray, shape (n, d)
            The fused matrix.
        labels : ndarray
            What was found of each row, as :class:`biofuse.core.target.Target` says. Classes may be absent.
        target : Target
            What is predicted, classes that are absent included; only the number of classes counts, not their names.
        sample_weight : ndarray of float64, shape (n,), optional
            Multiplied with the class weights.
        seed : int, default 0
            Decides everything random.
        threads : int, default 1
            Cores to use at most.

        Raises
        ------
        DataError
            If labels or features cannot be used.
        """

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedHead:
        """Build a fitted head of this kind from its state, whatever this object's own options."""


MATRIX_CELLS = 2_000_000_000
"""Rows times columns that the linear heads take: 16 GB in float64. The union of training and validation data of the
largest MedMNIST+ set (189,106 rows) with all nine encoders of the paper (8,704 columns) has 1.65e9."""


def takes(head: Head, target: Target) -> bool:
    """Return whether a head predicts such a target: it says so in a method ``takes``; without one it takes classes."""
    said = getattr(head, "takes", None)
    return target.categorical if said is None else bool(said(target))


def other_target(head: str, target: Target) -> SearchError:
    """Return the error that a head does not predict such a target, and which heads do."""
    able = [name for name in OWN_HEADS if takes(make_head(name), target)]
    return SearchError(
        f"The head {head} does not predict {target.text}.",
        remedy=f"Choose another: {' or '.join(option('head', name) for name in able)}.",
    )


def within_limits(head: Head, *, rows: int, features: int, classes: int) -> bool:
    """Return whether a problem is within the limits that a head declares."""
    return not head.limits.exceeded_by(rows=rows, features=features, classes=classes)


CERTAIN = float(-np.log(np.finfo(np.float64).tiny))
"""Decision value (about 708) of a column whose probability is constant: the largest log-odds that a float64 holds."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Which columns of the result each fitted problem gives.

    Attributes
    ----------
    task : Task
        Kind of task.
    n_classes : int
        Columns of the result.
    columns : tuple of tuple of int
        For each problem its columns: the classes present for single-label tasks (one problem), one label for each
        problem of a multi-label task.
    constant : mapping of int to float
        Probability of every column that no problem gives.
    """

    task: Task
    n_classes: int
    columns: tuple[tuple[int, ...], ...]
    constant: Mapping[int, float]

    @property
    def n_codes(self) -> tuple[int, ...]:
        """Classes that each problem tells apart; 1 for a column of values."""
        return tuple(len(columns) if self.task.measured else max(2, len(columns)) for columns in self.columns)

    @property
    def widths(self) -> tuple[int, ...]:
        """Margins of each problem: one for two classes (that of the second) or for values, else one per column."""
        if self.task.timed:
            return tuple(map(len, self.columns))
        return tuple(1 if codes == 2 else codes for codes in self.n_codes)

    def split(self, margins: NDArray[np.floating]) -> list[Scores]:
        """Cut the margins of all problems, side by side, into those of each."""
        ends = np.cumsum(self.widths, dtype=np.int64)
        return [margins[:, end - width : end].astype(np.float64) for width, end in zip(self.widths, ends, strict=True)]

    def probabilities(self, margins: Sequence[Scores], *, n: int) -> Scores:
        """Turn the margins of each problem into probabilities: logistic for two classes, softmax for more.

        Values are what the margins are; for times they are logarithms of cumulative hazards.

        Parameters
        ----------
        margins : sequence of ndarray of float64, shape (n, width)
            Those of each problem.
        n : int
            Number of rows.

        Returns
        -------
        ndarray of float64, shape (n, n_classes)
        """
        from scipy.special import expit, softmax

        if self.task.measured:
            return self.place(margins, n=n)
        if self.task.timed:
            return self.place([-np.expm1(-np.exp(np.minimum(margin, CERTAIN))) for margin in margins], n=n)
        return self.place(
            [
                np.hstack([expit(-margin), expit(margin)]) if margin.shape[1] == 1 else softmax(margin, axis=1)
                for margin in margins
            ],
            n=n,
        )

    def place(self, probabilities: Sequence[Scores], *, n: int) -> Scores:
        """Put the class probabilities or values of each problem, shape (n, n_codes), into their columns."""
        placed = np.zeros((n, self.n_classes))
        for column, value in self.constant.items():
            placed[:, column] = value
        for columns, values in zip(self.columns, probabilities, strict=True):
            placed[:, list(columns)] = values[:, -len(columns) :]
        return placed

    def decision(self, margins: Sequence[Scores], *, n: int, log_odds: bool) -> Scores:
        """Put the margins of each problem into their columns; both signs for two classes.

        Parameters
        ----------
        margins : sequence of ndarray of float64, shape (n, width)
            Those of each problem.
        n : int
            Number of rows.
        log_odds : bool
            Whether to turn the margins of three or more classes into the log-odds of each class, so that they rank
            as the probabilities do (those of two classes are log-odds already).
        """
        if not self.task.categorical:
            return self.place(margins, n=n)
        placed = np.zeros((n, self.n_classes))
        for column, value in self.constant.items():
            placed[:, column] = CERTAIN if value == 1 else -CERTAIN
        for columns, margin in zip(self.columns, margins, strict=True):
            values = _log_odds(margin) if log_odds and margin.shape[1] > 1 else margin
            placed[:, list(columns)] = np.hstack([-values, values])[:, -len(columns) :]
        return placed

    def estimates(self, margins: Sequence[Scores], *, n: int) -> Scores:
        """Put least-squares estimates into their columns: of class probabilities, ``(1 + margin) / 2``, or of values.

        Parameters
        ----------
        margins : sequence of ndarray of float64, shape (n, width)
            What least squares made of the ``targets`` of each problem.
        n : int
            Number of rows.
        """
        if not self.task.categorical:
            return self.place(margins, n=n)
        return self.place([np.hstack([1 - m, 1 + m]) / 2 if m.shape[1] == 1 else (1 + m) / 2 for m in margins], n=n)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "task": str(self.task),
            "n_classes": self.n_classes,
            "columns": [list(columns) for columns in self.columns],
            "constant": {str(column): value for column, value in self.constant.items()},
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Build from JSON values.

        Raises
        ------
        ArtifactError
            If they are malformed, or the columns are not each given once.
        """
        with reading("head's classes"):
            outputs = cls(
                task=Task(values["task"]),
                n_classes=int(values["n_classes"]),
                columns=tuple(tuple(int(column) for column in columns) for columns in values["columns"]),
                constant={int(column): float(value) for column, value in values["constant"].items()},
            )
        given = sorted([*outputs.constant, *(column for columns in outputs.columns for column in columns)])
        if given != list(range(outputs.n_classes)):
            raise ArtifactError("The saved head does not give every class once.", remedy="Fit again.")
        return outputs


def _log_odds(margins: Scores) -> Scores:
    from scipy.special import log_softmax, logsumexp

    # log p - log(1 - p) loses all precision where p rounds to 1, which only the largest can: that one is taken
    # against the sum of the others.
    rows, top = np.arange(len(margins)), margins.argmax(axis=1)
    others = margins.copy()
    others[rows, top] = -np.inf
    logs = log_softmax(margins, axis=1)
    logs[rows, top] = -np.inf
    odds = np.asarray(logs - np.log1p(-np.exp(logs)), dtype=np.float64)
    odds[rows, top] = margins[rows, top] - logsumexp(others, axis=1)
    return np.clip(odds, -CERTAIN, CERTAIN)


@dataclass(frozen=True, kw_only=True, eq=False)
class Classification:
    """One classification problem; every one of its classes occurs.

    Attributes
    ----------
    codes : ndarray of int64, shape (n,)
        Class of each row, 0 to ``n_codes`` - 1.
    n_codes : int
        Number of classes, at least 2.
    weights : ndarray of float64, shape (n,)
        Weight of each row: class weight times sample weight.
    """

    codes: NDArray[np.int64]
    n_codes: int
    weights: NDArray[np.float64]

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the problem of some of the rows, or of all in another order."""
        return replace(self, codes=self.codes[rows], weights=self.weights[rows])

    @property
    def indicators(self) -> NDArray[np.float64]:
        """Ones where a row is of a class, else zeros; shape (n, width): the second class alone if there are two."""
        one_hot = np.asarray(self.codes[:, None] == np.arange(self.n_codes), dtype=np.float64)
        return one_hot[:, 1:] if self.n_codes == 2 else one_hot

    @property
    def targets(self) -> NDArray[np.float64]:
        """What least squares fit: 1 where a row is of a class, else -1, shape (n, width)."""
        return 2 * self.indicators - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Regression:
    """One column of values.

    Attributes
    ----------
    values : ndarray of float64, shape (n,)
    weights : ndarray of float64, shape (n,)
        Weight of each row.
    """

    values: NDArray[np.float64]
    weights: NDArray[np.float64]

    @property
    def targets(self) -> NDArray[np.float64]:
        """What least squares fit: the values as they are, shape (n, 1)."""
        return self.values[:, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class TimeToEvent(Regression):
    """Times to an event; least squares fit the martingale residuals of the null model, which are the values.

    Attributes
    ----------
    likelihood : PartialLikelihood
        Of these rows.
    labels : ndarray of float64, shape (n, 2)
        Time, and 1 where the event happened, else 0.
    horizons : tuple of float
        Times by which the event is predicted.
    """

    likelihood: PartialLikelihood
    labels: NDArray[np.float64]
    horizons: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """What there is to fit: the problems, where their results belong, and what was noticed."""

    problems: tuple[Classification | Regression, ...]
    outputs: Outputs
    notes: tuple[str, ...]

    @property
    def classifications(self) -> tuple[Classification, ...]:
        """The problems of a target with classes or labels; none of values."""
        return tuple(problem for problem in self.problems if isinstance(problem, Classification))

    @property
    def regressions(self) -> tuple[Regression, ...]:
        """The problems of values; none of classes or labels."""
        return tuple(problem for problem in self.problems if isinstance(problem, Regression))


def set_up(
    X: Features,
    labels: Labels,
    *,
    target: Target,
    class_weight: ClassWeight,
    sample_weight: NDArray[np.float64] | None,
) -> Setup:
    """Check features, labels and weights, and state the problems to be fitted.

    Raises
    ------
    DataError
        If shapes do not agree, a value is not finite, a label is out of range or there are no rows.
    """
    labels = np.asarray(labels)
    wrong = target.misfit(labels, len(X)) or ("" if len(X) else "There are no rows to fit a head on.")
    if wrong:
        raise DataError(wrong)
    check_features(X, n_features=X.shape[1] if X.ndim == 2 else 0)
    weights = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (len(X),) or not np.isfinite(weights).all() or (weights <= 0).any():
        raise DataError(
            "Sample weights must be one positive number per row.",
            remedy="Leave rows out that are to count for nothing.",
        )
    _check_class_weight(class_weight, n_classes=target.n_codes)
    if target.timed:
        return _one_time(labels, weights=weights, class_weight=class_weight, target=target)
    if target.measured:
        return _one_problem_per_column(labels, weights=weights, class_weight=class_weight, target=target)
    codes = labels.astype(np.int64)
    if target.several:
        return _one_problem_per_label(codes, weights=weights, class_weight=class_weight)
    return _one_problem(codes, weights=weights, class_weight=class_weight, target=target)


def check_features(X: Features, *, n_features: int) -> None:
    """Refuse a matrix of the wrong width, or with values that are not finite.

    Raises
    ------
    DataError
        Naming the first such row.
    """
    if X.ndim != 2 or X.shape[1] != n_features or n_features == 0:
        raise DataError(
            f"The features have shape {X.shape}; a matrix of {n_features or 'at least 1'} columns is needed."
        )
    finite = np.asarray(np.isfinite(X).all(axis=1))
    if not finite.all():
        raise DataError(
            f"{int((~finite).sum())} rows of the features are not finite, the first is row {np.argmin(finite)}.",
            remedy="Embed these samples again in fp32.",
        )


def _check_class_weight(class_weight: ClassWeight, *, n_classes: int) -> None:
    if class_weight is None or class_weight == "balanced":
        return
    if isinstance(class_weight, str):
        raise DataError(f"class_weight is {class_weight!r}; it may be None, 'balanced' or a mapping.")
    if not set(class_weight) <= set(range(n_classes)):
        raise DataError(f"Class weights name {sorted(class_weight)}; there are classes 0 to {n_classes - 1}.")
    if not all(np.isfinite(weight) and weight > 0 for weight in class_weight.values()):
        raise DataError(f"Class weights must be positive: {dict(class_weight)}.")


def _one_problem(
    labels: NDArray[np.int64],
    *,
    weights: NDArray[np.float64],
    class_weight: ClassWeight,
    target: Target,
) -> Setup:
    present, codes = np.unique(labels, return_inverse=True)
    absent = sorted(set(range(target.n_columns)) - set(present.tolist()))
    constant = dict.fromkeys(absent, 0.0)
    notes = [f"No training row is of class {', '.join(map(str, absent))}: probability 0."] if absent else []
    problems: tuple[Classification, ...] = ()
    if len(present) == 1:
        notes.append(f"All training rows are of class {present[0]}: always predicted.")
        constant[int(present[0])] = 1.0
    else:
        weights = weights * _class_weights(labels, class_weight, weights)
        problems = (Classification(codes=codes.astype(np.int64), n_codes=len(present), weights=weights),)
    columns = (tuple(present.tolist()),) if problems else ()
    outputs = Outputs(task=target.kind, n_classes=target.n_columns, columns=columns, constant=constant)
    return Setup(problems=problems, outputs=outputs, notes=tuple(notes))


def _one_problem_per_label(
    labels: NDArray[np.int64], *, weights: NDArray[np.float64], class_weight: ClassWeight
) -> Setup:
    problems, columns, constant, notes = [], [], {}, []
    for label, given in enumerate(labels.T):
        known = given != MISSING
        codes = given[known]
        if not len(codes):
            constant[label] = 0.0
            notes.append(f"Nothing is known of label {label} in the training rows: probability 0.")
        elif codes.min() == codes.max():
            constant[label] = float(codes[0])
            notes.append(f"Label {label} is {codes[0]} in all training rows: always predicted.")
        else:
            # A row that weighs nothing is as good as none.
            row_weights = np.zeros(len(given))
            row_weights[known] = weights[known] * _class_weights(codes, class_weight, weights[known])
            problems.append(Classification(codes=np.maximum(given, 0), n_codes=2, weights=row_weights))
            columns.append((label,))
    outputs = Outputs(task=Task.MULTILABEL, n_classes=labels.shape[1], columns=tuple(columns), constant=constant)
    return Setup(problems=tuple(problems), outputs=outputs, notes=tuple(notes))


def _one_problem_per_column(
    values: Labels, *, weights: NDArray[np.float64], class_weight: ClassWeight, target: Target
) -> Setup:
    _refuse_class_weight(class_weight, "Values")
    columns = target.columns(values).T
    outputs = Outputs(
        task=target.kind,
        n_classes=target.n_columns,
        columns=tuple((number,) for number in range(target.n_columns)),
        constant={},
    )
    notes = [
        f"Column {number} is {column[0]:g} in all training rows: always predicted."
        for number, column in enumerate(columns)
        if np.ptp(column) == 0
    ]
    return Setup(
        problems=tuple(Regression(values=column, weights=weights) for column in columns),
        outputs=outputs,
        notes=tuple(notes),
    )


FEWEST_EVENTS = 2
"""Events without which nothing can be said of a hazard: one to fit, and one to fit without it."""


def _one_time(labels: Labels, *, weights: NDArray[np.float64], class_weight: ClassWeight, target: Target) -> Setup:
    _refuse_class_weight(class_weight, "Times")
    events = int(labels[:, 1].sum())
    if events < FEWEST_EVENTS:
        raise DataError(
            f"{events} of {len(labels)} training rows have an event; at least {FEWEST_EVENTS} are needed.",
            remedy="Give more samples with an event, or fewer folds.",
        )
    times = labels.astype(np.float64)
    likelihood = PartialLikelihood.at(times, weights)
    problem = TimeToEvent(
        values=likelihood.residuals, weights=weights, likelihood=likelihood, labels=times, horizons=target.horizons
    )
    columns = (tuple(range(target.n_columns)),)
    outputs = Outputs(task=target.kind, n_classes=target.n_columns, columns=columns, constant={})
    return Setup(problems=(problem,), outputs=outputs, notes=())


def _refuse_class_weight(class_weight: ClassWeight, what: str) -> None:
    if class_weight is not None:
        raise DataError(
            f"{what} have no classes that could be weighted.",
            remedy=f"Leave {option('class_weight')} out; {option('weight')} names a column of weights.",
        )


def _class_weights(
    labels: NDArray[np.int64], class_weight: ClassWeight, sample_weight: NDArray[np.float64]
) -> NDArray[np.float64]:
    if class_weight is None:
        return np.ones(len(labels))
    if isinstance(class_weight, str):
        totals = np.bincount(labels, weights=sample_weight)
        return np.asarray(sample_weight.sum() / (np.count_nonzero(totals) * totals[labels]), dtype=np.float64)
    return np.array([class_weight.get(int(label), 1.0) for label in labels], dtype=np.float64)


Fitted = TypeVar("Fitted", bound="FittedOwnHead")


@dataclass(frozen=True, kw_only=True)
class OwnHead(OwnPart[Fitted]):
    """What BioFuse's own heads share; a subclass adds its options, its limits and the mathematics.

    Attributes
    ----------
    limits : Limits
        The largest problem for which it is meant.
    turns : bool
        Whether the products of rows are all that it takes of the columns, so that it predicts the same in any
        coordinates that have those products.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; see :data:`ClassWeight`.
    """

    limits: ClassVar[Limits]
    turns: ClassVar[bool] = False

    class_weight: ClassWeight = None

    def takes(self, target: Target) -> bool:
        """Return whether it predicts such a target: here any with classes or labels."""
        return target.categorical

    def fit(
        self,
        X: Features,
        labels: Labels,
        *,
        target: Target,
        sample_weight: NDArray[np.float64] | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> Fitted:
        """Learn from training rows; see :meth:`Head.fit`."""
        if not self.takes(target):
            raise other_target(self.name, target)
        if has_gaps(np.asarray(labels), target):
            parts = fit_per_label(
                self, X, labels, target=target, sample_weight=sample_weight, seed=seed, threads=threads
            )
            return cast("Fitted", self.fitted.side_by_side(parts))
        setup = set_up(X, labels, target=target, class_weight=self.class_weight, sample_weight=sample_weight)
        with limit_threads(threads):
            return self.solve(X, setup, seed=seed, threads=threads)

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Fitted:
        """Build a fitted head of this kind from its state, whatever this object's own options."""
        if PARTS in json:
            return cast("Fitted", FittedPerLabel.restore(json, arrays, super().restore))
        return super().restore(json, arrays)

    @abstractmethod
    def solve(self, X: Features, setup: Setup, *, seed: int, threads: int) -> Fitted:
        """Fit every problem of the set-up.

        Parameters
        ----------
        X : ndarray, shape (n, d)
            Checked.
        setup : Setup
            Its problems, where their results belong, and what was noticed so far.
        seed, threads : int
            As given to :meth:`fit`; BLAS and OpenMP are limited already.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedOwnHead:
    """What BioFuse's own fitted heads share.

    Attributes
    ----------
    outputs : Outputs
        Where the results of each problem belong.
    notes : tuple of str
        What was noticed at fitting.
    """

    outputs: Outputs
    notes: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        """Columns of its probabilities."""
        return self.outputs.n_classes

    @classmethod
    def side_by_side(cls, labels: FittedPerLabel) -> "FittedOwnHead | FittedPerLabel":
        """Return one head of those of several labels, where such heads can be put side by side."""
        return labels

    def common_state(self) -> dict[str, Any]:
        """Return the JSON values of what all heads share."""
        return {"outputs": self.outputs.to_json(), "notes": list(self.notes)}

    @staticmethod
    def read_common(json: Mapping[str, Any]) -> dict[str, Any]:
        """Return what all heads share from their JSON values, as arguments."""
        return {"outputs": Outputs.from_json(json["outputs"]), "notes": tuple(str(note) for note in json["notes"])}


ENTRY_POINT_GROUP = "biofuse.heads"
"""Each entry point of this group is a class or function that takes ``class_weight`` by keyword and gives a head."""


class _Row(NamedTuple):
    where: str
    cheap: bool = False
    linear: bool = True


HEADS = {
    "logistic": _Row("biofuse.heads.logistic:Logistic", cheap=True),
    "ridge": _Row("biofuse.heads.ridge:Ridge", cheap=True),
    "lda": _Row("biofuse.heads.lda:LDA", cheap=True),
    "ordinal": _Row("biofuse.heads.ordinal:Ordinal", cheap=True, linear=False),
    "knn": _Row("biofuse.heads.knn:Neighbours"),
    "xgboost": _Row("biofuse.heads.xgboost:XGBoost"),
    "cox": _Row("biofuse.heads.cox:Cox", cheap=True),
    "km": _Row("biofuse.heads.kaplan_meier:KaplanMeier"),
}
"""BioFuse's own heads, the default first. A new one is a class in a file of its own and a row here."""

OWN_HEADS = tuple(HEADS)
"""Names of BioFuse's own heads."""

CHEAP_HEADS = tuple(name for name, row in HEADS.items() if row.cheap)
"""The heads among which ``head="auto"`` chooses by cross-validation: each is linear, deterministic, needs no extra and
fits in seconds. With 4 classes and one thread a fit takes 0.6, 0.4 and 0.5 s on 1,000 x 4,000 made-up embeddings, 3.0,
2.3 and 3.4 s on 2,000 x 8,000 (CPU time, on a busy machine). The default comes first, to be taken where scores are
equal. Of those, the ones that predict what is asked for: :func:`cheap_heads`."""

ESTIMATOR_PREFIX = "sklearn-"
"""What the name of a head begins with that is a classifier of another library; see :mod:`biofuse.heads.estimator`."""

_ELSEWHERE = EntryPoint("estimator", "biofuse.heads.estimator:EstimatorHead", ENTRY_POINT_GROUP)
"""Reads such heads in a program that was not given the classifier."""

REMOVED = {
    "lightgbm": "Use the head xgboost, with column_share=0.1 to grow each tree on a share of the columns, as lightgbm "
    "did; a model that was saved with lightgbm has to be fitted again."
}
"""Heads of earlier versions, and what to do instead."""


@functools.cache
def head_registry() -> Registry[Callable[..., Head]]:
    """Return the registry that :func:`make_head` uses."""
    own = {name: EntryPoint(name, row.where, ENTRY_POINT_GROUP).load for name, row in HEADS.items()}
    return Registry(kind="head", group=ENTRY_POINT_GROUP, own=own)


def make_head(head: "str | Head", *, class_weight: "ClassWeight" = None) -> "Head":
    """Return the head of that name with its default options, or the object given.

    Parameters
    ----------
    head : str or Head
        A registered name (see :data:`OWN_HEADS`; other packages may bring more), or a head.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; only for a head given by name.

    Raises
    ------
    SearchError
        If no head has that name, or class weights are given beside a head that has its own.
    """
    if isinstance(head, str):
        if head in REMOVED and head not in head_registry().names():
            raise SearchError(f"The head {head} was removed from BioFuse.", remedy=REMOVED[head])
        if head.startswith(ESTIMATOR_PREFIX) and head not in head_registry():
            elsewhere: Head = _ELSEWHERE.load()(name=head, class_weight=class_weight)
            return elsewhere
        return head_registry().get(head)(class_weight=class_weight)
    if class_weight is not None:
        raise SearchError(
            f"Class weights are given beside the head {head.name}, which has its own.",
            remedy="Give them to the head as it is made: its class takes them.",
        )
    return head


LINEAR_HEADS = tuple(name for name, row in HEADS.items() if row.cheap and row.linear)
"""Those of them that are one linear map, which can be averaged."""


def cheap_heads(target: Target) -> tuple[str, ...]:
    """Return the names of :data:`CHEAP_HEADS` that predict such a target."""
    return tuple(name for name in CHEAP_HEADS if takes(make_head(name), target))


def check_limits(head: "Head", *, rows: int, features: int, target: Target) -> None:
    """Refuse a problem that exceeds the limits that a head declares.

    Parameters
    ----------
    head : Head
        What is to be fitted.
    rows, features : int
        Training rows, and columns of the fused matrix.
    target : Target
        What is predicted, absent classes included.

    Raises
    ------
    SearchError
        Naming the head, what exceeds which limit, why there is one, and the heads that would take the problem.
    """
    problem = {"rows": rows, "features": features, "classes": target.n_columns}
    excess = head.limits.exceeded_by(**problem)
    if excess:
        heads = {name: make_head(name) for name in OWN_HEADS}
        able = [name for name, other in heads.items() if takes(other, target) and within_limits(other, **problem)]
        raise SearchError(
            f"The head {head.name} is not meant for {excess}.",
            remedy=f"Choose another head: {', '.join(able)}."
            if able
            else "No head of BioFuse takes so much: give fewer rows, fewer encoders, or fewer classes.",
        )
