"""Any classifier of scikit-learn's kind as a head: a class of another library, or a pipeline, with options of its own.

It is known by a name that holds what it is (:func:`head_named_after`), so that options stay text, and saved through
skops, which builds objects of types that it trusts and runs no code of a file.
"""

import functools
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError, DataError, DependencyError, SearchError, option
from biofuse.core.hashing import generator
from biofuse.core.machine import limit_threads
from biofuse.core.seals import Arrays, reading
from biofuse.core.target import Labels, Target, Task
from biofuse.heads.base import (
    CERTAIN,
    ESTIMATOR_PREFIX,
    Classification,
    ClassWeight,
    Features,
    FittedOwnHead,
    Limits,
    Scores,
    check_features,
    head_registry,
    other_target,
    set_up,
)
from biofuse.heads.masked import PARTS, FittedPerLabel, fit_per_label, has_gaps

SHOWN = 60
"""Letters of what a classifier calls itself that its name as a head begins with."""

DIGITS = 8
"""Hexadecimal digits of its hash at the end of the name."""

TRIAL = (60, 64, 3)
"""Rows, columns and classes of the trial by which it is found out what a fitted classifier is made of."""


def head_named_after(estimator: Any) -> str:
    """Register a classifier as a head of this program, and return its name.

    Equal classifiers (of one class, with equal options) have one name: ``sklearn-SVC(C=10)-5f0c2a9e``.

    Parameters
    ----------
    estimator : classifier
        Of scikit-learn's kind: with ``fit``, ``get_params`` and ``predict_proba`` or ``decision_function``. It is
        copied; whether it is fitted already does not matter.

    Raises
    ------
    SearchError
        If it is no such classifier, or its options cannot be told apart.
    """
    import joblib
    from sklearn.base import clone, is_classifier

    if isinstance(estimator, type):
        raise SearchError(
            f"{estimator.__name__} is a class, not a classifier.", remedy=f"Make one: head={estimator.__name__}()."
        )
    if not hasattr(estimator, "get_params") or not hasattr(estimator, "fit") or not is_classifier(estimator):
        raise SearchError(
            f"{type(estimator).__name__} is no classifier of scikit-learn's kind.",
            remedy=f"Give a classifier, or the name of a head: {', '.join(head_registry().names())}.",
        )
    if not hasattr(estimator, "predict_proba") and not hasattr(estimator, "decision_function"):
        raise SearchError(
            f"{type(estimator).__name__} gives neither probabilities nor decision values, so that nothing can be "
            "ranked.",
            remedy="Choose a classifier that has predict_proba or decision_function.",
        )
    own = clone(estimator)
    try:
        found = joblib.hash(own)
    except Exception as error:  # whatever its parts raise as they are written down
        raise SearchError(
            f"The options of {type(estimator).__name__} cannot be written down: {error}",
            remedy="Give it no functions without a name, and nothing that holds an open file or a connection.",
        ) from error
    shown = re.sub(r"[^\w.=(),'+-]+", "", _text(own))[:SHOWN]
    name = f"{ESTIMATOR_PREFIX}{shown}-{found[:DIGITS]}"
    head_registry().add(name, functools.partial(EstimatorHead, estimator=own, name=name), replace=True)
    return name


