"""A fitted model as scikit-learn sees it: a classifier and a transformer that is fitted already, and stays so."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import ArtifactError, BioFuseError, DataError, option
from biofuse.core.target import Labels, Target
from biofuse.data.labels import label_text, listing, match_names
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.fusion.base import FittedFusion
from biofuse.predictors.fused import Predictor

if TYPE_CHECKING:
    from sklearn.utils import Tags

Container = Literal["default", "pandas"]
"""What :meth:`ScikitModel.set_output` knows."""


class Embeds(Protocol):
    """What of a model is needed here."""

    @property
    def predictor(self) -> Predictor:
        """Maps blocks to probabilities."""

    @property
    def target(self) -> Target:
        """What is predicted."""

    def embed_blocks(self, data: Any, **given: Any) -> EmbeddingSet:
        """Embed images and keep the blocks apart."""

    def predict_proba(self, data: Any, **given: Any) -> NDArray[np.float64]:
        """Return class probabilities of images."""

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:
        """Return the names of the fused columns."""


Model = TypeVar("Model")


def with_notes(frozen: type[Model]) -> type[Model]:
    """Let scikit-learn note on a frozen model what it notes on every step of a pipeline: private attributes alone."""
    refuse, keep = frozen.__setattr__, frozen.__delattr__

    def note(self: Model, name: str, value: object) -> None:
        (object.__setattr__ if name.startswith("_") else refuse)(self, name, value)

    def forget(self: Model, name: str) -> None:
        (object.__delattr__ if name.startswith("_") else keep)(self, name)

    frozen.__setattr__ = note  # type: ignore[assignment]
    frozen.__delattr__ = forget  # type: ignore[assignment]
    return frozen


class ScikitModel:
    """What makes a fitted model a step of scikit-learn's pipelines.

    Nothing here learns: :meth:`fit` returns the model as it is, and ``clone`` the model itself, as of
    :class:`sklearn.frozen.FrozenEstimator`. Scores by cross-validation over images that it was fitted on are therefore
    too good; cross-validate :class:`biofuse.BioFuse`, which is fitted anew on every fold.
    """

    def fit(self: Model, X: Any, y: Any = None) -> Model:  # noqa: ARG002
        """Return the model as it is: it is fitted already."""
        return self

    def transform(self: Embeds, X: Any, **given: Any) -> Any:
        """Embed images and fuse the embeddings as the predictor does.

        Parameters
        ----------
        X : anything :func:`biofuse.load_samples` takes
            Images.
        **given
            As for :meth:`biofuse.BioFuseModel.embed`, which gives the embeddings as they are.

        Returns
        -------
        ndarray of float32, shape (n, n_columns)
            What the head is given; a data frame where :meth:`set_output` says so.

        Raises
        ------
        ArtifactError
            If the predictor has no such matrix: an ensemble, late fusion.
        UnreadableImageError
            If an image cannot be read.
        """
        fuse = fusion_of(self.predictor).transform  # or refuse now
        return _contained(fuse(self.embed_blocks(X, **{**given, "on_error": "error"}).blocks), self)

    def get_feature_names_out(self: Any, input_features: ArrayLike | None = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the columns of :meth:`transform`: ``uni_0``, ``uni_1``, ...

        Raises
        ------
        ArtifactError
            As of :meth:`transform`.
        """
        return column_names(fusion_of(self.predictor))

    def set_output(self, *, transform: Container | None = None) -> Self:
        """Choose what :meth:`transform` returns.

        Parameters
        ----------
        transform : {"default", "pandas"}, optional
            An array, or a data frame with a column per feature; None: as before.

        Raises
        ------
        BioFuseError
            If there is no such container.
        """
        if transform is not None:
            if transform not in {"default", "pandas"}:
                raise BioFuseError(
                    f"{transform!r} is no container.", remedy=f"Give {option('transform', 'pandas')}, or 'default'."
                )
            self._container: Container = transform
        return self

    def score(self: Embeds, X: Any, y: Any, sample_weight: ArrayLike | None = None, **given: Any) -> float:
        """Return the accuracy on images; of several labels, the share of images with all of them right; of values R².

        Parameters
        ----------
        X : anything :func:`biofuse.load_samples` takes
            Images.
        y : array-like, shape (n,) or (n, n_labels)
            Class names, zeros and ones, or values.
        sample_weight : array-like, shape (n,), optional
        **given
            As for :meth:`biofuse.BioFuseModel.predict_proba`.

        Raises
        ------
        DataError
            If a label is no class of the model.
        ArtifactError
            If the model predicts times to an event, of which scikit-learn has no score.
        """
        from sklearn.metrics import accuracy_score, r2_score

        if self.target.timed:
            raise ArtifactError(
                "scikit-learn has no score of times to an event.", remedy="Use biofuse.evaluate on the run."
            )
        truth = as_codes(y, self.target)
        said = self.target.predict(self.predict_proba(X, **given))
        measure = r2_score if self.target.measured else accuracy_score
        return float(measure(truth, said, sample_weight=sample_weight))

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> Self:
        return self

    def __sklearn_tags__(self: Any) -> "Tags":
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags, TransformerTags

        several, classes = self.target.several, self.target.categorical
        return Tags(
            estimator_type="classifier" if classes else "regressor",
            target_tags=TargetTags(required=False, multi_output=several or len(self.target.shape(0)) > 1),
            transformer_tags=TransformerTags(preserves_dtype=[]),
            classifier_tags=ClassifierTags(multi_label=several) if classes else None,
            regressor_tags=None if classes else RegressorTags(),
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True),
            requires_fit=False,
        )


def fusion_of(predictor: Predictor) -> FittedFusion:
    """Return what makes one matrix of the blocks that a predictor takes.

    Raises
    ------
    ArtifactError
        If there is no such matrix: an ensemble, late fusion.
    """
    fusion: FittedFusion | None = getattr(predictor, "fusion", None)
    if fusion is None:
        raise ArtifactError(
            "This predictor is made of several, so that there is no one fused matrix.",
            remedy="Use embed, which gives the embeddings of its encoders side by side; or fit with "
            f"{option('predictor', 'fused')}.",
        )
    return fusion


def column_names(fusion: FittedFusion) -> NDArray[np.object_]:
    """Return a name for each column of a fused matrix: of the encoder that it belongs to, and its number there."""
    names = np.array([f"fused_{column}" for column in range(fusion.dim)], dtype=object)
    for encoder, place in fusion.columns.items():
        names[place] = [f"{encoder}_{column}" for column in range(len(names[place]))]
    return names


def _contained(values: NDArray[np.float32], model: Embeds) -> Any:
    from sklearn import get_config

    if getattr(model, "_container", get_config()["transform_output"]) != "pandas":
        return values
    import pandas as pd

    return pd.DataFrame(values, columns=model.get_feature_names_out().tolist())


def as_codes(y: Any, target: Target) -> Labels:
    """Return labels as a target numbers them: class indices by name, zeros and ones, or numbers as they are.

    Raises
    ------
    DataError
        If one is no class of the target.
    """
    if not target.exclusive:
        return target.as_labels(np.asarray(y))
    texts = [label_text(value) for value in np.asarray(y, dtype=object).ravel()]
    place = {name: number for number, name in enumerate(target.classes)}
    found: Mapping[str, str] = match_names(set(texts), target.classes)
    unknown = sorted(set(texts) - set(found))
    if unknown:
        raise DataError(
            f"{listing(unknown)} is no class of the model; its classes are {listing(target.classes, limit=20)}."
        )
    return np.array([place[found[text]] for text in texts], dtype=np.int64)
