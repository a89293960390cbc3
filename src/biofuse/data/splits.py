"""Splits and folds that depend on ids and a seed, never on the order of the rows.

Both work on units: a group, or a sample where there are no groups. Identical content joins the units it lies in.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biofuse.core.errors import DataError, LeakageError, SearchError, option
from biofuse.core.hashing import Contents, derive_seed, digest, digest_json, hash_order, to_hex
from biofuse.core.target import Labels, Task
from biofuse.data.labels import counted, listing
from biofuse.data.samples import Samples, known_contents, object_array

FRACTIONS = (0.60, 0.15, 0.25)
"""Default shares of train, val and test."""

Names = Sequence[object] | NDArray[np.object_]
Index = NDArray[np.int64]


DEVELOPMENT = frozenset({"train", "val"})
"""The splits that a search may see."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ValidationPlan:
    """Cross-validation folds, or one hold-out split, of development data.

    Attributes
    ----------
    kind : {"cv", "holdout"}
        How the rows were divided.
    ids : ndarray of str (dtype object), shape (n,)
        The development samples; rows below are indices into them.
    folds : tuple of (fit_rows, score_rows)
        Those of the first repeat come first. Rows within a fold are ordered by id, so that the order of the table
        cannot matter to a fit.
    n_repeats : int
        How often the data were divided into folds anew.
    notes : tuple of str
        What a reader should know, such as a number of folds that had to fall.
    """

    kind: Literal["cv", "holdout"]
    ids: NDArray[np.object_]
    folds: tuple[tuple[Index, Index], ...]
    n_repeats: int = 1
    notes: tuple[str, ...] = ()

    @classmethod
    def cross_validation(
        cls,
        folds: Iterable[tuple[ArrayLike, ArrayLike]],
        *,
        ids: Names,
        splits: Names | None = None,
        groups: Names | None = None,
        n_repeats: int = 1,
        notes: Sequence[str] = (),
    ) -> Self:
        """Plan from (training rows, held-out rows) pairs.

        Parameters
        ----------
        folds : iterable of (rows, rows)
            Indices into ``ids``; held-out rows are scored by a predictor fitted on the training rows.
        ids : sequence of str, shape (n,)
            The development samples.
        splits, groups : sequence of str, shape (n,), optional
            Checked where given: a test row, or a group on both sides of a fold, raises.

        Raises
        ------
        LeakageError
            If test rows are among the samples, or a row or group is both fitted on and scored.
        SearchError
            If there is no fold, or one without rows to fit or to score.
        """
        names = _development(ids, splits)
        return cls(kind="cv", ids=names, folds=_folds(folds, names, groups), n_repeats=n_repeats, notes=tuple(notes))

    @classmethod
    def holdout(cls, *, ids: Names, splits: Names, groups: Names | None = None) -> Self:
        """Plan to fit on the rows of split ``train`` and to score those of split ``val``.

        Raises
        ------
        LeakageError, SearchError
            As for :meth:`cross_validation`.
        """
        names = _development(ids, splits)
        where = np.asarray(splits).astype(str)
        pair = (np.flatnonzero(where == "train"), np.flatnonzero(where == "val"))
        return cls(kind="holdout", ids=names, folds=_folds([pair], names, groups))

    @property
    def n_folds(self) -> int:
        """Folds of one repeat."""
        return len(self.folds) // self.n_repeats

    @property
    def n_train(self) -> tuple[int, ...]:
        """Index fitted on, per fold."""
        return tuple(len(fit) for fit, _ in self.folds)

    @property
    def n_test(self) -> tuple[int, ...]:
        """Index scored, per fold."""
        return tuple(len(score) for _, score in self.folds)

    def key(self) -> str:
        """Hash of the division; the order of the table does not take part."""

        def names(rows: Index) -> str:
            return digest(*(str(self.ids[row]).encode() for row in rows)).hex()

        return digest_json([self.kind, [[names(fit), names(score)] for fit, score in self.folds]])


