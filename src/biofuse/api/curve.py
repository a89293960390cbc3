"""``biofuse.curve``: scores of a run's models against the number of labelled samples, from stored embeddings alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from biofuse.core.hashing import from_hex
from biofuse.core.progress import Log, Tell, progress_bars, tell_user
from biofuse.core.target import MISSING
from biofuse.data.cuts import Bag
from biofuse.data.samples import EmbeddedSource, Samples
from biofuse.extract.embeddings import EmbeddingSet
from biofuse.runs.run import LOG, Run
from biofuse.search.curve import (
    REPEATS,
    LearningCurve,
    measure_curve,
    models_to_fit,
    plan_curve,
    refuse_without_classes,
)
from biofuse.search.problem import Problem, fusion_of
from biofuse.search.rules import CHOSEN
from biofuse.search.runner import SearchContext
from biofuse.store.store import EmbeddingStore, as_store

CURVES = (CHOSEN, "best_single", "all", "lean")
"""Models that get a curve, beside every single encoder."""


def curve(
    run: Path | str,
    *,
    per_class: Sequence[int] | None = None,
    repeats: int = REPEATS,
    store: EmbeddingStore | Path | str | None = None,
    yes: bool = False,
    progress: bool = True,
    tell: Tell | None = None,
) -> LearningCurve:
    """Measure how the scores of a run's models grow with the number of labelled samples, and write ``curve.json``.

    It says which encoders to use when labels are few, and whether more labels would help. Each fold of the development
    samples is scored by models fitted on more and more samples of the others; no image is read, and no test sample has
    a part in it. A curve that was stopped goes on when it is asked for again.

    Parameters
    ----------
    run : path
        The run directory.
    per_class : sequence of int, optional
        Numbers of labelled samples per class; by default 5, 10, 20, 50, 100, ... as far as they go. A class that has
        fewer gives all.
    repeats : int, default 2
        How often the samples are divided into folds, and drawn from, anew.
    store : EmbeddingStore or path, optional
        By default the store in the user's cache folder.
    yes : bool, default False
        Whether a curve of more than an hour is wanted.
    progress : bool, default True
        Show progress bars where standard error is a terminal, and in a notebook's cell.
    tell : callable, optional
        Receives news line by line; by default they are written to standard error, unless ``progress`` is False.

    Returns
    -------
    LearningCurve

    Raises
    ------
    ArtifactError
        If there is no complete run there, or it is damaged.
    AlignmentError
        If the store does not have all embeddings.
    SearchError
        If it would take more than an hour and that was not confirmed, or a number per class cannot be one.

    Examples
    --------
    >>> import biofuse
    >>> _ = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", out="run", progress=False)
    >>> found = biofuse.curve("run", per_class=[2, 5], progress=False)
    >>> [training.text for training in found.sets]
    ['2 per class', '5 per class', '25% of all', '50% of all', 'all']
    >>> list(found.models)
    ['chosen', 'best_single']
    """
    say = Log(tell or (tell_user if progress else lambda _: None))
    opened = Run.open(run)
    say.write_to(opened.path / LOG)
    record = opened.record
    problem = _problem(opened, as_store(store))
    planned = plan_curve(problem, repeats=repeats, per_class=per_class)
    models = {name: subset for name, subset in record.models.items() if name in CURVES}
    fits = models_to_fit(problem, {**models, **{name: (name,) for name in record.singles}}, members=record.members)
    fusion = fusion_of(problem.config)
    with progress_bars(progress, unit="subsets") as bars:
        found = measure_curve(
            problem,
            planned,
            {name: fits[name] for name in models},
            singles={name: fits[name] for name in record.singles},
            kind=[problem.config.predictor, problem.config.head, fusion.name, fusion.options, record.members],
            context=SearchContext(folder=opened.path, progress=bars, tell=say, yes=yes),
        )
    opened.write_curve(found)
    for sentence in found.sentences():
        say.keep(sentence)
    return found


def _problem(run: Run, store: EmbeddingStore) -> Problem:
    """Pose the search of a run again, with its development embeddings from the store and the head that it chose."""
    record, frame = run.record, run.samples[run.samples["split"] != "test"]
    ids, target = frame["id"].to_numpy(dtype=object), record.target
    refuse_without_classes(target)
    reader = run.reader(frame, record.pool, store)
    place = {name: column for column, name in enumerate(target.classes)}
    indicators = np.zeros((len(ids), len(place)), dtype=np.int64)
    for row, text in enumerate(frame["label"].fillna("").astype(str)):
        indicators[row, [place[name] for name in target.named(text) if name]] = 1
    if "unknown" in frame:
        for row, text in enumerate(frame["unknown"].fillna("").astype(str)):
            indicators[row, [place[name] for name in target.named(text) if name]] = MISSING
    groups = None if frame["group"].isna().any() else frame["group"].to_numpy(dtype=object)
    samples = Samples(
        ids=ids,
        sources=tuple(map(EmbeddedSource, ids.tolist()))
        if reader.sizes is None
        else tuple(Bag((EmbeddedSource(n),) * size, n) for n, size in zip(ids.tolist(), reader.sizes, strict=True)),
        labels=indicators if target.several else indicators.argmax(axis=1),
        classes=target.classes,
        task=target.kind,
        splits=frame["split"].to_numpy(dtype=object),
        groups=groups,
        weights=frame["weight"].to_numpy(dtype=np.float64) if "weight" in frame else None,
        contents=from_hex(frame["content"]),
        image_contents=None if reader.sizes is None else reader.contents,
        decode=record.decode,
        name=record.name,
    )
    embeddings = EmbeddingSet(
        samples=samples, blocks=reader.read(), cards=reader.cards, precisions=record.precisions, pooling=record.pooling
    )
    return Problem.from_embeddings(embeddings, record.options.with_head(record.head))
