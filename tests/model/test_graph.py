"""The graph of a model gives what the model gives."""

import numpy as np
import pytest
import torch

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import ArtifactError
from biofuse.core.target import Target, Task
from biofuse.evaluation.calibration import Calibration
from biofuse.model.graph import Graph, predictor_graph
from biofuse.model.model import BioFuseModel
from biofuse.model.trust import Trust
from biofuse.predictors.combined import average, fit_late_fusion
from biofuse.predictors.fused import fit_predictor
from biofuse.predictors.mean import MeanFits

DIMS = {"wide": 12, "narrow": 3}
TASKS = [(Task.BINARY, 2), (Task.MULTICLASS, 4), (Task.MULTILABEL, 3), (Task.ORDINAL, 3)]


def made_up(task: Task, n_classes: int, *, n: int = 48) -> tuple[Blocks, np.ndarray]:
    rng = np.random.default_rng(n_classes)
    several = task is Task.MULTILABEL
    # One class, or label, is absent, so that its probability is constant.
    labels = rng.integers(0, 2, (n, n_classes)) if several else np.arange(n) % max(n_classes - 1, 2)
    if several:
        labels[:, -1] = 0
    signal = (labels[:, 0] if several else labels)[:, None]
    matrices = {name: (rng.normal(5, 3, (n, dim)) + signal).astype(np.float32) for name, dim in DIMS.items()}
    return Blocks(ids=np.array([f"s{row}" for row in range(n)], dtype=object), matrices=matrices), labels


def fitted(kind: str, blocks: Blocks, labels: np.ndarray, **about: object):
    if kind == "mean":
        return MeanFits(blocks, labels, **about).predictor()
    if kind in {"stacking", "late average"}:
        return fit_late_fusion(blocks, labels, how=kind.rsplit(maxsplit=1)[-1], n_folds=2, **about)
    if kind == "ensemble":
        parts = [fit_predictor(blocks, labels, encoders=[name], head="lda", **about) for name in DIMS]
        return average(parts, pool=tuple(DIMS))
    fusion, head = kind.split(" + ")
    return fit_predictor(blocks, labels, fusion=fusion, head=head, **about)


KINDS = (
    "concatenation + logistic", "weighted + ridge", "pca + lda", "mean + ridge", "mean", "ensemble", "late average",
    "stacking",
)  # fmt: skip


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_gives_the_calibrated_probabilities_of_its_model(kind, task, n_classes, graph_model):
    blocks, labels = made_up(task, n_classes)
    predictor = fitted(kind, blocks, labels, target=Target.numbered(task, n_classes))
    model = graph_model(predictor, task, n_classes)
    graph = Graph(model, {}, [(name,) for name in model.encoders], double=True)
    given = [torch.from_numpy(blocks[name]) for name in model.encoders]
    with torch.inference_mode():
        found = graph(*given)
    assert found.dtype == torch.float32
    wanted = model.probabilities(blocks)
    assert np.ptp(wanted, axis=0).max() > 0.05
    # Fusions are float32 in the model.
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-6)


@pytest.fixture
def graph_model():
    """Return a function that makes a model of a predictor of made-up encoders, calibrated."""
    from biofuse.encoders.registry import get_card

    def make(predictor, task, n_classes):
        target = Target.numbered(task, n_classes)
        temperatures = tuple(np.linspace(0.6, 1.7, n_classes).tolist()) if target.several else (0.7,)
        return BioFuseModel(
            cards=tuple(
                get_card("lbp").model_copy(update={"name": name, "dim": DIMS[name]}) for name in predictor.encoders
            ),
            predictor=predictor,
            task=task,
            classes=target.classes,
            trust=Trust(calibration=Calibration(temperatures=temperatures, n=40)),
        )

    return make


@pytest.mark.parametrize("head", ["knn", "xgboost"])
def test_a_head_that_has_no_graph_is_named(head):
    blocks, labels = made_up(Task.BINARY, 2)
    predictor = fit_predictor(blocks, labels, head=head, target=Target.numbered(Task.BINARY, 2))
    with pytest.raises(ArtifactError, match=f"head {head} has no graph") as refused:
        predictor_graph(predictor)
    assert "ridge" in refused.value.remedy