@dataclass(frozen=True, eq=False)
class _Units:
    """Rows that stay together: names, the unit of every row, and class counts [n_units, n_classes]."""

    names: list[str]
    of_row: Index
    counts: NDArray[np.float64]
    sizes: NDArray[np.float64]


def merge_groups(
    groups: Names | None, contents: Contents | None, *, owners: Index | None = None
) -> NDArray[np.object_]:
    """Join groups that share content: rows of one group, or of one content, get one name.

    Parameters
    ----------
    groups : sequence of str, shape (n,), or None
        Group names; None where every row is on its own.
    contents : ndarray of S16, shape (n,), or None
        Content hashes; an empty one (of an image that was not read) is like nothing else.
    owners : ndarray of int, shape (n_images,), optional
        Where rows are bags: the row of each image, whose hashes ``contents`` then are. One image in common is enough.

    Returns
    -------
    ndarray of str (dtype object), shape (n,)
        The first, alphabetically, of the names that were joined: group names where there are groups, else hashes in
        hexadecimal.

    Raises
    ------
    DataError
        If neither is given, or their lengths differ.
    """
    if groups is None and contents is None:
        raise DataError("Neither groups nor contents were given.")
    if contents is None:
        return object_array([] if groups is None else list(groups))
    content_names = [text or f"unreadable {row}" for row, text in enumerate(to_hex(contents))]
    if groups is None:
        return object_array(content_names)
    names = [str(group) for group in groups]
    if len(contents) != (len(names) if owners is None else len(owners)):
        raise DataError(f"{len(names)} groups but {len(contents)} contents.")
    if owners is None:
        return object_array(_joined(names, content_names))
    of_images = _joined([names[row] for row in owners], content_names)
    joined = {names[row]: name for row, name in zip(owners.tolist(), of_images, strict=True)}
    return object_array([joined[name] for name in names])


def units_of(samples: Samples) -> NDArray[np.object_] | None:
    """Return what must stay whole in every division of samples: groups, joined where they share an image.

    Returns
    -------
    ndarray of str (dtype object), shape (n,), or None
        None where there are no groups and no two samples share an image.

    Raises
    ------
    DataError
        If the samples have not been read.
    """
    contents = known_contents(samples.images())
    owners = samples.owners if samples.bagged else None
    shared = np.unique(contents, return_counts=True)[1].max(initial=1) > 1
    if not shared:
        return samples.groups
    groups = None if samples.groups is None else samples.groups.tolist()
    return merge_groups(samples.ids.tolist() if groups is None and samples.bagged else groups, contents, owners=owners)


