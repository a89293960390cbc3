"""What trackers are told of a run, by what they then hold themselves."""

import json

import pytest

import biofuse
from biofuse.core.errors import ArtifactError, DependencyError, TrackingError
from biofuse.runs import tracking
from biofuse.runs.tracking import attempt_tracking, require_tracker

from .conftest import ALONE


@pytest.fixture
def mlflow_client(tmp_path, monkeypatch):
    """Return a client of an MLflow that keeps everything in a folder of the test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "cells")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    return MlflowClient()


@pytest.mark.slow
def test_mlflow_holds_parameters_scores_and_report_and_an_evaluation_joins_its_fit(run, study, mlflow_client):
    path = run().path
    (path / "report.html").write_text("<!doctype html>")
    biofuse.track(path, "mlflow")
    evaluation = biofuse.evaluate(path, store=study.store, options=ALONE, progress=False)
    biofuse.track(path, "mlflow")
    experiment = mlflow_client.get_experiment_by_name("cells")
    (found,) = mlflow_client.search_runs([experiment.experiment_id])
    record = json.loads((path / "run.json").read_text())
    assert found.info.run_name == "run"
    assert found.info.status == "FINISHED"
    assert found.data.params["pool"] == "t_colour, t_edge"
    assert found.data.params["option_rule"] == record["options"]["rule"]
    assert found.data.params["n_train"] == "36"
    metric = record["selection"]["metric"]
    folds = record["selection"]["chosen"]["folds"][metric]
    assert found.data.metrics[f"cv_{metric}"] == pytest.approx(sum(folds) / len(folds))
    ends = evaluation.models["chosen"].intervals["accuracy"]
    assert found.data.metrics["test_accuracy"] == pytest.approx(ends.estimate)
    assert found.data.metrics["test_accuracy_low"] == pytest.approx(ends.low)
    held = {file.path for file in mlflow_client.list_artifacts(found.info.run_id)}
    assert held == {"report.html", "run.json", "metrics.json", "leaderboard.csv"}


def test_a_tracker_that_fails_costs_a_sentence_and_not_the_run(fitted, monkeypatch):
    def refuses(told):
        raise ConnectionError("nobody is there")

    monkeypatch.setitem(tracking.TRACKERS, "mlflow", refuses)
    said = []
    assert not attempt_tracking(fitted.path, ["mlflow"], tell=said.append)
    failed = "The run was not tracked (mlflow failed: ConnectionError: nobody is there). The run is complete."
    assert said == [f"{failed} Set mlflow up, and try again: `track='mlflow'`."]
    assert biofuse.BioFuseModel.load(fitted.path).encoders == fitted.model.encoders


def test_a_tracker_that_there_is_not_is_refused_before_anything_is_done(monkeypatch, tmp_path):
    with pytest.raises(TrackingError, match="no tracker 'mlfow'") as unknown:
        require_tracker("mlfow")
    assert "mlflow" in unknown.value.remedy
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(DependencyError, match="wandb is not installed") as absent:
        require_tracker("wandb")
    assert "biofuse-embed[wandb]" in absent.value.remedy
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="is not a run"):
        biofuse.track(tmp_path, "mlflow")
