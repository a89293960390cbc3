"""Options of a search go together, or are refused."""

import pytest

from biofuse.core.errors import SearchError, option
from biofuse.search.config import PRESETS, SearchConfig


def test_the_defaults_are_those_of_the_design():
    config = SearchConfig()
    assert (config.search, config.fusion, config.scaling) == ("screen", "concatenation", "none")
    assert (config.predictor, config.head, config.finalists) == ("mean", "auto", 16)
    assert (config.select, config.folds, config.repeats) == ("cv", 5, 2)
    assert (config.rule, config.metric) == ("inclusive", "auroc")
    assert (config.max_encoders, config.max_latency, config.commercial_only) == (None, None, False)


def test_the_paper_preset_is_the_published_protocol():
    config = SearchConfig(preset="paper")
    assert config.model_dump(include=set(PRESETS["paper"])) == PRESETS["paper"]
    assert (config.search, config.select, config.rule, config.metric) == (
        "exhaustive", "holdout", "first_best", "accuracy",
    )  # fmt: skip
    assert (config.fusion, config.scaling, config.predictor, config.head) == (
        "concatenation", "none", "fused", "xgboost",
    )  # fmt: skip
    assert config.preset == "paper"


def test_an_option_given_beside_a_preset_wins():
    config = SearchConfig(preset="paper", head="ridge", select="cv")
    assert (config.head, config.select, config.rule) == ("ridge", "cv", "first_best")


@pytest.mark.parametrize(
    ("options", "predictor"),
    [
        ({"head": "ridge"}, "fused"),
        ({"head": "xgboost"}, "fused"),
        ({"fusion": "pca"}, "fused"),
        ({"head": "ridge", "predictor": "mean"}, "mean"),
        ({"head": "auto", "fusion": "Concatenation", "scaling": "block"}, "mean"),
        ({"preset": "paper", "head": "auto"}, "fused"),
    ],
    ids=str,
)
def test_who_names_a_head_or_another_fusion_gets_it(options, predictor):
    assert SearchConfig(**options).predictor == predictor


def test_hold_out_takes_a_rule_that_one_split_can_have():
    assert SearchConfig(select="holdout").rule == "first_best"
    assert SearchConfig(select="holdout", rule="best").rule == "best"
    assert SearchConfig(select="nested").rule == "inclusive"


def test_nested_selection_cross_validates():
    assert [SearchConfig(select=each).cross_validates for each in ("cv", "nested", "holdout")] == [True, True, False]


@pytest.mark.parametrize(
    ("options", "words", "remedy"),
    [
        ({"predictor": "ensemble", "search": "all"}, "An ensemble averages several", option("search", "screen")),
        ({"predictor": "mean", "head": "knn"}, "averages the linear heads.*and not knn", option("predictor", "fused")),
        ({"predictor": "mean", "fusion": "pca"}, "fusion pca would not be used", option("predictor", "fused")),
        ({"select": "holdout", "rule": "one_se"}, "one_se needs cross-validation", option("select", "cv")),
        ({"preset": "paper", "rule": "one_se"}, "one_se needs cross-validation", option("select", "cv")),
        ({"preset": "thesis"}, "`preset=` cannot be .thesis.*paper", ""),
        ({"search": "random"}, "`search=` cannot be 'random'.*screen.*exhaustive", ""),
        ({"predictor": "vote"}, "`predictor=` cannot be 'vote'.*stacking", ""),
        ({"select": "loo"}, "`select=` cannot be 'loo'.*nested", ""),
        ({"finalists": 0}, "`finalists=` cannot be 0", ""),
        ({"max_encoders": 0}, "`max_encoders=` cannot be 0", ""),
        ({"max_latency": 0}, "`max_latency=` cannot be 0", ""),
        ({"folds": 1, "repeats": 0}, r"(?s)`folds=` cannot be 1.*`repeats=` cannot be 0", ""),
        ({"colour": "blue"}, "colour", ""),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_by_name(options, words, remedy):
    with pytest.raises(SearchError, match=words) as caught:
        SearchConfig(**options)
    assert remedy in (caught.value.remedy or "")


def test_a_chosen_head_is_told_from_what_was_asked_for():
    asked = SearchConfig()
    assert asked.with_head("lda").head == "lda"
    assert asked.head == "auto"


@pytest.mark.parametrize(("asked", "name"), [("auc", "auroc"), ("ROC AUC", "auroc"), ("ACC", "accuracy")])
def test_a_metric_may_have_the_name_that_the_field_has_for_it(asked, name):
    assert SearchConfig(metric=asked).metric == name


@pytest.mark.parametrize(
    ("asked", "said"), [("f1", "subsets are not chosen by it"), ("aurocc", "Did you mean 'auroc'")]
)
def test_a_metric_that_is_not_chosen_by_is_refused(asked, said):
    with pytest.raises(SearchError, match=said):
        SearchConfig(metric=asked)
