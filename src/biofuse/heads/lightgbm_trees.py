"""LightGBM, an optional head."""

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError, DependencyError, SearchError
from biofuse.core.tasks import Task
from biofuse.fusion.protocol import Arrays
from biofuse.heads.forest import Forest
from biofuse.heads.options import options_of
from biofuse.heads.outputs import Outputs
from biofuse.heads.problems import Problem, check_features, set_up
from biofuse.heads.protocol import ClassWeight, Features, Limits, Scores

LEAST_COLUMNS = 50
"""Columns that a tree is given at least, so that a narrow matrix does not grow trees on two or three."""

ROWS_PER_LEAF_ROW = 10
"""Training rows for each row that a leaf must hold: where 20 are asked for, 39 could not be split at all."""

BINS = 63
"""Bins that a column's values are put into. LightGBM's default of 255 took twice the time on 1,000 x 4,000 made-up
embeddings, and gave the same AUROC within .001 on the real ones named below."""


@dataclass(frozen=True, kw_only=True)
class LightGBM:
    """Gradient-boosted trees, each grown on a share of the columns, and ten times faster for it than ``xgboost``.

    Fitting needs the extra ``lightgbm``, predicting does not.

    Parameters
    ----------
    trees : int, default 100
        Rounds; each grows one tree for two classes, else one per class. LightGBM's default.
    learning_rate : float, default 0.1
        LightGBM's default.
    leaves : int, default 31
        Most leaves of a tree; LightGBM's default.
    leaf_rows : int, default 20
        Fewest training rows in a leaf, LightGBM's default; a tenth of all rows where that is fewer.
    column_share : float, default 0.1
        Share of the columns that each tree is given, drawn anew; 50 columns at least.
    class_weight : mapping, "balanced" or None
        Given to LightGBM as sample weights; see :data:`biofuse.heads.ClassWeight`.

    Notes
    -----
    ``column_share`` is the one option that matters on embeddings. On brain MRI (EfficientNet-Lite0 and 2, HOG, colour,
    LBP: 3,020 columns, 4 classes; 5-fold grouped cross-validation) AUROC was .923 with a share of .1 on 250 rows and
    .955 on 800, against .903 and .951 with LightGBM's default of 1, in a fifth of the time. A share of .03 was as good
    as .1 (.920 and .924 over three draws of 250 rows); 5 and 10 rows to a leaf were worse than 20 (.901, .914 and
    .923), 250 trees and 7 or 15 leaves no better. On blood cells (3 classes) all were at .998 or above. One fit took a
    twelfth (200 rows) to a sixteenth (560 rows) of the CPU time of the head ``xgboost``.
    """

    trees: int = 100
    learning_rate: float = 0.1
    leaves: int = 31
    leaf_rows: int = 20
    column_share: float = 0.1
    class_weight: ClassWeight = None

    def __post_init__(self) -> None:
        if self.trees < 1 or self.leaves < 2 or self.leaf_rows < 1:
            raise SearchError("trees and leaf_rows must be at least 1, leaves at least 2.")
        if not 0 < self.learning_rate <= 1 or not 0 < self.column_share <= 1:
            raise SearchError("learning_rate and column_share must be above 0 and at most 1.")

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return "lightgbm"

    @property
    def limits(self) -> Limits:
        """The largest problem for which it is meant."""
        return Limits(classes=100, reason="every round grows one tree per class, and a fit takes minutes to hours")

    @property
    def options(self) -> dict[str, Any]:
        """Its options as JSON values."""
        return options_of(self)

    def fit(
        self,
        X: Features,
        labels: NDArray[np.int64],
        *,
        task: Task,
        n_classes: int,
        sample_weight: NDArray[np.float64] | None = None,
        seed: int = 0,
        threads: int = 1,
    ) -> "FittedLightGBM":
        """Learn from training rows; see :meth:`biofuse.heads.Head.fit`.

        Raises
        ------
        DependencyError
            If LightGBM is not installed.
        """
        _library()
        setup = set_up(
            X, labels, task=task, n_classes=n_classes, class_weight=self.class_weight, sample_weight=sample_weight
        )
        n, d = X.shape
        settings = {
            "learning_rate": self.learning_rate,
            "num_leaves": self.leaves,
            "max_bin": BINS,
            "min_data_in_leaf": max(1, min(self.leaf_rows, n // ROWS_PER_LEAF_ROW)),
            "feature_fraction": min(1.0, max(self.column_share, LEAST_COLUMNS / d)),
            "seed": seed,
            "num_threads": threads,
            # The same trees whatever the number of threads.
            "deterministic": True,
            "force_row_wise": True,
            "use_missing": False,  # nor does a Forest know them
            "verbosity": -1,
        }
        features = np.ascontiguousarray(X, dtype=np.float32)
        return FittedLightGBM(
            outputs=setup.outputs,
            n_features=d,
            forests=tuple(self._grow(features, problem, settings) for problem in setup.problems),
            notes=setup.notes,
        )

    def _grow(self, X: NDArray[np.float32], problem: Problem, settings: Mapping[str, Any]) -> Forest:
        lightgbm = _library()
        objective: dict[str, Any] = (
            {"objective": "binary"}
            if problem.n_codes == 2
            else {"objective": "multiclass", "num_class": problem.n_codes}
        )
        data = lightgbm.Dataset(X, label=problem.codes, weight=problem.weights)
        booster = lightgbm.train({**settings, **objective}, data, num_boost_round=self.trees)
        return Forest.from_lightgbm(booster.model_to_string())

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "FittedLightGBM":
        """Build a fitted LightGBM head from its state."""
        return FittedLightGBM.restore(json, arrays)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedLightGBM:
    """The trees of each problem, as arrays: predicting needs no LightGBM.

    Attributes
    ----------
    outputs : Outputs
        Where their margins belong.
    n_features : int
        Columns of the matrices it takes.
    forests : tuple of Forest
    notes : tuple of str
        What was noticed at fitting.
    """

    outputs: Outputs
    n_features: int
    forests: tuple[Forest, ...]
    notes: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        """Columns of its probabilities."""
        return self.outputs.n_classes

    def predict_proba(self, X: Features) -> Scores:
        """Return probabilities; see :meth:`biofuse.heads.FittedHead.predict_proba`."""
        return self.outputs.probabilities(self._margins(X), n=len(X))

    def decision(self, X: Features) -> Scores:
        """Return log-odds; see :meth:`biofuse.heads.FittedHead.decision`."""
        return self.outputs.decision(self._margins(X), n=len(X), log_odds=True)

    def _margins(self, X: Features) -> list[Scores]:
        check_features(X, n_features=self.n_features)
        data = np.asarray(X, dtype=np.float32)
        return [
            forest.margins(data, width=width) for forest, width in zip(self.forests, self.outputs.widths, strict=True)
        ]

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values and the arrays of each forest."""
        values = {"outputs": self.outputs.to_json(), "n_features": self.n_features, "notes": list(self.notes)}
        arrays: Arrays = {}
        for number, forest in enumerate(self.forests):
            arrays |= forest.state(f"forest_{number}")
        return values, arrays

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose state this is."""
        try:
            outputs = Outputs.from_json(json["outputs"])
            n_features = int(json["n_features"])
            notes = tuple(str(note) for note in json["notes"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"The saved LightGBM head is malformed: {error!r}.", remedy="Fit again.") from error
        forests = [
            Forest.restore(arrays, f"forest_{number}", n_features=n_features, width=width)
            for number, width in enumerate(outputs.widths)
        ]
        return cls(outputs=outputs, n_features=n_features, forests=tuple(forests), notes=notes)


def _library() -> types.ModuleType:
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: its own library, or OpenMP's, cannot be loaded
        raise DependencyError(
            f"The head lightgbm needs LightGBM, which cannot be imported: {error}.",
            remedy="pip install 'biofuse-embed[lightgbm]'",
        ) from error
    return lightgbm
