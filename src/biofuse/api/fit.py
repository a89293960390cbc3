"""From images to a run (load, set test data aside, embed, search, fit, write down), and its models on test data."""

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from biofuse.api.report import attempt_report
from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import DataError, in_utf8
from biofuse.core.machine import limit_threads, memory_limit, usable_cores
from biofuse.core.options import accepts, divide
from biofuse.core.progress import Log, Progress, Tell, progress_bars, tell_user
from biofuse.data.config import OF_IMAGES, DataConfig, named
from biofuse.data.load import Development, development_data
from biofuse.data.samples import Samples
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.registry import ENCODERS, resolve
from biofuse.evaluation.novelty import Novelty
from biofuse.evaluation.operating import DEFAULT_SENSITIVITY
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.extract.engine import extract, plan_extraction
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import first_part
from biofuse.model.evaluate import Evaluation, evaluate_models, load_test
from biofuse.model.model import BioFuseModel
from biofuse.model.trust import Trust
from biofuse.model.versions import versions_of
from biofuse.predictors.fused import Predictor
from biofuse.report.draw import inline_picture
from biofuse.report.sections.choice import leaderboard_chart
from biofuse.runs.record import DataSource
from biofuse.runs.run import LOG, OWN, Run
from biofuse.search.config import STARTER, SearchConfig, names_one_predictor
from biofuse.search.evidence import Evidence, gather_evidence
from biofuse.search.leaderboard import Leaderboard, Subset
from biofuse.search.out_of_fold import OutOfFold
from biofuse.search.pooling import choose_pooling, pooled
from biofuse.search.problem import Problem, check_parts, check_plan, check_savable, suited
from biofuse.search.rules import CHOSEN, Selection
from biofuse.search.runner import SearchContext
from biofuse.search.search import (
    Search,
    allowed,
    encoders_to_fit,
    fitted_to,
    make_budget,
    out_of_fold,
    predictors_of,
    singles_to_fit,
    with_out_of_fold,
)
from biofuse.search.search import run as run_search
from biofuse.store.exchange import images_of, label_names
from biofuse.store.store import EmbeddingStore, as_store


def fit_models(
    problem: Problem, search: Search, embeddings: EmbeddingSet, *, threads: int, read: DataConfig | None = None
) -> tuple[dict[str, BioFuseModel], dict[str, BioFuseModel]]:
    """Fit the chosen predictor, those it is compared with, and every encoder by itself on the development data.

    The models keep how the data were ``read``, since new images will mostly be read alike.

    Returns
    -------
    models : dict of str to BioFuseModel
        As of :func:`biofuse.search.search.fit_predictors`.
    singles : dict of str to BioFuseModel
        By encoder, for a ranking of encoders on test data; without a search there are none. Those that are none of the
        models do not know what the development data look like, which would take a megabyte each.
    """
    rows = problem.fitted_rows
    fitted = _fitted_together(problem, search, rows, threads=threads)
    predictors = predictors_of(problem, search, fitted)
    known = {predictor.encoders: name for name, predictor in predictors.items()}
    blocks = problem.blocks.take(rows)
    facts = {
        "fitted_on": problem.fitted_on,
        "plugins": [each.model_dump() for each in ENCODERS.plugins],
        "n_samples": len(rows),
        **({"n_images": problem.samples.take(rows).n_images} if problem.samples.bagged else {}),
        "data": problem.samples.name,
        "selection": search.reason,
        "config": problem.config.with_head(search.head).model_dump(mode="json"),
        "pooling": embeddings.pooling,
        "read": {} if read is None else read.model_dump(mode="json", include=set(read.given & OF_IMAGES)),
    }

    held_out = functools.partial(out_of_fold, problem, search)

    def model(predictor: Predictor, said: OutOfFold | None) -> BioFuseModel:
        cards = tuple(card for card in embeddings.cards if card.name in predictor.encoders)
        return BioFuseModel(
            cards=cards,
            predictor=predictor,
            task=problem.task,
            classes=problem.classes,
            decode=problem.samples.decode,
            facts={**facts, "versions": versions_of(cards, head=search.head)},
            precisions={n: p for n, p in embeddings.precisions.items() if n in predictor.encoders},
            trust=Trust() if said is None else Trust.learn(problem.target, problem.labels, said, units=problem.units),
        )

    @functools.cache
    def novelty(encoders: tuple[str, ...]) -> Novelty | None:
        units = problem.units
        ids, groups = problem.samples.ids[rows], None if units is None else units[rows]
        return Novelty.learn(blocks.only(encoders), ids=ids, groups=groups)

    def knowing(model: BioFuseModel) -> BioFuseModel:
        """Add what the development data look like to its encoders."""
        return replace(model, trust=replace(model.trust, novelty=novelty(model.encoders)))

    models = {
        name: knowing(model(predictor, search.out_of_fold if name == CHOSEN else held_out(predictor.encoders)))
        for name, predictor in predictors.items()
    }
    singles = {
        name: models[known[subset]] if subset in known else model(fitted(subset), held_out(subset))
        for name, subset in singles_to_fit(search).items()
    }
    return models, singles


