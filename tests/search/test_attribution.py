from dataclasses import replace
from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import SearchError, UndefinedMetricError
from biofuse.core.target import Task
from biofuse.data.splits import make_folds
from biofuse.evaluation.intervals import corrected_standard_error
from biofuse.search.attribution import Attribution, attribute, cross_modal, paired_gain
from biofuse.search.closed_form import ClosedFormScorer
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets
from biofuse.search.runner import run_search
from biofuse.search.strategies import Exhaustive


def board(pool, value, *, n_folds=5, metric="auroc", n_train=80, n_test=20):
    """``value`` gives the fold values (or one for all folds) of a subset; None leaves it out."""
    found = {subset: value(subset) for subset in all_subsets(tuple(pool))}
    return Leaderboard(
        encoders=tuple(pool),
        metrics=(metric,),
        rows=tuple(
            Row(subset=subset, n_dims=1, folds={metric: tuple(np.broadcast_to(values, n_folds))})
            for subset, values in found.items()
            if values is not None
        ),
        n_train=(n_train,) * n_folds,
        n_test=(n_test,) * n_folds,
    )


def random_values(m, n_folds, seed):
    random = np.random.default_rng(seed)
    pool = "abcdefgh"[:m]
    return pool, {subset: random.uniform(0.4, 1, n_folds) for subset in all_subsets(tuple(pool))}


def by_permutations(pool, mean, empty):
    """Shapley values by their definition: mean gain over all orders in which encoders may join."""
    total = dict.fromkeys(pool, 0.0)
    for order in permutations(pool):
        before = empty
        for size in range(1, len(pool) + 1):
            after = mean[tuple(sorted(order[:size]))]
            total[order[size - 1]] += after - before
            before = after
    return [total[name] / factorial(len(pool)) for name in pool]