def _joined(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Give rows that share a name, or one of the others, directly or in turn, the first of their names."""
    n = len(names)
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    group_names, group_index = np.unique(np.array(names), return_inverse=True)
    _, content_index = np.unique(np.array(others), return_inverse=True)
    n_nodes = len(group_names) + int(content_index.max(initial=-1)) + 1
    links = coo_array((np.ones(n), (group_index, len(group_names) + content_index)), shape=(n_nodes, n_nodes))
    _, component = connected_components(links.tocsr(), directed=False)
    # np.unique sorts, so the first group of a component is the alphabetically first.
    _, first = np.unique(component[: len(group_names)], return_index=True)
    name_of = dict(zip(component[first].tolist(), group_names[first].tolist(), strict=True))
    return [name_of[component[index]] for index in group_index]


def with_splits(
    samples: Samples,
    *,
    seed: int = 0,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Samples:
    """Make the splits that are missing.

    With train, val and test, or train and val, the samples are returned unchanged. With train and test, val is taken
    out of train, in the proportion that ``fractions`` give them. With train alone, or none, all three are made.

    Parameters
    ----------
    samples : Samples
        Labelled or not. Where content hashes are known, identical images stay together like a group.
    seed : int
        Another seed gives another split.
    fractions : tuple of float
        Shares of train, val and test; they add up to 1.

    Returns
    -------
    Samples
        In the same order. Within every class, units are sorted by a hash of seed and name and cut by their number of
        samples: the order of the rows plays no part, and added rows move only units near the two cuts.

    Raises
    ------
    DataError
        If the fractions do not add up to 1, or there is no training split beside a given one.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1.0) > 1e-9 or fractions[0] == 0:
        raise DataError(f"Split fractions {fractions} must be positive and add up to 1.")
    given = set() if samples.splits is None else set(samples.splits.tolist())
    if {"train", "val"} <= given:
        return samples
    if given and "train" not in given:
        raise DataError(
            f"{samples.name} has only the split(s) {listing(sorted(given))}.",
            remedy=f"Add training data, or give {option('use_splits', False)}.",
        )
    carve = "test" in given
    rows = (
        np.flatnonzero(samples.splits == "train") if carve and samples.splits is not None else np.arange(len(samples))
    )
    part = samples.take(rows)
    keys = [str(name) for name in (part.ids if part.groups is None else part.groups)]
    contents = None if part.contents is None else part.images().contents
    if contents is not None:
        keys = merge_groups(keys, contents, owners=part.owners if part.bagged else None).tolist()
    units = _make_units(keys, _stratified_by(part))
    shares = (fractions[0], fractions[1], 0.0) if carve else fractions
    splits = object_array(["test"] * len(samples)) if samples.splits is None else samples.splits.copy()
    splits[rows] = _cut(units, np.array(shares) / sum(shares), seed)[units.of_row]
    return replace(samples, splits=splits)


def _stratified_by(samples: Samples) -> Labels | None:
    """Return what splits are stratified by: labels, or quantiles of values or times as zeros and ones."""
    target, labels = samples.target, samples.labels
    if target is None or labels is None or target.categorical:
        return labels
    return target.strata(labels).astype(np.int64)


def without_untrained_classes(development: Samples, held_out: Samples) -> tuple[Samples, list[str]]:
    """Take classes that only test samples have out of the table of classes: nothing can be learned about them.

    Labels of a multi-label task stay, since their absence can be learned.

    Returns
    -------
    development : Samples
        With the classes that are left.
    notes : list of str
        Which classes went.

    Raises
    ------
    DataError
        If fewer than two classes are left.
    """
    target = development.target
    if target is None or not target.exclusive or development.labels is None or held_out.labels is None:
        return development, []
    counts, tested = target.counts(development.labels), target.counts(held_out.labels)
    gone = [name for name, count in counts.items() if not count and tested[name]]
    if not gone:
        return development, []
    classes = tuple(name for name in development.classes if name not in gone)
    which = counted([(name, tested[name]) for name in gone])
    if sum(count > 0 for count in counts.values()) < 2:
        raise DataError(
            f"{development.name} has samples of one class in train and val; of {which} there are only test samples.",
            remedy=f"Add training samples of another class, or give {option('use_splits', False)} to have splits made.",
        )
    place = np.array([classes.index(name) if name in classes else -1 for name in development.classes])
    left = replace(
        development,
        labels=place[development.labels],
        classes=classes,
        task=target.kind.settled(len(classes)) or Task.natural(len(classes)),
    )
    return left, [f"Only test samples are of {which}: the model cannot know that, and these samples are not scored."]


