"""How well images unlike the development data are found, and how often others are taken for such.

``python perf/novelty.py DATA OTHER --label COLUMN --group COLUMN`` prints one JSON object: for several ways to measure
the distance, the share above the 99th percentile of held-out samples (a quarter of the groups, drawn again and again),
of the samples of OTHER, and of the held-out samples of a class that was left out of the development data, one after the
other. ``shipped`` is what models do; the others change one thing of it. Embeddings come from the store.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

import biofuse
from biofuse.blocks.blocks import Blocks
from biofuse.evaluation.novelty import UNUSUAL, Novelty, Projection
from biofuse.store.exchange import label_names

Rows = NDArray[np.float64]
Measure = Callable[[Blocks, NDArray[Any], NDArray[Any], list[Blocks]], list[float]]


def learned(known: Blocks, groups: NDArray[Any]) -> Novelty:
    """Learn what development samples of several groups look like."""
    novelty = Novelty.learn(known, ids=known.ids, groups=groups)
    if novelty is None:
        raise SystemExit("There must be two groups.")
    return novelty


def shipped(known: Blocks, _labels: NDArray[Any], groups: NDArray[Any], new: list[Blocks]) -> list[float]:
    """Measure as models do."""
    novelty = learned(known, groups)
    return [float((novelty.percentiles(each) > UNUSUAL).mean()) for each in new]


def nearest(count: int) -> Measure:
    """Measure with another number of nearest samples."""

    def measure(known: Blocks, _labels: NDArray[Any], groups: NDArray[Any], new: list[Blocks]) -> list[float]:
        novelty = learned(known, groups)
        return neighbours(novelty.projection(known), groups, [novelty.projection(each) for each in new], count)

    return measure


def neighbours(known: Any, groups: NDArray[Any], new: list[Any], count: int) -> list[float]:
    own = cdist(known, known)
    own[groups[:, None] == groups[None, :]] = np.inf
    limit = np.quantile(np.sort(own, axis=1)[:, :count].mean(axis=1), UNUSUAL / 100)
    return [float((np.sort(cdist(each, known), axis=1)[:, :count].mean(axis=1) > limit).mean()) for each in new]


def own_deviation(known: Blocks, _labels: NDArray[Any], groups: NDArray[Any], new: list[Blocks]) -> list[float]:
    """Measure with columns divided by their own standard deviation alone."""
    means, scales = [], []
    for block in known.values():
        deviation = block.std(axis=0, dtype=np.float64)
        varies = deviation > 1e-6 * np.abs(block).max()
        means.append(block.mean(axis=0))
        scales.append(np.where(varies, deviation, np.inf) * np.sqrt(varies.sum()))
    project = Projection(dims=known.dims, mean=np.concatenate(means), scale=np.concatenate(scales).astype(np.float32))
    return neighbours(project(known), groups, [project(each) for each in new], 3)


def mahalanobis(known: Blocks, labels: NDArray[Any], groups: NDArray[Any], new: list[Blocks]) -> list[float]:
    """Measure by Mahalanobis distances to the nearest class mean; development samples by ten folds of groups."""
    novelty = learned(known, groups)
    rows = novelty.projection(known).astype(np.float64)
    _, unit = np.unique(groups.astype(str), return_inverse=True)
    fold = np.random.default_rng(0).permutation(unit.max() + 1)[unit] % 10
    own = np.concatenate([_to_classes(rows[fold != f], labels[fold != f], rows[fold == f]) for f in range(10)])
    limit = np.quantile(own, UNUSUAL / 100)
    found = (_to_classes(rows, labels, novelty.projection(each).astype(np.float64)) for each in new)
    return [float((each > limit).mean()) for each in found]


def _to_classes(rows: Rows, labels: NDArray[Any], new: Rows) -> Rows:
    from sklearn.covariance import LedoitWolf

    if not len(new):
        return np.empty(0)
    classes, place = np.unique(labels.astype(str), return_inverse=True)
    means = np.array([rows[place == number].mean(axis=0) for number in range(len(classes))])
    precision = LedoitWolf(assume_centered=True).fit(rows - means[place]).precision_
    root = np.linalg.cholesky(precision)
    return np.asarray(cdist(new @ root, means @ root).min(axis=1))


WAYS: dict[str, Measure] = {
    "shipped": shipped,
    "1 nearest": nearest(1),
    "10 nearest": nearest(10),
    "own deviation": own_deviation,
    "mahalanobis": mahalanobis,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("other")
    parser.add_argument("--label")
    parser.add_argument("--group")
    parser.add_argument("--encoders", default="starter")
    parser.add_argument("--repeats", type=int, default=12)
    arguments = parser.parse_args()
    asked = {"encoders": arguments.encoders, "progress": False}
    own = biofuse.embed(arguments.data, label=arguments.label, group=arguments.group, **asked)
    blocks, strangers = own.blocks, biofuse.embed(arguments.other, labelled=False, **asked).blocks
    labels = np.array(label_names(own.samples), dtype=object)
    groups = own.ids if own.samples.groups is None else own.samples.groups
    found: dict[str, dict[str, list[float]]] = {way: {"held out": [], "other": [], "left out": []} for way in WAYS}
    classes, units = np.unique(labels), np.unique(groups)
    for repeat in range(arguments.repeats):
        random = np.random.default_rng(repeat)
        test = np.isin(groups, random.choice(units, max(1, len(units) // 4), replace=False))
        gone = labels == classes[repeat % len(classes)]
        for way, measure in WAYS.items():
            like, unlike = measure(blocks.take(~test), labels[~test], groups[~test], [blocks.take(test), strangers])
            found[way]["held out"].append(like)
            found[way]["other"].append(unlike)
            if (test & gone).any() and (~test & ~gone).any():
                rest = ~test & ~gone
                found[way]["left out"] += measure(
                    blocks.take(rest), labels[rest], groups[rest], [blocks.take(test & gone)]
                )
    means = {way: {what: float(np.mean(values)) for what, values in each.items()} for way, each in found.items()}
    about = {"data": own.samples.name, "encoders": list(own), "repeats": arguments.repeats}
    print(json.dumps({**about, "ways": means}, indent=2))


if __name__ == "__main__":
    main()
