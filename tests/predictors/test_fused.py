import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, DataError, DiskError, SearchError
from biofuse.core.target import Target, Task
from biofuse.fusion.concatenation import Concatenation
from biofuse.heads.base import FittedHead, Head, Limits
from biofuse.heads.knn import Neighbours
from biofuse.heads.logistic import Logistic
from biofuse.heads.ridge import Ridge
from biofuse.heads.xgboost import XGBoost
from biofuse.predictors.fused import fit_predictor

DIMS = {"wide": 40, "narrow": 3, "middle": 11}
HEADS: list[Head] = [Logistic(), Ridge(), Neighbours(k=5), XGBoost(trees=8, device="cpu")]
TASKS = [(Task.BINARY, 2), (Task.MULTICLASS, 4), (Task.ORDINAL, 3), (Task.MULTILABEL, 3)]


def make_data(n: int = 60, *, task: Task = Task.MULTICLASS, n_classes: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes).astype(np.int64)
    if task is Task.MULTILABEL:
        labels = rng.integers(0, 2, (n, n_classes))
    signal = labels @ rng.standard_normal((n_classes, 5)) if task is Task.MULTILABEL else labels[:, None] * 0.5
    matrices = {
        name: (rng.standard_normal((n, dim)) * 4 + signal.sum(axis=1, keepdims=True)).astype(np.float32)
        for name, dim in DIMS.items()
    }
    ids = rng.permutation([f"case {i}.png" for i in range(n)]).astype(object)
    return Blocks(ids=ids, matrices=matrices), labels


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_saved_and_loaded_predicts_the_same_bit_for_bit(head: Head, task: Task, n_classes: int, kept) -> None:
    blocks, labels = make_data(task=task, n_classes=n_classes)
    new, _ = make_data(17, task=task, n_classes=n_classes, seed=5)
    fitted = fit_predictor(
        blocks,
        labels,
        encoders=["middle", "wide"],
        fusion="concatenation",
        head=head,
        target=Target.numbered(task, n_classes),
    )
    loaded = kept.check_round_trip(fitted, new)
    assert np.array_equal(loaded.transform(new), fitted.transform(new))
    assert loaded.encoders == ("wide", "middle")
    assert loaded.head_options == json.loads(json.dumps(head.options))


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(list(DIMS)), seed=st.integers(0, 2**16))
def test_order_of_encoders_and_of_rows_changes_nothing(head: Head, order: list[str], seed: int) -> None:
    blocks, labels = make_data()
    rows = np.random.default_rng(seed).permutation(len(labels))
    options = {"fusion": Concatenation(scaling="block"), "head": head, "target": Target.numbered(Task.MULTICLASS, 4)}
    plain = fit_predictor(blocks, labels, encoders=list(DIMS), **options)
    again = fit_predictor(blocks.take(rows), labels[rows], encoders=order, **options)
    assert again.encoders == plain.encoders
    assert np.array_equal(again.predict_proba(blocks), plain.predict_proba(blocks))
    np.testing.assert_allclose(plain.predict_proba(blocks.take(rows)), plain.predict_proba(blocks)[rows], atol=1e-6)


@pytest.mark.parametrize("head", HEADS[:3], ids=lambda head: head.name)
def test_another_pool_order_changes_columns_but_not_predictions(head: Head) -> None:
    blocks, labels = make_data()
    turned = Blocks(ids=blocks.ids, matrices={name: blocks[name] for name in reversed(DIMS)})
    plain, again = (
        fit_predictor(given, labels, head=head, target=Target.numbered(Task.MULTICLASS, 4))
        for given in (blocks, turned)
    )
    assert again.encoders == plain.encoders[::-1]
    np.testing.assert_allclose(again.predict_proba(blocks), plain.predict_proba(blocks), atol=5e-5)


def test_equals_the_scikit_learn_pipeline() -> None:
    blocks, labels = make_data()
    new, _ = make_data(20, seed=3)
    fitted = fit_predictor(blocks, labels, head=Logistic(C=0.05), target=Target.numbered(Task.MULTICLASS, 4))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, tol=1e-9, max_iter=10_000))
    pipeline.fit(np.hstack(list(blocks.values())).astype(np.float64), labels)
    expected = pipeline.predict_proba(np.hstack(list(new.values())).astype(np.float64))
    np.testing.assert_allclose(fitted.predict_proba(new), expected, atol=1e-4)


def test_encoders_of_any_widths_can_be_fused() -> None:
    # Bugs 10 and 12 of the original: fusions crashed, or used untrained projections, where widths differ.
    blocks, labels = make_data()
    for subset in (["narrow"], ["wide", "narrow"], list(DIMS)):
        fitted = fit_predictor(blocks, labels, encoders=subset, target=Target.numbered(Task.MULTICLASS, 4))
        assert fitted.transform(blocks).shape == (60, sum(DIMS[name] for name in subset))


def test_encoders_left_out_are_never_read() -> None:
    blocks, labels = make_data()
    fitted = fit_predictor(blocks, labels, encoders=["wide"], target=Target.numbered(Task.MULTICLASS, 4))
    blocks["narrow"][:] = np.nan
    again = fit_predictor(blocks, labels, encoders=["wide"], target=Target.numbered(Task.MULTICLASS, 4))
    assert np.array_equal(again.predict_proba(blocks), fitted.predict_proba(blocks))