def make_folds(
    labels: Labels,
    *,
    ids: Names,
    groups: Names | None = None,
    n_folds: int = 5,
    n_repeats: int = 2,
    seed: int = 0,
    classes: Sequence[str] = (),
    splits: Names | None = None,
) -> ValidationPlan:
    """Plan repeated, stratified, grouped cross-validation.

    Units go one by one, those of the rarest class first and the largest of them first, to the fold that most lacks
    their classes; ties among units are settled by a hash of seed and name.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,) or (n, n_labels)
        Class indices, or zeros and ones.
    ids : sequence of str, shape (n,)
        Sample ids.
    groups : sequence of str, shape (n,), optional
        Rows of one group are never torn apart; see :func:`merge_groups` for identical content.
    n_folds : int
        Falls to the smallest number of groups that any class has, with a note. Of several labels, the commonest
        decides, and a rarer one is scored in the folds that have it.
    n_repeats : int
        Each repeat is another division, with at most a quarter of its folds from an earlier one; where few units leave
        no such division, there are fewer repeats, with a note: the same fold twice is no further evidence.
    seed : int
        With ids and groups it decides everything; the order of the rows plays no part.
    classes : sequence of str, optional
        Names for messages.
    splits : sequence of str, shape (n,), optional
        Checked where given: a search may not see test samples.

    Raises
    ------
    DataError
        If a class has samples in one group only.
    LeakageError
        If there are test samples.
    """
    if n_folds < 2 or n_repeats < 1:
        raise DataError(
            f"{n_folds} folds and {n_repeats} repeats are no cross-validation: at least 2 and 1 are needed."
        )
    units = _make_units([str(name) for name in (ids if groups is None else groups)], labels)
    n_folds, notes = _affordable_folds(units, labels, n_folds, classes, grouped=groups is not None)
    divisions = _divisions(units, n_folds, n_repeats, seed)
    if len(divisions) < n_repeats:
        notes.append(
            f"{len(divisions)} repeat{'s' if len(divisions) > 1 else ''} instead of {n_repeats}: another division of "
            f"{len(units.names)} {'group' if groups is not None else 'sample'}s into {n_folds} folds would "
            "repeat folds of an earlier one."
        )
    folds = []
    for repeat, division in enumerate(divisions):
        assigned = division[units.of_row]
        folds += [(np.flatnonzero(assigned != fold), np.flatnonzero(assigned == fold)) for fold in range(n_folds)]
        notes += _absent(assigned, labels, n_folds, repeat, classes)
    return ValidationPlan.cross_validation(
        folds, ids=ids, splits=splits, groups=groups, n_repeats=len(divisions), notes=notes
    )


MOST_SITES = 20
"""With more sites, several share a fold: every fold is another fit of every subset."""


def leave_sites_out(
    labels: Labels,
    *,
    ids: Names,
    sites: Names,
    units: Names | None = None,
    seed: int = 0,
    classes: Sequence[str] = (),
    splits: Names | None = None,
) -> ValidationPlan:
    """Plan to score each site by models that have seen none of its samples.

    Parameters
    ----------
    labels : ndarray of int64, shape (n,) or (n, n_labels)
        Class indices, or zeros and ones.
    ids, sites : sequence of str, shape (n,)
        Sample ids, and the hospital, scanner or the like of each.
    units : sequence of str, shape (n,), optional
        What stays together (patients, identical images); sites that share one are one fold.
    seed : int
        Decides which sites share a fold, where there are more than :data:`MOST_SITES`.
    classes : sequence of str, optional
        Names for messages.
    splits : sequence of str, shape (n,), optional
        Checked where given: a search may not see test samples.

    Returns
    -------
    ValidationPlan
        One fold per site, and no repeats: there is one such division.

    Raises
    ------
    DataError
        If a sample has no site, there are not two sites, or a class is of one site only.
    LeakageError
        If there are test samples.
    """
    names = [str(site) for site in sites]
    blank = [str(name) for name, site in zip(ids, names, strict=True) if not site]
    if blank:
        raise DataError(
            f"{len(blank)} sample(s) have no site: {listing(blank)}.", remedy="Fill in the site of every row."
        )
    merged = names if units is None else _joined(names, [str(unit) for unit in units])
    held = sorted(set(merged))
    together = [sorted({a for a, b in zip(names, merged, strict=True) if b == site}) for site in held]
    notes = [f"Sites that share a group or an image are one fold: {listing(each)}." for each in together if each[1:]]
    if len(held) < 2:
        raise DataError(
            f"There is only one site, {held[0]}, so none can be left out." if len(set(names)) == 1 else
            f"All {len(set(names))} sites share groups or images with one another, so none can be left out.",
            remedy=f"Use {option('select', 'cv')}.",
        )  # fmt: skip
    made = _make_units([str(name) for name in merged], labels)
    _refuse_classes_of_one_site(made, classes)
    if len(held) > MOST_SITES:
        notes.append(f"The {len(held)} sites are dealt to {MOST_SITES} folds.")
        order = hash_order(made.names, derive_seed(seed, "folds", 0))
        assigned = _deal(made, order, MOST_SITES)[made.of_row]
    else:
        assigned = made.of_row
    folds = [(np.flatnonzero(assigned != fold), np.flatnonzero(assigned == fold)) for fold in np.unique(assigned)]
    alone = [
        made.names[fold]
        for fold, (_, score) in enumerate(folds)
        if len(folds) == len(held) and labels.ndim == 1 and len(np.unique(labels[score])) < 2
    ]
    if alone:
        notes.append(f"Sites of one class do not show how well classes are told apart: {listing(alone)}.")
    return ValidationPlan.cross_validation(folds, ids=ids, splits=splits, groups=units, notes=notes)


