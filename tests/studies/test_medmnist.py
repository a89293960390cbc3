"""MedMNIST+ end to end: the Evaluator's metrics, going on after a stop, published values, files of other content."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from biofuse import BioFuse, ExtractOptions
from biofuse.core.errors import DataError, SearchError
from biofuse.core.hashing import digest_file
from biofuse.studies import suite
from biofuse.studies.published import Beside, published_results
from biofuse.studies.suite import benchmark_medmnist, medmnist_sets

pytestmark = pytest.mark.slow

FLAGS = ("chestmnist", "octmnist", "retinamnist", "breastmnist")  # multi-label, multi-class, ordinal, binary


def run(fuse, root, out, sets=(), **options):
    return benchmark_medmnist(fuse, sets, out=out, root=root, progress=False, **{"size": 28, **options})


@pytest.fixture(scope="module")
def outcome(fuse, archives, tmp_path_factory):
    """Run the four sets once; tests that change something run their own."""
    return run(fuse, archives, tmp_path_factory.mktemp("out"))


@pytest.mark.parametrize("flag", FLAGS)
def test_auc_and_acc_equal_the_evaluators_on_the_same_predictions(flag, outcome, archives):
    evaluator_of = pytest.importorskip("medmnist").Evaluator
    path = outcome.finished[flag]
    frame = pd.read_parquet(path / "predictions.parquet")
    # The Evaluator reads labels in the archive's order.
    frame = frame.assign(row=frame["id"].str.rpartition("/")[2].astype(int)).sort_values("row")
    scores = frame[[name for name in frame if name.startswith("p_")]].to_numpy()
    auc, acc = evaluator_of(flag, "test", size=28, root=str(archives)).evaluate(scores)
    mine = json.loads((path / "metrics.json").read_text())["models"]["chosen"]["metrics"]
    assert mine["auroc"] == pytest.approx(auc, abs=1e-12)
    assert mine["accuracy"] == pytest.approx(acc, abs=1e-12)


def test_official_splits_are_used_as_they_are(outcome):
    for flag in FLAGS:
        record = json.loads((outcome.finished[flag] / "run.json").read_text())
        rows = pd.read_parquet(outcome.finished[flag] / "samples.parquet")
        assert rows["split"].value_counts().to_dict() == {"train": 70, "val": 30, "test": 60}
        assert record["options"]["head"] == "ridge"


def test_one_table_with_ours_and_the_published_singles(outcome):
    table = outcome.tables()[0]
    rows = {row[0]: row for row in table.texts()}
    assert list(rows) == list(FLAGS)
    breast = dict(zip([column.title for column in table.columns], rows["breastmnist"], strict=True))
    chosen = json.loads((outcome.finished["breastmnist"] / "metrics.json").read_text())["models"]["chosen"]
    assert breast["AUC"].startswith(f"{chosen['metrics']['auroc']:.4f} (")
    assert breast["ACC"].startswith(f"{chosen['metrics']['accuracy']:.4f} (")
    assert breast["published best single AUC"] == "0.9453 dinov2_g"
    assert breast["published best single ACC"] == "0.8846 biomedclip"
    assert any("DINOv2 ViT-g/14" in note for note in table.notes)


def test_ours_stand_beside_the_authors_fusion_the_best_honest_and_the_best_claimed(outcome):
    tables = {table.caption: table for table in outcome.tables()}
    best = tables["BioFuse and what others reached, test ACC"]
    titles = [column.title for column in best.columns]
    rows = {row[0]: dict(zip(titles, row, strict=True)) for row in best.texts()}
    assert list(rows) == [*FLAGS, "mean of 3", "mean rank"]  # of all nine encoders nothing is published on ChestMNIST
    accuracy = {
        flag: json.loads((path / "metrics.json").read_text())["models"]["chosen"]["metrics"]["accuracy"]
        for flag, path in outcome.finished.items()
    }
    octmnist = rows["octmnist"]
    assert octmnist["BioFuse here"] == f"{accuracy['octmnist']:.4f}"
    assert octmnist["BioFuse paper, chosen of 8"] == "0.7770"
    assert octmnist["BioFuse paper, all 9"] == "0.8220"
    assert octmnist["best honest"] == "0.9030 VGG16, fine-tuned [v, A]"
    assert octmnist["best claimed"] == "0.9630 VGG16-CoLoRA [?, A]"
    mean = np.mean([accuracy[flag] for flag in FLAGS if flag != "chestmnist"])
    assert rows["mean of 3"]["BioFuse here"] == f"{mean:.4f}"
    assert any("T: the checkpoint was chosen on the test split itself" in note for note in best.notes)
    methods = tables["Published methods, test ACC"]
    by_name = {row[0]: row for row in methods.texts()}
    assert by_name["MedViTV2-L [T, A]"][1:3] == ["0.9670\u00b9", "0.9520\u00b2"]
    assert by_name["MedViTV2-L [T, A]"][-1] == "medvitv2"
    assert "MedViTV2-L: the accuracy on ChestMNIST cannot come from the published code." in methods.notes
    # Ranks among the methods with a score on every set, worked out in another way.
    whole = {name: row for name, row in by_name.items() if all(row[1:5])}
    values = np.array([[float(text.rstrip("\u00b9\u00b2\u00b3")) for text in row[1:5]] for row in whole.values()])
    ranks = pd.DataFrame(-values, index=list(whole)).rank().mean(axis=1)
    assert rows["mean rank"]["BioFuse here"] == f"{ranks['BioFuse here']:.2f}"
    found = outcome.to_json()["published"]["over_sets"]["accuracy"]
    assert found["mean_ranks"] == pytest.approx(ranks.to_dict())


def test_files_that_are_not_the_published_ones_are_said_to_be(outcome):
    assert set(outcome.altered) == set(FLAGS)
    assert any("not the one that MedMNIST publishes" in note for note in outcome.notes)
    assert any("224 pixels" in note for note in outcome.notes)
    assert "not the one that MedMNIST publishes" in outcome.to_html()


def test_a_published_file_is_recognised(fuse, archives, tmp_path, monkeypatch):
    pattern, catalogue = suite.medmnist_catalogue()
    md5 = {28: digest_file(archives / "breastmnist.npz", algorithm="md5")}
    changed = {**catalogue, "breastmnist": catalogue["breastmnist"].model_copy(update={"md5": md5})}
    monkeypatch.setattr(suite, "medmnist_catalogue", lambda: (pattern, changed))
    assert run(fuse, archives, tmp_path, ["breastmnist"]).altered == ()


def test_json_holds_ours_theirs_and_where_they_come_from(outcome):
    found = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert [entry["name"] for entry in found["runs"]] == list(FLAGS)
    assert set(found["singles"]["auroc"]["octmnist"]) == {"s_rows", "s_tiles"}
    assert found["published"]["datasets"]["octmnist"]["auroc"]["dinov2_g"] == 0.9903
    assert "mnhcorp/biofuse" in found["published"]["source"]
    best = found["published"]["datasets"]["octmnist"]["best_claimed"]["accuracy"]
    assert (best["value"], best["method"], best["protocol"]) == (0.963, "VGG16-CoLoRA", "?")
    assert found["published"]["sources"][best["source"]] == "README of CoLoRA, arXiv 2505.18315"
    assert found["runs"][0]["modality"] == "chest X-ray"


def test_the_page_has_heat_maps_and_modalities(outcome):
    titles = [table.caption for table in outcome.tables()]
    assert "Test AUROC of single encoders" in titles
    assert "Test accuracy of single encoders" in titles
    assert any(title.startswith("Encoder modality against data") for title in titles)
    assert "breastmnist (breast ultrasound)" in outcome.to_html()


def test_a_benchmark_that_was_stopped_goes_on_with_the_next_set(fuse, archives, tmp_path, monkeypatch):
    real, evaluated = suite.evaluate, []

    def stopped(path, **options):
        if evaluated:
            raise KeyboardInterrupt
        evaluated.append(path.name)
        return real(path, **options)

    monkeypatch.setattr(suite, "evaluate", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(fuse, archives, tmp_path, ["octmnist", "breastmnist"])
    assert evaluated == ["octmnist"]
    read = []
    monkeypatch.setattr(suite, "evaluate", lambda path, **o: evaluated.append(path.name) or real(path, **o))
    fit = BioFuse.fit
    monkeypatch.setattr(BioFuse, "fit", lambda self, source, **o: read.append(source) or fit(self, source, **o))
    said = []
    outcome = run(fuse, archives, tmp_path, ["octmnist", "breastmnist"], tell=said.append)
    assert "[1/2] octmnist: finished before." in said
    assert evaluated == ["octmnist", "breastmnist"]
    assert [source.rpartition("/")[2] for source in read] == ["breastmnist.npz"]
    assert outcome.reused == ("octmnist",)
    again = run(fuse, archives, tmp_path, ["octmnist", "breastmnist"])
    assert again.reused == ("octmnist", "breastmnist")
    assert again.to_json()["runs"] == outcome.to_json()["runs"]


@pytest.mark.parametrize("change", ["file", "model", "metrics"])
def test_what_has_changed_since_is_looked_at_again(change, fuse, archives, tmp_path, reseal):
    root, out = tmp_path / "root", tmp_path / "out"
    root.mkdir()
    (root / "breastmnist.npz").write_bytes((archives / "breastmnist.npz").read_bytes())
    run(fuse, root, out)
    if change == "file":
        (root / "breastmnist.npz").touch()
    elif change == "model":
        reseal(out / "breastmnist", state="searching")
    else:
        (out / "breastmnist" / "metrics.json").unlink()
    assert run(fuse, root, out).reused == ()
    assert run(fuse, root, out).reused == ("breastmnist",)


def test_other_options_do_not_pass_for_finished_ones(fuse, scan_encoders, archives, tmp_path):
    run(fuse, archives, tmp_path, ["breastmnist"])
    other = BioFuse(
        list(scan_encoders), folds=2, repeats=1, head="lda", store=fuse.store, options=ExtractOptions(workers=0)
    )
    with pytest.raises(SearchError, match="other options"):
        run(other, archives, tmp_path, ["breastmnist"])
    outcome = run(other, archives, tmp_path, ["breastmnist"], overwrite=True)
    assert outcome.comparison.runs[0].record.options.head == "lda"


def test_a_damaged_archive_is_named_and_the_others_are_run(fuse, archives, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "breastmnist.npz").write_bytes((archives / "breastmnist.npz").read_bytes())
    (root / "octmnist.npz").write_bytes((archives / "octmnist.npz").read_bytes()[:5000])
    outcome = run(fuse, root, tmp_path / "out")
    assert list(outcome.finished) == ["breastmnist"]
    assert "no readable .npz archive" in outcome.failed["octmnist"].message
    assert any("octmnist could not be run" in note for note in outcome.notes)
    with pytest.raises(DataError, match="no readable"):
        run(fuse, root, tmp_path / "other", ["octmnist"])


def test_sets_and_sizes_that_do_not_exist(fuse, archives, tmp_path):
    with pytest.raises(DataError, match="organmnist3d is no two-dimensional"):
        run(fuse, archives, tmp_path, ["organmnist3d"])
    with pytest.raises(DataError, match="no size 32"):
        run(fuse, archives, tmp_path, size=32)
    with pytest.raises(DataError, match="holds no MedMNIST file of 64 pixels") as caught:
        run(fuse, archives, tmp_path, size=64)
    assert "Name the sets" in caught.value.remedy


def test_a_set_that_is_named_and_missing_is_fetched(fuse, archives, tmp_path, monkeypatch):
    asked = []

    def fetch(flag, size, *, root, progress):
        progress.begin("fetching", 20)
        progress.advance("fetching", 20)
        asked.append((flag, size, root))
        raise DataError("It cannot be fetched.", remedy="Try again.")

    monkeypatch.setattr(suite, "medmnist_file", fetch)
    outcome = run(fuse, archives, tmp_path, ["breastmnist", "bloodmnist"])
    assert asked == [("bloodmnist", 28, archives)]
    assert list(outcome.finished) == ["breastmnist"]
    assert list(outcome.failed) == ["bloodmnist"]


def test_the_12_sets_are_those_of_the_paper():
    info = pytest.importorskip("medmnist").INFO
    assert set(medmnist_sets()) == {name for name in info if not name.endswith("3d")}
    assert len(medmnist_sets()) == 12


def test_published_values_are_complete_and_within_bounds():
    published = published_results()
    from biofuse.encoders.registry import list_cards

    names = {card.name for card in list_cards()}
    assert set(published.encoders) <= names
    assert published.encoders["dinov2_g"] == "Prov-GigaPath"
    assert "prov_gigapath" not in published.encoders
    for known in published.datasets.values():
        assert list(known.auroc) == list(known.accuracy) == list(published.encoders)
        assert known.chosen_on_validation in published.encoders
        assert all(0.5 < value < 1 for value in [*known.auroc.values(), *known.accuracy.values()])
    # Spot checks against the publication's figures.
    assert published.datasets["pneumoniamnist"].auroc["rad_dino"] == 0.9983
    assert published.datasets["organsmnist"].accuracy["chexagent"] == 0.7710


def test_encoders_with_published_values_stand_beside_them(outcome, tmp_path):
    from biofuse.evaluation.metrics import Metrics
    from biofuse.report.compare import RunComparison, RunSummary
    from biofuse.runs.run import Run, write_record

    mine = outcome.comparison.runs[3]
    encoder = mine.record.encoders[0]
    conch = encoder.model_copy(update={"card": encoder.card.model_copy(update={"name": "conch"})})
    run = Run(path=tmp_path, record=mine.record.model_copy(update={"encoders": (conch, encoder)}))
    singles = {"conch": Metrics(values_by_name={"auroc": 0.92, "accuracy": float("nan")})}
    write_record(tmp_path, run.record)
    run.write_evaluation(replace(mine.evaluation, singles=singles))
    summary = RunSummary(run=run, name="breastmnist")
    flags = {"breastmnist": "breastmnist"}
    beside = Beside(comparison=RunComparison(runs=(summary,)), flags=flags)
    table = beside.singles_table("auroc")
    assert table.texts() == [["conch (CONCH)", f"0.9200 / 0.9114 ({0.92 - 0.9114:+.4f})"]]
    assert beside.singles_table("accuracy").rows[0][1] == "– / 0.8462"


def test_labels_are_those_of_the_archive(outcome, archives):
    with np.load(archives / "octmnist.npz") as archive:
        labels = archive["test_labels"][:, 0]
    frame = pd.read_parquet(outcome.finished["octmnist"] / "predictions.parquet")
    names = outcome.comparison.runs[1].record.classes
    rows = frame["id"].str.rpartition("/")[2].astype(int)
    assert frame["label"].tolist() == [names[labels[row]] for row in rows]
