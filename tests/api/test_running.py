import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from biofuse import BioFuse, BioFuseModel, ExtractOptions
from biofuse.api.fit import evaluate
from biofuse.core.errors import ArtifactError, LockedError, SearchError
from biofuse.core.files import locked
from biofuse.data.load import load_samples
from biofuse.runs.run import Run
from biofuse.search import search as searching
from biofuse.search.closed_form import ClosedFormScorer
from biofuse.search.scorers import RefitScorer
from biofuse.store.store import EmbeddingStore

pytestmark = pytest.mark.slow

POOL = ["t_colour", "t_edge"]
ALONE = ExtractOptions(workers=0)


@pytest.fixture
def fits(monkeypatch):
    """Collect what is computed: folds of the screen, folds of the search that refits, and final models."""
    found = SimpleNamespace(screened=set(), folds=set(), models=[])

    def watch(scorer, seen):
        score_fold = scorer.score_fold

        def watched(self, subset, fold):
            seen.add((subset, fold))  # the estimate of the cost scores one of them several times
            return score_fold(self, subset, fold)

        monkeypatch.setattr(scorer, "score_fold", watched)

    class WatchedFit(searching.Fit):
        """Tells the fits of final models, on all development rows, from those of the folds."""

        def to(self, blocks, labels, **options):
            fit = super().to(blocks, labels, **options)

            def watched(encoders, seed):
                if len(labels) == 51:
                    found.models.append(encoders)
                return fit(encoders, seed)

            return watched

    def forget():
        for seen in (found.screened, found.folds, found.models):
            seen.clear()

    watch(ClosedFormScorer, found.screened)
    watch(RefitScorer, found.folds)
    monkeypatch.setattr(searching, "Fit", WatchedFit)
    found.forget = forget
    return found


@pytest.fixture(scope="module")
def finished(quick, study):
    """Return a function that lays a copy of a finished run somewhere: what ``run()`` writes, fitted once."""
    kept = study.root / "finished"
    quick(POOL).fit(study.images, out=kept, progress=False)

    def lay(folder):
        shutil.copytree(kept, folder)
        return BioFuseModel.load(folder)

    return lay