def _refuse_classes_of_one_site(units: _Units, classes: Sequence[str]) -> None:
    holders = (units.counts > 0).sum(axis=0)
    lonely = np.flatnonzero(holders == 1).tolist()
    if lonely:
        site = units.names[int(np.argmax(units.counts[:, lonely[0]]))]
        raise DataError(
            f"Class {_class_name(classes, lonely[0])} is of one site only, {site}: nothing can be learned of it from "
            "the others.",
            remedy=f"Use {option('select', 'cv')}, or leave that class out.",
        )


def _development(ids: Names, splits: Names | None) -> NDArray[np.object_]:
    names = np.asarray(ids, dtype=object)
    if len(set(names.tolist())) != len(names):
        raise SearchError("Sample ids are not unique.")
    if splits is not None:
        where = np.asarray(splits).astype(str)
        outside = sorted(set(where.tolist()) - DEVELOPMENT)
        if outside:
            count = int(np.isin(where, outside).sum())
            raise LeakageError(
                f"{count} samples of split {', '.join(outside)} were given to a search, which sees train and val only.",
                remedy='Pass samples.in_split("train", "val").',
            )
    return names


def _folds(
    folds: Iterable[tuple[ArrayLike, ArrayLike]], names: NDArray[np.object_], groups: Names | None
) -> tuple[tuple[Index, Index], ...]:
    rank = np.argsort(np.argsort(names.astype(str), kind="stable"))
    unit = None if groups is None else np.asarray(groups).astype(str)
    checked = []
    for number, pair in enumerate(folds, start=1):
        fit, score = (np.asarray(rows, dtype=np.int64) for rows in pair)
        if not len(fit) or not len(score):
            raise SearchError(
                f"Fold {number} fits on {len(fit)} rows and scores {len(score)}.",
                remedy="Give both train and val samples, or use cross-validation.",
            )
        if len(np.intersect1d(fit, score)):
            raise LeakageError(f"Fold {number} scores rows that it was fitted on.")
        shared = [] if unit is None else np.intersect1d(unit[fit], unit[score]).tolist()
        if shared:
            raise LeakageError(
                f"Fold {number} has {len(shared)} groups on both sides, e.g. {shared[0]!r}.",
                remedy="Split by group, so that each patient or slide is on one side.",
            )
        checked.append((fit[np.argsort(rank[fit])], score[np.argsort(rank[score])]))
    if not checked:
        raise SearchError("There is no fold to score on.", remedy="Ask for at least two folds.")
    return tuple(checked)


def _make_units(keys: Sequence[str], labels: Labels | None) -> _Units:
    """Count what each unit holds; ``keys`` name the unit of every row."""
    names, of_row = np.unique(np.array(keys, dtype=str), return_inverse=True)
    counts = np.zeros((len(names), 1 if labels is None else _indicators(labels).shape[1]))
    np.add.at(counts, of_row, np.ones((len(keys), 1)) if labels is None else _indicators(labels))
    sizes = np.bincount(of_row, minlength=len(names)).astype(np.float64)
    return _Units(names.tolist(), of_row.astype(np.int64), counts, sizes)


