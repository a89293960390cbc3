import json

import pandas as pd
import pytest
from pydantic import ValidationError

from biofuse.core.errors import ArtifactError
from biofuse.runs.run import RUN_FORMAT, Run, RunRecord, describe_environment

RECORD = RunRecord(
    version="0.1.0",
    key="abc",
    started="2026-01-01T00:00:00+00:00",
    data={"name": "images"},
    task="binary",
    classes=("a", "b"),
    counts={},
    encoders=[],
    options={},
    plan={},
    fitted_on="train",
    environment={},
)


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run")


def test_a_record_reads_back_equal(run):
    assert run.is_free()
    assert not run.exists()
    run.write(RECORD)
    assert run.exists()
    assert not run.is_free()
    assert run.read() == RECORD


def test_numbers_that_json_lacks_are_null(run):
    run.write(RECORD.model_copy(update={"selection": {"mean": float("nan")}}))
    content = json.loads((run.path / "run.json").read_text(), parse_constant=pytest.fail)
    assert content["selection"] == {"mean": None}
    assert run.read().selection == {"mean": None}


def test_no_run_a_newer_run_and_a_damaged_run_are_told_apart(run):
    with pytest.raises(ArtifactError, match=r"holds no run\.json") as caught:
        run.read()
    assert "biofuse fit" in caught.value.remedy
    run.write(RECORD)
    content = json.loads((run.path / "run.json").read_text())
    newer = RUN_FORMAT + 1
    changes = (({"format": newer}, f"format {newer}"), ({"surprise": 1}, "surprise"), ({"state": "done"}, "state"))
    for change, words in changes:
        (run.path / "run.json").write_text(json.dumps(content | change))
        with pytest.raises(ArtifactError, match=words):
            run.read()
    (run.path / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="cannot be read"):
        run.read()


def test_a_record_of_the_first_format_is_still_read(run):
    """It had no evidence."""
    run.write(RECORD)
    content = json.loads((run.path / "run.json").read_text())
    del content["evidence"]
    (run.path / "run.json").write_text(json.dumps(content | {"format": 1}))
    assert run.read() == RECORD.model_copy(update={"format": 1})


def test_a_record_has_no_fields_of_its_own_making():
    with pytest.raises(ValidationError):
        RunRecord.model_validate(RECORD.model_dump() | {"colour": "blue"})


def test_clearing_removes_what_a_run_writes_and_nothing_else(run):
    run.write(RECORD)
    written = ("model/model.json", "comparators/all/model.json", "metrics.json", "leaderboard.csv", "screen.parquet")
    kept = ["mine.txt", "scores-lda.jsonl", "screen.jsonl", "screen.jsonl.predictions"]
    for name in (*written, *kept):
        path = run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    run.clear()
    assert sorted(path.name for path in run.path.iterdir()) == kept


def test_sweeping_removes_half_written_things(run):
    run.write(RECORD)
    (run.path / ".model.12ab.tmp").mkdir()
    (run.path / ".model.12ab.tmp" / "part").write_text("x")
    (run.path / "comparators").mkdir()
    (run.path / "comparators" / ".all.12ab.tmp").mkdir()
    (run.path / ".run.json.1-2.tmp").write_text("x")
    run.sweep()
    assert sorted(path.name for path in run.path.rglob("*")) == ["comparators", "run.json"]


def test_tables_read_back_by_their_ending(run):
    frame = pd.DataFrame({"id": ["a", "b"], "content": ["", "00"], "label": ["x", "y"], "split": ["test", "train"]})
    frame["group"] = None
    run.write_frame(frame, run.path / "samples.parquet")
    run.write_frame(frame, run.path / "samples.csv")
    assert run.read_samples()["id"].tolist() == ["a", "b"]
    assert run.read_samples()["group"].isna().all()
    assert pd.read_csv(run.path / "samples.csv")["split"].tolist() == ["test", "train"]


def test_a_table_of_other_columns_is_damaged(run):
    run.write_frame(pd.DataFrame({"id": ["a"]}), run.path / "samples.parquet")
    with pytest.raises(ArtifactError, match=r"samples\.parquet"):
        run.read_samples()


def test_the_environment_is_plain_json():
    found = describe_environment()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["libraries"]["numpy"]
    assert found["cores"] >= 1
