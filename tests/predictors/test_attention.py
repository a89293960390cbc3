from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.metrics import log_loss, roc_auc_score

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.pooling import Bags
from biofuse.core.errors import ArtifactError, DataError, SearchError
from biofuse.core.target import MISSING, Target, Task
from biofuse.predictors.attention import DECAY, RATE, AdamW, AttentionPredictor, fit_attention, images_of
from biofuse.predictors.fused import fit_predictor

DIMS = {"wide": 40, "narrow": 3, "middle": 11}
TASKS = [(Task.BINARY, 2), (Task.MULTICLASS, 3), (Task.ORDINAL, 3), (Task.MULTILABEL, 3)]


def make_bags(sizes: np.ndarray, images: dict[str, np.ndarray]) -> Blocks:
    bags = Bags(matrices=images, starts=np.cumsum(sizes) - sizes, sizes=sizes)
    ids = np.random.default_rng(len(sizes)).permutation([f"case {i}" for i in range(len(sizes))]).astype(object)
    return Blocks(ids=ids, matrices=bags.pooled("mean"), bags=bags)


def make_data(
    n: int = 60, *, task: Task = Task.MULTICLASS, n_classes: int = 3, most: int = 9, size: float = 6, seed: int = 0
):
    """One image of a bag, somewhere in it, says what the bag is, and differs from all others, which are noise."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes).astype(np.int64)
    if task is Task.MULTILABEL:
        labels = rng.integers(0, 2, (n, n_classes))
    sizes = rng.integers(1, most, n)
    decides = np.cumsum(sizes) - sizes + rng.integers(0, sizes)
    codes = labels if labels.ndim == 2 else np.eye(n_classes)[labels]
    images = {}
    for name, dim in DIMS.items():
        matrix = rng.standard_normal((int(sizes.sum()), dim))
        means = size * np.random.default_rng(dim).standard_normal((n_classes, dim))
        matrix[decides] += codes @ means + 3
        images[name] = matrix.astype(np.float32)
    return make_bags(sizes, images), labels, decides


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_is_gated_attention_as_published_and_its_margins_are_the_sum_over_images(
    task: Task, n_classes: int, kept
) -> None:
    blocks, labels, _ = make_data(task=task, n_classes=n_classes)
    new, _, _ = make_data(12, task=task, n_classes=n_classes, seed=3)
    fitted = fit_attention(blocks, labels, target=Target.numbered(task, n_classes))
    inside = np.clip(fitted.reduction.transform(images_of(new)), *fitted.limits)
    reduced = torch.from_numpy(inside.astype(np.float64))
    parts = {name: torch.from_numpy(array) for name, array in fitted.networks.arrays().items()}
    margins = []
    for bag in torch.split(reduced, new.bags.sizes.tolist()):
        of_networks = []
        for k in range(len(parts["score"])):  # AMLab-Amsterdam/AttentionDeepMIL, class GatedAttention, of one layer
            gated = torch.tanh(bag @ parts["value"][k] + parts["value_bias"][k]) * torch.sigmoid(
                bag @ parts["gate"][k] + parts["gate_bias"][k]
            )
            weights = torch.softmax(gated @ parts["score"][k], dim=0)
            of_networks.append(weights @ bag @ parts["coef"][k] + parts["intercept"][k])
        margins.append(torch.stack(of_networks).mean(dim=0).numpy())
    by_hand = np.stack(margins)
    found = fitted.attend(new)
    np.testing.assert_allclose(found.margins, by_hand, atol=1e-5)
    starts = np.cumsum(found.sizes) - found.sizes
    np.testing.assert_allclose(np.add.reduceat(found.weights, starts), 1)
    added = np.add.reduceat(found.contributions, starts, axis=0) + fitted.networks.intercept.mean(axis=0)
    np.testing.assert_allclose(found.margins, added, atol=1e-9)
    if task is Task.BINARY:
        expected = np.hstack([expit(-by_hand), expit(by_hand)])
    else:
        expected = expit(by_hand) if task is Task.MULTILABEL else softmax(by_hand, axis=1)
    np.testing.assert_allclose(fitted.predict_proba(new), expected, atol=1e-5)
    kept.check_round_trip(fitted, new)


@pytest.mark.slow
def test_finds_the_image_that_decides_where_the_mean_drowns_it() -> None:
    options = {"task": Task.BINARY, "n_classes": 2, "most": 60, "size": 0.5}
    (blocks, labels, _), (new, truth, decides) = make_data(80, **options), make_data(200, seed=5, **options)
    target = Target.numbered(Task.BINARY, 2)
    attention = fit_attention(blocks, labels, target=target)
    mean = fit_predictor(blocks, labels, head="ridge", target=target)
    by_attention, by_mean = (roc_auc_score(truth, each.decision(new)[:, 1]) for each in (attention, mean))
    assert by_attention > 0.99 > by_mean + 0.02
    found = attention.attend(new)
    starts = np.cumsum(found.sizes) - found.sizes
    largest = [
        start + found.weights[start : start + size].argmax() for start, size in zip(starts, found.sizes, strict=True)
    ]
    assert np.mean(largest == decides) > 0.95
    assert max(attention.steps) > 0


def test_steps_are_those_of_torchs_adamw() -> None:
    start = {name: torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) for name in ("coef", "intercept")}
    ours = {name: part.clone().requires_grad_() for name, part in start.items()}
    theirs = {name: part.clone().requires_grad_() for name, part in start.items()}
    optimiser = AdamW(ours, decayed=["coef"])
    reference = torch.optim.AdamW(
        [{"params": [theirs["coef"]], "weight_decay": DECAY}, {"params": [theirs["intercept"]], "weight_decay": 0.0}],
        lr=RATE,
    )
    for _ in range(20):
        for parts in (ours, theirs):
            (parts["coef"].sin() * parts["intercept"]).sum().backward()
        optimiser.step()
        reference.step()
        reference.zero_grad()
    for name, part in ours.items():
        torch.testing.assert_close(part, theirs[name])


def test_where_labels_are_noise_it_is_hardly_surer_than_mean_pooling() -> None:
    rng, target = np.random.default_rng(0), Target.numbered(Task.BINARY, 2)
    (blocks, _, _), (new, _, _) = make_data(80), make_data(200, seed=1)
    labels, truth = rng.integers(0, 2, 80), rng.integers(0, 2, 200)
    attention = fit_attention(blocks, labels, target=target)
    mean = fit_predictor(blocks, labels, head="ridge", target=target)
    surplus = log_loss(truth, attention.predict_proba(new)) - log_loss(truth, mean.predict_proba(new))
    assert surplus < 0.05
    assert np.median(attention.steps) < 10


def test_order_of_samples_and_encoders_changes_nothing_and_weights_follow_their_rows() -> None:
    blocks, labels, _ = make_data()
    weights = np.random.default_rng(0).uniform(0.5, 2, 60)
    options = {"target": Target.numbered(Task.MULTICLASS, 3), "groups": [f"patient {i % 30}" for i in range(60)]}
    plain = fit_attention(blocks, labels, encoders=["wide", "narrow"], sample_weight=weights, **options)
    order = np.random.default_rng(1).permutation(60)
    options["groups"] = [options["groups"][row] for row in order]
    again = fit_attention(
        blocks.take(order), labels[order], encoders=["narrow", "wide"], sample_weight=weights[order], **options
    )
    assert np.array_equal(again.predict_proba(blocks), plain.predict_proba(blocks))
    other = fit_attention(blocks.take(order), labels[order], encoders=["narrow", "wide"], **options)
    assert not np.array_equal(other.predict_proba(blocks), plain.predict_proba(blocks))


def test_an_image_far_outside_what_was_trained_on_does_not_decide_alone() -> None:
    blocks, labels, _ = make_data()
    fitted = fit_attention(blocks, labels, target=Target.numbered(Task.MULTICLASS, 3))
    odd = {name: matrix.copy() for name, matrix in blocks.bags.matrices.items()}
    odd["middle"][0] = 1e6
    found = fitted.attend(replace(blocks, bags=replace(blocks.bags, matrices=odd)))
    assert np.abs(found.contributions[0]).max() < 3 * np.abs(fitted.attend(blocks).contributions).max()


def test_order_of_images_in_a_bag_changes_no_prediction() -> None:
    blocks, labels, _ = make_data()
    fitted = fit_attention(blocks, labels, target=Target.numbered(Task.MULTICLASS, 3))
    backwards = {name: matrix[::-1] for name, matrix in blocks.bags.matrices.items()}
    last = int(blocks.bags.sizes.sum()) - blocks.bags.starts - blocks.bags.sizes
    turned = replace(blocks, bags=Bags(matrices=backwards, starts=last, sizes=blocks.bags.sizes))
    np.testing.assert_allclose(fitted.predict_proba(turned), fitted.predict_proba(blocks), atol=1e-6)


def test_labels_that_are_missing_or_of_one_kind_are_taken_as_heads_take_them() -> None:
    blocks, labels, _ = make_data(task=Task.MULTILABEL)
    labels[:20, 0], labels[:, 2] = MISSING, 1
    fitted = fit_attention(blocks, labels, target=Target.numbered(Task.MULTILABEL, 3))
    found = fitted.predict_proba(blocks)
    assert (found[:, 2] == 1).all()
    known = labels[:, 0] != MISSING
    assert roc_auc_score(labels[known, 0], found[known, 0]) > 0.95
    everything = fit_attention(blocks, np.ones((60, 3), dtype=np.int64), target=Target.numbered(Task.MULTILABEL, 3))
    assert (everything.predict_proba(blocks) == 1).all()


def test_refuses_what_it_cannot_do(kept) -> None:
    blocks, labels, _ = make_data()
    target = Target.numbered(Task.MULTICLASS, 3)
    with pytest.raises(DataError, match="every sample is one image"):
        fit_attention(replace(blocks, bags=None), labels, target=target)
    fitted = fit_attention(blocks, labels, target=target)
    alone = replace(blocks, bags=None)
    np.testing.assert_array_equal(fitted.attend(alone).weights, 1)  # an image by itself is a bag of one
    with pytest.raises(SearchError, match="classes or labels"):
        fit_attention(blocks, labels.astype(float), target=Target(Task.VALUE, ("age",)))
    torn = replace(fitted.networks, score=fitted.networks.score[:, 1:])
    kept.save(replace(fitted, networks=torn))
    with pytest.raises(ArtifactError, match="do not fit"):
        kept.load()
    assert isinstance(fitted, AttentionPredictor)