def test_a_missing_or_repeated_encoder_is_refused() -> None:
    blocks, labels = make_data()
    for encoders in (["wide", "unknown"], ["wide", "wide"], []):
        with pytest.raises(AlignmentError):
            fit_predictor(blocks, labels, encoders=encoders, target=Target.numbered(Task.MULTICLASS, 4))
    fitted = fit_predictor(blocks, labels, target=Target.numbered(Task.MULTICLASS, 4))
    with pytest.raises(AlignmentError, match="middle"):
        fitted.predict_proba(blocks.only(["wide", "narrow"]))


def test_unknown_parts_and_labels_that_do_not_fit_are_refused() -> None:
    blocks, labels = make_data()
    with pytest.raises(AlignmentError, match="59 labels for 60"):
        fit_predictor(blocks, labels[:-1], target=Target.numbered(Task.MULTICLASS, 4))
    with pytest.raises(SearchError):
        fit_predictor(blocks, labels, fusion="attention", target=Target.numbered(Task.MULTICLASS, 4))
    with pytest.raises(SearchError):
        fit_predictor(blocks, labels, head="catboost", target=Target.numbered(Task.MULTICLASS, 4))
    with pytest.raises(DataError):
        fit_predictor(blocks, labels, target=Target.numbered(Task.BINARY, 2))


def test_sample_weights_follow_their_rows() -> None:
    blocks, labels = make_data()
    weights = np.random.default_rng(0).uniform(0.1, 5, 60)
    rows = np.random.default_rng(1).permutation(60)
    plain = fit_predictor(blocks, labels, target=Target.numbered(Task.MULTICLASS, 4), sample_weight=weights)
    again = fit_predictor(
        blocks.take(rows), labels[rows], target=Target.numbered(Task.MULTICLASS, 4), sample_weight=weights[rows]
    )
    assert np.array_equal(again.predict_proba(blocks), plain.predict_proba(blocks))


class Small(Logistic):
    """Takes three columns."""

    limits = Limits(features=3, reason="more are tedious")

    def fit(self, *_: object, **__: object) -> FittedHead:
        raise AssertionError("fitted beyond its limits")


def test_a_predictor_checks_the_fused_matrix_before_fitting() -> None:
    rng = np.random.default_rng(0)
    matrices = {name: rng.standard_normal((12, 2)).astype(np.float32) for name in ("a", "b")}
    blocks = Blocks(ids=np.array([f"s{i:02}" for i in range(12)]), matrices=matrices)
    options = {"head": Small(), "target": Target.numbered(Task.BINARY, 2)}
    with pytest.raises(SearchError, match=r"4 features \(limit 3\): more are tedious"):
        fit_predictor(blocks, np.arange(12) % 2, **options)
    with pytest.raises(AssertionError, match="beyond"):
        fit_predictor(blocks, np.arange(12) % 2, encoders=["a"], **options)


@pytest.fixture
def saved(kept):
    blocks, labels = make_data()
    kept.save(fit_predictor(blocks, labels, target=Target.numbered(Task.MULTICLASS, 4)))
    return kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictor_format": 99}, "format 99"),
        ({"predictor_format": None}, "malformed"),
        ({"kind": "oracle"}, "oracle"),
        ({"head": {"name": "os.system"}}, "os.system|malformed"),
        ({"head": {"name": "ridge", "options": {}, "state": {}}}, "malformed"),
        ({"fusion": []}, "malformed"),
        ({"task": "guess"}, "malformed"),
        ({"encoders": ["other"]}, "belong together"),
        ({"members": 1}, "other members"),
    ],
)
def test_what_this_version_cannot_read_is_refused(saved, changes: dict, message: str) -> None:
    saved.change(**changes)
    with pytest.raises(ArtifactError, match=message):
        saved.load()


def test_a_model_with_a_head_that_was_removed_says_what_to_do(saved) -> None:
    saved.change(head={"name": "lightgbm", "options": {}, "state": {}})
    with pytest.raises(ArtifactError, match="lightgbm was removed") as caught:
        saved.load()
    assert "fitted again" in caught.value.remedy


def test_a_pickle_in_place_of_the_arrays_is_refused(saved) -> None:
    # Bug 14 of the original: torch.load without weights_only, and a state that held no weights.
    import pickle

    (saved.folder / "p" / "arrays.safetensors").write_bytes(pickle.dumps({"coef": 1}))
    with pytest.raises(ArtifactError, match="not opened"):
        saved.load()
    saved.seal()
    with pytest.raises(ArtifactError, match="cannot be read"):
        saved.load()


@pytest.mark.parametrize("name", ["predictor.json", "arrays.safetensors"])
def test_a_file_that_was_not_sealed_is_not_opened(saved, name: str) -> None:
    path = saved.folder / "p" / name
    data = path.read_bytes()
    path.unlink()
    saved.seal()
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="not part of what was saved"):
        saved.load()


def test_a_fusion_of_another_width_than_the_head_is_refused(saved) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(saved.folder / "p" / "arrays.safetensors")
    save_file(arrays | {"head.coef": arrays["head.coef"][:-1]}, saved.folder / "p" / "arrays.safetensors")
    saved.seal()
    with pytest.raises(ArtifactError, match="belong together"):
        saved.load()


def test_nothing_is_saved_over_an_older_predictor(saved) -> None:
    blocks, labels = make_data(seed=9)
    other = fit_predictor(blocks, labels, encoders=["narrow"], target=Target.numbered(Task.MULTICLASS, 4))
    with pytest.raises(DiskError):
        saved.save(other)
    assert saved.load().encoders == tuple(DIMS)
