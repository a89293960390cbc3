import json

import numpy as np
import pytest

from biofuse.core.target import Task
from biofuse.search.evidence import Evidence, gather_evidence
from biofuse.search.rules import Budget
from biofuse.search.runner import SearchContext

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


def test_the_run_keeps_it_as_plain_json(fitted):
    record = json.loads((fitted.path / "run.json").read_text(), parse_constant=pytest.fail)
    kept = record["evidence"]
    assert kept == json.loads(fitted.evidence.model_dump_json())
    assert Evidence.model_validate(kept) == fitted.evidence
    attribution = kept["attribution"]
    assert attribution["encoders"] == ["t_colour", "t_spread", "t_edge"]
    assert sum(attribution["shapley"]) == pytest.approx(attribution["full"] - attribution["empty"], abs=1e-9)
    screen = fitted.screen[("t_colour", "t_spread", "t_edge")]
    assert attribution["full"] == pytest.approx(screen.mean("auroc"))
    optimism = kept["optimism"]
    assert optimism["apparent"] == pytest.approx(fitted.search.screen.choice.mean("auroc"))
    assert optimism["low"] <= optimism["corrected"] <= optimism["high"]
    assert optimism["n_subsets"] == 7
    assert all(name.split("+") for name in optimism["picked"])
    assert sum(optimism["picked"].values()) <= 1 + 1e-9
    assert kept["nested"] is kept["modality"] is None


def test_what_is_said_is_what_there_is():
    assert Evidence().sentences() == []
