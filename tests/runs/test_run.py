import json
import os
from types import SimpleNamespace

import pandas as pd
import pytest

from biofuse.core.errors import ArtifactError, LockedError
from biofuse.core.files import locked
from biofuse.core.seals import write_sealed
from biofuse.core.target import Task
from biofuse.runs.record import RUN_FORMAT, Environment, Folds, RunRecord
from biofuse.runs.run import Run, read_record, write_record
from biofuse.search.config import SearchConfig
from biofuse.search.leaderboard import Row
from biofuse.search.rules import Selection

ROW = Row(subset=("hog",), n_dims=3, folds={"auroc": (0.5, 0.75)})
RECORD = RunRecord(
    version="0.1.0", key="abc", started="2026-01-01T00:00:00+00:00", name="images", task=Task.BINARY,
    classes=("a", "b"), counts={}, encoders=(), options=SearchConfig(), fitted_on="train",
    plan=Folds(kind="cv", folds=2, repeats=1, key="p"), environment=Environment.here(), state="complete",
    selection=Selection(
        rule="best", metric="auroc", chosen=ROW, best=ROW, best_single=ROW, all=None, greedy=None, within=(),
        better_than_chance=None, reason="", notes=(),
    ),
)  # fmt: skip


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_record(folder, RECORD)
    return Run(path=folder, record=RECORD)


def change(run, **changes):
    content = json.loads(RECORD.model_dump_json()) | changes
    write_sealed(run.path / "run.json", content)


def test_a_complete_run_opens(run):
    found = Run.open(run.path)
    assert (found.record.chosen, found.record.mean) == (("hog",), 0.625)
    assert found.record.models == {"chosen": ("hog",), "best_single": ("hog",)}
    assert found.finished
    assert found.evaluation is None
    assert found.screen is None
    assert found.quarantined == ()


@pytest.mark.parametrize("changes", [{"state": "searching"}, {"selection": None}], ids=str)
def test_a_run_that_did_not_finish_is_refused(run, changes):
    change(run, **changes)
    assert read_record(run.path).key == "abc"
    with pytest.raises(ArtifactError, match="did not finish") as caught:
        Run.open(run.path)
    assert "goes on from there" in caught.value.remedy


def test_no_run_a_newer_run_and_a_damaged_run_are_told_apart(run, tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no run\.json") as caught:
        Run.open(tmp_path)
    assert "biofuse fit" in caught.value.remedy
    newer = RUN_FORMAT + 1
    for changes, words in (
        ({"format": newer}, f"format {newer}"),
        ({"surprise": 1}, "surprise"),
        ({"state": "done"}, "state"),
        ({"plan": {"kind": "cv"}}, "plan.folds"),
        ({"options": {"colour": "blue"}}, "colour"),
        ({"options": {"folds": "many"}}, "folds"),
    ):
        change(run, **changes)
        with pytest.raises(ArtifactError, match=words) as caught:
            Run.open(run.path)
        assert caught.value.remedy
    (run.path / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="cannot be read"):
        Run.open(run.path)


@pytest.mark.parametrize("version", [1, 2])
def test_a_run_of_an_old_format_is_refused_with_what_to_do(run, version):
    # What it wrote was no record of today, either: the format decides before anything else is looked at.
    change(run, format=version, plan={"kind": "cv"}, data={"name": "images"})
    with pytest.raises(ArtifactError, match=f"format {version}, written by BioFuse 0.1.0") as caught:
        Run.open(run.path)
    assert "`overwrite=True`" in caught.value.remedy


def test_clearing_removes_what_a_run_writes_and_nothing_else(run):
    written = ("model/model.json", "comparators/all/model.json", "metrics.json", "leaderboard.csv", "screen.parquet")
    kept = ["mine.txt", "scores-lda.jsonl", "screen.jsonl", "screen.jsonl.predictions"]
    for name in (*written, *kept):
        path = run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    run.clear()
    assert sorted(path.name for path in run.path.iterdir()) == kept


def test_sweeping_removes_half_written_things(run):
    (run.path / ".model.12ab.tmp").mkdir()
    (run.path / ".model.12ab.tmp" / "part").write_text("x")
    (run.path / "comparators").mkdir()
    (run.path / "comparators" / ".all.12ab.tmp").mkdir()
    (run.path / ".run.json.1-2.tmp").write_text("x")
    run.sweep()
    assert sorted(path.name for path in run.path.rglob("*")) == ["comparators", "run.json"]


def test_samples_read_back(run, reseal):
    frame = pd.DataFrame({"id": ["a", "b"], "content": ["", "00"], "label": ["x", "y"], "split": ["test", "train"]})
    frame["group"] = None
    frame.to_parquet(run.path / "samples.parquet")
    reseal(run.path)
    assert Run.open(run.path).samples["id"].tolist() == ["a", "b"]
    assert Run.open(run.path).samples["group"].isna().all()


def test_tables_that_are_missing_or_of_other_columns_are_named(run, reseal):
    for name in ("samples", "leaderboard"):
        with pytest.raises(ArtifactError, match=rf"{name}\.parquet is missing"):
            getattr(Run.open(run.path), name)
        pd.DataFrame({"id": ["a"]}).to_parquet(run.path / f"{name}.parquet")
        reseal(run.path)
        with pytest.raises(ArtifactError, match=rf"{name}\.parquet"):
            getattr(Run.open(run.path), name)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"n": 1}'])
