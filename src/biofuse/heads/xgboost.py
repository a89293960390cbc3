"""XGBoost, the published head."""

import json as json_module
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError, DependencyError, SearchError
from biofuse.core.seals import Arrays
from biofuse.core.target import Task
from biofuse.heads.base import (
    ClassWeight,
    Features,
    Limits,
    Outputs,
    Problem,
    Scores,
    check_features,
    options_of,
    set_up,
)

if TYPE_CHECKING:
    from xgboost import Booster

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class XGBoost:
    """Gradient-boosted trees with the settings of the BioFuse paper's code.

    Trees, learning rate and depth are those of Hossain and Harris-Birtill (2026), PLoS One 21(3): e0320989, as their
    code sets them; the seed, which they leave open, is set here.

    Parameters
    ----------
    trees : int, default 250
        Rounds; each grows one tree for two classes, else one per class.
    learning_rate : float, default 0.1
    depth : int, default 6
    device : {"auto", "cpu", "cuda"}, default "auto"
        Where trees are grown; ``auto`` takes the GPU where XGBoost can use one. Predictions are always made on the CPU,
        so that a model gives the same wherever it is loaded.
    class_weight : mapping, "balanced" or None
        Given to XGBoost as sample weights; see :data:`biofuse.heads.base.ClassWeight`.
    """

    trees: int = 250
    learning_rate: float = 0.1
    depth: int = 6
    device: Device = "auto"
    class_weight: ClassWeight = None

    def __post_init__(self) -> None:
        if self.trees < 1 or self.depth < 1 or not 0 < self.learning_rate <= 1:
            raise SearchError("trees and depth must be at least 1, the learning rate above 0 and at most 1.")
        if self.device not in {"auto", "cpu", "cuda"}:
            raise SearchError(f"device must be auto, cpu or cuda, not {self.device!r}.")

    @property
    def name(self) -> str:
        """The name it is registered under."""
        return "xgboost"

    @property
    def limits(self) -> Limits:
        """The largest problem for which it is meant."""
        return Limits(
            classes=100, reason="every round grows one tree per class, and on a CPU a fit takes minutes to hours"
        )

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
    ) -> "FittedTrees":
        """Learn from training rows; see :meth:`biofuse.heads.Head.fit`.

        Raises
        ------
        DependencyError
            If ``device="cuda"`` and there is no GPU that XGBoost can use.
        """
        setup = set_up(
            X, labels, task=task, n_classes=n_classes, class_weight=self.class_weight, sample_weight=sample_weight
        )
        settings = {
            "learning_rate": self.learning_rate,
            "max_depth": self.depth,
            "tree_method": "hist",
            "device": _resolve(self.device),
            "seed": seed,
            "nthread": threads,
            "verbosity": 0,
        }
        features = np.ascontiguousarray(X, dtype=np.float32)
        return FittedTrees(
            outputs=setup.outputs,
            n_features=X.shape[1],
            boosters=tuple(self._grow(features, problem, settings) for problem in setup.problems),
            notes=setup.notes,
        )

    def _grow(self, X: NDArray[np.float32], problem: Problem, settings: Mapping[str, Any]) -> "Booster":
        import xgboost

        data = xgboost.DMatrix(X, label=problem.codes, weight=problem.weights, nthread=settings["nthread"])
        objective: dict[str, Any] = (
            {"objective": "binary:logistic"}
            if problem.n_codes == 2
            else {"objective": "multi:softprob", "num_class": problem.n_codes}
        )
        booster = xgboost.train({**settings, **objective}, data, num_boost_round=self.trees)
        return _on_cpu(booster)

    def restore(self, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "FittedTrees":
        """Build a fitted XGBoost head from its state."""
        return FittedTrees.restore(json, arrays)


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedTrees:
    """One booster for each problem.

    Attributes
    ----------
    outputs : Outputs
        Where their margins belong.
    n_features : int
        Columns of the matrices it takes.
    boosters : tuple of xgboost.Booster
    notes : tuple of str
        What was noticed at fitting.
    """

    outputs: Outputs
    n_features: int
    boosters: tuple["Booster", ...]
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
        import xgboost

        check_features(X, n_features=self.n_features)
        if not len(X):
            return [np.zeros((0, width)) for width in self.outputs.widths]
        data = xgboost.DMatrix(np.ascontiguousarray(X, dtype=np.float32))
        return [
            booster.predict(data, output_margin=True).astype(np.float64).reshape(len(X), width)
            for booster, width in zip(self.boosters, self.outputs.widths, strict=True)
        ]

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """Return JSON values, and each booster in XGBoost's own JSON as an array of bytes."""
        values = {"outputs": self.outputs.to_json(), "n_features": self.n_features, "notes": list(self.notes)}
        raw = [np.frombuffer(bytes(booster.save_raw("json")), dtype=np.uint8) for booster in self.boosters]
        return values, {f"booster_{number}": data for number, data in enumerate(raw)}

    @classmethod
    def restore(cls, json: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Build the fitted head whose state this is."""
        import xgboost

        try:
            outputs = Outputs.from_json(json["outputs"])
            boosters = [_load(arrays[f"booster_{number}"]) for number in range(len(outputs.columns))]
            fitted = cls(
                outputs=outputs,
                n_features=int(json["n_features"]),
                boosters=tuple(boosters),
                notes=tuple(str(note) for note in json["notes"]),
            )
        except (KeyError, TypeError, ValueError, xgboost.core.XGBoostError) as error:
            raise ArtifactError(f"The saved XGBoost head is malformed: {error!r}.", remedy="Fit again.") from error
        if any(booster.num_features() != fitted.n_features for booster in fitted.boosters):
            raise ArtifactError("The saved trees do not fit the number of features.", remedy="Fit again.")
        return fitted


def _load(data: NDArray[Any]) -> "Booster":
    import xgboost

    text = np.asarray(data, dtype=np.uint8).tobytes()
    # XGBoost's parsers abort the process on some malformed input (and on empty input), or ask for all the memory there
    # is: only what parses as JSON is handed on, which is also why the binary form is not used.
    if not isinstance(json_module.loads(text), dict):
        raise TypeError("not a booster")
    booster = xgboost.Booster()
    booster.load_model(bytearray(text))
    return _on_cpu(booster)


def _on_cpu(booster: "Booster") -> "Booster":
    booster.set_param({"device": "cpu", "nthread": 0})
    return booster


def _resolve(device: Device) -> str:
    if device == "cpu":
        return "cpu"
    import xgboost

    usable = bool(xgboost.build_info().get("USE_CUDA")) and _has_gpu()
    if device == "cuda" and not usable:
        raise DependencyError(
            "There is no GPU that XGBoost can use.", remedy="Choose device='auto' or 'cpu', or install a CUDA build."
        )
    return "cuda" if usable else "cpu"


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
