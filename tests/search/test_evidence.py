import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from biofuse.core.errors import DataError
from biofuse.core.target import Task
from biofuse.search import evidence as nested
from biofuse.search.evidence import Evidence, gather_evidence, nested_cv
from biofuse.search.rules import Budget
from biofuse.search.runner import RefitScorer, SearchContext

PLANTED = ("a", "b", "c", "d")


@pytest.fixture
def weighed(posed, searched):
    def make(embeddings, *, cards=None, budget=None, **options):
        options = {"head": "ridge", **options}
        search = searched(embeddings, budget=budget, **options)
        problem = posed(embeddings, **options)
        return search, gather_evidence(
            problem, search, cards or embeddings.cards, context=SearchContext(workers=1), budget=budget or Budget()
        )

    return make


def test_contributions_add_up_to_what_all_encoders_gain_over_guessing(plant, weighed):
    search, evidence = weighed(plant())
    found, everything = evidence.attribution, search.screen.leaderboard[PLANTED].mean("auroc")
    assert found.encoders == PLANTED
    assert found.empty == 0.5
    assert found.full == pytest.approx(everything)
    assert sum(found.shapley) == pytest.approx(everything - 0.5, abs=1e-9)
    order = [PLANTED[place] for place in np.argsort(np.negative(found.shapley))]
    assert set(order[:2]) == {"a", "b"}


def test_guessing_scores_the_majority_share_where_accuracy_counts(plant, weighed):
    embeddings = plant(task=Task.ORDINAL)  # half of the rows are of the middle class
    _, evidence = weighed(embeddings, metric="accuracy")
    assert evidence.attribution.empty == 0.5
    assert sum(evidence.attribution.shapley) == pytest.approx(evidence.attribution.full - 0.5, abs=1e-9)


def test_contributions_need_the_score_of_every_subset(plant, weighed):
    assert weighed(plant(), search="greedy")[1].attribution is None
    assert weighed(plant(), search="all")[1].attribution is None
    search, evidence = weighed(plant(), search="exhaustive")
    assert evidence.attribution.full == search.leaderboard[PLANTED].mean("auroc")


def test_optimism_repeats_the_choice_over_every_subset_that_was_scored(plant, weighed):
    search, evidence = weighed(plant(), folds=3)
    assert evidence.optimism.n_subsets == 15
    assert evidence.optimism.chosen == search.screen.choice.subset
    assert evidence.optimism.apparent == pytest.approx(search.screen.choice.mean("auroc"))
    assert (evidence.optimism.rule, evidence.optimism.metric, evidence.optimism.unit) == ("one_se", "auroc", "samples")
    thorough = weighed(plant(), search="exhaustive", folds=3)
    assert thorough[1].optimism.chosen == thorough[0].chosen
    walked = weighed(plant(), search="greedy")
    assert walked[1].optimism.n_subsets == len(walked[0].leaderboard) < 15
    assert weighed(plant(), search="all")[1].optimism is None  # there was nothing to choose from


def test_optimism_draws_groups_where_there_are_groups_and_chooses_what_may_be_chosen(plant, weighed):
    groups = [f"p{row // 4}" for row in range(48)]
    _, evidence = weighed(plant(groups=groups), budget=Budget(max_encoders=1))
    assert (evidence.optimism.unit, evidence.optimism.n_units) == ("groups", 12)
    assert evidence.optimism.n_subsets == 4
    assert {len(subset) for subset in evidence.optimism.picked} == {1}


def test_a_validation_split_has_evidence_too(plant, weighed):
    _, evidence = weighed(plant(val=20), select="holdout")
    assert evidence.optimism.rule == "first_best"
    assert sum(evidence.attribution.shapley) == pytest.approx(evidence.attribution.full - 0.5, abs=1e-9)
    assert np.isnan(evidence.attribution.low).all()
    content = json.loads(evidence.model_dump_json())
    assert content["attribution"]["low"] == [None] * 4  # one split has no interval