@pytest.mark.parametrize("m", [1, 2, 4])
def test_equals_brute_force_over_permutations(m):
    pool, values = random_values(m, 5, seed=m)
    found = attribute(board(pool, values.get), empty=0.5)
    mean = {subset: row.mean() for subset, row in values.items()}
    assert found.shapley == pytest.approx(by_permutations(pool, mean, 0.5), abs=1e-12)
    assert found.alone == pytest.approx([mean[(name,)] for name in pool])
    everything = tuple(pool)
    if m > 1:
        rest = [tuple(other for other in pool if other != name) for name in pool]
        assert found.added_last == pytest.approx([mean[everything] - mean[subset] for subset in rest], abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(m=st.integers(1, 7), n_folds=st.integers(1, 4), seed=st.integers(0, 2**32 - 1), empty=st.floats(0, 1))
def test_shapley_values_add_up_from_guessing_to_all_encoders(m, n_folds, seed, empty):
    pool, values = random_values(m, n_folds, seed)
    found = attribute(board(pool, values.get, n_folds=n_folds), empty=empty)
    assert sum(found.shapley) == pytest.approx(values[tuple(pool)].mean() - empty, abs=1e-12)
    assert (found.empty, found.full) == pytest.approx((empty, values[tuple(pool)].mean()))


@settings(max_examples=40, deadline=None)
@given(m=st.integers(2, 6), seed=st.integers(0, 2**32 - 1), place=st.integers(0, 5))
def test_an_encoder_that_never_changes_anything_gets_nothing(m, seed, place):
    pool, values = random_values(m, 4, seed)
    dummy = pool[place % m]

    def value(subset):
        rest = tuple(name for name in subset if name != dummy)
        return values[rest] if rest else 0.5

    found = attribute(board(pool, value, n_folds=4))
    at = pool.index(dummy)
    assert (found.shapley[at], found.marginal[at], found.added_last[at]) == pytest.approx((0, 0, 0), abs=1e-12)
    assert (found.low[at], found.high[at]) == pytest.approx((0, 0), abs=1e-12)
    assert np.delete(found.interaction[at], at) == pytest.approx(np.zeros(m - 1), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(m=st.integers(2, 6), seed=st.integers(0, 2**32 - 1))
def test_encoders_that_can_stand_for_each_other_get_the_same(m, seed):
    pool, values = random_values(m, 4, seed)
    swap = {pool[0]: pool[1], pool[1]: pool[0]}

    def value(subset):
        other = tuple(sorted(swap.get(name, name) for name in subset))
        return (values[subset] + values[other]) / 2

    found = attribute(board(pool, value, n_folds=4))
    for column in (found.shapley, found.low, found.high, found.marginal, found.added_last, found.alone):
        assert column[0] == pytest.approx(column[1], abs=1e-12)
    assert found.interaction[0][2:] == pytest.approx(found.interaction[1][2:], abs=1e-12)


def test_the_order_of_the_pool_does_not_matter():
    pool, values = random_values(5, 4, seed=0)
    turned = pool[::-1]
    one = attribute(board(pool, values.get, n_folds=4))
    other = attribute(board(turned, lambda subset: values[tuple(sorted(subset))], n_folds=4))
    assert other.shapley[::-1] == pytest.approx(one.shapley, abs=1e-12)
    assert np.array(other.interaction)[::-1, ::-1] == pytest.approx(np.array(one.interaction), abs=1e-12, nan_ok=True)


def test_mean_marginal_gain_counts_every_subset_the_same():
    pool, values = random_values(4, 3, seed=1)
    found = attribute(board(pool, values.get, n_folds=3), empty=0.5)
    mean = {(): 0.5} | {subset: row.mean() for subset, row in values.items()}
    gains = [mean[tuple(sorted((*subset, "c")))] - mean[subset] for subset in mean if "c" not in subset]
    assert len(gains) == 8
    assert found.marginal[2] == pytest.approx(np.mean(gains), abs=1e-12)


def test_interaction_is_that_of_grabisch_and_roubens():
    pool, values = random_values(5, 2, seed=3)
    found = attribute(board(pool, values.get, n_folds=2), empty=0.5)
    mean = {subset: row.mean() for subset, row in values.items()}
    mean = {(): 0.0} | {subset: 2 * norm.ppf(value) * abs(norm.ppf(value)) for subset, value in mean.items()}
    assert found.additive
    expected = 0.0
    for subset in mean:
        if not {"b", "d"} & set(subset):
            size, m = len(subset), 5
            weight = factorial(m - size - 2) * factorial(size) / factorial(m - 1)

            def v(*more, subset=subset):
                return mean[tuple(sorted((*subset, *more)))]

            expected += weight * (v("b", "d") - v("b") - v("d") + v())
    assert found.interaction[1][3] == found.interaction[3][1] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(np.diag(found.interaction)).all()


def test_intervals_are_corrected_t_intervals_of_the_folds():
    pool, values = random_values(3, 6, seed=4)
    found = attribute(board(pool, values.get, n_folds=6), empty=0.5, confidence=0.9)
    per_fold = [
        by_permutations(pool, {subset: row[fold] for subset, row in values.items()}, 0.5)[1] for fold in range(6)
    ]
    reach = t.ppf(0.95, 5) * corrected_standard_error(per_fold, 80, 20)
    mean = np.mean(per_fold)
    assert (found.low[1], found.shapley[1], found.high[1]) == pytest.approx((mean - reach, mean, mean + reach))
    single = attribute(board(pool, lambda subset: values[subset][:1], n_folds=1))
    assert np.isnan(single.low).all()
    assert np.isfinite(single.shapley).all()


def test_it_says_who_complements_whom_and_who_is_redundant():
    wobble = np.array([0.001, -0.001, 0.002, -0.002, 0.0])

    def value(subset):
        # a and b need each other; c and d know the same.
        known = 1.5 * ({"a", "b"} <= set(subset)) + 0.5 * bool({"c", "d"} & set(subset))
        return norm.cdf(np.sqrt(known / 2)) + wobble

    found = attribute(board("abcd", value))
    assert [(p.first, p.second) for p in (found.pairs[0], found.pairs[-1])] == [("a", "b"), ("c", "d")]
    first, second = found.complements()
    assert first.startswith("a and b complement each other (interaction +1.50")
    assert second.startswith("c and d know much of the same (interaction -0.50")
    frame = found.to_frame()
    assert list(frame.columns) == ["encoder", "shapley", "low", "high", "marginal", "added_last", "alone"]
    assert list(frame["encoder"]) == ["a", "b", "c", "d"]
    assert frame["shapley"].is_monotonic_decreasing
    assert str(found).startswith("Shapley values of AUROC, from 0.5000 to 0.8413: a +0.0880, b +0.0880")
    earlier = found.model_copy(update={"additive": False})  # a run of an earlier version, whose indices saturate
    assert earlier.complements() == ()


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("independent", "add up, as far as these folds can tell"),
        ("redundant", "know much of the same"),
        ("complementary", "complement each other"),
    ],
)
def test_the_sentence_is_right_for_planted_encoders(kind, said, n_classes):
    """AUROC .92 each (but for noise that one encoder knows of another): by AUROC all three would know the same."""
    random = np.random.default_rng(5)
    n, dim = 900, 3
    labels = np.arange(n) % n_classes
    centres = np.eye(dim)[labels] * 2.3
    first, other = (centres + random.normal(size=(n, dim)) for _ in "ab")
    shared = 1.5 * random.normal(size=(n, dim))
    matrices = {
        "independent": {"a": first, "b": other},
        "redundant": {"a": first, "b": first + 0.1 * random.normal(size=(n, dim))},
        "complementary": {"a": first + shared, "b": shared},
    }[kind]
    ids = np.array([f"s{row:03d}" for row in range(n)], dtype=object)
    plan = make_folds(labels, ids=ids.tolist())
    scorer = ClosedFormScorer(
        Blocks(ids=ids, matrices={name: matrix.astype(np.float32) for name, matrix in matrices.items()}),
        labels,
        plan=plan,
        task=Task.natural(n_classes),
        classes=[str(number) for number in range(n_classes)],
    )
    found = attribute(run_search(("a", "b"), Exhaustive(), scorer, workers=1))
    assert said in str(found.pairs[0])
    assert found.complements() == (() if kind == "independent" else (str(found.pairs[0]),))
    of_score = found.full - sum(found.alone) + found.empty
    assert kind == "complementary" or of_score < -0.2  # what was said to show redundancy


