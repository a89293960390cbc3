"""Estimators of scikit-learn: the search over images, and the search over embeddings that are there already.

What is imported here loads scikit-learn, which the rest of the top-level package does not.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from joblib import effective_n_jobs
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d, validate_data

from biofuse.api.fit import FitResult, fit, look_up
from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import DataError, FirstVersionError, SearchError, option
from biofuse.core.hashing import digest
from biofuse.core.options import Options, accepts, divide
from biofuse.core.progress import Tell, tell_user
from biofuse.core.target import Labels, Target, Task
from biofuse.data.config import DataConfig
from biofuse.data.labels import label_text, match_names
from biofuse.data.load import load_samples
from biofuse.data.lookup import is_image_name
from biofuse.data.objects import as_label_rows
from biofuse.data.samples import EmbeddedSource, Samples, object_array, row_id
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.loaders.imported import imported_card
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.options import ExtractOptions
from biofuse.model.estimator import column_names, fusion_of
from biofuse.model.model import BioFuseModel
from biofuse.model.trust import Trust
from biofuse.search.config import STARTER, SearchConfig
from biofuse.search.problem import Problem, check_parts, suited
from biofuse.search.rules import CHOSEN, Budget
from biofuse.search.runner import SearchContext
from biofuse.search.search import fitted_to, predictors_of, run, with_out_of_fold
from biofuse.store.store import EmbeddingStore, as_store

FIRST_VERSION = {
    "models": 'encoders=["biomedclip", "rad_dino", ...], or "paper" for all nine; "Prov-GigaPath" was dinov2_g',
    "fusion_method": 'fusion="concatenation" for "concat"; also "mean", "weighted"; sum, mul, max, ifusion and '
    "self_attention are left out",
    "projection_dim": 'fusion="pca" or "whitening", which are learned; leave it out for none',
    "train_data": "train, the first argument",
    "val_data": "val, the second argument",
    "task_type": "leave it out: it is recognised from the labels, and task= says it",
    "dataset_type": "leave it out: it is recognised from the data",
    "dataset_name": 'the data themselves, such as "breastmnist_224"',
    "num_workers": "BioFuse(workers=...)",
    "batch_size": "BioFuse(batch_size=...)",
    "img_size": "leave it out: every encoder has its own preprocessing",
}
"""Arguments of BioFuse v0.1 (its ``BioFuse`` and ``generate_embeddings``, at the commit of the paper), and what to give
now; docs/from-v0.1.md has the rest."""


def _refuse_first_version(chosen: Mapping[str, Any], known: Sequence[type[Options]]) -> None:
    """Say what arguments of BioFuse v0.1 are called now, all at once."""
    now = {offer.name for model in known for offer in model.offers()}
    old = [name for name in chosen if name in FIRST_VERSION and name not in now]
    if old:
        said = "\n".join(f"  {name}= → {FIRST_VERSION[name]}" for name in old)
        raise FirstVersionError(
            f"Arguments of BioFuse v0.1 were given: {', '.join(old)}.",
            remedy=f"{said}\ndocs/from-v0.1.md ('Coming from BioFuse v0.1') has an example.",
        )


class GeneratedEmbeddings(NamedTuple):
    """What :meth:`BioFuse.generate_embeddings` returns."""

    train: EmbeddingSet
    val: EmbeddingSet
    model: BioFuseModel


def _chosen(estimator: BaseEstimator, *models: type[Options], leaving: Sequence[str] = ()) -> dict[str, Any]:
    """Return the options of an estimator that were chosen: None stands for "not chosen"."""
    names = [offer.name for model in models for offer in model.offers() if offer.name not in leaving]
    return {name: getattr(estimator, name) for name in names if getattr(estimator, name) is not None}


@accepts(SearchConfig, ExtractOptions, unset=True)
class BioFuse(ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Finds which encoders, together, serve a task best: a classifier over images, as scikit-learn means it.

    It takes lists of paths, arrays or Pillow images, and stands in ``Pipeline``, ``cross_val_score`` and
    ``GridSearchCV``. :func:`biofuse.fit` does the same in one call. Nothing is looked up, opened or downloaded before
    :meth:`fit`, but options that cannot be are refused at once.

    Parameters
    ----------
    encoders : str or sequence of str, default "starter"
        The pool: names or aliases, see ``biofuse encoders list``.
    store : EmbeddingStore or path, optional
        Where embeddings are kept; by default the user's store.
    options : ExtractOptions, optional
        How images are embedded; what is given by name wins.
    **chosen
        Fields of :class:`biofuse.SearchConfig` and :class:`biofuse.ExtractOptions`. None stands for "not chosen".

    Attributes
    ----------
    result_ : FitResult
        The search, its evidence, the models, and the embeddings they were fitted on.
    model_ : BioFuseModel
        The chosen model: what is saved, shared and deployed.
    classes_ : ndarray, shape (n_classes,)
        The values that ``y`` had, in order; names of classes, or of labels, where it had none.

    Raises
    ------
    FirstVersionError
        If arguments of BioFuse v0.1 (``models``, ``fusion_method``, ...) are given; it says what each is called now.
    BioFuseError
        If there is no such option, it cannot have that value, or two do not go together.

    Examples
    --------
    >>> from pathlib import Path
    >>> from sklearn.model_selection import cross_val_score
    >>> from biofuse import BioFuse
    >>> paths = sorted(Path("images").rglob("*.png"))
    >>> y = [path.parent.name for path in paths]
    >>> fuse = BioFuse(["colour", "lbp"], head="ridge")
    >>> fuse
    BioFuse(encoders=['colour', 'lbp'], head='ridge')
    >>> cross_val_score(fuse, paths, y, cv=2).tolist()
    [1.0, 1.0]
    >>> fuse.fit(paths, y).predict(["new.png"])
    array(['malignant'], dtype='<U9')
    """

    def __init__(
        self,
        encoders: str | Sequence[str] = STARTER,
        *,
        store: EmbeddingStore | Path | str | None = None,
        options: ExtractOptions | None = None,
        **chosen: Any,
    ) -> None:
        _refuse_first_version(chosen, (SearchConfig, ExtractOptions))
        divide(chosen, SearchConfig, ExtractOptions)
        self.encoders = encoders
        self.store = store
        self.options = options
        for model in (SearchConfig, ExtractOptions):
            for offer in model.offers():
                if offer.name != "encoders":
                    setattr(self, offer.name, chosen.get(offer.name))
        self.config, self.extraction  # noqa: B018 (what cannot be is refused now)

    @property
    def config(self) -> SearchConfig:
        """The options of the search, presets resolved."""
        return SearchConfig(**_chosen(self, SearchConfig))

    @property
    def extraction(self) -> ExtractOptions:
        """How images are embedded."""
        return ExtractOptions.of(self.options, _chosen(self, ExtractOptions))

    @property
    def cards(self) -> tuple[EncoderCard, ...]:
        """The encoders of the pool, looked up anew."""
        return look_up(self.config, options=self.extraction, store=as_store(self.store))[0]

    @accepts(DataConfig)
    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        validation: Any = None,
        val_labels: Any = None,
        groups: ArrayLike | None = None,
        test: Any = "auto",
        config: DataConfig | None = None,
        out: Path | str | None = None,
        overwrite: bool = False,
        yes: bool = False,
        eager: bool = False,
        progress: bool | None = None,
        tell: Tell | None = None,
        **chosen: Any,
    ) -> Self:
        """Embed development images, search for the best subset of encoders, and fit it.

        Parameters
        ----------
        X : list of paths, arrays or Pillow images, or anything else :func:`biofuse.load_samples` takes
            Training images; of data with splits of their own these count.
        y : array-like, shape (n,) or (n, n_labels), optional
            Labels of images in a list or a data frame: a class each, or zeros and ones. Data that know their labels (a
            folder of class folders, a table, Samples) have none.
        validation : likewise, optional
            Validation data where they come apart.
        val_labels : array-like, optional
            Their labels.
        groups : array-like, shape (n,), optional
            Patients, slides or the like of the images in ``X``: those of one stay together.
        test : "auto", None or likewise, default "auto"
            ``auto``: the data's own test split; where there is none, 25 % of the samples are set aside, but not where
            ``y`` is given: who calls it as scikit-learn does has set test data aside already. None: nothing is set
            aside. Or test data that come apart. A search never reads them.
        config : DataConfig, optional
            How the data are read; what is given by name wins.
        out : path, optional
            A run directory to write; a killed fit goes on from it, and a finished one is reused. Without it, nothing is
            written but embeddings in the store.
        overwrite : bool, default False
            Whether to replace another run in ``out``.
        yes : bool, default False
            Whether a search of more than an hour is wanted.
        eager : bool, default False
            Whether to give a first result, of the cheaper encoders, as :func:`biofuse.fit` says.
        progress : bool, optional
            Show progress bars where standard error is a terminal, and in a notebook's cell. By default they are shown,
            and news written to standard error where there is no ``y``.
        tell : callable, optional
            Receives news line by line, such as that test data were set aside.
        **chosen
            Fields of :class:`biofuse.DataConfig`.

        Returns
        -------
        BioFuse
            Itself, with :attr:`result_`.

        Raises
        ------
        DataError, EncoderError, SearchError, DiskError
            With a message that says what to do.
        """
        _refuse_validation_as_y(y)
        read = DataConfig.of(config, chosen)
        rows = None if y is None else as_label_rows(y)
        config = read
        if rows is not None or groups is not None:
            X = _labelled(X, rows, groups, read)
            if validation is not None:
                validation, val_labels = load_samples(validation, labels=val_labels, config=read), None
            config = None  # they have been read
        self.result_: FitResult = fit(
            X,
            validation,
            val_labels=val_labels,
            test=None if rows is not None and isinstance(test, str) and test == "auto" else test,
            store=self.store,
            config=config,
            options=self.extraction,
            out=out,
            overwrite=overwrite,
            yes=yes,
            eager=eager,
            progress=progress is not False,
            tell=tell or (tell_user if progress or (progress is None and rows is None) else lambda _: None),
            **_chosen(self, SearchConfig),
        )
        self.model_: BioFuseModel = self.result_.model
        self.classes_, self._columns = _values_of(rows, self.model_.target)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return calibrated probabilities of images, shape (n, n_classes), in the order of ``classes_``.

        Embeddings are looked for, and kept, in the store of the fit.
        """
        check_is_fitted(self)
        found = self.model_.predict_proba(X, store=self.store, keep=True, options=self.extraction)
        return np.asarray(found[:, self._columns])

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each image, as ``y`` writes it, shape (n,).

        Of several labels zeros and ones, shape (n, n_labels).
        """
        check_is_fitted(self)
        found = self.model_.predict_proba(X, store=self.store, keep=True, options=self.extraction)
        said = self.model_.target.predict(found)
        if not self.model_.target.exclusive:
            return said
        place = np.empty(len(self._columns), dtype=np.int64)
        place[self._columns] = np.arange(len(place))
        return np.asarray(self.classes_[place[said]])

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the fused embeddings of images under the chosen encoders; see :meth:`BioFuseModel.transform`."""
        check_is_fitted(self)
        fuse = fusion_of(self.model_.predictor).transform  # or refuse now
        found = self.model_.embed_blocks(X, store=self.store, keep=True, options=self.extraction, on_error="error")
        return fuse(found.blocks)  # scikit-learn puts it into a data frame, where it is asked to

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the columns of :meth:`transform`: ``uni_0``, ``uni_1``, ..."""
        check_is_fitted(self)
        return self.model_.get_feature_names_out()

    def generate_embeddings(
        self,
        train: Any,
        val: Any,
        *,
        labels: Any = None,
        val_labels: Any = None,
        config: DataConfig | None = None,
        progress: bool = True,
        **chosen: Any,
    ) -> GeneratedEmbeddings:
        """Search and fit, and return the fused encoders' embeddings of train and val and the fitted model.

        Parameters are those of :func:`biofuse.fit`; no test data are set aside.

        Returns
        -------
        GeneratedEmbeddings
            ``train`` and ``val`` hold every sample, aligned and in the order given; ``model.embed`` maps new images
            into the same columns. With ``search="all"`` every encoder is fused.

        Raises
        ------
        FirstVersionError
            If arguments of BioFuse v0.1 are given; it says what each is called now.
        """
        _refuse_first_version(chosen, (DataConfig,))
        result = fit(
            train,
            val,
            test=None,
            labels=labels,
            val_labels=val_labels,
            store=self.store,
            config=DataConfig.of(config, chosen),
            options=self.extraction,
            progress=progress,
            **_chosen(self, SearchConfig),
        )
        return GeneratedEmbeddings(result.train_embeddings, result.val_embeddings, result.model)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array, tags.input_tags.string = False, True, True
        tags.target_tags.required = False  # a folder of class folders knows its labels
        tags.classifier_tags.multi_label = True
        return tags


