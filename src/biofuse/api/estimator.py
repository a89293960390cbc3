"""``BioFuse``: the high-level object."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from biofuse.api.budget import allowed, make_budget
from biofuse.api.config import Config, Preset
from biofuse.api.development import Development, development_data
from biofuse.api.embedding import EmbeddingSet, as_store, embed_samples
from biofuse.api.evidence import weigh
from biofuse.api.fitting import fit_models, fit_singles
from biofuse.api.problem import check_parts, pose
from biofuse.api.result import FitResult
from biofuse.api.running import RunWriter
from biofuse.api.runtime import Runtime, Tell
from biofuse.api.searching import run as run_search
from biofuse.encoders.registry import resolve
from biofuse.extract import ExtractOptions, Progress, progress_bars, usable_cores
from biofuse.model import BioFuseModel
from biofuse.store import EmbeddingStore


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
    predictor : {"fused", "ensemble", "average", "stacking"}
        One head on the fused blocks; the average of several such; or late fusion, a head per encoder.
    head : str, default "auto"
        ``logistic``, ``ridge``, ``lda``, ``knn``, ``xgboost``, ``lightgbm``; ``auto`` chooses among the first three by
        cross-validation.
    class_weight : {"balanced"}, optional
        As in scikit-learn.
    search : {"screen", "exhaustive", "greedy", "beam", "all"}
        Score every subset in closed form and refit the finalists (default); refit every subset; refit those on a greedy
        path or in a beam; or fuse all encoders without a search.
    finalists : int, default 16
        Best screened subsets that are refitted.
    select : {"cv", "holdout", "nested"}
        Score by repeated cross-validation over train and validation data together, or on the given validation split;
        ``nested`` also repeats the whole search inside outer folds, to score the search itself.
    rule : {"one_se", "best", "first_best"}
        Choose the smallest subset within one standard error of the best, or the best.
    metric : {"auroc", "accuracy"}
        What subsets are chosen by.
    folds, repeats, seed : int
        5, 2 and 0.
    max_encoders : int, optional
        Most encoders in the chosen subset.
    max_latency : float, optional
        Most milliseconds per image that the chosen encoders take together, measured on this machine.
    commercial_only : bool, default False
        Leave out encoders whose licence does not allow commercial use, or does not say.
    preset : {"paper"}, optional
        The published protocol; options given beside it win.
    allow_random_weights : bool, default False
        Let ``timm:NAME`` encoders have random weights, to try things out.
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
        predictor: str | None = None,
        head: str | None = None,
        class_weight: str | None = None,
        search: str | None = None,
        finalists: int | None = None,
        select: str | None = None,
        rule: str | None = None,
        metric: str | None = None,
        folds: int | None = None,
        repeats: int | None = None,
        max_encoders: int | None = None,
        max_latency: float | None = None,
        commercial_only: bool = False,
        seed: int | None = None,
        preset: Preset | None = None,
        allow_random_weights: bool = False,
        store: EmbeddingStore | Path | str | None = None,
        options: ExtractOptions | None = None,
    ) -> None:
        self.store = as_store(store)
        self.cards, self.notes = allowed(
            resolve(encoders, allow_random_weights=allow_random_weights, find=self.store.find_imported),
            commercial_only=commercial_only,
        )
        self.config = Config.resolve(
            preset=preset,
            encoders=tuple(card.name for card in self.cards),
            fusion=fusion,
            scaling=scaling,
            predictor=predictor,
            head=head,
            class_weight=class_weight,
            search=search,
            finalists=finalists,
            select=select,
            rule=rule,
            metric=metric,
            folds=folds,
            repeats=repeats,
            max_encoders=max_encoders,
            max_latency=max_latency,
            commercial_only=commercial_only,
            seed=seed,
        )
        check_parts(self.config)  # a head or fusion that does not exist is refused before hours of embedding
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
        for line in (*self.notes, *development.notes):
            say(line)
        embeddings = embed_samples(
            development.samples, self.cards, store=self.store, options=self.options, progress=progress, tell=tell
        )
        for skipped in embeddings.skipped:
            say(f"{skipped.name} is left out: {skipped.reason}")
        problem = pose(embeddings, self.config)
        embeddings = replace(embeddings, samples=problem.samples)
        for line in problem.plan.notes:
            say(line)
        run = None
        if out is not None:
            run = RunWriter.open(Path(out), problem, embeddings, development, data=data or {}, overwrite=overwrite)
        known = None if run is None else run.record.latency
        budget = make_budget(self.config, embeddings, options=self.options, known=known, tell=say)
        if run is not None:
            run.remember(latency=budget.latency)
        folder = None if run is None else run.run.path
        with progress_bars(unit="subsets", quiet=not progress) as bars:
            runtime = Runtime(
                folder=folder,
                progress=_Only(bars),
                tell=say,
                yes=yes,
                engine=self.options.engine,
                ray_address=self.options.ray_address,
            )
            with runtime.cluster():
                search = run_search(problem, runtime, budget=budget)
                evidence = weigh(problem, search, embeddings.cards, runtime=runtime, budget=budget)
        finished = run.finished_models(search) if run else None
        if finished is not None:
            models, singles = finished
        else:
            if run and run.finished:
                say(f"The models in {run.run.path} are missing or damaged; they are fitted again.")
            models = fit_models(problem, search, embeddings, threads=usable_cores())
            singles = fit_singles(problem, search, embeddings, models, threads=usable_cores())
            if run:
                run.finish(search, evidence, models, singles)
        for sentence in (search.reason, *evidence.sentences()):
            say(sentence)
        return FitResult(
            models=models,
            singles=singles,
            search=search,
            evidence=evidence,
            embeddings=embeddings,
            config=self.config,
            notes=(*self.notes, *development.notes, *problem.plan.notes),
            held_out=development.held_out,
            store=self.store,
            options=self.options,
            path=folder,
            reused=finished is not None,
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
