import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, DataError, SearchError
from biofuse.core.seals import seal
from biofuse.core.target import Task
from biofuse.fusion.concatenation import Concatenation
from biofuse.heads.base import Head
from biofuse.heads.knn import Neighbours
from biofuse.heads.logistic import Logistic
from biofuse.heads.ridge import Ridge
from biofuse.heads.xgboost import XGBoost
from biofuse.predictors.base import predict_labels
from biofuse.predictors.combined import load_predictor
from biofuse.predictors.fused import FusedPredictor, fit_predictor

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
def test_saved_and_loaded_predicts_the_same_bit_for_bit(head: Head, task: Task, n_classes: int, tmp_path: Path) -> None:
    blocks, labels = make_data(task=task, n_classes=n_classes)
    new, _ = make_data(17, task=task, n_classes=n_classes, seed=5)
    fitted = fit_predictor(
        blocks, labels, encoders=["middle", "wide"], fusion="concatenation", head=head, task=task, n_classes=n_classes
    )
    fitted.save(tmp_path / "p")
    loaded = load_predictor(tmp_path / "p")
    assert isinstance(loaded, FusedPredictor)
    assert np.array_equal(loaded.predict_proba(new), fitted.predict_proba(new))
    assert np.array_equal(loaded.decision(new), fitted.decision(new))
    assert np.array_equal(loaded.transform(new), fitted.transform(new))
    assert (loaded.encoders, loaded.task, loaded.n_classes, loaded.notes) == (
        ("wide", "middle"),
        task,
        n_classes,
        fitted.notes,
    )
    assert loaded.head_options == json.loads(json.dumps(head.options))
    assert fitted.predict_proba(new.take(np.arange(0))).shape == (0, n_classes)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.name)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(list(DIMS)), seed=st.integers(0, 2**16))
def test_order_of_encoders_and_of_rows_changes_nothing(head: Head, order: list[str], seed: int) -> None:
    blocks, labels = make_data()
    rows = np.random.default_rng(seed).permutation(len(labels))
    options = {"fusion": Concatenation(scaling="block"), "head": head, "task": Task.MULTICLASS, "n_classes": 4}
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
        fit_predictor(given, labels, head=head, task=Task.MULTICLASS, n_classes=4) for given in (blocks, turned)
    )
    assert again.encoders == plain.encoders[::-1]
    np.testing.assert_allclose(again.predict_proba(blocks), plain.predict_proba(blocks), atol=5e-5)


def test_equals_the_scikit_learn_pipeline() -> None:
    blocks, labels = make_data()
    new, _ = make_data(20, seed=3)
    fitted = fit_predictor(blocks, labels, head=Logistic(C=0.05), task=Task.MULTICLASS, n_classes=4)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, tol=1e-9, max_iter=10_000))
    pipeline.fit(np.hstack(list(blocks.values())).astype(np.float64), labels)
    expected = pipeline.predict_proba(np.hstack(list(new.values())).astype(np.float64))
    np.testing.assert_allclose(fitted.predict_proba(new), expected, atol=1e-4)


def test_encoders_of_any_widths_can_be_fused() -> None:
    # Bugs 10 and 12 of the original: fusions crashed, or used untrained projections, where widths differ.
    blocks, labels = make_data()
    for subset in (["narrow"], ["wide", "narrow"], list(DIMS)):
        fitted = fit_predictor(blocks, labels, encoders=subset, task=Task.MULTICLASS, n_classes=4)
        assert fitted.transform(blocks).shape == (60, sum(DIMS[name] for name in subset))


def test_encoders_left_out_are_never_read() -> None:
    blocks, labels = make_data()
    fitted = fit_predictor(blocks, labels, encoders=["wide"], task=Task.MULTICLASS, n_classes=4)
    blocks["narrow"][:] = np.nan
    again = fit_predictor(blocks, labels, encoders=["wide"], task=Task.MULTICLASS, n_classes=4)
    assert np.array_equal(again.predict_proba(blocks), fitted.predict_proba(blocks))


def test_a_missing_or_repeated_encoder_is_refused() -> None:
    blocks, labels = make_data()
    for encoders in (["wide", "unknown"], ["wide", "wide"], []):
        with pytest.raises(AlignmentError):
            fit_predictor(blocks, labels, encoders=encoders, task=Task.MULTICLASS, n_classes=4)
    fitted = fit_predictor(blocks, labels, task=Task.MULTICLASS, n_classes=4)
    with pytest.raises(AlignmentError, match="middle"):
        fitted.predict_proba(blocks.only(["wide", "narrow"]))


def test_labels_of_another_length_are_refused() -> None:
    blocks, labels = make_data()
    with pytest.raises(AlignmentError, match="59 labels for 60"):
        fit_predictor(blocks, labels[:-1], task=Task.MULTICLASS, n_classes=4)


def test_unknown_parts_are_refused() -> None:
    blocks, labels = make_data()
    with pytest.raises(SearchError):
        fit_predictor(blocks, labels, fusion="attention", task=Task.MULTICLASS, n_classes=4)
    with pytest.raises(SearchError):
        fit_predictor(blocks, labels, head="catboost", task=Task.MULTICLASS, n_classes=4)
    with pytest.raises(DataError):
        fit_predictor(blocks, labels, task=Task.BINARY, n_classes=2)