def _fitted_together(
    problem: Problem, search: Search, rows: NDArray[np.int64], *, threads: int
) -> Callable[[Subset], Predictor]:
    """Return what :func:`~biofuse.search.search.fitted_to` returns, where means are made already, several at a time.

    Linear heads spend half of their time where BLAS has nothing to share out among its threads.
    """
    copies = 8 * len(rows) * sum(problem.blocks.dims.values()) * threads
    if problem.config.predictor != "mean" or copies > memory_limit() // 2:
        return fitted_to(problem, search, rows, threads=threads)
    fitted, singles = fitted_to(problem, search, rows, threads=1), singles_to_fit(search).values()
    with limit_threads(1), ThreadPoolExecutor(threads) as pool:
        list(pool.map(fitted, singles))  # first: what heads make of single encoders is a part of every mean
        list(pool.map(fitted, set(encoders_to_fit(search).values()).difference(singles)))
    return fitted


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """The chosen model, how it was chosen, and the embeddings it was fitted on.

    Attributes
    ----------
    models : dict of str to BioFuseModel
        ``chosen`` first, then what it is compared with: ``best_single``, ``all``, ``greedy``, ``lean``.
    singles : dict of str to BioFuseModel
        Every encoder that the search scored, by itself.
    search : Search
        Scores and choice, stage by stage.
    evidence : Evidence
        What corrects and explains the choice.
    embeddings : EmbeddingSet
        Development embeddings of the whole pool.
    config : SearchConfig
        What was asked for, presets resolved.
    data : DataConfig
        How the data were read.
    notes : tuple of str
        What was found and decided along the way.
    held_out : Samples or None
        Test samples that came with the data; the search has not read them.
    run : Run or None
        The run directory, if one was asked for.
    reused : bool
        Whether a finished run was found there, so that nothing had to be fitted.

    Examples
    --------
    >>> import biofuse
    >>> result = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", test=None, progress=False)
    >>> result.model.encoders == result.search.chosen
    True
    >>> len(result.leaderboard), result.train_embeddings.ids.shape
    (3, (40,))
    """

    models: dict[str, BioFuseModel]
    singles: dict[str, BioFuseModel]
    search: Search
    evidence: Evidence
    embeddings: EmbeddingSet
    config: SearchConfig
    notes: tuple[str, ...]
    store: EmbeddingStore
    options: ExtractOptions
    data: DataConfig = field(default_factory=DataConfig)
    held_out: Samples | None = None
    run: Run | None = None
    reused: bool = False

    @property
    def path(self) -> Path | None:
        """The run directory, if one was asked for."""
        return None if self.run is None else self.run.path

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

    @accepts(DataConfig, ExtractOptions)
    def evaluate(
        self,
        test: Any = None,
        *,
        labels: Any = None,
        config: DataConfig | None = None,
        sensitivity: float = DEFAULT_SENSITIVITY,
        prevalence: float | None = None,
        progress: Progress | bool = True,
        **chosen: Any,
    ) -> Evaluation:
        """Score the chosen model, and what it is compared with, on test data.

        Parameters
        ----------
        test : anything :func:`biofuse.load_samples` takes, optional
            By default the test samples that came with the data. Of data with several splits, test is used.
        labels : optional
            As for :func:`biofuse.load_samples`.
        config : DataConfig, optional
            How ``test`` are read, where not like the data of the fit; what is given by name wins.
        sensitivity : float, default 0.95
            What thresholds are chosen for, on out-of-fold predictions.
        prevalence : float, optional
            What predictive values are given at; by default that of the test samples.
        progress : Progress or bool, default True
        **chosen
            Fields of :class:`biofuse.DataConfig` and :class:`biofuse.ExtractOptions`, where they are to differ from
            those of the fit.

        Raises
        ------
        DataError
            If no test data are given and none came with the data, or they are unlabelled or have a class of their own.
        """
        reading, extraction = divide(chosen, DataConfig, ExtractOptions)
        samples = self._test_samples(test, labels=labels, config=DataConfig.of(config, reading))
        groups = self.embeddings.samples.groups
        source = self.run.record.data.source if test is None and self.run is not None else None
        evaluation = evaluate_models(
            self.models,
            samples,
            singles=self.singles,
            known_contents=self.embeddings.image_contents,
            known_groups=frozenset() if groups is None else frozenset(groups.tolist()),
            store=self.store,
            options=ExtractOptions.of(self.options, extraction),
            progress=progress,
            metric=self.config.metric,
            sensitivity=sensitivity,
            prevalence=prevalence,
        )
        return replace(evaluation, data=str(test) if isinstance(test, str | Path) else source)

    def __repr__(self) -> str:
        return f"<FitResult: {self.search.reason}>"

    def _repr_html_(self) -> str:
        reason, *more = (self.search.reason, *self.evidence.sentences())
        picture = ""
        if self.leaderboard.n_folds > 1 and len(self.leaderboard):
            picture = inline_picture(
                leaderboard_chart(self.leaderboard, self.search.selection.chosen.subset, head=self.search.head)
            )
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in more)
        details = f"<details><summary>How far to trust it</summary>{said}</details>" if said else ""
        return f"<p><b>{escape(reason)}</b></p>{picture}{details}{self.leaderboard._repr_html_()}"

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
            pooling=self.embeddings.pooling,
        )

    def _test_samples(self, test: Any, *, labels: Any, config: DataConfig) -> Samples:
        if test is None:
            if self.held_out is None:
                raise DataError("The data came without a test split.", remedy="Pass test data: .evaluate(test).")
            if labels is not None or config.given:
                said = named({*config.given, *(["labels"] if labels is not None else [])})
                raise DataError(f"{said} go with test data of their own.", remedy="Pass test data.")
            return self.held_out
        return load_test(test, self.model, labels=labels, config=config, like=self.data)