def test_metrics_that_are_damaged_are_named(run, text, reseal):
    (run.path / "metrics.json").write_text(text)
    pd.DataFrame().to_parquet(run.path / "predictions.parquet")
    reseal(run.path)
    with pytest.raises(ArtifactError, match=r"metrics\.json") as caught:
        _ = Run.open(run.path).evaluation
    assert "biofuse evaluate" in caught.value.remedy


def test_latency_is_written_once_it_is_known(run, monkeypatch):
    run.remember(latency={"hog": 1.5})
    assert read_record(run.path).latency == {"hog": 1.5}
    monkeypatch.setattr("biofuse.runs.run.write_record", SimpleNamespace)  # the same again is not written
    run.remember(latency={"hog": 1.5})


def test_a_record_that_was_changed_is_refused_and_one_of_before_checksums_is_read(run):
    path = run.path / "run.json"
    path.write_text(path.read_text().replace("0.75", "0.95"))
    with pytest.raises(ArtifactError, match="has changed since it was written"):
        Run.open(run.path)
    path.write_text("[" * 100_000)
    with pytest.raises(ArtifactError, match="nested too deeply"):
        Run.open(run.path)
    pd.DataFrame({"id": ["a"], "content": [""], "label": ["x"], "split": ["test"], "group": [None]}).to_parquet(
        run.path / "samples.parquet"
    )
    path.write_text(json.dumps(json.loads(RECORD.model_dump_json()) | {"format": 3}))
    assert Run.open(run.path).samples["id"].tolist() == ["a"]


@pytest.mark.parametrize("name", ["samples", "leaderboard", "quarantined"])
def test_files_that_were_changed_or_taken_away_are_not_opened(run, reseal, name):
    file = run.path / ("quarantine.csv" if name == "quarantined" else f"{name}.parquet")
    file.write_text("")
    reseal(run.path)
    with pytest.raises(ArtifactError, match=f"{file.stem}.*cannot be read"):
        getattr(Run.open(run.path), name)
    file.write_text("id,source,reason\n")
    with pytest.raises(ArtifactError, match="has changed since it was written"):
        getattr(Run.open(run.path), name)
    file.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        getattr(Run.open(run.path), name)


def test_a_directory_that_is_being_written_is_refused_with_who_writes_it(run):
    with locked(run.path, doing="biofuse fit"):
        for claim in (lambda: Run.claim(run.path, doing="biofuse fit").__enter__(), lambda: Run.open(run.path)):
            change(run, state="searching")
            with pytest.raises(LockedError, match=f"biofuse fit, process {os.getpid()} on"):
                claim()
    with Run.claim(run.path, doing="biofuse fit"):
        assert (run.path / ".lock").exists()
    assert not (run.path / ".lock").exists()


def test_a_run_of_before_there_was_a_lean_subset_is_read_and_written_again_in_this_format(run):
    content = json.loads(RECORD.model_dump_json()) | {"format": 4}
    del content["selection"]["lean"]
    write_sealed(run.path / "run.json", content)
    older = Run.open(run.path)
    assert "lean" not in older.record.models
    older.remember(latency={"hog": 2.0})
    assert json.loads((run.path / "run.json").read_text())["format"] == RUN_FORMAT