class BioFuseRegressor(RegressorMixin, BioFuse):  # type: ignore[misc]
    """Finds which encoders, together, predict a number best: a regressor over images, as scikit-learn means it.

    Parameters and attributes are those of :class:`BioFuse`; ``y`` holds a number for each image, or several, and
    :meth:`~BioFuse.predict` gives them.

    Examples
    --------
    >>> from pathlib import Path
    >>> from biofuse import BioFuseRegressor
    >>> paths = sorted(Path("images").rglob("*.png"))
    >>> sizes = [float(len(path.read_bytes())) for path in paths]
    >>> BioFuseRegressor(["colour", "lbp"], folds=3).fit(paths, sizes).predict(["new.png"]).shape
    (1,)
    """

    @accepts(DataConfig)
    def fit(self, X: Any, y: Any = None, **given: Any) -> Self:
        """Embed development images, search for the best subset of encoders, and fit it, on values.

        Parameters
        ----------
        X, y : as for :meth:`BioFuse.fit`
        **given
            What else :meth:`BioFuse.fit` takes.

        Returns
        -------
        BioFuseRegressor
            Itself.
        """
        super().fit(X, y, **{"task": str(Task.VALUE), **given})
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags, tags.target_tags.multi_output = None, True
        return tags


def _refuse_validation_as_y(y: Any) -> None:
    """Refuse what can only be meant as validation data, which the second argument once was."""
    rows = list(y[:2]) if isinstance(y, list | tuple | np.ndarray) else []
    images = any(getattr(row, "ndim", 0) > 1 or hasattr(row, "convert") for row in rows)
    files = bool(rows) and all(isinstance(row, str | Path) and is_image_name(Path(row)) for row in rows)
    if isinstance(y, str | Path | Samples | Mapping) or images or files:
        raise DataError(
            "The second argument of fit is y, the labels of the images in X; these are data.",
            remedy=f"Give validation data by name: {option('validation')}.",
        )