FIRST = "-first"
"""What is added to the name of a run directory for the first result of an eager fit."""

ONE_PREDICTOR = (
    "A head or a fusion was named, so the predictor is one head on the fused encoders; otherwise it would be a mean "
    "of linear heads."
)
"""Said where options decide the predictor without naming it."""

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def _claims_out(fit: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Keep the run directory that a fit is given as ``out`` for it, from its first moment to its last."""

    @functools.wraps(fit)
    def alone(*args: Given.args, **given: Given.kwargs) -> Returned:
        out: Any = given.get("out")
        with contextlib.nullcontext() if out is None else Run.claim(out, doing="biofuse fit"):
            return fit(*args, **given)

    return alone


@accepts(DataConfig, SearchConfig, ExtractOptions)
@_claims_out
def fit(
    data: Any,
    val: Any = None,
    *,
    encoders: str | Sequence[str] = STARTER,
    test: Any = "auto",
    labels: Any = None,
    val_labels: Any = None,
    store: EmbeddingStore | Path | str | None = None,
    config: DataConfig | None = None,
    options: ExtractOptions | None = None,
    out: Path | str | None = None,
    overwrite: bool = False,
    yes: bool = False,
    eager: bool = False,
    progress: bool = True,
    tell: Tell | None = None,
    **chosen: Any,
) -> FitResult:
    """Embed development data, search for the best subset of encoders, and fit it: what ``biofuse fit`` does.

    :class:`biofuse.BioFuse` is the same as an estimator of scikit-learn.

    Parameters
    ----------
    data : anything :func:`biofuse.load_samples` takes
        Training data; its own splits count, where it has some.
    val : likewise, optional
        Validation data where they come apart.
    encoders : str or sequence of str, default "starter"
        The pool: names or aliases, see ``biofuse encoders list``.
    test : "auto", None or likewise, default "auto"
        ``auto``: the data's own test split; where there is none, 25 % of the samples are set aside, stratified,
        grouped, by a hash of id and seed. None: nothing is set aside. Or test data that come apart. A search never
        reads them.
    labels, val_labels : array-like, optional
        Labels of images in memory.
    store : EmbeddingStore or path, optional
        Where embeddings are kept; by default the user's store.
    config : DataConfig, optional
        How the data are read; what is given by name wins.
    options : ExtractOptions, optional
        How images are embedded; what is given by name wins.
    out : path, optional
        A run directory to write; a killed fit goes on from it, and a finished one is reused.
    overwrite : bool, default False
        Whether to replace another run in ``out``.
    yes : bool, default False
        Whether a search of more than an hour is wanted.
    eager : bool, default False
        Whether to search a part of the pool first, before the dear encoders have seen an image: the cheapest, which
        together take at most half of the arithmetic. That result is told, and is a run of its own, named as ``out``
        with ``-first`` behind.
    progress : bool, default True
        Show progress bars where standard error is a terminal, and in a notebook's cell.
    tell : callable, optional
        Receives news line by line, such as that test data were set aside; by default they are written to standard
        error, unless ``progress`` is False. A run keeps them in its ``run.log``.
    **chosen
        Fields of :class:`biofuse.DataConfig`, :class:`biofuse.SearchConfig` and :class:`biofuse.ExtractOptions`.

    Returns
    -------
    FitResult

    Raises
    ------
    DataError, EncoderError, SearchError, DiskError
        With a message that says what to do.

    Examples
    --------
    >>> import biofuse
    >>> result = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", progress=False)
    >>> result.evaluate(progress=False)["auroc"]
    1.0
    >>> result.model.predict(["new.png"])
    array(['malignant'], dtype=object)
    """
    reading, searching, extraction = divide(chosen, DataConfig, SearchConfig, ExtractOptions)
    say = Log(tell or (tell_user if progress else lambda _: None))
    read, options = DataConfig.of(config, reading), ExtractOptions.of(options, extraction)
    asked = SearchConfig(**{"encoders": encoders, **searching})
    kept = as_store(store) if options.use_store else as_store(store).in_memory()
    cards, asked, notes = look_up(asked, options=options, store=kept)
    if out is not None:
        Run.refuse_other(out, asked, overwrite=overwrite)
        check_savable(asked)
    development = development_data(
        data, val, test=test, config=read, labels=labels, val_labels=val_labels, seed=asked.seed, progress=progress
    )
    notes = (*notes, *predictor_notes(searching))
    for line in (*notes, *development.notes):
        say(line)
    if development.samples.target is not None:
        asked = suited(asked, development.samples.target)
    samples = check_plan(development.samples, asked, options=options, progress=progress)
    options = options if samples.bagged else options.but(pooling="mean")  # of one image there is nothing to pool
    chooses = options.pooling == "auto"
    options = options.but(pooling="mean") if chooses else options
    course = _Course(
        development=development,
        samples=samples,
        source=DataSource() if out is None else DataSource.of(data, val=val, test=test, config=read),
        read=read,
        options=options,
        chooses_pooling=chooses,
        store=kept,
        overwrite=overwrite,
        yes=yes,
        progress=progress,
        notes=notes,
    )
    if eager:
        course.run_first(cards, asked, out=None if out is None else Path(out), tell=say)
    return course.run(cards, asked, out=out, tell=say)


@dataclass(frozen=True, kw_only=True)
class _Course:
    """How a fit goes on when its data have been read: with all of its pool, and before that, maybe, with a part."""

    development: Development
    samples: Samples
    source: DataSource
    read: DataConfig
    options: ExtractOptions
    chooses_pooling: bool
    store: EmbeddingStore
    overwrite: bool
    yes: bool
    progress: bool
    notes: tuple[str, ...]

    def run(self, cards: Sequence[EncoderCard], asked: SearchConfig, *, out: Path | str | None, tell: Log) -> FitResult:
        """Embed, search and fit."""
        given: dict[str, Any] = {"options": self.options, "progress": self.progress, "tell": tell}
        embeddings = extract(self.samples, cards, store=self.store, **given)
        for skipped in embeddings.skipped:
            tell(f"{skipped.name} is left out: {skipped.reason}")
        problem = Problem.from_embeddings(embeddings, asked)
        embeddings = replace(embeddings, samples=problem.samples)
        if self.chooses_pooling:
            problem, embeddings = _pooled(problem, embeddings, options=self.options)
        for line in problem.plan.notes:
            tell(line)
        run = None
        if out is not None:
            run = Run.create(out, problem, embeddings, self.development, source=self.source, overwrite=self.overwrite)
            tell.write_to(run.path / LOG)
        search, evidence = _search(problem, embeddings, run, yes=self.yes, **given)
        models, singles, reused = _fitted(problem, search, evidence, embeddings, run, read=self.read, tell=tell)
        for sentence in (search.reason, asked.compared(search.head, problem.target), *evidence.sentences()):
            if sentence:
                tell(sentence)
        return FitResult(
            models=models,
            singles=singles,
            search=search,
            evidence=evidence,
            embeddings=embeddings,
            config=asked,
            data=self.read,
            notes=(*self.notes, *self.development.notes, *problem.plan.notes),
            held_out=self.development.held_out,
            store=self.store,
            options=self.options,
            run=run,
            reused=reused,
        )

    def run_first(self, cards: Sequence[EncoderCard], asked: SearchConfig, *, out: Path | None, tell: Log) -> None:
        """Run with the cheapest encoders, in a run directory beside, unless the store has the embeddings of all."""
        part = first_part(cards)
        plan = plan_extraction(self.samples, cards, store=self.store, options=self.options)
        late = [card.name for card in cards if card.name not in {*part, *plan.complete}]
        if not part or not late:
            return
        place = None if out is None else out.with_name(f"{out.name}{FIRST}")
        tell(f"A first result comes from {len(part)} of {len(cards)} encoders, without {', '.join(late)}.")
        early = tuple(card for card in cards if card.name in part)
        with contextlib.nullcontext() if place is None else Run.claim(place, doing="biofuse fit"):
            first = self.run(early, asked.but(encoders=part), out=place, tell=Log(tell))
        where = "" if place is None else f" It is a run of its own: {place}."
        tell(f"That was the first result, by {' + '.join(first.model.encoders)}.{where} The final one follows.")


def _pooled(problem: Problem, embeddings: EmbeddingSet, *, options: ExtractOptions) -> tuple[Problem, EmbeddingSet]:
    """Choose the pooling by the folds of the search, and pool the images so."""
    runtime = SearchContext(engine=options.engine, ray_address=options.ray_address, device=options.device)
    choice = choose_pooling(problem, runtime)
    problem = pooled(problem, choice)
    return problem, replace(embeddings, blocks=problem.blocks, pooling=choice.pooling)


def predictor_notes(chosen: Mapping[str, Any]) -> tuple[str, ...]:
    """Say it where the predictor follows from a head or a fusion that was named."""
    named = chosen.get("predictor") or chosen.get("preset")
    return (ONE_PREDICTOR,) if named is None and names_one_predictor(chosen) else ()


def look_up(
    config: SearchConfig, *, options: ExtractOptions, store: EmbeddingStore
) -> tuple[tuple[EncoderCard, ...], SearchConfig, tuple[str, ...]]:
    """Look the pool up, and refuse parts that do not exist before hours of embedding.

    Returns
    -------
    cards : tuple of EncoderCard
    config : SearchConfig
        With the names of the encoders, and of the other parts, as they are written here.
    notes : tuple of str
        Which encoders were left out, and why.

    Raises
    ------
    UnknownEncoderError, SearchError
        If there is no such encoder, head or fusion.
    """
    found = resolve(config.encoders, allow_random_weights=options.allow_random_weights, find=store.find_imported)
    cards, notes = allowed(found, commercial_only=config.commercial_only)
    return cards, check_parts(config.but(encoders=tuple(card.name for card in cards))), notes


def _search(
    problem: Problem,
    embeddings: EmbeddingSet,
    run: Run | None,
    *,
    options: ExtractOptions,
    yes: bool,
    progress: bool,
    tell: Tell,
) -> tuple[Search, Evidence]:
    known = None if run is None else run.record.latency
    budget = make_budget(problem.config, embeddings, options=options, known=known, tell=tell)
    if run is not None:
        run.remember(latency=budget.latency)
    with progress_bars(progress, unit="subsets") as bars:
        runtime = SearchContext(
            folder=None if run is None else run.path,
            progress=_Only(bars),
            tell=tell,
            yes=yes,
            engine=options.engine,
            ray_address=options.ray_address,
            device=options.device,
        )
        with runtime.cluster():
            search = with_out_of_fold(problem, run_search(problem, runtime, budget=budget), runtime)
            return search, gather_evidence(problem, search, embeddings.cards, context=runtime, budget=budget)


def _fitted(
    problem: Problem,
    search: Search,
    evidence: Evidence,
    embeddings: EmbeddingSet,
    run: Run | None,
    *,
    read: DataConfig,
    tell: Tell,
) -> tuple[dict[str, BioFuseModel], dict[str, BioFuseModel], bool]:
    """Return the models and the single encoders' models: those of a finished run, or fitted now, and which it was."""
    finished = run.finished_models(search) if run else None
    if run and finished is not None:
        run.keep_evidence(evidence)
        return *finished, True
    if run and run.finished:
        tell(f"The models in {run.path} are missing, damaged, or an older version's; they are fitted again.")
    models, singles = fit_models(problem, search, embeddings, threads=usable_cores(), read=read)
    if run:
        run.finish(search, evidence, models, singles)
    return models, singles, False


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


@accepts(DataConfig, ExtractOptions)
def evaluate(
    run: Path | str,
    data: Any = None,
    *,
    split: str = "test",
    split_column: str | None = None,
    labels: Any = None,
    config: DataConfig | None = None,
    store: EmbeddingStore | Path | str | None = None,
    options: ExtractOptions | None = None,
    sensitivity: float = DEFAULT_SENSITIVITY,
    prevalence: float | None = None,
    progress: Progress | bool = True,
    report: Tell | None = None,
    **chosen: Any,
) -> Evaluation:
    """Score a run's models on test data, and write ``metrics.json`` and ``predictions.parquet`` into the run.

    What other samples than the run's own test split gave lies in a folder of its own, ``evaluations/<name>``; nothing
    that other samples gave is overwritten, and the report shows them side by side.

    Parameters
    ----------
    run : path
        The run directory.
    data : anything :func:`biofuse.load_samples` takes, optional
        By default the data the run was fitted on.
    split : {"test", "val", "train"}
        Which split to score; ``data`` with one split or none are scored whole.
    split_column : str, optional
        Column of the splits of ``data``, which :class:`biofuse.DataConfig` calls ``split``.
    labels : optional
        Labels of images in memory.
    config : DataConfig, optional
        How ``data`` are read, where not like the data of the fit; what is given by name wins.
    store : EmbeddingStore or path, optional
        By default the store in the user's cache folder.
    options : ExtractOptions, optional
        How images are embedded; what is given by name wins.
    sensitivity : float, default 0.95
        What thresholds are chosen for, on out-of-fold predictions of the chosen model: a new sample of a class is to be
        found with this probability.
    prevalence : float, optional
        What positive and negative predictive value are given at; by default that of the test samples.
    progress : Progress or bool, default True
    report : callable, optional
        Where given, ``report.html`` is written, too, from what is in memory, and this is told where it is, or why not.
    **chosen
        Fields of :class:`biofuse.DataConfig` and :class:`biofuse.ExtractOptions`.

    Returns
    -------
    Evaluation

    Raises
    ------
    ArtifactError
        If there is no complete run there, or it is damaged.
    DataError
        If there is no such split, the run's data are no longer there, or the data have no labels or a class that the
        model does not know.
    UndefinedMetricError
        If the sensitivity or prevalence is no share, or is given where there are no classes.

    Examples
    --------
    >>> import biofuse
    >>> _ = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", out="run", progress=False)
    >>> evaluation = biofuse.evaluate("run", progress=False)
    >>> evaluation.n, evaluation["accuracy"]
    (10, 1.0)
    """
    reading, extraction = divide(chosen, DataConfig, ExtractOptions)
    read = DataConfig.of(config, reading if split_column is None else {**reading, "split": split_column})
    opened, own = Run.open(run), None
    record = opened.record
    models, singles = opened.read_models(), opened.read_singles()
    if data is None:
        wanted = _wanted(opened, split)
        own = opened.load_samples(read)
        samples = _own_split(own[split == "test"], wanted, split=split, source=record.data.source)
    else:
        samples = load_test(data, models[CHOSEN], split=split, labels=labels, config=read, like=record.data.config)
    if report is not None:
        for line in samples.remarks:
            report(line)
    development = opened.samples[opened.samples["split"] != "test"]
    where = as_store(store)
    evaluation = evaluate_models(
        models,
        samples,
        singles=singles,
        known_contents=images_of(development)[0],
        known_groups=frozenset(development["group"].dropna()),
        store=where,
        options=ExtractOptions.of(options, extraction),
        progress=progress,
        metric=record.options.metric,
        sensitivity=sensitivity,
        prevalence=prevalence,
    )
    source = in_utf8(str(data)) if data is not None else record.data.source
    evaluation = replace(evaluation, data=source, split=split)
    log = Log(lambda _: None)
    log.write_to(opened.path / LOG)
    found = (f"Evaluated on {evaluation.n} {split} samples of {source}.", *evaluation.sentences())
    for line in dict.fromkeys((*samples.remarks, *found)):
        log.keep(line)
    folder = opened.write_evaluation(evaluation, name=_evaluation_name(opened, data, samples, split))
    page = None
    if report is not None:
        page = attempt_report(opened, tell=report, store=where, development=None if own is None else own[0])
    return replace(evaluation, folder=folder, report=page)


def _evaluation_name(run: Run, data: Any, samples: Samples, split: str) -> str:
    """Return what an evaluation is called: after its data, unless these are the run's own test samples."""
    if split == "test" and (data is None or DataSource.of(data).source == run.record.data.source):
        own = run.samples[run.samples["split"] == "test"]
        wanted = zip(own["id"], own["label"].fillna(""), strict=True)
        if sorted(wanted) == sorted(zip(samples.ids, label_names(samples), strict=True)):
            return OWN
    if data is None:
        return split
    name = Path(data).stem if isinstance(data, str | Path) else samples.name
    return name if split == "test" else f"{name}-{split}"


def _wanted(run: Run, split: str) -> list[str]:
    wanted: list[str] = run.samples.loc[run.samples["split"] == split, "id"].tolist()
    if not wanted:
        raise DataError(f"The run has no {split} samples.", remedy="Give test data: biofuse evaluate RUN DATA.")
    return wanted


def _own_split(samples: Samples, wanted: list[str], *, split: str, source: str | None) -> Samples:
    row_of = {sample: row for row, sample in enumerate(samples.ids.tolist())}
    missing = [sample for sample in wanted if sample not in row_of]
    if missing:
        raise DataError(
            f"{len(missing)} {split} samples of the run are no longer in {source}, e.g. {missing[0]!r}.",
            remedy="Restore them, or give other test data: biofuse evaluate RUN DATA.",
        )
    chosen = samples.take([row_of[sample] for sample in wanted])
    return replace(chosen, splits=np.array([split] * len(wanted), dtype=object))
