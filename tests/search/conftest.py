from types import SimpleNamespace

import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.target import Task
from biofuse.data.splits import ValidationPlan
from biofuse.search.scorers import RefitScorer


def _make_fit(calls=None):
    # Everything local: worker processes get these by value, since they cannot import a test module.
    def fit(blocks, labels, *, encoders, seed, threads):
        import numpy as np

        if calls is not None:
            calls.append((encoders, seed, tuple(blocks.ids)))
        assert threads == 1
        assert tuple(blocks) == encoders

        class Fitted:
            notes = ()

            def __init__(self):
                self.encoders = encoders
                X = np.hstack([blocks[name] for name in encoders]).astype(np.float64)
                self.mean, self.std = X.mean(axis=0), X.std(axis=0) + 1e-9
                Z = (X - self.mean) / self.std
                self.multilabel = labels.ndim == 2
                Y = labels if self.multilabel else (labels[:, None] == np.arange(labels.max() + 1))
                self.bias = Y.mean(axis=0)
                self.weights = np.linalg.solve(Z.T @ Z + 10 * np.eye(Z.shape[1]), Z.T @ (Y - self.bias))

            def decision(self, held_out):
                X = np.hstack([held_out[name] for name in encoders]).astype(np.float64)
                return (X - self.mean) / self.std @ self.weights + self.bias

            def predict_proba(self, held_out):
                raw = self.decision(held_out)
                if self.multilabel:
                    return 1 / (1 + np.exp(-4 * (raw - 0.5)))
                e = np.exp(4 * raw)
                return e / e.sum(axis=1, keepdims=True)

        return Fitted()

    return fit


def _planted(n=240, *, signal=1.5, seed=0, task=Task.MULTICLASS):
    """Blocks a and b each know one bit of the label; c, d are noise, e a poor copy of a."""
    random = np.random.default_rng(seed)
    bits = random.integers(0, 2, (n, 2))
    bits[:4] = [[0, 0], [0, 1], [1, 0], [1, 1]]

    def block(columns, bit=None, strength=signal):
        matrix = random.normal(size=(n, columns))
        return (matrix if bit is None else matrix + strength * (2 * bit[:, None] - 1)).astype(np.float32)

    matrices = {
        "a": block(6, bits[:, 0]),
        "b": block(5, bits[:, 1]),
        "c": block(6),
        "d": block(3),
        "e": block(4, bits[:, 0], signal / 10),
    }
    labels = {
        Task.MULTICLASS: 2 * bits[:, 0] + bits[:, 1],
        Task.ORDINAL: bits.sum(axis=1),
        Task.BINARY: bits[:, 0] ^ (random.random(n) < 0.1),
        Task.MULTILABEL: bits,
    }[task].astype(np.int64)
    ids = np.array([f"s{i:04d}" for i in range(n)], dtype=object)
    return Blocks(ids=ids, matrices=matrices), labels


def _plan(ids, n_folds=5):
    where = np.array([int(str(name)[1:]) % n_folds for name in ids])
    folds = [(np.flatnonzero(where != f), np.flatnonzero(where == f)) for f in range(n_folds)]
    return ValidationPlan.cross_validation(folds, ids=ids)


def _scorer(blocks, labels, *, calls=None, plan=None, task=Task.MULTICLASS, fit=None, **options):
    n_classes = labels.shape[1] if labels.ndim == 2 else int(labels.max()) + 1
    return RefitScorer(
        blocks,
        labels,
        plan=plan or _plan(blocks.ids),
        fit=fit or _make_fit(calls),
        task=task,
        classes=[f"class {c}" for c in range(n_classes)],
        **options,
    )


@pytest.fixture
def tiny():
    return SimpleNamespace(make_fit=_make_fit, planted=_planted, plan=_plan, scorer=_scorer)