def _labelled(X: Any, rows: Any, groups: ArrayLike | None, read: DataConfig) -> Samples:
    """Return images with the labels and groups that were given beside them."""
    if isinstance(X, str | Path | Samples | Mapping) or (hasattr(X, "columns") and len(X.columns) > 1):
        raise DataError(
            "y and groups belong to a list of images, or to a data frame with one column, of their paths; a folder, a "
            "table or Samples have labels and groups of their own.",
            remedy=f"Leave y out (of a table, name columns: {option('label')}, {option('group')}); or give a list of "
            "paths as X.",
        )
    images = X.iloc[:, 0].tolist() if hasattr(X, "columns") else X
    return load_samples(images, labels=rows, group=None if groups is None else np.asarray(groups).tolist(), config=read)


def _values_of(rows: Any, target: Target) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the values that labels have, in order, and the column of probabilities of each.

    Names of classes where there are no labels, or several per image.
    """
    everything = np.arange(len(target.classes))
    if rows is None or not target.exclusive:
        return np.array(target.classes, dtype=object), everything
    values = np.unique(np.asarray(rows))
    found = match_names([label_text(value) for value in values], target.classes)
    known = [value for value in values if label_text(value) in found]  # classes that are too small may be left out
    columns = np.array([target.classes.index(found[label_text(value)]) for value in known], dtype=np.int64)
    if sorted(columns.tolist()) != everything.tolist():
        raise DataError(f"The values of y, {values.tolist()}, are not told apart by their names.")
    return np.asarray(known, dtype=values.dtype), columns


EMBEDDING = "embedding"
"""What the one block of a plain matrix is called."""

VALUE = re.compile(r"(.+)_\d{4,}")
"""How :meth:`biofuse.EmbeddingSet.to_frame` calls the columns of an encoder."""

NOT_OF_BLOCKS = ("encoders", "max_latency", "commercial_only")
"""Options of a search that only make sense where images are embedded."""


class _InputError(DataError, ValueError):
    """What scikit-learn's own classifiers call a ValueError."""