def _indicators(labels: Labels) -> NDArray[np.float64]:
    if labels.ndim == 2:
        return np.asarray(labels == 1, dtype=np.float64)
    return np.asarray(np.eye(int(labels.max(initial=0)) + 1)[labels.astype(np.int64)])


def _rarest(units: _Units) -> Index:
    """Return the rarest class that every unit holds; the number of classes where it holds none."""
    totals = units.counts.sum(axis=0)
    by_rarity = np.argsort(totals, kind="stable")
    present = units.counts[:, by_rarity] > 0
    found: Index = np.where(present.any(axis=1), by_rarity[present.argmax(axis=1)], units.counts.shape[1])
    return found


def _cut(units: _Units, shares: NDArray[np.float64], seed: int) -> NDArray[np.object_]:
    order = hash_order(units.names, derive_seed(seed, "splits"))
    stratum = _rarest(units)
    result = object_array(["train"] * len(units.names))
    for label in np.unique(stratum):
        members = order[stratum[order] == label]
        sizes = units.sizes[members]
        middle = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
        ends = np.searchsorted(middle, np.cumsum(shares)[:2])
        train, val = _at_least_one(int(ends[0]), int(ends[1]), len(members), shares)
        result[members[train:val]] = "val"
        result[members[val:]] = "test"
    return result


def _at_least_one(train: int, val: int, n: int, shares: NDArray[np.float64]) -> tuple[int, int]:
    """Move the cuts so that every split with a share gets a unit, as far as there are units: train, test, then val."""
    wants_val, wants_test = bool(shares[1] > 0), bool(shares[2] > 0)
    train = max(train, 1)
    if wants_test and n >= 2:
        val = min(val, n - 1)
    elif not wants_test:
        val = n
    train = min(train, val)
    if wants_val and n >= 2 + wants_test and train == val:
        if train > 1:
            train -= 1
        else:
            val += 1
    return train, val


def _affordable_folds(
    units: _Units, labels: Labels, n_folds: int, classes: Sequence[str], *, grouped: bool
) -> tuple[int, list[str]]:
    holders = (units.counts > 0).sum(axis=0)
    noun = "group" if grouped else "sample"
    if labels.ndim == 2:
        return _folds_of_labels(units, labels, n_folds, classes, noun)
    usable = np.where(holders == 0, np.iinfo(np.int64).max, holders)
    scarcest = int(np.argmin(usable))
    fewest = int(min(usable[scarcest], len(units.names)))
    if fewest < 2:
        raise _too_few(units, scarcest, fewest, classes, noun)
    notes = []
    if fewest < n_folds:
        notes.append(
            f"{fewest} folds instead of {n_folds}: class {_class_name(classes, scarcest)} has only {fewest} {noun}s."
        )
    return min(fewest, n_folds), notes


def _folds_of_labels(
    units: _Units, labels: Labels, n_folds: int, classes: Sequence[str], noun: str
) -> tuple[int, list[str]]:
    """Let the commonest label decide on the number of folds; rarer ones are scored in the folds that have them."""
    holders, absent = (units.counts > 0).sum(axis=0), np.zeros_like(units.counts)
    np.add.at(absent, units.of_row, np.asarray(labels == 0, dtype=np.float64))
    usable = np.minimum(holders, (absent > 0).sum(axis=0))
    unscored = [_class_name(classes, label) for label in np.flatnonzero(usable == 0).tolist()]
    most, commonest = int(usable.max()), int(usable.argmax())
    if most < 2:
        raise _too_few(units, commonest, most, classes, noun)
    folds, notes = min(most, n_folds), []
    if unscored:
        notes.append(f"Labels that never, or always, occur cannot be scored: {listing(unscored, limit=20)}.")
    if folds < n_folds:
        notes.append(f"{folds} folds instead of {n_folds}: no label both occurs and is absent in more {noun}s.")
    rare = [
        f"{_class_name(classes, label)} ({usable[label]})"
        for label in np.flatnonzero((usable > 0) & (usable < folds)).tolist()
    ]
    if rare:
        notes.append(
            f"Labels with fewer than {folds} {noun}s, in brackets, are scored in the folds that have them alone: "
            f"{listing(rare, limit=20)}."
        )
    return folds, notes


