"""What others reached: complete, added up as stated elsewhere, and the best of each set by its protocol."""

import numpy as np
import pytest

from biofuse.studies.published import published_results

# Means over the 12 sets (AUC, ACC) that were worked out from the sources when these were read: a slip in copying shows.
MEANS = {
    "BioFuse paper, chosen of 8": (0.9553, 0.8498),
    "BioFuse paper, chosen of 8 by AUC": (0.9513, 0.8467),
    "BioFuse paper, all 8": (0.9567, 0.8547),
    "DINO ViT-B/16, frozen, linear head": (0.9499, 0.8511),
    "DenseNet-121, fine-tuned": (0.9503, 0.8711),
    "VGG16, fine-tuned": (0.9530, 0.8670),
    "ViT-B/16, fine-tuned": (0.9408, 0.8606),
    "ResNet-18": (0.9245, 0.8213),
    "Google AutoML Vision": (0.9269, 0.8087),
    "MedViT-S": (0.9427, 0.8507),
    "MedViTV2-L": (None, 0.8885),
    "BioVFM-D ViT-L, frozen, linear head": (0.9493, None),
}

BEST = {
    # best honest AUC, best claimed AUC, best honest ACC, best claimed ACC
    "pathmnist": (0.9979, 0.9982, 0.9719, 0.977),
    "chestmnist": (0.836, 0.836, 0.949, 0.967),
    "dermamnist": (0.9877, 0.9877, 0.9167, 0.9167),
    "octmnist": (0.9926, 0.996, 0.9030, 0.963),
    "pneumoniamnist": (0.9957, 0.9983, 0.946, 0.973),
    "retinamnist": (0.8782, 0.8782, 0.6500, 0.6875),
    "breastmnist": (0.956, 0.956, 0.9295, 0.9295),
    "bloodmnist": (1.0, 1.0, 0.9944, 0.9944),
    "tissuemnist": (0.9535, 0.9535, 0.7425, 0.7425),
    "organamnist": (0.9998, 0.9998, 0.9857, 0.9857),
    "organcmnist": (0.9978, 0.9978, 0.9442, 0.961),
    "organsmnist": (0.9850, 0.987, 0.8347, 0.851),
}


def test_means_are_those_stated():
    by_name = {each.method: each for each in published_results().results}
    assert len(by_name) == len(published_results().results)
    for name, means in MEANS.items():
        for metric, mean in zip(("auroc", "accuracy"), means, strict=True):
            scores = by_name[name].scores(metric)
            assert len(scores) == (0 if mean is None else 12)
            assert mean is None or np.mean(list(scores.values())) == pytest.approx(mean, abs=6e-5)
    nine = by_name["BioFuse paper, all 9"]
    means = [np.mean(list(nine.scores(metric).values())) for metric in ("auroc", "accuracy")]
    assert means == pytest.approx([0.9681, 0.8506], abs=6e-5)


@pytest.mark.parametrize("flag", BEST)
def test_the_best_of_each_set_by_protocol(flag):
    published = published_results()
    found = [published.best(flag, m, honest=honest) for m in ("auroc", "accuracy") for honest in (True, False)]
    assert [value for value, _ in found] == list(BEST[flag])
    assert [found[place][1].protocol for place in (0, 2)] == ["v", "v"]


def test_every_row_has_a_source_a_protocol_and_scores_of_known_sets():
    published = published_results()
    for each in published.results:
        assert each.source in published.sources
        assert each.protocol in published.protocols
        assert each.confidence in published.confidences
        assert {*each.auroc, *each.accuracy} <= set(published.datasets)
        assert all(0.4 < value <= 1 for value in [*each.auroc.values(), *each.accuracy.values()])
    assert set(published.remarks) <= set(published.datasets)
