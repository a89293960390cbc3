from dataclasses import replace

import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.pooling import POOLINGS, Bags, Pooling, pool
from biofuse.core.target import Target, Task
from biofuse.predictors.arguments import BY_ATTENTION, BY_LEAVING_OUT, arguments_of, pool_without_each
from biofuse.predictors.attention import fit_attention
from biofuse.predictors.fused import fit_predictor

SIZES = np.random.default_rng(0).integers(1, 6, 40)


def make_bags(pooling: Pooling) -> tuple[Blocks, np.ndarray]:
    rng = np.random.default_rng(1)
    labels = np.arange(40) % 3
    images = {
        name: (rng.standard_normal((SIZES.sum(), dim)) + np.repeat(labels, SIZES)[:, None]).astype(np.float32)
        for name, dim in (("a", 5), ("b", 3))
    }
    bags = Bags(matrices=images, starts=np.cumsum(SIZES) - SIZES, sizes=SIZES, pooling=pooling)
    ids = np.array([f"case {i}" for i in range(40)], dtype=object)
    return Blocks(ids=ids, matrices=bags.pooled(pooling), bags=bags), labels


@pytest.mark.parametrize("pooling", POOLINGS)
def test_of_any_predictor_is_what_it_says_less_what_it_says_without_the_image(pooling: Pooling) -> None:
    blocks, labels = make_bags(pooling)
    target = Target.numbered(Task.MULTICLASS, 3)
    predictor = fit_predictor(blocks, labels, encoders=["b"], target=target)
    found = arguments_of(predictor, blocks)
    assert (found.how, found.weights) == (BY_LEAVING_OUT, None)
    for row, size in enumerate(SIZES):
        for number in range(size):
            given = found.values[found.of(row)][number]
            if size == 1:
                assert np.isnan(given).all()
                continue
            bag = np.delete(blocks.bags.images("b")[found.of(row)], number, axis=0)
            alone = Bags(matrices={"b": bag}, starts=np.zeros(1, int), sizes=np.array([size - 1]), pooling=pooling)
            rest = Blocks(ids=np.array(["x"], dtype=object), matrices=alone.pooled(pooling))
            expected = predictor.decision(blocks.take(np.array([row]))) - predictor.decision(rest)
            np.testing.assert_allclose(given, expected[0], atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_bag_without_each_image_is_pooled_as_the_others_are_by_themselves(pooling: Pooling) -> None:
    sizes = np.array([1, 2, 3, 40])
    matrix = np.random.default_rng(0).normal(3, 1, (sizes.sum(), 4)).astype(np.float32)
    matrix[9] *= 1000  # an image unlike all others, without which the spread is a thousandth
    matrix[20] = matrix[21]  # and two that are alike
    found = np.split(pool_without_each(matrix, sizes, pooling), np.cumsum(sizes)[:-1])
    for bag, others in zip(np.split(matrix, np.cumsum(sizes)[:-1]), found, strict=True):
        for number in range(len(bag)):
            rest = np.delete(bag, number, axis=0)
            expected = (
                pool(rest, np.array([len(rest)]), pooling) if len(rest) else np.full((1, found[0].shape[1]), np.nan)
            )
            np.testing.assert_allclose(others[number], expected[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("task", "n_classes"), [(Task.BINARY, 2), (Task.MULTICLASS, 3)], ids=str)
def test_of_attention_is_exact_and_comes_with_weights(task: Task, n_classes: int) -> None:
    blocks, labels = make_bags("mean")
    labels = labels % n_classes
    predictor = fit_attention(blocks, labels, target=Target.numbered(task, n_classes))
    found = arguments_of(predictor, blocks)
    assert found.how == BY_ATTENTION
    starts = np.cumsum(SIZES) - SIZES
    np.testing.assert_allclose(np.add.reduceat(found.weights, starts), 1)
    added = np.add.reduceat(found.values, starts, axis=0)
    rest = predictor.networks.intercept.mean(axis=0)
    rest = np.array([-rest[0], rest[0]]) if task is Task.BINARY else rest - rest.mean()
    p = predictor.predict_proba(blocks)
    logs = np.log(p) - np.log(p).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(added + rest, 2 * logs if task is Task.BINARY else logs, atol=1e-6)
    single = arguments_of(predictor, replace(blocks, bags=None))
    assert (single.weights == 1).all()