def listing(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what a run directory holds


def test_a_run_directory_says_what_was_done(fitted, study):
    record = json.loads((fitted.path / "run.json").read_text(), parse_constant=pytest.fail)
    assert record["state"] == "complete"
    assert record["data"]["source"] == str(study.images)
    assert record["counts"]["train"] == {"ctl": 12, "mid": 12, "sev": 12}
    assert [encoder["card"]["name"] for encoder in record["encoders"]] == ["t_colour", "t_spread", "t_edge"]
    assert record["options"]["folds"] == 3
    assert record["fitted_on"] == "train + val"
    assert tuple(record["selection"]["chosen"]["subset"]) == fitted.model.encoders
    assert record["environment"]["libraries"]["numpy"] == np.__version__
    board = pd.read_parquet(fitted.path / "leaderboard.parquet")
    pd.testing.assert_frame_equal(board, fitted.leaderboard.to_frame())
    pd.testing.assert_frame_equal(pd.read_csv(fitted.path / "leaderboard.csv"), board, rtol=1e-12)
    screen = pd.read_parquet(fitted.path / "screen.parquet")
    pd.testing.assert_frame_equal(screen, fitted.screen.to_frame())
    pd.testing.assert_frame_equal(pd.read_csv(fitted.path / "screen.csv"), screen, rtol=1e-12)
    there, kept = Run.open(fitted.path).out_of_fold, fitted.search.out_of_fold
    assert all(np.array_equal(getattr(there, name), getattr(kept, name)) for name in ("rows", "fold", "probabilities"))
    rows = pd.read_parquet(fitted.path / "samples.parquet")
    said = pd.read_parquet(fitted.path / "out_of_fold.parquet")
    assert said["id"].tolist() == fitted.embeddings.ids[kept.rows].tolist()
    assert rows["split"].value_counts().to_dict() == {"train": 36, "test": 21, "val": 15}
    assert (rows["content"] == "").tolist() == (rows["split"] == "test").tolist()
    np.testing.assert_array_equal(
        BioFuseModel.load(fitted.path).predict_proba(study.images / "test"),
        fitted.model.predict_proba(study.images / "test"),
    )
    assert not [name for name in listing(fitted.path) if name.endswith(".tmp")]


# --- going on


def test_style_bug_13_a_finished_run_is_reused_and_nothing_is_fitted_again(run, fits):
    first = run()
    assert not first.reused
    assert len(fits.screened) == len(fits.folds) == 9  # three subsets of three folds
    assert set(fits.models) == {model.encoders for model in first.models.values()}
    assert len(fits.models) == len(set(fits.models))  # one subset is fitted once, however many names it has
    fits.forget()
    second = run()
    assert second.reused
    assert not fits.screened | fits.folds | set(fits.models)
    assert second.screen.to_frame().equals(first.screen.to_frame())
    assert second.leaderboard.to_frame().equals(first.leaderboard.to_frame())
    assert second.selection.reason == first.selection.reason
    assert list(second.models) == list(first.models)


def test_style_bug_13_other_options_are_another_run(run, finished, tmp_path):
    finished(tmp_path / "run")
    before = listing(tmp_path / "run")
    for options in (
        {"head": "ridge"},
        {"search": "exhaustive"},
        {"predictor": "ensemble"},
        {"finalists": 1},
        {"max_encoders": 1},
        {"scaling": "block"},
        {"rule": "best"},
        {"class_weight": "balanced"},
        {"seed": 1},
        {"folds": 2},
    ):
        with pytest.raises(SearchError, match="other data or with other options") as caught:
            run(**options)
        assert "`overwrite=True`" in caught.value.remedy
        assert listing(tmp_path / "run") == before
    assert run().reused


def test_two_fits_do_not_write_one_run_and_the_second_says_who_has_it(run, tmp_path, fits):
    with locked(tmp_path / "run", doing="biofuse fit"):
        with pytest.raises(LockedError, match=r"written by another process \(biofuse fit, process"):
            run()
        assert not fits.folds
    assert not (tmp_path / "run").exists()
    run()
    assert not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize("name", ["model", "comparators"])
def test_overwriting_removes_a_link_and_not_what_it_names(run, finished, tmp_path, name):
    finished(tmp_path / "run")
    (tmp_path / "run" / name).rename(tmp_path / "kept")
    (tmp_path / "run" / name).symlink_to(tmp_path / "kept")
    run(overwrite=True, head="ridge", seed=1)
    assert not (tmp_path / "run" / name).is_symlink()
    assert list((tmp_path / "kept").iterdir())


def test_other_data_are_another_run(run, finished, study, tmp_path):
    finished(tmp_path / "run")
    changed = study.samples.in_split("train", "val").take(np.arange(50))
    with pytest.raises(SearchError, match="other data"):
        run(data=changed)


def test_overwriting_leaves_nothing_of_the_old_run(run, finished, study, tmp_path):
    finished(tmp_path / "run")
    folder = tmp_path / "run"
    evaluate(folder, store=EmbeddingStore(study.store), options=ALONE, progress=False)
    (folder / "notes.txt").write_text("mine")
    result = run(overwrite=True, search="all")
    assert set(result.models) == {"chosen", "all"}
    assert sorted(path.name for path in (folder / "comparators").iterdir()) == ["all"]
    assert not (folder / "metrics.json").exists()
    assert not (folder / "predictions.parquet").exists()
    assert not (folder / "screen.parquet").exists()
    assert len(pd.read_parquet(folder / "leaderboard.parquet")) == 1
    assert (folder / "notes.txt").read_text() == "mine"
    found = evaluate(folder, store=EmbeddingStore(study.store), options=ALONE, progress=False)
    assert set(found.models) == {"chosen", "all"}


def test_a_folder_that_is_no_run_is_left_alone(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(SearchError, match="is not a run"):
            run(overwrite=overwrite)
    assert listing(tmp_path / "run") == {"thesis.txt": b"years of work"}
    (tmp_path / "file").write_text("")
    with pytest.raises(SearchError, match="is not a run"):
        run(tmp_path / "file")


def test_what_a_killed_start_left_is_no_obstacle(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".run.json.1-abcd.tmp").write_text("{")
    assert run().path == tmp_path / "run"
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize(("text", "words"), [('{"format": 99}', "format 99"), ("[]", "not a run's record")])
def test_a_damaged_record_is_one_clear_error_and_can_be_overwritten(run, finished, tmp_path, text, words):
    finished(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(text)
    for action in (run, lambda: evaluate(tmp_path / "run")):
        with pytest.raises(ArtifactError, match=words) as caught:
            action()
        assert caught.value.remedy
    assert not run(overwrite=True).reused
    assert run().reused


@pytest.mark.parametrize("victim", ["model/model.json", "model/predictor/arrays.safetensors", "comparators/all"])
def test_missing_models_are_fitted_again_and_said_to_be(run, finished, study, tmp_path, victim, fits):  # noqa: PLR0917
    first = finished(tmp_path / "run")
    path = tmp_path / "run" / victim
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(ArtifactError):
        evaluate(tmp_path / "run", progress=False)
    fits.forget()
    said = []
    second = run(tell=said.append)
    assert any("missing, damaged" in line for line in said)
    assert not second.reused
    assert not fits.screened | fits.folds
    assert fits.models
    test = study.images / "test"
    np.testing.assert_array_equal(second.model.predict_proba(test), first.predict_proba(test))
    assert run().reused


@pytest.mark.parametrize("file", ["screen", "scores-ridge"])
def test_a_half_written_leaderboard_is_finished(run, tmp_path, fits, file, reseal):
    first = run(head="ridge")
    folder = tmp_path / "run"
    reseal(folder, state="searching", selection=None)
    scores = folder / f"{file}.jsonl"
    scores.write_bytes(scores.read_bytes()[:-25])
    shutil.rmtree(folder / "model")
    (folder / "samples.parquet").unlink()
    fits.forget()
    second = run(head="ridge")
    cut = {(("t_colour", "t_edge"), fold) for fold in range(3)}
    assert (fits.screened, fits.folds) == ((cut, set()) if file == "screen" else (set(), cut))
    assert second.selection.chosen.subset == first.selection.chosen.subset
    assert (folder / "samples.parquet").exists()
    assert json.loads((folder / "run.json").read_text())["state"] == "complete"


SCRIPT = """
import sys, time
from biofuse import BioFuse, ExtractOptions
from biofuse.heads.logistic import Logistic
fit = Logistic.fit
def slow(self, *args, **options):
    time.sleep({pause})
    return fit(self, *args, **options)
Logistic.fit = slow
images, store, out = sys.argv[1:]
BioFuse(
    ["hog", "lbp", "colour"], head="logistic", folds=2, repeats=1, store=store, options=ExtractOptions(workers=0)
).fit(images, out=out, progress=False)
"""


@pytest.mark.slow
def test_killed_at_random_moments_a_fit_ends_with_the_same_choice_and_scores(study, tmp_path):
    script = tmp_path / "fit.py"
    script.write_text(SCRIPT.format(pause=0.1))

    def start(name):
        return subprocess.Popen([sys.executable, script, study.images, tmp_path / "killed-store", tmp_path / name])

    options = {"head": "logistic", "folds": 2, "repeats": 1, "store": tmp_path / "store", "options": ALONE}
    calm = BioFuse(["hog", "lbp", "colour"], **options)
    calm.fit(study.images, out=tmp_path / "calm", progress=False)
    generator = random.Random(0)
    killed = 0
    for _ in range(2):
        process = start("killed")
        # The scores' file tells when the search has begun: kills fall before, in, and after it.
        deadline, wait = time.monotonic() + 6, generator.uniform(0, 1.5)
        while not (tmp_path / "killed" / "scores-logistic.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    assert start("killed").wait() == 0
    calm, resumed = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("calm", "killed"))
    assert resumed["state"] == "complete"
    assert resumed["selection"]["chosen"]["subset"] == calm["selection"]["chosen"]["subset"]
    boards = [pd.read_parquet(tmp_path / name / "leaderboard.parquet") for name in ("calm", "killed")]
    assert boards[0]["subset"].tolist() == boards[1]["subset"].tolist()
    columns = [column for column in boards[0] if column.startswith(("auroc", "accuracy", "log_loss"))]
    np.testing.assert_allclose(boards[0][columns], boards[1][columns], atol=1e-4)
    models = [BioFuseModel.load(tmp_path / name) for name in ("calm", "killed")]
    proba = [model.predict_proba(study.images / "test", store=tmp_path / "store") for model in models]
    np.testing.assert_allclose(proba[0], proba[1], atol=1e-4)


def test_a_kill_while_models_are_written_is_no_obstacle(run, tmp_path, monkeypatch):
    """The seal is written last; what stands before it must not be taken for somebody else's folder."""
    from biofuse.model import folder as module

    real = module.seal

    def dead(*args, **options):
        (tmp_path / "run" / "model" / "predictor").mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / "model" / "predictor" / "arrays.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "seal", dead)
    with pytest.raises(KeyboardInterrupt):
        run()
    monkeypatch.setattr(module, "seal", real)
    assert not run().reused
    assert run().reused


def test_splits_of_the_caller_survive_in_the_run(run, study, tmp_path):
    shuffled = study.samples.take(np.random.default_rng(0).permutation(len(study.samples)))
    run(data=replace(shuffled, name="shuffled"))
    rows = pd.read_parquet(tmp_path / "run" / "samples.parquet").set_index("id")
    assert rows.loc[study.samples.ids, "split"].tolist() == study.samples.splits.tolist()
    assert load_samples(study.images).ids.tolist() == study.samples.ids.tolist()
