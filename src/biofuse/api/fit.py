"""From a choice to fitted models."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import DataError
from biofuse.core.machine import usable_cores
from biofuse.core.progress import Progress, progress_bars
from biofuse.data.development import Development, development_data
from biofuse.data.samples import Samples
from biofuse.encoders.registry import resolve
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.engine import embed_samples
from biofuse.extract.options import ExtractOptions
from biofuse.model.evaluate import Evaluation, evaluate_models, load_test
from biofuse.model.model import BioFuseModel
from biofuse.predictors.base import Predictor
from biofuse.runs.run import RunWriter
from biofuse.search.config import Config, Preset
from biofuse.search.evidence import Evidence, weigh
from biofuse.search.leaderboard import Leaderboard
from biofuse.search.problem import Problem, check_parts, head_of, pose
from biofuse.search.rules import CHOSEN, Selection
from biofuse.search.runner import Runtime, Tell
from biofuse.search.search import Fit, Search, allowed, fit_predictors, make_budget, singles_to_fit
from biofuse.search.search import run as run_search
from biofuse.store.store import EmbeddingStore, as_store


def fit_models(problem: Problem, search: Search, embeddings: EmbeddingSet, *, threads: int) -> dict[str, BioFuseModel]:
    """Fit the chosen predictor and those it is compared with on the development data.

    Returns
    -------
    dict of str to BioFuseModel
        As of :func:`fit_predictors`.
    """
    predictors = fit_predictors(problem, search, problem.fitted_rows, threads=threads)
    return _as_models(predictors, problem, search, embeddings)


def fit_singles(
    problem: Problem,
    search: Search,
    embeddings: EmbeddingSet,
    models: Mapping[str, BioFuseModel],
    *,
    threads: int,
) -> dict[str, BioFuseModel]:
    """Fit every encoder of the pool by itself on the development data, for a ranking of encoders on test data.

    Returns
    -------
    dict of str to BioFuseModel
        By encoder. One that stands by itself among ``models`` is taken from there; without a search there are none.
    """
    known = {model.encoders: model for model in models.values()}
    singles = singles_to_fit(search)
    fit, rows = Fit(problem, head_of(problem.config, search.head)), problem.fitted_rows
    blocks, labels = problem.blocks.take(rows), problem.labels[rows]
    fitted = _as_models(
        {
            name: fit(blocks, labels, encoders=subset, seed=problem.config.seed, threads=threads)
            for name, subset in singles.items()
            if subset not in known
        },
        problem, search, embeddings,
    )  # fmt: skip
    return {name: fitted[name] if name in fitted else known[subset] for name, subset in singles.items()}


def _as_models(
    predictors: Mapping[str, Predictor], problem: Problem, search: Search, embeddings: EmbeddingSet
) -> dict[str, BioFuseModel]:
    facts = {
        "fitted_on": problem.fitted_on,
        "version": importlib.metadata.version("biofuse-embed"),
        "n_samples": len(problem.fitted_rows),
        "data": problem.samples.name,
        "selection": search.reason,
        "config": problem.config.with_head(search.head).model_dump(mode="json"),
    }
    return {
        name: BioFuseModel(
            cards=tuple(card for card in embeddings.cards if card.name in predictor.encoders),
            predictor=predictor,
            task=problem.task,
            classes=problem.classes,
            decode=problem.samples.decode,
            facts=facts,
            precisions={n: p for n, p in embeddings.precisions.items() if n in predictor.encoders},
        )
        for name, predictor in predictors.items()
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """The chosen model, how it was chosen, and the embeddings it was fitted on.

    Attributes
    ----------
    models : dict of str to BioFuseModel
        ``chosen`` first, then what it is compared with: ``best_single``, ``all``, ``greedy``.
    singles : dict of str to BioFuseModel
        Every encoder that the search scored, by itself.
    search : Search
        Scores and choice, stage by stage.
    evidence : Evidence
        What corrects and explains the choice.
    embeddings : EmbeddingSet
        Development embeddings of the whole pool.
    config : Config
        What was asked for, presets resolved.
    notes : tuple of str
        What was found and decided along the way.
    held_out : Samples or None
        Test samples that came with the data; the search has not read them.
    path : Path or None
        The run directory, if one was asked for.
    reused : bool
        Whether a finished run was found there, so that nothing had to be fitted.
    """

    models: dict[str, BioFuseModel]
    singles: dict[str, BioFuseModel]
    search: Search
    evidence: Evidence
    embeddings: EmbeddingSet
    config: Config
    notes: tuple[str, ...]
    store: EmbeddingStore
    options: ExtractOptions
    held_out: Samples | None = None
    path: Path | None = None
    reused: bool = False

    @property
    def model(self) -> BioFuseModel:
        """The chosen model."""
        return self.models[CHOSEN]

    @property
    def leaderboard(self) -> Leaderboard:
        """Every subset that was scored by refitting: what the choice was made from."""
        return self.search.leaderboard

    @property
    def screen(self) -> Leaderboard | None:
        """Every subset, scored in closed form; None for a search without a screen."""
        return None if self.search.screen is None else self.search.screen.leaderboard

    @property
    def selection(self) -> Selection:
        """The chosen subset and what it stands beside, with the reason in words."""
        return self.search.selection

    @property
    def train_embeddings(self) -> EmbeddingSet:
        """Embeddings of the training samples under the chosen encoders, in the order of the caller's rows.

        ``.matrix`` puts them side by side like :meth:`BioFuseModel.embed`; ``.labels`` and ``.ids`` are aligned.
        """
        return self._of("train")

    @property
    def val_embeddings(self) -> EmbeddingSet:
        """The same for the validation samples; it has no rows where no validation data were given."""
        return self._of("val")

    def evaluate(
        self, test: Any = None, *, labels: Any = None, label: Any = None, group: str | None = None,
        progress: Progress | bool = True,
    ) -> Evaluation:  # fmt: skip
        """Score the chosen model, and what it is compared with, on test data.

        Parameters
        ----------
        test : anything :func:`biofuse.load_samples` takes, optional
            By default the test samples that came with the data. Of data with several splits, test is used.
        labels, label, group
            As for :func:`biofuse.load_samples`.
        progress : Progress or bool, default True

        Raises
        ------
        DataError
            If no test data are given and none came with the data, or they are unlabelled or have a class of their own.
        """
        samples = self._test_samples(test, labels=labels, label=label, group=group)
        groups = self.embeddings.samples.groups
        return evaluate_models(
            self.models,
            samples,
            singles=self.singles,
            known_contents=self.embeddings.contents,
            known_groups=frozenset() if groups is None else frozenset(groups.tolist()),
            store=self.store,
            options=self.options,
            progress=progress,
            metric=self.config.metric,
            seed=self.config.seed,
        )

    def __repr__(self) -> str:
        return f"<FitResult: {self.search.reason}>"

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in (self.search.reason, *self.evidence.sentences()))
        return said + self.leaderboard._repr_html_()

    def _of(self, split: str) -> EmbeddingSet:
        samples = self.embeddings.samples
        splits = np.array([], dtype=object) if samples.splits is None else samples.splits
        rows = np.flatnonzero(splits == split)
        chosen = self.model.encoders
        blocks: Blocks = self.embeddings.blocks.only(chosen).take(rows)
        return EmbeddingSet(
            samples=samples.take(rows),
            blocks=blocks,
            cards=tuple(card for card in self.embeddings.cards if card.name in chosen),
            precisions={name: p for name, p in self.embeddings.precisions.items() if name in chosen},
        )

    def _test_samples(self, test: Any, *, labels: Any, label: Any, group: str | None) -> Samples:
        if test is None:
            if self.held_out is None:
                raise DataError("The data came without a test split.", remedy="Pass test data: .evaluate(test).")
            if labels is not None or label is not None or group is not None:
                raise DataError("labels=, label= and group= go with test data of their own.", remedy="Pass test data.")
            return self.held_out
        return load_test(test, self.model, labels=labels, label=label, group=group)


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
    metric : str
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