def _text(estimator: Any) -> str:
    """Return what a classifier calls itself, in full."""
    try:
        return " ".join(estimator.__repr__(N_CHAR_MAX=10_000).split())
    except TypeError:  # not one of scikit-learn's own
        return " ".join(repr(estimator).split())


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedEstimators(FittedOwnHead):
    """A fitted classifier for each problem.

    Attributes
    ----------
    n_features : int
        Columns of the matrices it takes.
    estimators : tuple
        Fitted on codes from 0.
    """

    n_features: int = 0
    estimators: tuple[Any, ...] = ()

    def predict_proba(self, X: Features) -> Scores:
        """Return probabilities; those of a classifier that has none are the logistic function of its decision values.

        A model calibrates them on out-of-fold predictions in either case.
        """
        check_features(X, n_features=self.n_features)
        if not all(hasattr(each, "predict_proba") for each in self.estimators):
            return self.outputs.probabilities(self._margins(X), n=len(X))
        return self.outputs.place(self._probabilities(X), n=len(X))

    def decision(self, X: Features) -> Scores:
        """Return decision values, or log-odds where there are none."""
        check_features(X, n_features=self.n_features)
        return self.outputs.decision(self._margins(X), n=len(X), log_odds=False)

    def _probabilities(self, X: Features) -> list[Scores]:
        if not len(X):
            return [np.zeros((0, codes)) for codes in self.outputs.n_codes]
        found = [np.asarray(each.predict_proba(X), dtype=np.float64) for each in self.estimators]
        return [part / part.sum(axis=1, keepdims=True) for part in found]

    def _margins(self, X: Features) -> list[Scores]:
        if not len(X):
            return [np.zeros((0, width)) for width in self.outputs.widths]
        if all(hasattr(each, "decision_function") for each in self.estimators):
            found = [
                np.asarray(each.decision_function(X), dtype=np.float64).reshape(len(X), -1) for each in self.estimators
            ]
            if [part.shape[1] for part in found] == list(self.outputs.widths):
                return [np.clip(part, -CERTAIN, CERTAIN) for part in found]
        margins = []
        for part in self._probabilities(X):
            with np.errstate(divide="ignore"):
                odds = np.clip(np.log(part) - np.log1p(-part), -CERTAIN, CERTAIN)
            margins.append(odds[:, 1:] if part.shape[1] == 2 else odds)
        return margins

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and arrays: the bytes that skops writes.

        Raises
        ------
        DependencyError
            If skops is not installed.
        ArtifactError
            If a classifier is made of types that skops does not trust.
        """
        arrays = {f"problem{number}": _written(each) for number, each in enumerate(self.estimators)}
        return self.common_state() | {"n_features": self.n_features, "estimators": len(arrays)}, arrays

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose state this is.

        Raises
        ------
        DependencyError
            If skops is not installed.
        ArtifactError
            If the state is malformed, or names types that skops does not trust.
        """
        with reading("classifier"):
            count = int(json["estimators"])
            fitted = cls(
                **cls.read_common(json),
                n_features=int(json["n_features"]),
                estimators=tuple(_read(arrays[f"problem{number}"]) for number in range(count)),
            )
        known = [getattr(each, "classes_", np.arange(0)).tolist() for each in fitted.estimators]
        if known != [list(range(codes)) for codes in fitted.outputs.n_codes]:
            raise ArtifactError("The saved classifiers do not fit their classes.", remedy="Fit again.")
        return fitted


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimatorHead:
    """A classifier of scikit-learn's kind as a head; a copy is fitted each time.

    Attributes
    ----------
    name : str
        As :func:`head_named_after` gave it.
    estimator : classifier or None
        None in a program that was not given it: what was fitted elsewhere can be read, and nothing fitted.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; given to the classifier as weights of rows.
    limits : Limits
        None of its own.
    """

    limits: ClassVar[Limits] = Limits()

    name: str
    estimator: Any = field(default=None, repr=False)
    class_weight: ClassWeight = None

    @property
    def options(self) -> dict[str, Any]:
        """What the classifier calls itself, and the class weights, as JSON values."""
        weight = self.class_weight
        return {
            "estimator": "" if self.estimator is None else _text(self.estimator),
            "class_weight": {str(key): float(value) for key, value in weight.items()}
            if isinstance(weight, Mapping)
            else weight,
        }

    def fit(
        self,
        X: Features,
        labels: Labels,
        *,
        target: Target,
        sample_weight: NDArray[np.float64] | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> FittedEstimators:
        """Learn from training rows; see :meth:`biofuse.heads.base.Head.fit`.

        What a classifier calls ``random_state`` is the seed where it is None. Of several labels each is a problem of
        its own. What a classifier warns of is noted.

        Raises
        ------
        DataError
            If labels or features cannot be used, or the classifier refuses them.
        SearchError
            If this program does not know the classifier, or it takes no weights of rows and there are some.
        """
        if self.estimator is None:
            raise SearchError(
                f"The head {self.name} is a Python object, of the program that fitted this model.",
                remedy=f"Give {option('head')} the classifier itself, in Python.",
            )
        if not target.categorical:
            raise other_target(self.name, target)
        if has_gaps(np.asarray(labels), target):
            parts = fit_per_label(
                self, X, labels, target=target, sample_weight=sample_weight, seed=seed, threads=threads
            )
            return cast("FittedEstimators", parts)
        setup = set_up(X, labels, target=target, class_weight=self.class_weight, sample_weight=sample_weight)
        fitted, said = [], dict.fromkeys(setup.notes)
        with limit_threads(threads):
            for problem in setup.classifications:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    fitted.append(self._fitted(X, problem, seed=seed))
                said |= dict.fromkeys(f"{self.name}: {str(each.message).splitlines()[0]}" for each in caught)
        return FittedEstimators(
            outputs=setup.outputs, notes=tuple(said), n_features=X.shape[1], estimators=tuple(fitted)
        )

    def _fitted(self, X: Features, problem: Classification, *, seed: int) -> Any:
        from sklearn.base import clone

        own = clone(self.estimator)
        random = {name: seed for name, value in own.get_params().items() if _is_random(name) and value is None}
        given = self._weights(own, problem.weights)
        try:
            return own.set_params(**random).fit(X, problem.codes, **given)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"The head {self.name} cannot be fitted on {X.shape[0]} rows of {X.shape[1]} columns: {error}",
                remedy="Correct its options, or choose another head.",
            ) from error

    def _weights(self, estimator: Any, weights: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Return the argument by which a classifier takes weights of rows; none where all weigh the same."""
        from sklearn.utils.validation import has_fit_parameter

        if np.ptp(weights) == 0:
            return {}
        steps = getattr(estimator, "steps", None)
        last, prefix = (steps[-1][1], f"{steps[-1][0]}__") if steps else (estimator, "")
        if not has_fit_parameter(last, "sample_weight"):
            raise SearchError(
                f"The head {self.name} takes no weights of rows, and some weigh more than others.",
                remedy=f"Leave {option('class_weight')} and {option('weight')} out; or choose another head.",
            )
        return {f"{prefix}sample_weight": weights}

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FittedEstimators:
        """Build a fitted head of this kind from its state, whatever this object's own options."""
        if PARTS in json:
            return cast("FittedEstimators", FittedPerLabel.restore(json, arrays, FittedEstimators.restore))
        return FittedEstimators.restore(json, arrays)

    def check_savable(self) -> None:
        """Refuse a classifier that could be fitted, but not saved; a copy is fitted to a few made-up rows.

        Raises
        ------
        DependencyError
            If skops is not installed.
        ArtifactError
            If it is made of types that skops does not trust.
        """
        _skops()
        rows, columns, classes = TRIAL
        X = generator(0, "trial").normal(size=(rows, columns)).astype(np.float32)
        try:
            fitted = self.fit(
                X, np.arange(rows) % classes, target=Target.numbered(Task.MULTICLASS, classes)
            ).estimators[0]
        except DataError:  # the trial says nothing of what it makes of real rows
            fitted = self.estimator
        _written(fitted)


def _is_random(name: str) -> bool:
    return name == "random_state" or name.endswith("__random_state")


def _skops() -> ModuleType:
    try:
        import skops.io
    except ImportError as error:
        raise DependencyError(
            "Heads of other libraries are saved through skops, which is not installed.",
            remedy=f"pip install 'biofuse-embed[skops]'; or fit without saving: in Python, leave {option('out')} out.",
        ) from error
    io: ModuleType = skops.io
    return io


def _written(estimator: Any) -> NDArray[np.uint8]:
    """Return what skops writes of a classifier, shape (n_bytes,)."""
    io = _skops()
    try:
        content: bytes = io.dumps(estimator)
    except Exception as error:  # whatever its parts raise as they are written down
        raise ArtifactError(
            f"{type(estimator).__name__} cannot be saved without pickle: {error}", remedy="Choose another head."
        ) from error
    _require_trusted(io, content, type(estimator).__name__)
    return np.frombuffer(content, dtype=np.uint8)


def _read(content: NDArray[np.uint8]) -> Any:
    """Build what :func:`_written` wrote."""
    import zipfile

    io, data = _skops(), np.asarray(content, dtype=np.uint8).tobytes()
    try:
        _require_trusted(io, data, "The saved classifier")
        return io.loads(data, trusted=[])
    except (zipfile.BadZipFile, OSError, ImportError, RuntimeError) as error:
        raise ArtifactError(f"The saved classifier cannot be read: {error}", remedy="Fit again.") from error


def _require_trusted(io: ModuleType, content: bytes, what: str) -> None:
    strangers = io.get_untrusted_types(data=content)
    if strangers:
        raise ArtifactError(
            f"{what} is made of types that skops does not trust: {', '.join(sorted(strangers))}.",
            remedy="Choose a head without them (linear models, SVC, discriminants and pipelines of these have none); "
            "or use the model in the program that fitted it.",
        )
