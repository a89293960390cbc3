"""Splits and folds: stratified, grouped, and independent of the order of the rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biofuse.core.errors import DataError, LeakageError, SearchError
from biofuse.core.target import Task
from biofuse.data.decoding import ArraySource
from biofuse.data.load import load_samples
from biofuse.data.samples import Samples, check_groups
from biofuse.data.splits import ValidationPlan, leave_sites_out, make_folds, merge_groups, with_splits

SOURCE = ArraySource(np.zeros((2, 2), np.uint8), "x")


def make_samples(
    labels: np.ndarray | None, *, groups: list[str] | None = None, splits: list[str] | None = None, n: int = 0
) -> Samples:
    n = n if labels is None else len(labels)
    multi = labels is not None and labels.ndim == 2
    width = 0 if labels is None else labels.shape[1] if multi else int(labels.max()) + 1
    return Samples(
        ids=np.array([f"s{row}" for row in range(n)], dtype=object),
        sources=(SOURCE,) * n,
        labels=labels,
        classes=tuple(f"c{label}" for label in range(width)),
        task=None if labels is None else Task.MULTILABEL if multi else Task.MULTICLASS,
        groups=None if groups is None else np.array(groups, dtype=object),
        splits=None if splits is None else np.array(splits, dtype=object),
    )


def hashes(names: Sequence[str]) -> np.ndarray:
    return np.array([name.encode() for name in names], dtype="S16")


def split_counts(samples: Samples) -> dict[str, int]:
    return dict(Counter(samples.splits.tolist()))


def by_id(samples: Samples) -> dict[str, str]:
    return dict(zip(samples.ids.tolist(), samples.splits.tolist(), strict=True))


def random_table(seed: int, *, multi: bool = False, grouped: bool = True) -> Samples:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(60, 200))
    labels = (rng.random((n, 4)) < [0.5, 0.3, 0.2, 0.6]) if multi else rng.choice(3, size=n, p=[0.6, 0.25, 0.15])
    groups = [f"g{group}" for group in rng.integers(0, n // 3, size=n)] if grouped else None
    return make_samples(labels.astype(np.int64), groups=groups)


TABLES = [{"multi": multi, "grouped": grouped} for multi in (False, True) for grouped in (False, True)]


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TABLES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_splits_do_not_depend_on_row_order_and_keep_groups_whole(kind: dict[str, bool], seed: int) -> None:
    samples = random_table(seed, **kind)
    split = with_splits(samples, seed=seed)
    shuffled = samples.take(np.random.default_rng(seed).permutation(len(samples)))
    assert by_id(with_splits(shuffled, seed=seed)) == by_id(split)
    check_groups(split)
    assert split.ids.tolist() == samples.ids.tolist()


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(1, 60), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_every_class_is_divided_as_asked(counts: list[int], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    split = with_splits(make_samples(labels), seed=seed)
    for label, n in enumerate(counts):
        found = split_counts(split.take(labels == label))
        expected = {"train": 0.60 * n, "val": 0.15 * n, "test": 0.25 * n}
        assert all(abs(found.get(name, 0) - share) <= 1 for name, share in expected.items())
        if n >= 3:
            assert set(found) == {"train", "val", "test"}
        elif n == 2:
            assert set(found) == {"train", "test"}
        else:
            assert set(found) == {"train"}


def test_another_seed_is_another_split_and_the_same_seed_the_same() -> None:
    samples = random_table(3)
    assert by_id(with_splits(samples, seed=1)) == by_id(with_splits(samples, seed=1))
    assert by_id(with_splits(samples, seed=1)) != by_id(with_splits(samples, seed=2))


def test_added_rows_move_few() -> None:
    labels = np.arange(400) % 2
    larger = make_samples(labels)
    smaller = larger.take(np.arange(380))
    before, after = by_id(with_splits(smaller)), by_id(with_splits(larger))
    assert sum(before[name] != after[name] for name in before) <= 0.05 * len(before)


def test_identical_content_stays_together() -> None:
    samples = make_samples(np.arange(90) % 3)
    contents = [f"image {row % 30}" for row in range(90)]  # 30 images, three times each
    split = with_splits(replace(samples, contents=hashes(contents)))
    for content in set(contents):
        assert len({name for name, other in zip(split.splits, contents, strict=True) if other == content}) == 1
    assert set(split_counts(split)) == {"train", "val", "test"}


def test_given_splits_are_kept() -> None:
    labels = np.arange(12) % 2
    complete = make_samples(labels, splits=["train", "val", "test"] * 4)
    assert with_splits(complete) is complete
    no_test = make_samples(labels, splits=["train", "train", "val"] * 4)
    assert with_splits(no_test) is no_test


def test_validation_is_carved_out_of_train_alone() -> None:
    samples = make_samples(np.arange(200) % 2, splits=["train"] * 150 + ["test"] * 50)
    split = with_splits(samples)
    assert set(split.splits[150:]) == {"test"}
    assert Counter(split.splits[:150].tolist()) == {"train": 120, "val": 30}  # 15 of 60 + 15


@pytest.mark.parametrize(
    ("samples", "options", "expected"),
    [
        (make_samples(np.arange(100) % 2, splits=["train"] * 100), {}, {"train": 60, "val": 14, "test": 26}),
        (make_samples(None, n=100), {}, {"train": 60, "val": 15, "test": 25}),
        (make_samples(np.arange(100) % 2), {"fractions": (0.8, 0.2, 0.0)}, {"train": 80, "val": 20}),
    ],
    ids=["train alone", "no labels", "no test wanted"],
)
def test_shares(samples: Samples, options: dict[str, tuple[float, float, float]], expected: dict[str, int]) -> None:
    assert split_counts(with_splits(samples, **options)) == expected


def test_a_test_split_alone_cannot_be_completed() -> None:
    with pytest.raises(DataError, match=r"only the split\(s\) test"):
        with_splits(make_samples(np.arange(4) % 2, splits=["test"] * 4))


@pytest.mark.parametrize("fractions", [(0.5, 0.2, 0.2), (1.2, -0.1, -0.1), (0.0, 0.5, 0.5)])
def test_wrong_fractions(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(DataError, match="add up to 1"):
        with_splits(make_samples(np.arange(9) % 2), fractions=fractions)


# --- folds -----------------------------------------------------------------------------------------------------------


def plan_ids(samples: Samples, **options: int) -> list[frozenset[str]]:
    plan = make_folds(samples.labels, ids=samples.ids, groups=samples.groups, **options)
    return [frozenset(samples.ids[test].tolist()) for _, test in plan.folds]


@pytest.mark.parametrize("kind", TABLES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_folds_do_not_depend_on_row_order(kind: dict[str, bool], seed: int) -> None:
    samples = random_table(seed, **kind)
    shuffled = samples.take(np.random.default_rng(seed).permutation(len(samples)))
    assert plan_ids(samples, seed=seed) == plan_ids(shuffled, seed=seed)


@pytest.mark.parametrize("kind", TABLES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_folds_are_a_partition_that_keeps_groups_whole(kind: dict[str, bool], seed: int) -> None:
    samples = random_table(seed, **kind)
    plan = make_folds(samples.labels, ids=samples.ids, groups=samples.groups, n_repeats=3, seed=seed)
    repeats, left = divmod(len(plan.folds), plan.n_folds)
    assert left == 0
    # Few groups can be divided in few ways: a repeat that would repeat a fold is left out, and that is said.
    assert repeats == 3 or any(note.startswith(f"{repeats} repeat") and "instead of 3" in note for note in plan.notes)
    assert repeats >= 1
    for repeat in range(repeats):
        folds = plan.folds[repeat * plan.n_folds : (repeat + 1) * plan.n_folds]
        assert sorted(np.concatenate([test for _, test in folds]).tolist()) == list(range(len(samples)))
        for train, test in folds:
            assert sorted([*train.tolist(), *test.tolist()]) == list(range(len(samples)))
            if samples.groups is not None:
                assert not set(samples.groups[train]) & set(samples.groups[test])


@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(5, 60), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_ungrouped_folds_are_as_even_as_scikit_learns(counts: list[int], seed: int) -> None:
    from sklearn.model_selection import StratifiedKFold

    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    samples = make_samples(labels)
    ours = make_folds(labels, ids=samples.ids, seed=seed)
    theirs = StratifiedKFold(5, shuffle=True, random_state=seed).split(labels, labels)
    assert ours.notes == ()

    def spread(folds: list[np.ndarray]) -> np.ndarray:
        return np.ptp([np.bincount(labels[test], minlength=len(counts)) for test in folds], axis=0)

    assert (spread([test for _, test in ours.folds[:5]]) <= np.maximum(spread([test for _, test in theirs]), 1)).all()
    sizes = [len(test) for _, test in ours.folds]
    assert max(sizes) - min(sizes) <= len(counts)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_grouped_folds_are_nearly_as_even_as_scikit_learns(seed: int) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    samples = random_table(seed)
    labels, groups = samples.labels, samples.groups
    share = np.bincount(labels) / len(labels)

    def error(folds: list[np.ndarray]) -> float:
        return float(np.mean([np.abs(np.bincount(labels[t], minlength=3) / len(t) - share).mean() for t in folds]))

    ours = error([test for _, test in make_folds(labels, ids=samples.ids, groups=groups, seed=seed).folds])
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    theirs = error([test for _, test in splitter.split(labels, labels, groups)])
    assert ours <= theirs + 0.03


def test_rare_labels_are_spread_over_the_folds() -> None:
    labels = np.zeros((100, 3), dtype=np.int64)
    labels[:, 0] = np.arange(100) % 2
    labels[:5, 1] = 1
    labels[3:13, 2] = 1
    samples = make_samples(labels)
    for _, test in make_folds(labels, ids=samples.ids).folds:
        assert labels[test, 1].sum() == 1
        assert labels[test, 2].sum() == 2
        assert len(test) == 20


def test_repeats_differ() -> None:
    samples = random_table(1)
    sets = plan_ids(samples, n_repeats=2)
    assert set(sets[:5]) != set(sets[5:])


@pytest.mark.parametrize(("n_groups", "repeats"), [(2, 1), (3, 1), (5, 1), (6, 1), (8, 2), (40, 2)])
def test_the_same_folds_are_not_counted_twice(n_groups: int, repeats: int) -> None:
    groups = [f"g{row % n_groups:02d}" for row in range(4 * n_groups)]
    labels = np.arange(4 * n_groups) // n_groups % 2
    plan = make_folds(labels, ids=make_samples(labels).ids, groups=groups, n_repeats=2)
    assert plan.n_repeats == repeats
    assert len(plan.folds) == repeats * min(n_groups, 5)
    held = [frozenset(test.tolist()) for _, test in plan.folds]
    assert len(set(held)) == len(held)
    assert any("1 repeat instead of 2" in note for note in plan.notes) == (repeats == 1)


def test_a_group_as_large_as_a_fold_does_not_undo_repeats() -> None:
    groups = ["large"] * 60 + [f"g{row}" for row in range(60)]
    labels = np.arange(120) % 2
    plan = make_folds(labels, ids=make_samples(labels).ids, groups=groups, n_repeats=3)
    assert plan.n_repeats == 3
    held = [frozenset(test.tolist()) for _, test in plan.folds]
    assert len(set(held)) == 13  # two of the three repeats share the fold of the large group with the first


def test_the_number_of_folds_falls_to_the_scarcest_class() -> None:
    labels = np.array([0] * 20 + [1] * 3)
    samples = make_samples(labels)
    plan = make_folds(labels, ids=samples.ids, classes=("common", "rare"))
    assert (plan.n_folds, len(plan.folds)) == (3, 6)
    assert plan.notes == ("3 folds instead of 5: class 'rare' has only 3 samples.",)
    groups = [f"g{row}" for row in range(20)] + ["x", "x", "y"]
    plan = make_folds(labels, ids=samples.ids, groups=groups)
    assert plan.n_folds == 2
    assert plan.notes == ("2 folds instead of 5: class 1 has only 2 groups.",)


@pytest.mark.parametrize("n_sites", [3, 30])
def test_every_site_is_scored_by_models_that_have_not_seen_it(n_sites: int) -> None:
    random = np.random.default_rng(0)
    sites = np.repeat([f"s{site:02d}" for site in range(n_sites)], 6)
    labels, ids = random.permutation(np.tile([0, 1], 3 * n_sites)), [f"{row:03d}" for row in range(6 * n_sites)]
    plan = leave_sites_out(labels, ids=ids, sites=sites)
    assert plan.n_folds == min(n_sites, 20)
    assert sorted(np.concatenate([held for _, held in plan.folds]).tolist()) == list(range(len(ids)))
    for fit, held in plan.folds:
        assert not set(sites[fit]) & set(sites[held])
        assert len(fit) + len(held) == len(ids)
    patients = [f"p{row}" for row in range(len(ids))]
    patients[0] = patients[6]  # seen at the first and at the second site
    shared = leave_sites_out(labels, ids=ids, sites=sites, units=patients)
    assert all((0 in held) == (6 in held) for _, held in shared.folds)
    assert "share a group or an image are one fold: s00, s01." in shared.notes[0]


@pytest.mark.parametrize(
    ("sites", "labels", "message"),
    [
        (["a", "a", "b", ""], [0, 1, 0, 1], "have no site"),
        (["a"] * 4, [0, 1, 0, 1], "only one site"),
        (["a", "a", "b", "b"], [0, 1, 0, 0], "Class 1 is of one site only, a"),
    ],
)
def test_sites_that_cannot_be_left_out(sites: list[str], labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        leave_sites_out(np.array(labels), ids=list("wxyz"), sites=sites)


def test_a_class_in_one_group_cannot_be_cross_validated() -> None:
    labels = np.array([0] * 9 + [1] * 3)
    samples = make_samples(labels)
    with pytest.raises(DataError, match="Class 'rare' has samples in only 1 group for training"):
        make_folds(labels, ids=samples.ids, groups=list("abcdefghi") + ["z"] * 3, classes=("common", "rare"))


def test_labels_that_never_occur_are_noted() -> None:
    labels = np.array([[1, 0, 1], [0, 0, 1]] * 10)
    plan = make_folds(labels, ids=make_samples(labels).ids)
    assert plan.n_folds == 5
    assert plan.notes == ("Labels that never, or always, occur cannot be scored: 1, 2.",)


@pytest.mark.parametrize("positives", [1, 2, 4])
def test_one_rare_label_does_not_decide_on_the_folds_of_all(positives: int) -> None:
    labels = np.zeros((60, 3), dtype=np.int64)
    labels[:, 0] = np.arange(60) % 2
    labels[::3, 1] = 1
    labels[:positives, 2] = 1
    plan = make_folds(labels, ids=make_samples(labels).ids, classes=("a", "b", "rare"))
    assert (plan.n_folds, plan.n_repeats) == (5, 2)
    assert f"scored in the folds that have them alone: 'rare' ({positives})." in plan.notes[0]
    assert sum(labels[test, 2].any() for _, test in plan.folds[:5]) == positives  # each in a fold of its own
    with pytest.raises(DataError, match="only 1 sample"):
        make_folds(labels[:, 2:] * (np.arange(60)[:, None] < 1), ids=make_samples(labels).ids)


def test_classes_of_the_table_that_do_not_occur_are_left_out() -> None:
    labels = np.array([0, 2] * 10)
    assert make_folds(labels, ids=make_samples(labels).ids).notes == ()


@pytest.mark.parametrize(("n_folds", "n_repeats"), [(1, 1), (5, 0)])
def test_too_few_folds(n_folds: int, n_repeats: int) -> None:
    with pytest.raises(DataError, match="no cross-validation"):
        make_folds(np.array([0, 1]), ids=["a", "b"], n_folds=n_folds, n_repeats=n_repeats)


# --- groups and contents ---------------------------------------------------------------------------------------------


def test_merging_joins_chains() -> None:
    merged = merge_groups(["c", "c", "b", "b", "a", "d"], hashes("122334"))
    assert merged.tolist() == ["a", "a", "a", "a", "a", "d"]
    assert merge_groups(["x", "y"], None).tolist() == ["x", "y"]
    assert merge_groups(None, hashes(["a" * 16, "a" * 16, ""])).tolist() == ["61" * 16, "61" * 16, "unreadable 2"]
    assert merge_groups(["x", "y"], hashes(["", ""])).tolist() == ["x", "y"]
    with pytest.raises(DataError, match="Neither"):
        merge_groups(None, None)
    with pytest.raises(DataError, match="2 groups but 1 contents"):
        merge_groups(["x", "y"], hashes("1"))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=25), st.randoms())
def test_merging_is_the_finest_partition_that_keeps_both_whole(pairs: list[tuple[int, int]], random: object) -> None:
    groups, contents = [f"g{g}" for g, _ in pairs], [f"c{c}" for _, c in pairs]
    # By brute force: spread names until nothing changes.
    names = list(groups)
    for _ in pairs:
        for keys in (groups, contents):
            names = [min(names[other] for other in range(len(pairs)) if keys[other] == key) for key in keys]
    assert merge_groups(groups, hashes(contents)).tolist() == names


def test_loaded_real_data_split_by_group(shared_data) -> None:  # type: ignore[no-untyped-def]
    samples = load_samples(shared_data / "blood-cells" / "manifest.csv", group="smear", use_splits=False)
    split = with_splits(samples)
    check_groups(split)
    counts = split_counts(split)
    assert abs(counts["train"] / len(samples) - 0.60) < 0.05
    assert abs(counts["test"] / len(samples) - 0.25) < 0.05


# --- validation plans ---

IDS = [f"s{i}" for i in range(10)]
FOLDS = [(np.arange(5), np.arange(5, 10)), (np.arange(5, 10), np.arange(5))]


def test_rows_of_a_fold_stand_in_the_order_of_their_ids() -> None:
    ids = np.array(["c", "a", "d", "b"], dtype=object)
    plan = ValidationPlan.cross_validation([([0, 1], [2, 3])], ids=ids)
    assert [ids[rows].tolist() for rows in plan.folds[0]] == [["a", "c"], ["b", "d"]]
    assert (plan.n_train, plan.n_test) == ((2,), (2,))


def test_a_search_refuses_test_rows() -> None:
    splits = ["train"] * 6 + ["val"] * 3 + ["test"]
    with pytest.raises(LeakageError, match="1 samples of split test"):
        ValidationPlan.holdout(ids=IDS, splits=splits)
    with pytest.raises(LeakageError):
        ValidationPlan.cross_validation(FOLDS, ids=IDS, splits=splits)
    splits[-1] = "val"
    plan = ValidationPlan.holdout(ids=IDS, splits=splits)
    assert (plan.kind, plan.n_train, plan.n_test) == ("holdout", (6,), (4,))


def test_a_row_or_group_on_both_sides_is_refused() -> None:
    with pytest.raises(LeakageError, match="fitted on"):
        ValidationPlan.cross_validation([([0, 1], [1, 2])], ids=IDS)
    with pytest.raises(LeakageError, match="groups on both sides"):
        ValidationPlan.cross_validation(FOLDS, ids=IDS, groups=["g"] * 10)
    ValidationPlan.cross_validation(FOLDS, ids=IDS, groups=["g"] * 5 + ["h"] * 5)


def test_empty_folds_and_repeated_ids_are_refused() -> None:
    for folds in ([], [([], [1])], [([1], [])]):
        with pytest.raises(SearchError):
            ValidationPlan.cross_validation(folds, ids=IDS)
    with pytest.raises(SearchError, match="unique"):
        ValidationPlan.cross_validation(FOLDS, ids=["a"] * 10)
    with pytest.raises(SearchError):
        ValidationPlan.holdout(ids=IDS, splits=["train"] * 10)
