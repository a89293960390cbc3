"""The model card: front matter as the hub reads it, and everything a user must know below it."""

from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from biofuse.model.card import model_card

RUN = {
    "counts": {"train": {"flat": 5, "rough": 6, "wild": 7}, "test": {"flat": 2, "rough": 2, "wild": 1}},
    "encoders": [{"card": {"name": name}} for name in ("hog", "haralick", "lbp")],
    "head": "logistic",
    "environment": {"python": "3.11", "libraries": {"numpy": "2.0", "absent": None}},
    "started": "2026-01-01T00:00:00Z", "key": "abc", "options": {"seed": 7},
}  # fmt: skip


def scores(auroc, encoders):
    return {
        "encoders": encoders, "metrics": {"auroc": auroc, "accuracy": 0.8, "balanced_accuracy": None},
        "intervals": {"auroc": {"low": 0.7, "high": 0.95}, "accuracy": {"low": None, "high": None}},
        "undefined": {"balanced_accuracy": "Class wild does not occur."},
    }  # fmt: skip


METRICS = {
    "n": 5, "split": "test", "quarantined": 1,
    "models": {"chosen": scores(0.9, ["hog", "haralick"]), "best_single": scores(0.85, ["hog"])},
    "comparisons": {"best_single": {"sentence": "chosen and best_single differ by no more than noise."}},
    "operating": {"sentences": ["wild: sensitivity 0.900 at 0.5, by default."]},
    "leak": {"samples": 2, "groups": 0},
}  # fmt: skip


@pytest.fixture
def model(made):
    facts = made.model.facts | {"data": "breastmnist_224"}
    return replace(made.model, facts=facts)


def test_the_hub_library_reads_the_front_matter(model):
    data = ModelCard(model_card(model, run=RUN, metrics=METRICS)).data
    assert data.license == "bsd-3-clause"
    assert data.library_name == "biofuse"
    assert data.pipeline_tag == "image-classification"
    assert {"biofuse", "multiclass"} <= set(data.tags)
    assert data.metrics == ["roc_auc", "accuracy"]
    results = {result.metric_type: result for result in data.eval_results}
    assert results["roc_auc"].metric_value == 0.9
    assert results["accuracy"].metric_value == 0.8
    assert results["roc_auc"].dataset_name == "breastmnist_224"
    assert results["roc_auc"].dataset_split == "test"


def test_mixed_licences_are_other_and_named(model):
    cards = (model.cards[0].model_copy(update={"licence": "Lab terms"}), *model.cards[1:])
    text = model_card(replace(model, cards=cards))
    data = ModelCard(text).data
    assert data.license == "other"
    assert data.license_name == "bsd-3-clause-and-lab-terms"
    assert "Lab terms" in text


def test_it_says_what_it_is_for_and_what_not(model):
    text = model_card(model, run=RUN, metrics=METRICS, repository="me/mine")
    assert "**Not for clinical use**" in text
    assert 'BioFuseModel.from_pretrained("me/mine")' in text
    for heading in ("Intended use", "Task and data", "Encoders", "Test scores", "Limits", "Licence", "Citation"):
        assert f"\n## {heading}\n" in text


def test_data_scores_and_encoders_are_those_of_the_run(model):
    text = model_card(model, run=RUN, metrics=METRICS)
    assert "| flat | 5 | 2 |" in text
    assert "| **chosen** | hog + haralick | 0.9000 (0.7000 to 0.9500) | 0.8000 | undefined |" in text
    assert "| best single encoder | hog | 0.8500 (0.7000 to 0.9500) | 0.8000 | undefined |" in text
    assert "differ by no more than noise" in text
    assert "wild: sensitivity 0.900 at 0.5, by default." in text
    for card in model.cards:
        assert f"| {card.title} | {card.modality} | {card.licence} | yes | computed, no weights |" in text
        assert card.fingerprint() in text
    assert "Seed: 7" in text
    assert "numpy 2.0" in text
    assert "absent" not in text


def test_a_model_with_several_names_has_one_row(model):
    chosen = scores(0.9, ["hog", "haralick"])
    models = METRICS["models"] | {
        "chosen": {**chosen, "same": ["all", "greedy"]},
        "all": {**chosen, "same": ["chosen", "greedy"]},
        "greedy": {**chosen, "same": ["chosen", "all"]},
    }
    text = model_card(model, run=RUN, metrics=METRICS | {"models": models})
    assert "| **chosen** = all encoders = greedy path | hog + haralick |" in text
    assert text.count("| hog + haralick |") == 1


def test_encoders_with_weights_are_named_with_repository_and_revision(model):
    from biofuse.encoders.registry import list_cards

    uni = next(card for card in list_cards() if card.name == "uni")
    text = model_card(replace(model, cards=(uni, *model.cards)))
    assert f"| {uni.weights.repository} | {uni.weights.revision} |" in text
    data = ModelCard(text).data
    assert data.license == "cc-by-nc-nd-4.0"
    assert data.base_model in (uni.weights.repository, [uni.weights.repository])
    assert "**The combined model must not be used commercially: the licence of uni (CC-BY-NC-ND-4.0)" in text


def test_limits_name_leaks_losses_and_contamination(model):
    card = model.cards[0].model_copy(update={"overlaps": {"breastmnist": "trained on BUSI", "octmnist": "no matter"}})
    text = model_card(replace(model, cards=(card, *model.cards[1:])), run=RUN, metrics=METRICS)
    assert "2 of the 5 test images are also among the development data" in text
    assert "1 test images could not be read" in text
    assert "balanced accuracy is undefined: Class wild does not occur." in text
    assert f"{card.title} may have been trained on these images (trained on BUSI)" in text
    assert "no matter" not in text


def test_without_run_and_scores_it_says_that_it_does_not_know(model):
    text = model_card(model)
    assert "Not evaluated on test data." in text
    assert "how well it does is not known" in text
    assert ModelCard(text).data.eval_results is None


def test_names_from_outside_stay_text(model):
    model = replace(model, classes=("a|b", "<b>x", "c\nd"), facts=model.facts | {"data": "my: 'data'\n---\n<script>"})
    text = model_card(model, run=RUN | {"counts": {"train": {"a|b": 1}}})
    assert "| a\\|b | 1 |" in text
    assert "| &lt;b>x | 0 |" in text
    assert "| c d | 0 |" in text
    assert "<script>" not in text.partition("\n# ")[2]
    assert ModelCard(text).data.library_name == "biofuse"