def test_the_gain_over_general_purpose_encoders_is_told_where_there_are_any(plant, weighed):
    embeddings = plant()
    assert weighed(embeddings)[1].modality is None
    modality = {"a": "pathology", "b": "general", "c": "general", "d": "radiology"}
    cards = [card.model_copy(update={"modality": modality[card.name]}) for card in embeddings.cards]
    search, evidence = weighed(embeddings, cards=cards)
    singles = {row.subset[0]: row.mean("auroc") for row in search.screen.leaderboard.singles}
    assert evidence.modality.baseline == max(("b", "c"), key=singles.get)
    assert evidence.modality.baseline_score == pytest.approx(singles[evidence.modality.baseline])
    assert {line.name for line in evidence.modality.modalities} >= {"pathology", "radiology"}
    general = [card.model_copy(update={"modality": "general"}) for card in embeddings.cards]
    assert weighed(embeddings, cards=general)[1].modality is None


def test_what_is_said_is_what_there_is():
    assert Evidence().sentences() == []


ONE = SearchContext(workers=1)


@pytest.fixture
def inner(monkeypatch):
    """Collect the searches that are run inside the outer folds, and what is scored afterwards."""
    seen = []
    run, scored = nested.run, nested._scores

    def watched(problem, runtime, *, budget):
        seen.append([problem, runtime])
        return run(problem, runtime, budget=budget)

    def watched_scores(problem, inside, search, held):
        seen[-1] += [search, held]
        return scored(problem, inside, search, held)

    monkeypatch.setattr(nested, "run", watched)
    monkeypatch.setattr(nested, "_scores", watched_scores)
    return seen


@pytest.mark.parametrize("units", ["rows", "groups and copies"])
def test_what_an_outer_fold_holds_out_is_never_in_its_search(plant, posed, inner, units):
    groups = contents = None
    if units != "rows":
        groups = [f"p{row // 4}" for row in range(48)]
        contents = [f"image {0 if row in (0, 44) else row}" for row in range(48)]
    embeddings = plant(groups=groups, contents=contents)
    problem = posed(embeddings, head="ridge", select="nested", folds=3)
    found = nested_cv(problem, ONE, budget=Budget())
    rows = {name: each for each, name in enumerate(problem.samples.ids)}
    held_out = []
    for part, _, _, held in inner:
        held_out += held.tolist()
        # By id, by image, by patient, and by what the embeddings themselves hold.
        inside = [rows[name] for name in part.samples.ids]
        assert not set(inside) & set(held.tolist())
        assert len(inside) + len(held) == 48
        contents = part.samples.contents
        assert not np.isin(contents, problem.samples.contents[held]).any()
        np.testing.assert_array_equal(contents, embeddings.contents[inside])
        assert list(part.blocks.ids) == list(part.plan.ids) == list(part.samples.ids)
        assert part.labels.tolist() == problem.labels[inside].tolist()
        for name in part.blocks:
            np.testing.assert_array_equal(part.blocks[name], problem.blocks[name][inside])
        if groups is not None:
            assert not {groups[row] for row in inside} & {groups[row] for row in held}
            assert {0, 1, 2, 3, 44, 45, 46, 47} <= set(inside) or not {0, 1, 2, 3, 44, 45, 46, 47} & set(inside)
    assert sorted(held_out) == list(range(48))
    assert found.picked == tuple(search.chosen for _, _, search, _ in inner)


def test_without_a_search_it_is_cross_validation(plant, posed, searched):
    """All encoders, one head, nothing to choose: the scores of the leaderboard, found another way."""
    embeddings = plant()
    for metric in ("auroc", "accuracy"):
        options = {"head": "ridge", "search": "all", "folds": 4, "metric": metric}
        found = nested_cv(posed(embeddings, select="nested", **options), ONE, budget=Budget())
        plain = searched(embeddings, **options).leaderboard
        assert found.folds["chosen"] == pytest.approx(plain.rows[0].folds[metric], abs=1e-9)
        assert found.folds["all"] == found.folds["chosen"]
        assert "best_single" not in found.folds
        assert found.mean == pytest.approx(plain.rows[0].mean(metric), abs=1e-9)