def _too_few(units: _Units, label: int, fewest: int, classes: Sequence[str], noun: str) -> DataError:
    return DataError(
        f"Class {_class_name(classes, label)} has {_samples_in(fewest, noun)} for training: it cannot be both "
        "fitted and scored.",
        remedy=f"Add {noun}s of that class, or leave small classes out: "
        f"{option('drop_classes_below', int(units.counts[:, label].sum()) + 2)}.",
    )


def _samples_in(units: int, noun: str) -> str:
    return f"only {units} {noun}" if noun == "sample" else f"samples in only {units} {noun}"


DRAWS = 10
"""Orders of the units that are tried for a repeat."""

SHARED = 1 / 4
"""Most of a repeat's folds that may be folds of an earlier one: a unit as large as a fold is one in every division."""


def _divisions(units: _Units, n_folds: int, n_repeats: int, seed: int) -> list[Index]:
    """Divide the units as often as asked for, and as there are divisions that have few folds of an earlier one."""
    divisions: list[Index] = []
    seen: set[bytes] = set()
    for repeat in range(n_repeats):
        found: list[tuple[int, int, Index, set[bytes]]] = []
        for draw in range(DRAWS):
            order = hash_order(units.names, derive_seed(seed, "folds", repeat, *([draw] if draw else [])))
            division = _deal(units, order, n_folds)
            members = {np.flatnonzero(division == fold).tobytes() for fold in range(n_folds)}
            found.append((len(seen & members), draw, division, members))
            if not found[-1][0]:
                break
        shared, _, division, members = min(found, key=lambda one: one[:2])
        if shared <= SHARED * n_folds:
            divisions.append(division)
            seen |= members
    return divisions


def _deal(units: _Units, order: Index, n_folds: int) -> Index:
    """Give every unit a fold: the one with the largest need of its classes, rare classes weighing more."""
    # The number of samples is balanced like one more, very common, class.
    counts = np.column_stack([units.counts, units.sizes])
    wanted = counts.sum(axis=0) / n_folds
    weight = np.divide(1.0, wanted**2, out=np.zeros_like(wanted), where=wanted > 0)
    rarest = _rarest(units)
    rank = np.empty(units.counts.shape[1] + 1, dtype=np.int64)
    rank[np.append(np.argsort(units.counts.sum(axis=0), kind="stable"), units.counts.shape[1])] = np.arange(len(rank))
    # lexsort is stable: after rarity and size, the hash order decides.
    queue = order[np.lexsort((-units.sizes[order], rank[rarest[order]]))]
    need = np.tile(wanted, (n_folds, 1))
    folds = np.empty(len(units.names), dtype=np.int64)
    weighted = counts * weight
    for unit in queue.tolist():
        fold = int(np.argmax(need @ weighted[unit]))
        folds[unit] = fold
        need[fold] -= counts[unit]
    return folds


def _absent(assigned: Index, labels: Labels, n_folds: int, repeat: int, classes: Sequence[str]) -> list[str]:
    indicators = _indicators(labels)
    # Of several labels, the rare ones have been named before.
    occurs = indicators.sum(axis=0) >= (n_folds if labels.ndim == 2 else 1)
    notes = []
    for fold in range(n_folds):
        missing = np.flatnonzero(occurs & (indicators[assigned == fold].sum(axis=0) == 0)).tolist()
        if missing:
            names = listing([_class_name(classes, label) for label in missing])
            notes.append(f"Repeat {repeat + 1}, fold {fold + 1} has no sample of {names}.")
    return notes


def _class_name(classes: Sequence[str], label: int) -> str:
    return repr(classes[label]) if label < len(classes) else str(label)