class _OverBlocks(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """What estimators over blocks of embeddings share; how labels become numbers is each one's own."""

    def __init__(
        self,
        *,
        blocks: Mapping[str, int] | None = None,
        n_jobs: int | None = None,
        verbose: bool = False,
        **chosen: Any,
    ) -> None:
        divide(chosen, SearchConfig)
        self.blocks = blocks
        self.n_jobs = n_jobs
        self.verbose = verbose
        for offer in SearchConfig.offers():
            if offer.name not in NOT_OF_BLOCKS:
                setattr(self, offer.name, chosen.pop(offer.name, None))
        if chosen:
            raise SearchError(
                f"{', '.join(map(option, chosen))} is about encoders that embed images.",
                remedy="Leave it out: the blocks in X are the pool.",
            )
        self.config  # noqa: B018 (what cannot be is refused now)

    @property
    def config(self) -> SearchConfig:
        """The options of the search, presets resolved."""
        return SearchConfig(**_chosen(self, SearchConfig, leaving=NOT_OF_BLOCKS))

    def fit(self, X: Any, y: ArrayLike, *, groups: ArrayLike | None = None) -> Self:
        """Search for the best subset of blocks, and fit it.

        Parameters
        ----------
        X : mapping of str to array, Blocks, data frame or array, shape (n, n_columns)
            Embeddings; row i of every block belongs to row i of ``y``. :class:`biofuse.blocks.blocks.Blocks`, data
            frames and arrays are divided into folds by scikit-learn's own tools.
        y : array-like, shape (n,) or (n, n_labels)
            A class each, or zeros and ones; of a regressor a number each, or several.
        groups : array-like, shape (n,), optional
            Patients, slides or the like: rows of one stay together. Rows that are the same in every block do anyway.

        Returns
        -------
        object
            Itself.

        Raises
        ------
        DataError
            If the blocks cannot be used, or there are too few rows of a class to be validated.
        SearchError
            If the options cannot be followed.
        """
        matrices = self._matrices(X, reset=True)
        n = len(next(iter(matrices.values())))
        labels, target = self._encode(y, n)
        blocks = Blocks(ids=object_array([row_id(row) for row in range(n)]), matrices=matrices)
        samples = Samples(
            ids=blocks.ids,
            sources=tuple(EmbeddedSource(f"row {row}") for row in range(n)),
            labels=labels,
            classes=target.classes,
            task=target.kind,
            splits=object_array(["train"] * n),
            groups=None if groups is None else object_array(np.asarray(groups).tolist()),
            contents=np.array(
                [digest(*(m[row].tobytes() for m in matrices.values())) for row in range(n)], dtype="S16"
            ),
            name="embeddings",
        )
        cards = tuple(_card_of(name, matrix) for name, matrix in matrices.items())
        config = suited(check_parts(self.config.but(encoders=blocks.encoders)), target)
        problem = Problem.from_embeddings(EmbeddingSet(samples=samples, blocks=blocks, cards=cards), config)
        context = SearchContext(
            workers=effective_n_jobs(self.n_jobs),
            tell=tell_user if self.verbose else lambda _: None,
            yes=True,
        )
        budget = Budget(max_encoders=config.max_encoders)
        self.search_ = with_out_of_fold(problem, run(problem, context, budget=budget), context)
        fitted_on = fitted_to(problem, self.search_, problem.fitted_rows, threads=1)
        self.predictor_ = predictors_of(problem, self.search_, fitted_on, only=(CHOSEN,))[CHOSEN]
        said = self.search_.out_of_fold
        self.trust_ = Trust() if said is None else Trust.learn(target, labels, said, units=problem.units)
        self.encoders_ = self.predictor_.encoders
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the matrix that the head is given, shape (n, n_columns).

        Raises
        ------
        ArtifactError
            If the predictor has no such matrix: an ensemble, late fusion.
        """
        blocks = self._asked(X)
        return fusion_of(self.predictor_).transform(blocks)

    def get_feature_names_out(self, input_features: ArrayLike | None = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the columns of :meth:`transform`: ``uni_0``, ``uni_1``, ..."""
        check_is_fitted(self)
        return column_names(fusion_of(self.predictor_))

    def _asked(self, X: Any) -> Blocks:
        check_is_fitted(self)
        matrices = self._matrices(X, reset=False)
        n = len(next(iter(matrices.values())))
        return Blocks(ids=object_array([row_id(row) for row in range(n)]), matrices=matrices)

    def _matrices(self, X: Any, *, reset: bool) -> dict[str, NDArray[np.float32]]:
        """Return the blocks of the input by name, checked."""
        least = 2 if reset else 1
        named = _named_blocks(X)
        if named is None:
            matrix = validate_data(self, X, reset=reset, dtype=np.float32, ensure_min_samples=least)
            return _cut(matrix, self.blocks or {EMBEDDING: matrix.shape[1]})
        if self.blocks is not None:
            raise DataError(
                f"{option('blocks')} is about plain matrices; these data name their blocks.", remedy="Leave it out."
            )
        checked = {
            name: check_array(block, dtype=np.float32, ensure_min_samples=least, input_name=f"block {name}")
            for name, block in named.items()
        }
        if reset:
            self.n_features_in_ = sum(block.shape[1] for block in checked.values())
        return checked

    @abstractmethod
    def _encode(self, y: Any, n: int) -> tuple[Labels, Target]:
        """Return labels as numbers; remember what they are called."""

    def _scores(self, X: Any) -> NDArray[np.float64]:
        """Return what is predicted, calibrated, shape (n, n_columns)."""
        blocks = self._asked(X)
        return self.trust_.calibrated(self._target, self.predictor_.predict_proba(blocks))


@accepts(SearchConfig, leaving=NOT_OF_BLOCKS, unset=True)
class FusionClassifier(ClassifierMixin, _OverBlocks):  # type: ignore[misc]
    """Finds which blocks of embeddings, together, serve a task best; no image is needed.

    For who has embeddings already. What it searches, and how, is as of :class:`BioFuse`; nothing is written.

    Parameters
    ----------
    blocks : mapping of str to int, optional
        Names and widths of the blocks in a plain matrix, from the left; all of it is one block by default. Other inputs
        name their blocks: a mapping from names to matrices (:class:`biofuse.EmbeddingSet` is one), or a data frame
        whose columns have two levels, the name first, or hold a vector per row (as files that BioFuse writes), or are
        called as :meth:`biofuse.EmbeddingSet.to_frame` calls them.
    n_jobs : int, optional
        Processes that fit predictors; one by default, -1 for all cores.
    verbose : bool, default False
        Whether news are written to standard error.
    **chosen
        Fields of :class:`biofuse.SearchConfig`. None stands for "not chosen".

    Attributes
    ----------
    search_ : Search
        Scores and choice, stage by stage.
    predictor_ : Predictor
        What was chosen, fitted on all rows.
    trust_ : Trust
        What is known of how far it may be believed.
    encoders_ : tuple of str
        The blocks it takes.
    classes_ : ndarray, shape (n_classes,)
    n_features_in_ : int
        Columns of all blocks together.

    Examples
    --------
    >>> import biofuse
    >>> from sklearn.model_selection import cross_val_score
    >>> embeddings = biofuse.embed("images/", ["colour", "lbp"], progress=False)
    >>> classifier = biofuse.FusionClassifier(head="ridge", folds=3, repeats=1)
    >>> classifier.fit(dict(embeddings), embeddings.labels).encoders_
    ('colour', 'lbp')
    >>> cross_val_score(classifier, embeddings.blocks, embeddings.labels, cv=2).tolist()
    [1.0, 1.0]
    """

    def __init__(
        self,
        *,
        blocks: Mapping[str, int] | None = None,
        n_jobs: int | None = None,
        verbose: bool = False,
        **chosen: Any,
    ) -> None:
        super().__init__(blocks=blocks, n_jobs=n_jobs, verbose=verbose, **chosen)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return calibrated probabilities, shape (n, n_classes), in the order of ``classes_``."""
        return self._scores(X)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class of each row, shape (n,); of several labels zeros and ones."""
        found = self.predict_proba(X)
        said = self._target.predict(found)
        return said if self._target.several else np.asarray(self.classes_[said])

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return values to rank by, shape (n, n_classes); of two classes those of the second, shape (n,)."""
        blocks = self._asked(X)
        found = self.predictor_.decision(blocks)
        return found[:, 1] if self._target.kind.has_positive else found

    def _encode(self, y: Any, n: int) -> tuple[Labels, Target]:
        """Return labels as numbers; remember what they are called."""
        if y is None:
            raise _InputError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None")
        check_classification_targets(y)
        if type_of_target(y).startswith("multilabel"):
            labels = check_array(y, dtype=None, input_name="y")
            self.classes_ = np.arange(labels.shape[1])
        else:
            self.classes_, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(labels) != n:
            raise _InputError(f"There are {len(labels)} labels for {n} rows.")
        if len(self.classes_) < 2:
            raise _InputError(f"All rows are of one class, {self.classes_[0]}: there is nothing to learn.")
        kind = Task.MULTILABEL if labels.ndim == 2 else Task.natural(len(self.classes_))
        self._target = Target(kind, tuple(map(str, self.classes_.tolist())))
        return labels.astype(np.int64), self._target

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.transformer_tags.preserves_dtype = []
        return tags


@accepts(SearchConfig, leaving=NOT_OF_BLOCKS, unset=True)
class FusionRegressor(RegressorMixin, _OverBlocks):  # type: ignore[misc]
    """Finds which blocks of embeddings, together, predict a number best, or several; no image is needed.

    As :class:`FusionClassifier`, whose attributes it has, ``classes_`` left out.

    Parameters
    ----------
    blocks : mapping of str to int, optional
        As for :class:`FusionClassifier`.
    n_jobs : int, optional
        Processes that fit predictors; one by default, -1 for all cores.
    verbose : bool, default False
        Whether news are written to standard error.
    **chosen
        Fields of :class:`biofuse.SearchConfig`. None stands for "not chosen".

    Examples
    --------
    >>> import biofuse
    >>> embeddings = biofuse.embed("images/", ["colour", "lbp"], progress=False)
    >>> redness = embeddings["colour"][:, 0] + embeddings["lbp"][:, 0]
    >>> regressor = biofuse.FusionRegressor(folds=3, repeats=1).fit(dict(embeddings), redness)
    >>> regressor.predict(dict(embeddings)).shape == redness.shape
    True
    """

    def __init__(
        self,
        *,
        blocks: Mapping[str, int] | None = None,
        n_jobs: int | None = None,
        verbose: bool = False,
        **chosen: Any,
    ) -> None:
        super().__init__(blocks=blocks, n_jobs=n_jobs, verbose=verbose, **chosen)

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return the value of each row, shape (n,); of several columns shape (n, n_columns)."""
        found = self._scores(X)
        return np.asarray(self._target.predict(found), dtype=np.float64)

    def _encode(self, y: Any, n: int) -> tuple[Labels, Target]:
        """Return values as float64; columns are called by their numbers."""
        if y is None:
            raise _InputError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None")
        values = check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
        if len(values) != n:
            raise _InputError(f"There are {len(values)} labels for {n} rows.")
        self._target = Target.numbered(Task.VALUE, 1 if values.ndim == 1 else values.shape[1])
        labels = self._target.as_labels(values)
        if (np.ptp(labels, axis=0) == 0).any():
            raise _InputError("All rows have the same value: there is nothing to learn.")
        return labels, self._target

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _card_of(name: str, matrix: NDArray[np.float32]) -> EncoderCard:
    """Return a card for a block that was given; its hash is that of the block."""
    content = digest(matrix.tobytes(), size=32).hex()
    return imported_card(EMBEDDING, file="memory", sha256=content, dim=matrix.shape[1]).model_copy(
        update={"name": name}
    )


def _named_blocks(X: Any) -> dict[str, Any] | None:
    """Return the blocks of an input that names them; None of any other."""
    if isinstance(X, Mapping) and not issparse(X):  # of the sparse matrices one kind is a dict
        return {str(name): block for name, block in X.items()}
    if not hasattr(X, "iloc") or not hasattr(X, "columns"):
        return None
    if X.columns.nlevels == 2:
        return {str(name): X[name].to_numpy() for name in X.columns.get_level_values(0).unique()}
    names = [str(name) for name in X.columns]
    vectors = [np.ndim(X.iloc[0, place]) == 1 for place in range(len(names))] if len(X) else [False]
    if any(vectors):
        others = [name for name, vector in zip(names, vectors, strict=True) if not vector]
        if others:
            raise DataError(
                f"The column(s) {', '.join(others)} hold no embeddings, and others do.",
                remedy=f"Leave them out: frame.drop(columns={others}).",
            )
        return {name: np.stack(X.iloc[:, place].tolist()) for place, name in enumerate(names)}
    found = [VALUE.fullmatch(name) for name in names]
    if not all(found):
        return None
    prefixes = np.array([match[1] for match in found if match is not None], dtype=object)
    return {name: X.iloc[:, np.flatnonzero(prefixes == name)].to_numpy() for name in dict.fromkeys(prefixes.tolist())}


def _cut(matrix: NDArray[np.float32], widths: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
    """Cut a matrix into blocks of the given widths, from the left."""
    if sum(widths.values()) != matrix.shape[1]:
        raise DataError(
            f"X has {matrix.shape[1]} columns, and the blocks together {sum(widths.values())}.",
            remedy=f"Correct the widths in {option('blocks')}.",
        )
    ends = np.cumsum(list(widths.values())).tolist()
    return {
        name: np.ascontiguousarray(matrix[:, end - width : end])
        for (name, width), end in zip(widths.items(), ends, strict=True)
    }