def test_scores_at_their_end_say_nothing_of_pairs():
    found = attribute(board("ab", lambda subset: 1.0 if len(subset) > 1 else 0.99))
    assert found.shapley == pytest.approx([0.25, 0.25])
    assert found.complements() == ()
    assert "cannot be told" in str(found.pairs[0])


def test_of_a_loss_the_contribution_is_what_it_saves():
    found = attribute(board("ab", lambda subset: 1.0 - 0.2 * len(subset), metric="log_loss"), empty=1.0)
    assert found.shapley == pytest.approx([0.2, 0.2])
    assert (found.empty, found.full) == pytest.approx((-1.0, -0.6))
    assert "log-loss, from 1.0000 to 0.6000: a +0.2000" in str(found)


def test_guessing_must_be_known():
    leaderboard = board("ab", lambda _: 0.8, metric="accuracy")
    with pytest.raises(SearchError, match="What guessing scores is not known for accuracy"):
        attribute(leaderboard)
    assert sum(attribute(leaderboard, empty=0.6).shapley) == pytest.approx(0.2)
    assert attribute(board("ab", lambda _: 0.8)).empty == 0.5


def test_folds_in_which_a_score_is_undefined_are_left_out():
    pool, values = random_values(3, 4, seed=5)
    holes = {subset: np.append(row, np.nan) for subset, row in values.items()}
    found = attribute(board(pool, holes.get, n_folds=5))
    assert found.n_folds == 4
    assert found.shapley == pytest.approx(attribute(board(pool, values.get, n_folds=4)).shapley)
    with pytest.raises(UndefinedMetricError, match="undefined for some subset in every fold"):
        attribute(board("ab", lambda _: np.nan))


def test_an_incomplete_leaderboard_is_refused():
    pool, values = random_values(4, 5, seed=6)
    with pytest.raises(SearchError, match="all 15 subsets of 4 encoders; 9 are there") as error:
        attribute(board(pool, lambda subset: values[subset] if len(subset) != 2 else None))
    assert "exhaustive" in error.value.remedy


def test_it_is_read_back_from_json_as_it_was():
    pool, values = random_values(3, 1, seed=7)
    found = attribute(board(pool, values.get, n_folds=1))  # one fold has no interval: NaN
    assert np.isnan(found.low).all()
    written = found.model_dump_json()
    assert "NaN" not in written
    assert Attribution.model_validate_json(written) == found


def test_fifteen_encoders_take_a_moment():
    random = np.random.default_rng(0)
    found = attribute(board("abcdefghijklmno", lambda _: random.random(3), n_folds=3))
    assert sum(found.shapley) == pytest.approx(found.full - 0.5)


POOL = ("photo2", "photo", "path2", "path", "xray")
MODALITY = {"photo": "general", "photo2": "general", "path": "pathology", "path2": "pathology", "xray": "radiology"}
WORTH = {"photo": 0.10, "photo2": 0.06, "path": 0.20, "path2": 0.15, "xray": 0.099}


