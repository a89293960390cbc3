import json
from pathlib import Path

import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, ArtifactError, SearchError
from biofuse.core.seals import seal
from biofuse.core.target import Task
from biofuse.heads.base import CERTAIN
from biofuse.predictors.base import log_odds
from biofuse.predictors.combined import EnsemblePredictor, average, fit_late_fusion, load_predictor
from biofuse.predictors.fused import FusedPredictor, fit_predictor

DIMS = {"wide": 40, "narrow": 3, "middle": 11}
POOL = ("other", *DIMS)
TASKS = [(Task.BINARY, 2), (Task.MULTICLASS, 4), (Task.MULTILABEL, 3)]
MULTICLASS = {"task": Task.MULTICLASS, "n_classes": 4}


def make_data(n: int = 60, *, task: Task = Task.MULTICLASS, n_classes: int = 4, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes).astype(np.int64)
    if task is Task.MULTILABEL:
        labels = rng.integers(0, 2, (n, n_classes))
    signal = labels.sum(axis=1) if task is Task.MULTILABEL else labels
    matrices = {
        name: (rng.standard_normal((n, dim)) * 4 + signal[:, None]).astype(np.float32) for name, dim in DIMS.items()
    }
    return Blocks(ids=rng.permutation([f"case {i}.png" for i in range(n)]).astype(object), matrices=matrices), labels


def make_members(*, task: Task = Task.MULTICLASS, n_classes: int = 4) -> list[FusedPredictor]:
    blocks, labels = make_data(task=task, n_classes=n_classes)
    choices = [(["middle"], "logistic"), (["wide", "narrow"], "ridge"), (["wide"], "knn")]
    return [
        fit_predictor(blocks, labels, encoders=names, head=head, task=task, n_classes=n_classes)
        for names, head in choices
    ]


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_equals_the_average_by_hand(task: Task, n_classes: int) -> None:
    members = make_members(task=task, n_classes=n_classes)
    new, _ = make_data(20, task=task, n_classes=n_classes, seed=3)
    ensemble = average(members, pool=POOL)
    by_hand = sum(member.predict_proba(new) for member in members) / 3
    np.testing.assert_allclose(ensemble.predict_proba(new), by_hand, rtol=1e-12)
    assert (ensemble.encoders, ensemble.task, ensemble.n_classes) == (tuple(DIMS), task, n_classes)
    if task is not Task.MULTILABEL:
        np.testing.assert_allclose(ensemble.predict_proba(new).sum(axis=1), 1)


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_decisions_rank_as_the_probabilities_and_are_their_log_odds(task: Task, n_classes: int) -> None:
    ensemble = average(make_members(task=task, n_classes=n_classes), pool=POOL)
    new, _ = make_data(50, task=task, n_classes=n_classes, seed=3)
    decision, probability = ensemble.decision(new), ensemble.predict_proba(new)
    np.testing.assert_allclose(decision, np.log(probability / (1 - probability)), rtol=1e-6, atol=1e-9)
    if task is Task.BINARY:
        np.testing.assert_allclose(decision[:, 0], -decision[:, 1])


def test_log_odds_stay_fine_and_finite_where_probabilities_round() -> None:
    probability = np.array([[1.0, 1e-20, 0.0], [1.0, 1e-30, 0.0], [1.0, 0.0, 0.0]])
    odds = log_odds(probability, task=Task.MULTICLASS)
    assert odds[0, 0] == pytest.approx(20 * np.log(10))
    assert odds[1, 0] == pytest.approx(30 * np.log(10))
    assert odds[2].tolist() == [CERTAIN, -CERTAIN, -CERTAIN]
    assert np.abs(log_odds(np.array([[0.0, 1.0]]), task=Task.MULTILABEL)).tolist() == [[CERTAIN] * 2]


def test_one_member_predicts_as_by_itself() -> None:
    member = make_members()[1]
    new, _ = make_data(20, seed=3)
    ensemble = average([member], pool=POOL)
    assert np.array_equal(ensemble.predict_proba(new), member.predict_proba(new))
    assert ensemble.encoders == member.encoders


@pytest.mark.parametrize(("task", "n_classes"), TASKS, ids=str)
def test_saved_and_loaded_predicts_the_same_bit_for_bit(task: Task, n_classes: int, tmp_path: Path) -> None:
    ensemble = average(make_members(task=task, n_classes=n_classes), pool=POOL)
    new, _ = make_data(17, task=task, n_classes=n_classes, seed=5)
    ensemble.save(tmp_path / "p")
    loaded = load_predictor(tmp_path / "p")
    assert isinstance(loaded, EnsemblePredictor)
    assert np.array_equal(loaded.predict_proba(new), ensemble.predict_proba(new))
    assert np.array_equal(loaded.decision(new), ensemble.decision(new))
    assert (loaded.encoders, loaded.task, loaded.n_classes, loaded.notes) == (
        ensemble.encoders,
        task,
        n_classes,
        ensemble.notes,
    )
    assert loaded.predict_proba(new.take(np.arange(0))).shape == (0, n_classes)
    assert {path.suffix for path in (tmp_path / "p").rglob("*") if path.is_file()} == {".json", ".safetensors"}


