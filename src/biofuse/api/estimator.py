"""``BioFuse``: the high-level object."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from biofuse.api.config import Config, Preset
from biofuse.api.development import Development, development_data
from biofuse.api.embedding import EmbeddingSet, as_store, embed_samples
from biofuse.api.fitting import Problem, fit_models, make_parts, pose, search
from biofuse.api.result import FitResult
from biofuse.api.running import RunWriter
from biofuse.encoders.registry import resolve
from biofuse.extract import ExtractOptions, Progress, progress_bars, usable_cores
from biofuse.model import BioFuseModel
from biofuse.search import Cost, Leaderboard, Selection
from biofuse.store import EmbeddingStore

Tell = Callable[[str], None]
"""Receives one line of news for the user."""


class GeneratedEmbeddings(NamedTuple):
    """What :meth:`BioFuse.generate_embeddings` returns."""

    train: EmbeddingSet
    val: EmbeddingSet
    model: BioFuseModel


class BioFuse:
    """Finds which encoders, together, serve a task best.

    Parameters
    ----------
    encoders : str or sequence of str, default "starter"
        The pool: names or aliases, see ``biofuse encoders list``.
    fusion : str, default "concatenation"
        How the blocks of a subset become one matrix.
    scaling : {"none", "block"}
        Whether every column counts the same, or every encoder.
    head : str, default "logistic"
        ``logistic``, ``ridge``, ``knn`` or ``xgboost``.
    class_weight : {"balanced"}, optional
        As in scikit-learn.
    search : {"exhaustive", "all"}
        Score every subset, or fuse all encoders without a search.
    select : {"cv", "holdout"}
        Score by repeated cross-validation over train and validation data together, or on the given validation split.
    rule : {"one_se", "best", "first_best"}
        Choose the smallest subset within one standard error of the best, or the best.
    metric : {"auroc", "accuracy"}
        What subsets are chosen by.
    folds, repeats, seed : int
        5, 2 and 0.
    preset : {"paper"}, optional
        The published protocol; options given beside it win.
    store : EmbeddingStore or path, optional
        Where embeddings are kept; by default the user's store.
    options : ExtractOptions, optional
        Device, batch size, workers, and what to do with unreadable images.

    Examples
    --------
    >>> from biofuse import BioFuse
    >>> result = BioFuse(encoders="starter").fit("images/")  # doctest: +SKIP
    >>> result.model.predict(["new.png"])  # doctest: +SKIP
    """

    def __init__(
        self,
        encoders: str | Sequence[str] = "starter",
        *,
        fusion: str | None = None,
        scaling: str | None = None,
        head: str | None = None,
        class_weight: str | None = None,
        search: str | None = None,
        select: str | None = None,
        rule: str | None = None,
        metric: str | None = None,
        folds: int | None = None,
        repeats: int | None = None,
        seed: int | None = None,
        preset: Preset | None = None,
        store: EmbeddingStore | Path | str | None = None,
        options: ExtractOptions | None = None,
    ) -> None:
        self.cards = resolve(encoders)
        self.config = Config.resolve(
            preset=preset,
            encoders=tuple(card.name for card in self.cards),
            fusion=fusion,
            scaling=scaling,
            head=head,
            class_weight=class_weight,
            search=search,
            select=select,
            rule=rule,
            metric=metric,
            folds=folds,
            repeats=repeats,
            seed=seed,
        )
        make_parts(self.config)  # a head or fusion that does not exist is refused before hours of embedding
        self.store = as_store(store)
        self.options = options or ExtractOptions()

    def __repr__(self) -> str:
        chosen = self.config.model_dump(exclude={"encoders"}, exclude_defaults=True)
        shown = "".join(f", {name}={value!r}" for name, value in chosen.items())
        return f"BioFuse(encoders={list(self.config.encoders)}{shown})"

    def fit(
        self,
        train: Any,
        val: Any = None,
        *,
        label: str | Sequence[str] | None = None,
        group: str | None = None,
        labels: Any = None,
        val_labels: Any = None,
        task: str | None = None,
        out: Path | str | None = None,
        overwrite: bool = False,
        yes: bool = False,
        progress: bool = True,
        tell: Tell | None = None,
    ) -> FitResult:
        """Embed development data, search for the best subset, and fit it.

        Parameters
        ----------
        train : anything :func:`biofuse.load_samples` takes
            With splits, its train and validation samples are used and its test samples are left alone; without,
            all of it is development data.
        val : likewise, optional
            Validation data where they come apart.
        label, group : str, optional
            Columns of a manifest.
        labels, val_labels : array-like, optional
            Labels of images in memory.
        task : str, optional
            By default inferred.
        out : path, optional
            A run directory to write; a killed fit goes on from it, and a finished one is reused.
        overwrite : bool, default False
            Whether to replace another run in ``out``.
        yes : bool, default False
            Whether a search of more than an hour is wanted.
        progress : bool, default True
            Show progress bars where standard error is a terminal.
        tell : callable, optional
            Receives news line by line.

        Returns
        -------
        FitResult

        Raises
        ------
        DataError, EncoderError, SearchError, DiskError
            With a message that says what to do.
        """
        development = development_data(
            train, val, label=label, group=group, labels=labels, val_labels=val_labels, task=task
        )
        source: dict[str, Any] = {"label": label, "group": group, "task": task}
        if val is not None:
            source["val"] = _source(val)
        return self.fit_development(
            development,
            out=out,
            overwrite=overwrite,
            yes=yes,
            progress=progress,
            tell=tell,
            data=_source(train) | source,
        )

    def generate_embeddings(
        self,
        train: Any,
        val: Any,
        *,
        label: str | Sequence[str] | None = None,
        group: str | None = None,
        labels: Any = None,
        val_labels: Any = None,
        task: str | None = None,
        progress: bool = True,
    ) -> GeneratedEmbeddings:
        """Search, and return the chosen encoders' train and validation embeddings and the fitted model.

        Parameters
        ----------
        train, val : anything :func:`biofuse.load_samples` takes
        label, group, labels, val_labels, task
            As for :meth:`fit`.
        progress : bool, default True

        Returns
        -------
        GeneratedEmbeddings
            ``train, val, model``: ``.matrix``, ``.labels`` and ``.ids`` of the first two are aligned and in the order
            given; ``model.embed`` maps new images into the same columns. With ``search="all"`` every encoder is fused.
        """
        result = self.fit(
            train, val, label=label, group=group, labels=labels, val_labels=val_labels, task=task, progress=progress
        )
        return GeneratedEmbeddings(result.train_embeddings, result.val_embeddings, result.model)

    def fit_development(
        self,
        development: Development,
        *,
        out: Path | str | None = None,
        overwrite: bool = False,
        yes: bool = False,
        progress: bool = True,
        tell: Tell | None = None,
        data: dict[str, Any] | None = None,
    ) -> FitResult:
        """:meth:`fit` on data that have been read already; ``data`` is what ``run.json`` says of their source."""
        say = tell or (lambda _: None)
        for line in development.notes:
            say(line)
        embeddings = embed_samples(
            development.samples, self.cards, store=self.store, options=self.options, progress=progress
        )
        problem = pose(embeddings, self.config)
        embeddings = replace(embeddings, samples=problem.samples)
        for line in problem.plan.notes:
            say(line)
        run = None
        if out is not None:
            run = RunWriter.open(Path(out), problem, embeddings, development, data=data or {}, overwrite=overwrite)
        leaderboard, selection = self._search(problem, run, yes=yes, progress=progress, say=say)
        models = run.finished_models(leaderboard, selection) if run else None
        reused = models is not None
        if models is None:
            if run and run.finished:
                say(f"The models in {run.run.path} are missing or damaged; they are fitted again.")
            models = fit_models(problem, selection, embeddings, threads=usable_cores())
            if run:
                run.finish(leaderboard, selection, models)
        say(selection.reason)
        return FitResult(
            models=models,
            leaderboard=leaderboard,
            selection=selection,
            embeddings=embeddings,
            config=self.config,
            notes=(*development.notes, *problem.plan.notes),
            held_out=development.held_out,
            store=self.store,
            options=self.options,
            path=None if run is None else run.run.path,
            reused=reused,
        )

    def _search(
        self, problem: Problem, run: RunWriter | None, *, yes: bool, progress: bool, say: Tell
    ) -> tuple[Leaderboard, Selection]:
        def announce(cost: Cost) -> None:
            say(f"Search: {cost}.")

        with progress_bars(unit="subsets", quiet=not progress) as bars:
            return search(
                problem,
                sink=None if run is None else run.run.scores_path,
                progress=_Only(bars),
                announce=announce,
                yes=yes,
            )


class _Only:
    """Passes progress on; a search of one subset needs no bar."""

    def __init__(self, inner: Progress) -> None:
        self._inner = inner
        self._shown = False

    def begin(self, task: str, total: int) -> None:
        self._shown = total > 1
        if self._shown:
            self._inner.begin(task, total)

    def advance(self, task: str, units: int) -> None:
        if self._shown:
            self._inner.advance(task, units)


def _source(data: Any) -> dict[str, Any]:
    """Say where data came from, so that ``evaluate`` finds them again from any folder."""
    if not isinstance(data, str | Path):
        return {"source": None, "kind": type(data).__name__}
    path = Path(data).expanduser()
    return {"source": str(path.resolve() if path.exists() else data)}


__all__ = ["BioFuse", "GeneratedEmbeddings"]