def modal_board(value=None, *, pool=POOL, n_folds=10, metric="auroc", seed=0, noise=0.01):
    random = np.random.default_rng(seed)
    value = value or (lambda subset: 0.5 + sum(WORTH[name] for name in subset) / 1.7)
    rows = []
    for subset in all_subsets(pool):
        mean = value(subset)
        if mean is not None:
            folds = {metric: tuple(mean + noise * random.normal(size=n_folds))}
            rows.append(Row(subset=subset, n_dims=1, folds=folds))
    return Leaderboard(
        encoders=pool, metrics=(metric,), rows=tuple(rows), n_train=(80,) * n_folds, n_test=(20,) * n_folds
    )


def test_every_modality_is_compared_with_the_best_general_purpose_encoder():
    leaderboard = modal_board()
    found = cross_modal(leaderboard, MODALITY)
    assert (found.baseline, found.baseline_modality) == ("photo", "general")
    assert found.baseline_score == leaderboard[("photo",)].mean("auroc")
    lines = {line.name: line for line in found.modalities}
    assert set(lines) == {"pathology", "radiology", "general"}
    pathology = lines["pathology"]
    assert (pathology.encoders, pathology.best) == (("path2", "path"), "path")
    assert pathology.score == leaderboard[("path",)].mean("auroc")

    def difference(one, other):
        return np.subtract(leaderboard[one].folds["auroc"], leaderboard[other].folds["auroc"])

    assert pathology.alone.gain == pytest.approx(difference(("path",), ("photo",)).mean())
    joined = difference(("photo", "path", "path2"), ("photo",))
    gains = [gain for line in found.modalities for gain in (line.alone, line.added)]
    rank = sorted(gain.p_value for gain in gains).index(pathology.added.p_value)
    reach = t.ppf(1 - 0.025 / (6 - rank), 9) * corrected_standard_error(joined, 80, 20)  # Holm's step of six
    assert all((gain.p_holm < 0.05) == (gain.low > 0 or gain.high < 0) for gain in gains)
    assert pathology.added.gain == pytest.approx(joined.mean())
    assert (pathology.added.low, pathology.added.high) == pytest.approx((joined.mean() - reach, joined.mean() + reach))
    assert pathology.added.p_value == pytest.approx(
        2 * t.sf(joined.mean() / corrected_standard_error(joined, 80, 20), 9)
    )
    assert lines["general"].encoders == ("photo2",)
    assert found.modalities[0] is pathology


def test_every_encoder_has_a_line_too():
    leaderboard = modal_board()
    found = cross_modal(leaderboard, MODALITY)
    assert [line.name for line in found.encoders] == ["path", "path2", "xray", "photo2"]
    lines = {line.name: line for line in found.encoders}
    expected = leaderboard[("photo", "xray")].mean("auroc") - leaderboard[("photo",)].mean("auroc")
    assert lines["xray"].added.gain == pytest.approx(expected)
    assert lines["xray"].modality == "radiology"


def test_words_tell_gain_from_noise():
    sentences = {text.split()[2]: text for text in cross_modal(modal_board(noise=0.004), MODALITY).sentences}
    assert sentences["pathology"].startswith(
        "The best pathology encoder, path, scores better than photo by itself (+0."
    )
    assert "; photo joined by all 2 pathology encoders scores better than photo without (+" in sentences["pathology"]
    assert "xray, differs from photo by itself by no more than noise (" in sentences["radiology"]
    assert "joined by it scores better" in sentences["radiology"]
    assert "photo2, scores worse than photo by itself (-0.0" in sentences["general"]
    assert str(cross_modal(modal_board(), MODALITY)).startswith("photo (general) by itself: mean AUROC 0.5")


def test_on_noise_no_modality_gains_anything():
    false = 0
    for seed in range(40):
        found = cross_modal(modal_board(lambda _: 0.7, seed=seed), MODALITY)
        false += any(not gain.noise for line in found.modalities for gain in (line.alone, line.added))
    assert false <= 4  # at a level of 5 %, over all gains of a table together


def test_several_gains_are_corrected_together():
    found = cross_modal(modal_board(), MODALITY)
    for lines in (found.modalities, found.encoders):
        gains = [gain for line in lines for gain in (line.alone, line.added)]
        least = min(gains, key=lambda gain: gain.p_value)
        assert least.p_holm == pytest.approx(min(1.0, len(gains) * least.p_value))