def test_an_average_of_averages_can_be_saved(tmp_path: Path) -> None:
    members = make_members()
    blocks, labels = make_data()
    late = fit_late_fusion(blocks, labels, encoders=["narrow", "middle"], how="stacking", **MULTICLASS)
    nested = average([average(members[:2], pool=POOL), members[2], late], pool=POOL)
    nested.save(tmp_path / "p")
    assert np.array_equal(load_predictor(tmp_path / "p").predict_proba(blocks), nested.predict_proba(blocks))


def test_notes_say_whom_they_are_about_and_common_ones_are_said_once() -> None:
    blocks, labels = make_data()
    few = labels.copy()
    few[few == 3] = 0
    fit = {"task": Task.MULTICLASS, "n_classes": 4}
    both = [fit_predictor(blocks, few, encoders=[name], **fit) for name in ("wide", "narrow")]
    assert average(both, pool=POOL).notes == ("No training row is of class 3: probability 0.",)
    mixed = [both[0], fit_predictor(blocks, labels, encoders=["narrow"], **fit)]
    assert average(mixed, pool=POOL).notes == ("wide: No training row is of class 3: probability 0.",)


def test_what_cannot_be_averaged_is_refused() -> None:
    members = make_members()
    other = make_members(task=Task.BINARY, n_classes=2)
    with pytest.raises(SearchError, match="no predictors"):
        average([], pool=POOL)
    with pytest.raises(SearchError, match="different tasks"):
        average([members[0], other[0]], pool=POOL)
    for pool in (("wide", "narrow"), (*POOL, "wide"), ()):
        with pytest.raises(AlignmentError, match="pool"):
            average(members, pool=pool)


def test_a_missing_block_is_named() -> None:
    blocks, _ = make_data()
    with pytest.raises(AlignmentError, match="middle"):
        average(make_members(), pool=POOL).predict_proba(blocks.only(["wide", "narrow"]))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    average(make_members(), pool=POOL).save(tmp_path / "p")
    return tmp_path / "p"


FILES = ["predictor.json", "arrays.safetensors", "members/1/predictor.json", "members/2/arrays.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_refused(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtifactError, match=Path(name).name):
        load_predictor(saved)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused(saved: Path, name: str) -> None:
    data = bytearray((saved / name).read_bytes())
    data[len(data) // 2] ^= 1
    (saved / name).write_bytes(data)
    with pytest.raises(ArtifactError):
        load_predictor(saved)


def test_members_that_were_exchanged_are_refused(saved: Path) -> None:
    # Each is whole and sealed by itself; only the ensemble knows which belongs where.
    (saved / "members" / "0").rename(saved / "members" / "9")
    (saved / "members" / "1").rename(saved / "members" / "0")
    (saved / "members" / "9").rename(saved / "members" / "1")
    with pytest.raises(ArtifactError):
        load_predictor(saved)
    reseal(saved)
    with pytest.raises(ArtifactError, match=r"members.0"):
        load_predictor(saved)


def reseal(folder: Path, **changes) -> None:
    """Change a predictor with a valid checksum, as only someone who knows how can."""
    content = json.loads((folder / "predictor.json").read_text())
    content = {key: value for key, value in content.items() if key not in {"checksum", "files", "format"}}
    seal(folder, name="predictor.json", content=content | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": []}, "no members"),
        ({"members": "0"}, "no members"),
        ({"members": ["../../elsewhere"]}, "predictor.json"),
        ({"members": [1, 2, 3]}, "predictor.json"),
        ({"encoders": ["wide"]}, "belong together"),
        ({"encoders": ["middle", "unknown", "wide", "narrow"]}, "belong together"),
        ({"encoders": None}, "belong together"),
    ],
)
def test_what_does_not_fit_the_members_is_refused(saved: Path, changes: dict, message: str) -> None:
    reseal(saved, **changes)
    with pytest.raises(ArtifactError, match=message):
        load_predictor(saved)


def test_saving_again_leaves_no_member_of_the_first_behind(saved: Path) -> None:
    blocks, _ = make_data()
    members = make_members()
    average(members[:2], pool=POOL).save(saved)
    assert sorted(path.name for path in (saved / "members").iterdir()) == ["0", "1"]
    members[0].save(saved)
    assert sorted(path.name for path in saved.iterdir()) == ["arrays.safetensors", "predictor.json"]
    assert np.array_equal(load_predictor(saved).predict_proba(blocks), members[0].predict_proba(blocks))