def test_what_each_inner_search_chose_is_fitted_on_its_own_rows_and_scored_on_the_held_out_ones(plant, posed, inner):
    from sklearn.metrics import roc_auc_score

    problem = posed(plant(task=Task.BINARY, seed=1), head="ridge", select="nested", folds=3)
    found = nested_cv(problem, ONE, budget=Budget())
    for fold, (part, _, search, held) in enumerate(inner):
        fit = nested.fit_predictors(part, search, part.fitted_rows, threads=1)
        for name in ("chosen", "best_single", "all"):
            values = fit[name].decision(problem.blocks.take(held))[:, 1]
            assert found.folds[name][fold] == pytest.approx(roc_auc_score(problem.labels[held], values), abs=1e-12)
        assert fit["chosen"].encoders == search.chosen


def test_the_interval_is_that_of_overlapping_training_sets(plant, posed):
    found = nested_cv(posed(plant(seed=2), head="ridge", select="nested", folds=4), ONE, budget=Budget())
    values = np.array(found.folds["chosen"])
    assert len(values) == 4
    error = np.sqrt((1 / 4 + 12 / 36) * values.var(ddof=1))  # Nadeau and Bengio (2003)
    reach = t.ppf(0.975, 3) * error
    ends = np.clip([values.mean() - reach, values.mean() + reach], 0, 1)
    assert (found.low, found.high) == pytest.approx(tuple(ends), abs=1e-12)


def test_choosing_among_noise_looks_good_only_to_the_search_itself(plant, posed, searched):
    apparent, honest = [], []
    for seed in range(2):
        embeddings = plant(40, task=Task.BINARY, noise=True, seed=seed)
        options = {"head": "ridge", "rule": "best", "finalists": 1}
        apparent.append(searched(embeddings, **options).selection.chosen.mean("auroc"))
        honest.append(nested_cv(posed(embeddings, select="nested", **options), ONE, budget=Budget()).mean)
    assert np.mean(apparent) > 0.55
    assert np.mean(honest) < np.mean(apparent) - 0.05


def test_limits_bind_the_inner_choices_too(plant, posed):
    problem = posed(plant(), head="ridge", select="nested")
    found = nested_cv(problem, ONE, budget=Budget(max_encoders=1))
    assert {len(subset) for subset in found.picked} == {1}


def test_what_is_said_holds_the_numbers_and_the_choices(plant, posed):
    found = nested_cv(posed(plant(), head="ridge", select="nested", folds=3), ONE, budget=Budget())
    said = str(found)
    assert f"in each of 3 outer folds: mean AUROC {found.mean:.4f}" in said
    assert f"({found.low:.4f} to {found.high:.4f})" in said.replace("95 % interval ", "")
    for name in ("best_single", "all"):
        assert f"{np.mean(found.folds[name]):.4f} for" in said
    assert all("+".join(subset) in said for subset in found.picked)
    once = str(found.model_copy(update={"picked": (("a", "b"),) * 3}))
    assert "It chose 1 different subset: a+b." in once


def test_outer_scores_are_the_same_however_rows_are_ordered(plant, posed):
    embeddings = plant()
    order = np.random.default_rng(0).permutation(48)
    shuffled = replace(
        embeddings,
        samples=embeddings.samples.take(order),
        blocks=embeddings.blocks.take(order),
    )
    one, two = (
        nested_cv(posed(each, head="ridge", select="nested"), ONE, budget=Budget()) for each in (embeddings, shuffled)
    )
    assert one.picked == two.picked
    assert one.folds["chosen"] == pytest.approx(two.folds["chosen"], abs=1e-9)


def test_a_stopped_nested_search_goes_on_in_folders_of_its_own(plant, posed, tmp_path, monkeypatch):
    problem = posed(plant(), head="ridge", select="nested")
    first = nested_cv(problem, SearchContext(folder=tmp_path, workers=1), budget=Budget())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nested-1", "nested-2"]
    monkeypatch.setattr(RefitScorer, "score_fold", lambda *_: pytest.fail("scored again"))
    second = nested_cv(problem, SearchContext(folder=tmp_path, workers=1), budget=Budget())
    assert second.folds == first.folds


def test_too_few_samples_for_inner_folds_are_refused(plant, posed):
    problem = posed(plant(8), head="ridge", select="nested")  # two of each class: one is left inside
    with pytest.raises(DataError, match="class"):
        nested_cv(problem, ONE, budget=Budget())