def test_a_baseline_may_be_named():
    found = cross_modal(modal_board(), MODALITY, baseline="path2")
    assert (found.baseline, found.baseline_modality) == ("path2", "pathology")
    lines = {line.name: line for line in found.modalities}
    assert lines["pathology"].encoders == ("path",)
    assert lines["general"].encoders == ("photo2", "photo")
    with pytest.raises(SearchError, match="no encoder 'dino'"):
        cross_modal(modal_board(), MODALITY, baseline="dino")


def test_subsets_that_were_not_scored_leave_a_gap():
    found = cross_modal(modal_board(lambda subset: 0.7 if len(subset) < 3 else None), MODALITY)
    lines = {line.name: line for line in found.modalities}
    assert lines["pathology"].added is None
    assert lines["radiology"].added is not None
    assert "joined" not in str(lines["pathology"])
    frame = found.to_frame().set_index("name")
    assert np.isnan(frame.loc["pathology", "added"])
    assert frame.loc["radiology", "added"] == lines["radiology"].added.gain


def test_the_table_has_a_row_per_modality_and_per_encoder():
    found = cross_modal(modal_board(), MODALITY)
    frame = found.to_frame()
    assert list(frame["kind"]) == ["modality"] * 3 + ["encoder"] * 4
    columns = ["alone", "alone_low", "alone_high", "alone_p", "added", "added_low", "added_high", "added_p"]
    assert list(frame.columns) == ["kind", "name", "modality", "encoders", "best", "score", *columns]
    assert frame.loc[0, "alone_p"] == found.modalities[0].alone.p_holm


def test_of_a_loss_a_gain_is_what_it_saves():
    found = cross_modal(modal_board(lambda subset: 1 - sum(WORTH[n] for n in subset), metric="log_loss"), MODALITY)
    assert found.baseline == "photo"
    assert found.modalities[0].name == "pathology"
    assert found.modalities[0].alone.gain == pytest.approx(0.1, abs=0.02)


def test_a_single_split_has_gains_but_tells_nothing_from_noise():
    found = cross_modal(modal_board(n_folds=1), MODALITY)
    gain = found.modalities[0].alone
    assert gain.noise
    assert np.isnan(gain.low)
    assert "from too few folds for an interval" in found.sentences[0]


def test_a_pool_without_a_general_purpose_encoder_needs_a_baseline():
    pool = ("path", "path2", "xray")
    leaderboard = modal_board(pool=pool)
    with pytest.raises(SearchError, match=r"no encoder of modality 'general'.*it has pathology, radiology") as error:
        cross_modal(leaderboard, MODALITY)
    assert "Name a baseline" in error.value.remedy
    assert cross_modal(leaderboard, MODALITY, baseline="path2").baseline == "path2"
    assert cross_modal(leaderboard, MODALITY, general="radiology").baseline == "xray"


def test_what_cannot_be_compared_is_said():
    with pytest.raises(SearchError, match="The modality of xray is not given"):
        cross_modal(modal_board(), {name: kind for name, kind in MODALITY.items() if name != "xray"})
    with pytest.raises(SearchError, match="xray was not scored by itself"):
        cross_modal(modal_board(lambda subset: None if subset == ("xray",) else 0.7), MODALITY)
    with pytest.raises(SearchError, match="photo is the only encoder"):
        cross_modal(modal_board(pool=("photo",)), MODALITY)


def test_a_gain_is_the_paired_difference_over_folds_in_which_both_are_defined():
    leaderboard = modal_board(n_folds=4)
    row, against = leaderboard[("path",)], leaderboard[("photo",)]
    holes = replace(row, folds={"auroc": (float("nan"), *row.folds["auroc"][1:])})
    gain = paired_gain(leaderboard, holes, against)
    assert gain.gain == pytest.approx(np.subtract(row.folds["auroc"], against.folds["auroc"])[1:].mean())
    assert str(gain).startswith("path against photo: a gain (+0.0")
    same = paired_gain(leaderboard, row, row)
    assert (same.gain, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    steady = replace(row, folds={"auroc": tuple(v + 0.25 for v in (0.5, 0.5, 0.25, 0.5))})
    flat = replace(row, folds={"auroc": (0.5, 0.5, 0.25, 0.5)})
    assert paired_gain(leaderboard, steady, flat).p_value == 0