def test_sample_weights_follow_their_rows() -> None:
    blocks, labels = make_data()
    weights = np.random.default_rng(0).uniform(0.1, 5, 60)
    rows = np.random.default_rng(1).permutation(60)
    plain = fit_predictor(blocks, labels, task=Task.MULTICLASS, n_classes=4, sample_weight=weights)
    again = fit_predictor(
        blocks.take(rows), labels[rows], task=Task.MULTICLASS, n_classes=4, sample_weight=weights[rows]
    )
    assert np.array_equal(again.predict_proba(blocks), plain.predict_proba(blocks))


def test_labels_from_probabilities() -> None:
    probabilities = np.array([[0.4, 0.4, 0.2], [0.1, 0.51, 0.7]])
    assert predict_labels(probabilities, task=Task.MULTICLASS).tolist() == [0, 2]
    assert predict_labels(probabilities, task=Task.MULTILABEL).tolist() == [[0, 0, 0], [0, 1, 1]]


def test_loads_in_a_fresh_process(tmp_path: Path) -> None:
    blocks, labels = make_data()
    fitted = fit_predictor(blocks, labels, task=Task.MULTICLASS, n_classes=4)
    fitted.save(tmp_path / "p")
    np.savez(tmp_path / "blocks.npz", **blocks.matrices)
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from biofuse.blocks import Blocks\n"
        "from biofuse.predictors import load_predictor\n"
        "folder = Path(sys.argv[1])\n"
        "arrays = dict(np.load(folder / 'blocks.npz', allow_pickle=False))\n"
        "ids = np.arange(60).astype(str).astype(object)\n"
        "np.save(folder / 'p.npy', load_predictor(folder / 'p').predict_proba(Blocks(ids=ids, matrices=arrays)))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert np.array_equal(np.load(tmp_path / "p.npy"), fitted.predict_proba(blocks))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    blocks, labels = make_data()
    fit_predictor(blocks, labels, task=Task.MULTICLASS, n_classes=4).save(tmp_path / "p")
    return tmp_path / "p"


@pytest.mark.parametrize("name", ["predictor.json", "arrays.safetensors"])
def test_a_missing_file_is_refused(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        load_predictor(saved)


@pytest.mark.parametrize("name", ["predictor.json", "arrays.safetensors"])
def test_a_flipped_bit_is_refused(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    for position in np.linspace(0, len(data) - 2, 15).astype(int):  # the last byte of the JSON is its final newline
        damaged = bytearray(data)
        damaged[position] ^= 1
        if name == "predictor.json" and chr(data[position]).isspace():
            continue
        (saved / name).write_bytes(damaged)
        with pytest.raises(ArtifactError):
            load_predictor(saved)


def test_a_pickle_in_place_of_the_arrays_is_refused(saved: Path) -> None:
    # Bug 14 of the original: torch.load without weights_only, and a state that held no weights.
    import pickle

    (saved / "arrays.safetensors").write_bytes(pickle.dumps({"coef": 1}))
    with pytest.raises(ArtifactError):
        load_predictor(saved)
    reseal(saved)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_predictor(saved)


def reseal(folder: Path, **changes) -> None:
    """Change a predictor with a valid checksum, as only someone who knows how can."""
    content = json.loads((folder / "predictor.json").read_text())
    content = {key: value for key, value in content.items() if key not in {"checksum", "files", "format"}}
    seal(folder, name="predictor.json", content=content | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictor_format": 99}, "format 99"),
        ({"kind": "oracle"}, "oracle"),
        ({"kind": None}, "predictor"),
        ({"head": {"name": "os.system"}}, "os.system|malformed"),
        ({"head": {"name": "ridge", "options": {}, "state": {}}}, "malformed"),
        ({"fusion": []}, "malformed"),
        ({"task": "guess"}, "malformed"),
        ({"encoders": ["other"]}, "belong together"),
    ],
)
def test_what_this_version_cannot_read_is_refused(saved: Path, changes: dict, message: str) -> None:
    reseal(saved, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_predictor(saved)


def test_a_fusion_of_another_width_than_the_head_is_refused(saved: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    arrays = load_file(saved / "arrays.safetensors")
    save_file(arrays | {"head.coef": arrays["head.coef"][:-1]}, saved / "arrays.safetensors")
    reseal(saved)
    with pytest.raises(ArtifactError, match="belong together"):
        load_predictor(saved)


def test_saving_twice_replaces_the_first(saved: Path) -> None:
    blocks, labels = make_data(seed=9)
    other = fit_predictor(blocks, labels, encoders=["narrow"], head="knn", task=Task.MULTICLASS, n_classes=4)
    other.save(saved)
    assert np.array_equal(load_predictor(saved).predict_proba(blocks), other.predict_proba(blocks))
    assert sorted(path.name for path in saved.iterdir()) == ["arrays.safetensors", "predictor.json"]
