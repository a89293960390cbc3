"""The fitted model: embeds and predicts new images, saved to a folder or to the Hugging Face hub."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.pooling import Pooling, pooled_width
from biofuse.core.errors import ArtifactError, BioFuseError, BioFuseWarning, DataError, option
from biofuse.core.options import accepts, divide
from biofuse.core.progress import Progress
from biofuse.core.seals import unseal
from biofuse.core.target import THRESHOLD, Target, Task
from biofuse.data.config import DataConfig
from biofuse.data.decoding import DecodePolicy
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.plugins import naming_plugins
from biofuse.encoders.registry import Plugin
from biofuse.encoders.weights import pin
from biofuse.evaluation.conformal import check_coverage
from biofuse.evaluation.operating import DEFAULT_SENSITIVITY, Threshold, read_threshold
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.engine import extract
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import PRECISIONS
from biofuse.model.card import model_card
from biofuse.model.estimator import ScikitModel, with_notes
from biofuse.model.folder import AGAIN, KIND, PREDICTOR, SEAL, find_model, write_model
from biofuse.model.hub import README, download_folder, upload
from biofuse.model.resident import ResidentPredictor
from biofuse.model.tables import image_table, prediction_table, warn_of_unusual
from biofuse.model.trust import Trust
from biofuse.model.versions import mismatch
from biofuse.predictors.combined import load_predictor
from biofuse.predictors.fused import Predictor
from biofuse.search.rules import CHOSEN
from biofuse.store.store import EmbeddingStore, as_store

if TYPE_CHECKING:
    import pandas as pd


@with_notes
@dataclass(frozen=True, kw_only=True, eq=False)
class BioFuseModel(ScikitModel):
    """Embeds and predicts new images with the chosen encoders.

    Attributes
    ----------
    cards : tuple of EncoderCard
        The encoders, in pool order.
    predictor : Predictor
        Maps their blocks to probabilities.
    task : Task
    classes : tuple of str
        Class (or label) names, in the order of the probability columns.
    decode : DecodePolicy
        How image files become pixels; the same as when the model was fitted.
    facts : dict
        JSON facts about the fit: ``fitted_on``, numbers of samples, the selection in words, versions, how data were
        read.
    precisions : mapping of str to {"fp32", "bf16", "fp16"}
        What each encoder computed in when the predictor was fitted; fp32 for those not named. New images are embedded
        at the same; where a device does not have it, at fp32, with a warning.
    trust : Trust
        What it knows of how far it may be believed.

    Examples
    --------
    >>> import biofuse
    >>> from biofuse import BioFuseModel
    >>> model = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", progress=False).model
    >>> _ = model.save("model")
    >>> BioFuseModel.load("model").predict(["new.png"])
    array(['malignant'], dtype=object)
    >>> model.predict(["new.png"], threshold="youden")
    array(['malignant'], dtype=object)
    """

    cards: tuple[EncoderCard, ...]
    predictor: Predictor
    task: Task
    classes: tuple[str, ...]
    decode: DecodePolicy = field(default_factory=DecodePolicy)
    facts: dict[str, Any] = field(default_factory=dict)
    precisions: Mapping[str, Precision] = field(default_factory=dict)
    trust: Trust = field(default_factory=Trust)

    @property
    def target(self) -> Target:
        """What is predicted."""
        return Target(self.task, self.classes)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders, in pool order."""
        return tuple(card.name for card in self.cards)

    @property
    def classes_(self) -> NDArray[np.object_]:
        """Class names as scikit-learn names them."""
        return np.array(self.classes, dtype=object)

    @property
    def dim(self) -> int:
        """Columns of what :meth:`embed` returns."""
        return sum(card.dim for card in self.cards) * pooled_width(self.pooling)

    @property
    def pooling(self) -> Pooling:
        """How the embeddings of the images of one sample become one vector; learned from samples of several images."""
        found: Pooling = self.facts.get("pooling", "mean")
        return found

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Python files that were run before the fit, to register encoders, heads or fusions."""
        return _plugins_of(self.facts)

    @property
    def data_config(self) -> DataConfig:
        """How the data of the fit were read; new images are read alike."""
        return DataConfig(**self.facts.get("read", {}))

    @accepts(DataConfig)
    def load_images(self, data: Any, *, config: DataConfig | None = None, **chosen: Any) -> Samples:
        """Find images as the other methods do, without opening them: unlabelled, decoded as those of the fit.

        Parameters
        ----------
        data : anything :func:`biofuse.load_samples` takes
        config : DataConfig, optional
            How ``data`` are read, where not like the data of the fit; what is given by name wins.
        **chosen
            Fields of :class:`biofuse.DataConfig`.

        Raises
        ------
        DataError
            If the data cannot be used as they are.
        """
        read = DataConfig.of(config, chosen)
        if isinstance(data, Samples):
            return load_samples(data, config=read).decoded_by(self.decode)
        unsplit = read.but(use_splits=False)
        return load_samples(data, config=unsplit, like=self.data_config, labelled=False, decode=self.decode)

    @accepts(DataConfig, ExtractOptions)
    def embed(
        self,
        data: Any,
        *,
        store: EmbeddingStore | Path | str | None = None,
        keep: bool = False,
        config: DataConfig | None = None,
        options: ExtractOptions | None = None,
        progress: Progress | bool = True,
        **chosen: Any,
    ) -> NDArray[np.float32]:
        """Embed images with this model's encoders.

        Parameters
        ----------
        data : anything :func:`biofuse.load_samples` takes
            Labels are not needed and not used.
        store : EmbeddingStore or path, optional
            Where embeddings are looked for; by default in the user's store.
        keep : bool, default False
            Whether to write into the store what it does not have. Otherwise nothing is written.
        options : ExtractOptions, optional
            How images are embedded; what is given by name wins. An unreadable image is an error here: rows must stay
            aligned with ``data``.
        progress : Progress or bool, default True
        config : DataConfig, optional
            How ``data`` are read, where not like the data of the fit; what is given by name wins.
        **chosen
            Fields of :class:`biofuse.DataConfig` and :class:`biofuse.ExtractOptions`.

        Returns
        -------
        ndarray of float32, shape (n, dim)
            The raw embeddings, side by side in pool order; scaling belongs to the predictor.

        Raises
        ------
        UnreadableImageError
            If an image cannot be read.
        """
        strict = chosen | {"on_error": "error"}
        blocks = self.embed_blocks(
            data, store=store, keep=keep, config=config, options=options, progress=progress, **strict
        ).blocks
        return np.concatenate([blocks[name] for name in self.encoders], axis=1)

    @accepts(DataConfig, ExtractOptions)
    def predict_proba(
        self,
        data: Any,
        *,
        store: EmbeddingStore | Path | str | None = None,
        keep: bool = False,
        config: DataConfig | None = None,
        options: ExtractOptions | None = None,
        progress: Progress | bool = True,
        **chosen: Any,
    ) -> NDArray[np.float64]:
        """Return class probabilities of images, shape (n, n_classes); one independent column per label for multi-label.

        They are calibrated, where the model knows how (:class:`biofuse.model.trust.Trust`). A model of values gives the
        values, one of times to an event the probability of the event by each horizon.

        Parameters and errors are those of :meth:`embed`.
        """
        strict = chosen | {"on_error": "error"}
        blocks = self.embed_blocks(
            data, store=store, keep=keep, config=config, options=options, progress=progress, **strict
        ).blocks
        return self.probabilities(blocks)

    @accepts(DataConfig, ExtractOptions)
    def predict(
        self,
        data: Any,
        *,
        threshold: Threshold | None = None,
        sensitivity: float | None = None,
        store: EmbeddingStore | Path | str | None = None,
        keep: bool = False,
        config: DataConfig | None = None,
        options: ExtractOptions | None = None,
        progress: Progress | bool = True,
        **chosen: Any,
    ) -> NDArray[Any]:
        """Return the most probable class name of each image, shape (n,).

        For multi-label tasks: names of all labels with probability above one half, joined by ``|``. With ``threshold``
        or ``sensitivity`` (:meth:`decide`) each class is decided by itself; a class for which no threshold is known is
        never named. A model of values gives the values, shape (n,) or (n, n_columns), one of times to an event the
        risk, which is the mean of the probabilities by its horizons, shape (n,); neither takes a threshold. Other
        parameters and errors are those of :meth:`embed`.
        """
        self.refuse_questions(threshold=threshold, sensitivity=sensitivity, coverage=None)
        probabilities = self.predict_proba(
            data, store=store, keep=keep, config=config, options=options, progress=progress, **chosen
        )
        return self.decide(probabilities, threshold=threshold, sensitivity=sensitivity)

    @accepts(DataConfig, ExtractOptions)
    def predict_frame(
        self,
        data: Any,
        *,
        threshold: Threshold | None = None,
        sensitivity: float | None = None,
        coverage: float | None = None,
        class_conditional: bool = False,
        store: EmbeddingStore | Path | str | None = None,
        keep: bool = False,
        config: DataConfig | None = None,
        options: ExtractOptions | None = None,
        progress: Progress | bool = True,
        **chosen: Any,
    ) -> tuple["pd.DataFrame", EmbeddingSet]:
        """Return a table (id, prediction, a probability column per class, novelty) and what happened while embedding.

        The last column is the percentile of the development data's own distances at which an image lies
        (:meth:`biofuse.evaluation.novelty.Novelty.percentiles`); it is absent where the model does not know it. A
        warning names images above the 99th.

        With ``options.on_error="quarantine"`` unreadable images have no row and stand in ``EmbeddingSet.quarantined``.
        ``threshold`` and ``sensitivity`` are those of :meth:`predict`. With ``coverage`` there is a column ``set``: the
        classes of :meth:`sets`, joined by ``|``. A model of values has no columns of probabilities: a single value is
        ``prediction``, several are ``prediction_<column>``; with ``coverage`` the ends of a prediction interval that
        holds the true value with that probability follow, ``low_<column>`` and ``high_<column>``.
        """
        self.refuse_questions(threshold=threshold, sensitivity=sensitivity, coverage=coverage)
        embeddings = self.embed_blocks(
            data, store=store, keep=keep, config=config, options=options, progress=progress, **chosen
        )
        frame = self.tabulate(
            embeddings.blocks,
            threshold=threshold,
            sensitivity=sensitivity,
            coverage=coverage,
            class_conditional=class_conditional,
        )
        if self.trust.novelty is not None:
            warn_of_unusual(frame, known=self.trust.novelty.n_units)
        return frame, embeddings

    def resident(
        self,
        *,
        device: str | None = None,
        batch_size: int | None = None,
        options: ExtractOptions | None = None,
    ) -> ResidentPredictor:
        """Load the encoders once and keep them: for one image after another, in a program that goes on running.

        Parameters
        ----------
        device : str, optional
            Where networks run; by default what ``options`` say, or the best there is.
        batch_size : int, optional
            Most images per forward pass; by default 16 on a processor, 64 on an accelerator. Halved when memory runs
            out.
        options : ExtractOptions, optional
            Device, batch size, folder of weights; what is given by name wins.

        Returns
        -------
        ResidentPredictor
            To be closed: ``with model.resident() as predictor: ...``.

        Raises
        ------
        EncoderError
            If an encoder cannot be loaded.

        Examples
        --------
        >>> import biofuse
        >>> model = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", progress=False).model
        >>> with model.resident() as predictor:
        ...     predictor.predict(["new.png"])["prediction"].tolist()
        ['malignant']
        """
        given = {"device": device, "batch_size": batch_size}
        chosen = {name: value for name, value in given.items() if value is not None}
        return ResidentPredictor(self, options=ExtractOptions.of(options, chosen))

    def refuse_questions(
        self, *, threshold: Threshold | None, sensitivity: float | None, coverage: float | None
    ) -> None:
        """Raise what :meth:`decide`, :meth:`sets` and :meth:`intervals` would, before an image is read."""
        none = np.empty((0, len(self.classes)))
        self.decide(none, threshold=threshold, sensitivity=sensitivity)
        if coverage is not None:
            (self.intervals if self.target.measured else self.sets)(none, coverage=coverage)

    def tabulate(
        self,
        blocks: Blocks,
        *,
        ids: Sequence[str] | None = None,
        threshold: Threshold | None = None,
        sensitivity: float | None = None,
        coverage: float | None = None,
        class_conditional: bool = False,
    ) -> "pd.DataFrame":
        """Return the table of :meth:`predict_frame` for images that are embedded already.

        Parameters
        ----------
        blocks : Blocks
            Of the model's encoders.
        ids : sequence of str, optional
            What images are called; by default as in ``blocks``.
        threshold, sensitivity, coverage, class_conditional
            As of :meth:`predict_frame`.
        """
        probabilities = self.probabilities(blocks)
        said = self.decide(probabilities, threshold=threshold, sensitivity=sensitivity)
        inside = ends = None
        if coverage is not None and self.target.measured:
            ends = self.intervals(probabilities, coverage=coverage)
        elif coverage is not None:
            inside = self.sets(probabilities, coverage=coverage, class_conditional=class_conditional)
        return prediction_table(
            self.target,
            blocks.ids if ids is None else list(ids),
            probabilities,
            said=said,
            inside=inside,
            ends=ends,
            novelty=None if self.trust.novelty is None else self.trust.novelty.percentiles(blocks),
        )

    def tabulate_images(self, embeddings: EmbeddingSet) -> "pd.DataFrame":
        """Return what each image argues, a row per image, where samples are several images.

        Parameters
        ----------
        embeddings : EmbeddingSet
            As :meth:`predict_frame` and :meth:`embed_blocks` return them.

        Returns
        -------
        DataFrame
            ``id`` of the sample, ``image``, which is what its source is called, where it lies in its file (``x``,
            ``y``, ``width`` and ``height`` of a tile, in pixels of the slide's finest level), ``weight`` where the
            predictor is attention, and ``for_<class>``: see :class:`biofuse.predictors.arguments.Arguments`.

        Raises
        ------
        DataError
            If every sample is one image.

        Examples
        --------
        >>> import biofuse, pandas
        >>> table = pandas.read_csv("table.csv")
        >>> table["lesion"] = table.finding + (table.index // 4).astype(str)
        >>> model = biofuse.fit(table, label="finding", bag="lesion", encoders=["colour"], progress=False).model
        >>> frame, embeddings = model.predict_frame(table, bag="lesion", progress=False)
        >>> model.tabulate_images(embeddings).columns.tolist()
        ['id', 'image', 'for_benign', 'for_malignant']
        """
        return image_table(self.predictor, self.classes, embeddings)

    @accepts(DataConfig, ExtractOptions)
    def embed_blocks(
        self,
        data: Any,
        *,
        store: EmbeddingStore | Path | str | None = None,
        keep: bool = False,
        config: DataConfig | None = None,
        options: ExtractOptions | None = None,
        progress: Progress | bool = True,
        **chosen: Any,
    ) -> EmbeddingSet:
        """Embed images and keep the blocks apart; what the other methods are made of.

        Raises
        ------
        DataError
            If there is no image.
        """
        reading, extraction = divide(chosen, DataConfig, ExtractOptions)
        samples = self.load_images(data, config=config, **reading)
        if not len(samples):
            raise DataError(f"{samples.name} holds no image.", remedy="Give at least one image.")
        kept = as_store(store) if keep else as_store(store).without_keeping()
        cards = tuple(pin(card) for card in self.cards)
        precisions = {name: self.precisions.get(name, "fp32") for name in self.encoders}
        own = {"precisions": precisions, "pooling": self.pooling, "on_unavailable": "error"}
        options = ExtractOptions.of(options, {**extraction, **own})
        if keep and not options.use_store:
            raise BioFuseError(
                "Embeddings cannot be kept in a store that is not used.",
                remedy=f"Leave out {option('keep', True)} or {option('use_store', False)}.",
            )
        with naming_plugins(self.plugins):
            embeddings = extract(samples, cards, store=kept, options=options, progress=progress)
        for work in embeddings.work:
            if work.precision != precisions[work.encoder]:
                warnings.warn(
                    f"{work.encoder} is run at {work.precision}: {work.reason}.", BioFuseWarning, stacklevel=3
                )
        return embeddings

    def probabilities(self, blocks: Blocks) -> NDArray[np.float64]:
        """Return calibrated class probabilities, shape (n, n_classes), of the blocks of images.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or one of another width than at fitting.
        """
        return self.trust.calibrated(self.target, self.predictor.predict_proba(blocks))

    def thresholds(self, threshold: Threshold, *, sensitivity: float | None = None) -> NDArray[np.float64]:
        """Return the threshold of every class, shape (n_classes,); NaN for a class that no development sample has.

        Parameters
        ----------
        threshold : float, "youden" or "sensitivity"
            A probability for all classes; or that which, on out-of-fold predictions of development samples, has the
            greatest Youden's index, or finds a new sample of the class with at least the wanted probability.
        sensitivity : float, optional
            Wanted; 0.95 by default.

        Raises
        ------
        UndefinedMetricError
            If there is no such threshold, or the sensitivity is no share.
        ArtifactError
            If the model knows no thresholds, or predicts no classes.
        """
        if not self.target.categorical:
            raise ArtifactError(
                f"Thresholds decide about classes, and the model predicts {self.target.text}.",
                remedy=f"Leave {option('threshold')} and {option('sensitivity')} out.",
            )
        rule = read_threshold(threshold, sensitivity=sensitivity)
        if isinstance(rule, float):
            return np.full(len(self.classes), rule)
        if self.trust.thresholds is None:
            raise ArtifactError(
                "This model knows no thresholds: it has no out-of-fold predictions of its development samples.",
                remedy=f"Give a probability: {option('threshold', THRESHOLD)}; or fit again.",
            )
        wanted = DEFAULT_SENSITIVITY if sensitivity is None else sensitivity
        return self.trust.thresholds.at(self.target, rule, sensitivity=wanted)

    def sets(
        self, probabilities: NDArray[np.float64], *, coverage: float, class_conditional: bool = False
    ) -> NDArray[np.bool_]:
        """Return which classes are in the prediction set of each image, shape (n, n_classes).

        The set holds the true class of a new image with the probability asked for; never none. Of several labels, each
        label that is there is in it with that probability. See :class:`biofuse.evaluation.conformal.Conformal`.

        Parameters
        ----------
        probabilities : ndarray of float64, shape (n, n_classes)
            As :meth:`predict_proba` returns them.
        coverage : float
            The probability that is asked for.
        class_conditional : bool, default False
            Whether it shall hold for the images of each class, instead of for all together.

        Raises
        ------
        DataError
            If the coverage is no share.
        ArtifactError
            If the model does not know what its predictors said of images that they were not fitted on.
        """
        check_coverage(coverage)
        if not self.target.categorical:
            raise ArtifactError(
                f"There are no classes that could be in a set: the model predicts {self.target.text}.",
                remedy=f"Leave {option('coverage')} out.",
            )
        if self.trust.conformal is None:
            raise ArtifactError(
                "This model knows no prediction sets: it has no out-of-fold predictions of its development samples.",
                remedy="Fit again.",
            )
        return self.trust.conformal.sets(self.target, probabilities, coverage, class_conditional=class_conditional)

    def intervals(
        self, values: NDArray[np.float64], *, coverage: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the ends of prediction intervals of values, each of shape (n, n_columns).

        An interval holds the true value of a new image with the probability asked for; it is infinitely wide where
        there are too few development samples, or groups, to promise that.

        Parameters
        ----------
        values : ndarray of float64, shape (n, n_columns)
            As :meth:`predict_proba` returns them.
        coverage : float
            The probability that is asked for.

        Raises
        ------
        DataError
            If the coverage is no share.
        ArtifactError
            If the model does not know how far its predictions were off for images that they were not fitted on.
        """
        check_coverage(coverage)
        if self.trust.values is None:
            raise ArtifactError(
                "This model knows no prediction intervals: it has no out-of-fold predictions of values.",
                remedy="Fit again, on values.",
            )
        return self.trust.values.ends(values, coverage)

    def decide(
        self,
        probabilities: NDArray[np.float64],
        *,
        threshold: Threshold | None = None,
        sensitivity: float | None = None,
    ) -> NDArray[Any]:
        """Turn probabilities, shape (n, n_classes), into names, shape (n,); of other models see :meth:`predict`.

        Without a threshold the most probable class; with one each class is decided by itself: of two classes the second
        where its probability exceeds the threshold, of more all that exceed theirs, joined by ``|``, or none.

        Parameters
        ----------
        probabilities : ndarray of float64, shape (n, n_classes)
        threshold, sensitivity
            As for :meth:`thresholds`; a sensitivity alone asks for its threshold.

        Raises
        ------
        UndefinedMetricError, ArtifactError
            As of :meth:`thresholds`.
        """
        if threshold is None and sensitivity is None:
            if not self.target.categorical:
                return np.asarray(self.target.predict(probabilities), dtype=np.float64)
            return np.array(self.target.names(self.target.predict(probabilities)), dtype=object)
        limits = self.thresholds(threshold if threshold is not None else "sensitivity", sensitivity=sensitivity)
        return np.array(self.target.names(self.target.call(probabilities, limits)), dtype=object)

    def save(self, path: Path | str) -> Path:
        """Write the model to a folder: JSON, safetensors and the head library's own safe format; no pickle.

        Raises
        ------
        ArtifactError
            If the folder holds something else than a model.
        DiskError
            If it cannot be written.
        """
        content = {
            "task": str(self.task),
            "classes": list(self.classes),
            "decode": self.decode.model_dump(mode="json"),
            "encoders": [card.model_dump(mode="json") for card in self.cards],
            "precisions": {name: self.precisions.get(name, "fp32") for name in self.encoders},
            "facts": self.facts,
        }
        write_model(Path(path), content, self.predictor, self.trust)
        return Path(path)

    @classmethod
    def load(cls, path: Path | str, *, variant: str = CHOSEN) -> Self:
        """Read a saved model; every file is verified before it is opened.

        Parameters
        ----------
        path : path
            What :meth:`save` wrote, or a run directory that holds one.
        variant : {"chosen", "best_single", "all", "greedy", "lean"}
            Which of the models of a run directory: the chosen one, or one that it is compared with.

        Raises
        ------
        ArtifactError
            If a file is missing, was changed, or is of a newer format, or there is no such model.

        Warns
        -----
        BioFuseWarning
            If a library is here in another version, other than a patch, than when the model was fitted, and its
            answers may depend on it.

        Examples
        --------
        >>> import biofuse
        >>> from biofuse import BioFuseModel
        >>> _ = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", out="run", progress=False)
        >>> lean = BioFuseModel.load("run", variant="lean")
        >>> len(lean.encoders), lean.predict(["new.png"])
        (1, array(['malignant'], dtype=object))
        """
        folder = find_model(Path(path), variant)
        sealed = unseal(folder, name=SEAL)
        record = sealed.content
        try:
            with naming_plugins(_plugins_of(record["facts"])):
                predictor = load_predictor(sealed.below(PREDICTOR))
            model = cls(
                cards=tuple(EncoderCard.model_validate(card) for card in record["encoders"]),
                predictor=predictor,
                task=Task(record["task"]),
                classes=tuple(str(name) for name in record["classes"]),
                decode=DecodePolicy.model_validate(record["decode"]),
                facts=dict(record["facts"]),
                precisions=_precisions(record.get("precisions", {})),
                trust=Trust.load(sealed),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder / SEAL} is not a BioFuse model: {error}", remedy=AGAIN) from error
        fitted = (model.predictor.encoders, model.predictor.n_classes, model.predictor.task)
        own = (model.encoders, len(model.classes), model.task)
        if record.get("kind") != KIND or fitted != own or not model.trust.fits(model.target):
            raise ArtifactError(f"{folder / SEAL} does not belong to the files beside it.", remedy=AGAIN)
        said = mismatch(model.facts.get("versions", {}))
        if said:
            warnings.warn(said, BioFuseWarning, stacklevel=2)
        return model

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | None = None,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload a BioFuse model",
    ) -> str:
        """Upload the model and its card to the Hugging Face hub; the encoders' weights stay where they are.

        Parameters
        ----------
        repo_id : str
            ``owner/name``; made if it does not exist.
        card : str, optional
            The README.md, such as ``biofuse card RUN`` writes with data and test scores; by default what the model
            knows of itself.
        private : bool, optional
            Of a new repository.
        revision : str, optional
            Branch.
        commit_message : str

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        AccessDeniedError
            If this user is not logged in, or may not write there.
        HubUnreachableError
            If the hub cannot be reached.
        """
        with tempfile.TemporaryDirectory(prefix="biofuse-") as folder:
            saved = self.save(Path(folder) / "model")
            text = card if card is not None else model_card(self, repository=repo_id)
            (saved / README).write_text(text, encoding="utf-8")
            return upload(saved, repo_id, private=private, revision=revision, message=commit_message)

    @classmethod
    def from_pretrained(cls, repo_id: Path | str, *, revision: str = "main") -> Self:
        """Load a model from the Hugging Face hub, or from a folder; every file is verified before it is opened.

        Parameters
        ----------
        repo_id : str or path
            ``owner/name``, or what :meth:`save` wrote.
        revision : str, default "main"
            Commit, tag or branch; what was downloaded of a commit is used without asking the hub again.

        Raises
        ------
        AccessDeniedError, NotOnHubError, HubUnreachableError
            If the files cannot be had.
        ArtifactError
            If a file is missing, was changed, or is of a newer format.
        """
        if Path(repo_id).is_dir():
            return cls.load(repo_id)
        with tempfile.TemporaryDirectory(prefix="biofuse-") as folder:
            download_folder(Path(folder), str(repo_id), revision=revision)
            return cls.load(folder)

    def __repr__(self) -> str:
        return (
            f"<BioFuseModel: {' + '.join(self.encoders)} ({self.dim} columns), {self.task} over {self.target.counted}>"
        )

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><td>{c.name}</td><td>{escape(c.title)}</td><td>{c.dim}</td></tr>" for c in self.cards)
        return (
            f"<p><b>BioFuseModel</b>: {self.task} over {self.target.counted}</p>"
            f"<table><tr><th>encoder</th><th>name</th><th>columns</th></tr>{rows}</table>"
        )


def _plugins_of(facts: Mapping[str, Any]) -> tuple[Plugin, ...]:
    return tuple(map(Plugin.model_validate, facts.get("plugins", ())))


def _precisions(record: Mapping[str, str]) -> dict[str, Precision]:
    """Read precisions; models of versions that knew only fp32 have none.

    Raises
    ------
    ValueError
        If one is not known.
    """
    known: dict[str, Precision] = {precision: precision for precision in PRECISIONS}
    if set(record.values()) - known.keys():
        raise ValueError(f"a precision is none of {', '.join(known)}")
    return {name: known[precision] for name, precision in record.items()}
