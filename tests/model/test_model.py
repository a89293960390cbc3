import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from biofuse import BioFuseModel, ExtractOptions
from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import (
    ArtifactError,
    BioFuseWarning,
    DataError,
    DiskError,
    UndefinedMetricError,
    UnreadableImageError,
)
from biofuse.core.hashing import digest_file, digest_json
from biofuse.core.seals import FORMAT_VERSION, write_sealed
from biofuse.data.decoding import DecodePolicy
from biofuse.data.load import load_samples
from biofuse.evaluation.operating import Thresholds
from biofuse.model.trust import Trust

ALONE = ExtractOptions(workers=0)
CAREFUL = ExtractOptions(workers=0, on_error="quarantine")


@pytest.fixture
def model(made):
    return made.model


@pytest.fixture
def saved(model, tmp_path):
    return model.save(tmp_path / "saved")


def proba(model, data):
    return model.predict_proba(data, options=ALONE, progress=False)


# --- embedding and predicting


def test_probabilities_are_calibrated_as_out_of_fold_predictions_say(made, saved):
    model, kept = made.model, made.result.search.out_of_fold
    trust = Trust.learn(model.target, made.result.embeddings.labels, kept)
    assert trust.calibration == model.trust.calibration == BioFuseModel.load(saved).trust.calibration
    assert (model.trust.calibration.n, len(model.trust.calibration.temperatures)) == (36, 1)
    blocks = made.result.embeddings.blocks
    raw, found = model.predictor.predict_proba(blocks), proba(model, [str(path) for path in made.pictures])
    np.testing.assert_allclose(found, trust.calibration.apply(model.target, raw), atol=1e-12)
    assert not np.allclose(found, raw, atol=0.01)
    assert found.argmax(axis=1).tolist() == raw.argmax(axis=1).tolist()


def test_a_model_that_knows_nothing_of_trust_is_saved_and_read_and_not_calibrated(made, tmp_path):
    plain = replace(made.model, trust=Trust())
    read = BioFuseModel.load(plain.save(tmp_path / "plain"))
    assert not [path for path in (tmp_path / "plain").iterdir() if path.name.startswith("trust")]
    blocks = made.result.embeddings.blocks
    assert np.array_equal(read.probabilities(blocks), plain.predictor.predict_proba(blocks))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"oracle": {}}, "oracle"),
        ({"calibration": {"temperatures": [1.0, 2.0], "n": 3}}, "does not belong"),
        ({"calibration": {"temperatures": [-1.0], "n": 3}}, "malformed"),
        ({"thresholds": {"positives": [12]}}, "does not belong"),
        ({"thresholds": {"positives": [12, 12, 12, 12]}}, "malformed"),
        ([1], "cannot be read"),
    ],
    ids=["newer", "other", "malformed", "thresholds of two", "missing arrays", "list"],
)
def test_what_a_model_knows_of_trust_is_verified_when_read(saved, content, words):
    place, seal = saved / "trust.json", json.loads((saved / "model.json").read_text())
    place.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="has changed"):
        BioFuseModel.load(saved)
    seal["files"]["trust.json"] = digest_file(place)
    write_sealed(saved / "model.json", {name: value for name, value in seal.items() if name != "checksum"})
    with pytest.raises(ArtifactError, match=words):
        BioFuseModel.load(saved)


@pytest.mark.parametrize("given", [{"threshold": "youden"}, {"sensitivity": 0.8}, {"threshold": 0.4}], ids=str)
def test_with_a_threshold_every_class_is_decided_by_itself(made, saved, given):
    model, kept, truth = BioFuseModel.load(saved), made.result.search.out_of_fold, made.result.embeddings.labels
    if "threshold" in given and given["threshold"] == 0.4:
        limits = np.full(3, 0.4)
    else:
        p = model.trust.calibrated(model.target, kept.probabilities)
        known = Thresholds.learn(model.target, truth[kept.rows], p, rows=kept.rows)
        limits = known.at(model.target, given.get("threshold", "sensitivity"), sensitivity=0.8)
    paths = [str(path) for path in made.pictures]
    said = model.predict(paths, **given, options=ALONE, progress=False)
    above = proba(model, paths) > limits
    assert said.tolist() == ["|".join(np.array(model.classes)[row]) for row in above]
    frame, _ = model.predict_frame(paths, **given, options=ALONE, progress=False)
    assert frame["prediction"].tolist() == said.tolist()


def test_thresholds_that_cannot_be_are_refused_before_anything_is_read(made):
    plain = replace(made.model, trust=Trust())
    with pytest.raises(ArtifactError, match="knows no thresholds"):
        plain.predict(["nowhere.png"], threshold="youden")
    for given in (
        {"threshold": "best"},
        {"threshold": 1.0},
        {"threshold": 0.3, "sensitivity": 0.9},
        {"sensitivity": 9},
    ):
        with pytest.raises(UndefinedMetricError):
            made.model.predict(["nowhere.png"], **given)


def test_it_embeds_in_the_columns_it_was_fitted_on(made):
    matrix = made.model.embed(made.pictures[0].parents[1], options=ALONE, progress=False)
    assert matrix.shape == (36, made.model.dim)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, made.result.embeddings.matrix)
    assert made.model.encoders == ("haralick", "hog")


def test_predictions_follow_the_order_asked_for(made):
    paths = [str(path) for path in made.pictures]
    forward, backward = proba(made.model, paths), proba(made.model, paths[::-1])
    np.testing.assert_array_equal(forward, backward[::-1])
    np.testing.assert_allclose(forward.sum(axis=1), 1)
    names = made.model.predict(paths, options=ALONE, progress=False)
    assert names.tolist() == [made.model.classes_[column] for column in forward.argmax(axis=1)]
    assert (names == [path.parent.name for path in made.pictures]).mean() > 0.9


def test_files_arrays_and_pillow_images_are_predicted_alike(made):
    paths = made.pictures[::5]
    expected = proba(made.model, [str(path) for path in paths])
    images = [Image.open(path) for path in paths]
    arrays = [np.asarray(image) for image in images]
    for data in (images, arrays, np.stack(arrays)):
        np.testing.assert_array_equal(proba(made.model, data), expected)
    # One row is multiplied in another order than many: equal to the last bits of float64.
    for data in (str(paths[0]), paths[0], images[:1]):
        np.testing.assert_allclose(proba(made.model, data), expected[:1], rtol=1e-12)


def test_a_folder_without_labels_and_a_class_folder_are_predicted_alike(made, tmp_path):
    for path in made.pictures:
        shutil.copy(path, tmp_path / f"{path.parent.name}-{path.name}")
    frame, extraction = made.model.predict_frame(tmp_path, options=ALONE, progress=False)
    assert frame["id"].tolist() == sorted(path.name for path in tmp_path.iterdir())
    assert list(frame) == ["id", "prediction", "p_flat", "p_rough", "p_wild", "novelty"]
    by_class = {
        f"{path.parent.name}-{path.name}": row
        for path, row in zip(made.pictures, proba(made.model, made.pictures[0].parents[1]), strict=True)
    }
    for name, *row in frame[["id", "p_flat", "p_rough", "p_wild"]].itertuples(index=False):
        np.testing.assert_array_equal(row, by_class[name])
    assert extraction.quarantined == ()


def test_images_unlike_the_development_data_are_named(made):
    paths = [str(path) for path in made.pictures[:4]]
    frame, _ = made.model.predict_frame(paths, options=ALONE, progress=False)
    assert (frame["novelty"] < 99).all()  # so few development images cannot tell
    novelty = made.model.trust.novelty
    assert sorted(novelty.projection.dims) == sorted(made.model.encoders)
    close = replace(novelty, distances=np.full(300, -1, dtype=np.float32))
    wary = replace(made.model, trust=replace(made.model.trust, novelty=close))
    with pytest.warns(
        BioFuseWarning, match=r"4 of 4 samples are unlike the development data .* most unusual: .*00\.png"
    ):
        frame, _ = wary.predict_frame(paths, options=ALONE, progress=False)
    assert frame["novelty"].tolist() == pytest.approx([100 * 300 / 301] * 4)


def test_grey_and_tiny_images_are_sensible(made, tmp_path):
    Image.fromarray(np.full((30, 30), 120, np.uint8)).save(tmp_path / "grey.png")
    Image.new("RGB", (1, 1), (110, 120, 130)).save(tmp_path / "one.png")
    Image.new("RGBA", (3, 200), (1, 2, 3, 0)).save(tmp_path / "thin.png")
    Image.fromarray(np.full((9, 9), 4000, np.uint16)).save(tmp_path / "deep.png")
    rows = proba(made.model, tmp_path)
    assert rows.shape == (4, 3)
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows.sum(axis=1), 1)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"plain text"], ids=["empty", "cut", "text"])
def test_a_corrupt_image_is_an_error_that_names_it_or_is_quarantined(made, tmp_path, content):
    shutil.copy(made.pictures[0], tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(content)
    shutil.copy(made.pictures[30], tmp_path / "c.png")
    for method in (made.model.predict, made.model.predict_proba, made.model.embed, made.model.predict_frame):
        with pytest.raises(UnreadableImageError, match=r"b\.png"):
            method(tmp_path, options=ALONE, progress=False)
    # Aligned arrays cannot leave a row out, whatever the options say.
    with pytest.raises(UnreadableImageError):
        made.model.predict(tmp_path, options=CAREFUL, progress=False)
    frame, extraction = made.model.predict_frame(tmp_path, options=CAREFUL, progress=False)
    assert frame["id"].tolist() == ["a.png", "c.png"]
    assert [entry.id for entry in extraction.quarantined] == ["b.png"]
    expected = proba(made.model, [str(made.pictures[0]), str(made.pictures[30])])
    np.testing.assert_array_equal(frame[["p_flat", "p_rough", "p_wild"]], expected)


def test_nothing_readable_is_an_empty_table(made, tmp_path):
    (tmp_path / "b.png").write_bytes(b"")
    frame, extraction = made.model.predict_frame(tmp_path, options=CAREFUL, progress=False)
    assert list(frame) == ["id", "prediction", "p_flat", "p_rough", "p_wild", "novelty"]
    assert len(frame) == 0
    assert len(extraction.quarantined) == 1


@pytest.mark.parametrize("data", [[], np.zeros((0, 9, 9, 3), np.uint8)], ids=["list", "array"])
def test_zero_images_are_one_clear_error(model, data):
    with pytest.raises(DataError, match="no image"):
        model.predict(data, progress=False)


def test_zero_samples_and_an_empty_folder_are_too(made, tmp_path):
    samples = load_samples(made.pictures[0].parents[1])
    with pytest.raises(DataError, match="no image"):
        made.model.predict(samples.take(np.zeros(len(samples), dtype=bool)), progress=False)
    with pytest.raises(DataError, match="No images in"):
        made.model.predict(tmp_path, progress=False)
    with pytest.raises(DataError, match="does not exist"):
        made.model.predict(tmp_path / "missing.png", progress=False)


def test_a_bare_image_says_to_put_it_into_a_list(made):
    with pytest.raises(DataError, match="list"):
        made.model.predict(np.asarray(Image.open(made.pictures[0])), progress=False)


def test_samples_are_decoded_as_the_model_was_fitted(made):
    images = [np.arange(400, dtype=np.uint16).reshape(20, 20) * 9]
    other = load_samples(images, decode=DecodePolicy(sixteen_bit="full"))
    np.testing.assert_array_equal(proba(made.model, other), proba(made.model, images))
    full = replace(made.model, decode=DecodePolicy(sixteen_bit="full"))
    assert np.abs(proba(full, images) - proba(made.model, images)).max() > 1e-6


def test_groups_and_splits_of_new_data_do_not_matter(made, tmp_path):
    rows = [f"{path},{split},p1" for path, split in zip(made.pictures[:2], ("train", "test"), strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["path,split,group", *rows]))
    # Two rows are multiplied in another order than many: equal to the last bits of float64.
    np.testing.assert_allclose(
        proba(made.model, tmp_path / "table.csv"), proba(made.model, made.pictures[0].parents[1])[:2], rtol=1e-12
    )


# --- saving and loading


def test_saved_and_loaded_it_is_the_same(made, saved):
    loaded = BioFuseModel.load(saved)
    for name in ("cards", "task", "classes", "decode", "facts", "encoders", "dim"):
        assert getattr(loaded, name) == getattr(made.model, name), name
    np.testing.assert_array_equal(
        proba(loaded, made.pictures[0].parents[1]), proba(made.model, made.pictures[0].parents[1])
    )


FRESH = """
import sys
import numpy as np
from biofuse import BioFuseModel, ExtractOptions
from biofuse.blocks.blocks import Blocks
model = BioFuseModel.load(sys.argv[1])
np.save(sys.argv[3], model.predict_proba(sys.argv[2], options=ExtractOptions(workers=0)))
print(*model.predict(sys.argv[2], options=ExtractOptions(workers=0)))
"""


@pytest.mark.slow
def test_style_bug_14_a_fresh_process_on_another_path_predicts_identically(made, saved, tmp_path, monkeypatch):
    shutil.move(saved, tmp_path / "elsewhere")
    monkeypatch.setenv("BIOFUSE_HOME", str(tmp_path / "fresh-home"))
    images = made.pictures[0].parents[1]
    command = [sys.executable, "-c", FRESH, str(tmp_path / "elsewhere"), str(images), str(tmp_path / "p.npy")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path).stdout
    np.testing.assert_array_equal(np.load(tmp_path / "p.npy"), proba(made.model, images))
    assert printed.split() == made.model.predict(images, options=ALONE, progress=False).tolist()


def test_style_bug_14_everything_fitted_is_saved_and_nothing_is_a_pickle(saved):
    files = {path.relative_to(saved).as_posix() for path in saved.rglob("*") if path.is_file()}
    trust = {"trust.json", "trust.safetensors"}
    assert files == {"model.json", "predictor/predictor.json", "predictor/arrays.safetensors"} | trust
    arrays = (saved / "predictor" / "arrays.safetensors").read_bytes()
    assert len(arrays) > 1000
    assert load_file(saved / "trust.safetensors")
    for path in (path for path in files if path.endswith(".json")):
        json.loads((saved / path).read_text(), parse_constant=pytest.fail)


def test_saving_again_replaces_the_model_and_leaves_nothing_else(model, saved):
    other = replace(model, facts={"fitted_on": "something else"})
    other.save(saved)
    assert BioFuseModel.load(saved).facts == other.facts
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


def test_a_folder_or_file_of_something_else_is_left_alone(model, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    (tmp_path / "file").write_text("too")
    for target in ("thesis", "file"):
        with pytest.raises(ArtifactError, match="is not a saved model"):
            model.save(tmp_path / target)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"
    assert model.save(tmp_path / "new" / "deep").is_dir()


def test_a_disk_that_fills_up_leaves_the_older_model_whole(model, saved, monkeypatch):
    import errno

    from biofuse.model import folder as module

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "seal", full)
    with pytest.raises(DiskError, match="is full"):
        replace(model, facts={}).save(saved)
    assert BioFuseModel.load(saved).facts == model.facts
    assert [path.name for path in saved.parent.iterdir()] == ["saved"]


# --- refusing


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("victim", ["model.json", "predictor/predictor.json", "predictor/arrays.safetensors"])
@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "empty", "pickle"])
def test_style_bug_14_a_damaged_file_is_never_opened(saved, victim, harm, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = saved / victim
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif harm == "cut":
        path.write_bytes(data[:-7])
    elif harm == "remove":
        path.unlink()
    else:
        path.write_bytes(b"" if harm == "empty" else pickle.dumps(Bomb()))
    with pytest.raises(ArtifactError) as caught:
        BioFuseModel.load(saved)
    assert caught.value.remedy
    assert not (tmp_path / "exploded").exists()


def reseal(folder, **changes):
    """Do what a careful forger does: change the record and make its checksum fit."""
    record = json.loads((folder / "model.json").read_text())
    record.pop("checksum")
    record |= changes
    (folder / "model.json").write_text(json.dumps(record | {"checksum": digest_json(record)}))


def reseal_all(folder):
    """Do the same for changed files."""
    record = json.loads((folder / "model.json").read_text())
    reseal(folder, files={name: digest_file(folder / name) for name in record["files"]})


def test_a_pickle_with_a_fitting_checksum_is_still_not_run(saved, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (saved / "predictor" / "arrays.safetensors").write_bytes(pickle.dumps(Bomb()))
    reseal_all(saved)
    with pytest.raises(ArtifactError, match="cannot be read"):
        BioFuseModel.load(saved)
    assert not (tmp_path / "exploded").exists()


def test_a_file_that_the_seal_does_not_list_is_not_opened(saved):
    (saved / "notes.txt").write_text("of no concern")
    assert BioFuseModel.load(saved).encoders == ("haralick", "hog")
    reseal(saved, files={"predictor/predictor.json": digest_file(saved / "predictor" / "predictor.json")})
    with pytest.raises(ArtifactError, match=r"arrays\.safetensors is missing, or not part of what was saved"):
        BioFuseModel.load(saved)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "predictor/../../secret", "link"])
def test_a_path_that_leaves_the_folder_is_not_opened(saved, name):
    (saved.parent / "secret").write_text("secret")
    (saved / "link").symlink_to(saved.parent / "secret")
    reseal(saved, files={name: digest_file(saved.parent / "secret")})
    with pytest.raises(ArtifactError, match="outside"):
        BioFuseModel.load(saved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3}, "format 3"),
        ({"format": "new"}, "format 'new'"),
        ({"kind": "biofuse-ensemble"}, "does not belong"),
        ({"classes": ["flat", "rough"]}, "does not belong"),
        ({"task": "binary"}, "does not belong"),
        ({"task": "regression"}, "not a BioFuse model"),
        ({"encoders": []}, "does not belong"),
        ({"encoders": None}, "not a BioFuse model"),
        ({"classes": 3}, "not a BioFuse model"),
        ({"files": []}, "not what BioFuse writes"),
    ],
)
def test_a_record_that_says_something_else_is_refused(saved, changes, words):
    reseal(saved, **changes)
    with pytest.raises(ArtifactError, match=words):
        BioFuseModel.load(saved)


@pytest.mark.parametrize(
    "text", ["{", "[]", '"model"', '{"format": 1}', '{"format": 1, "files": {}, "checksum": null, "x": NaN}']
)
def test_what_is_no_record_is_refused(saved, text):
    (saved / "model.json").write_text(text)
    with pytest.raises(ArtifactError):
        BioFuseModel.load(saved)


@pytest.mark.parametrize("name", ["model.json", "predictor/predictor.json"])
def test_json_nested_without_end_is_refused(saved, name):
    (saved / name).write_text("[" * 100_000)
    if name != "model.json":
        reseal_all(saved)
    with pytest.raises(ArtifactError, match="nested too deeply"):
        BioFuseModel.load(saved)


def test_a_newer_predictor_is_refused(saved):
    path = saved / "predictor" / "predictor.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"predictor_format": 99}))
    reseal_all(saved)
    with pytest.raises(ArtifactError, match="predictor format 99"):
        BioFuseModel.load(saved)


FORMAT_1 = Path(__file__).parent / "format-1"
"""An average of stacked ridge heads and a logistic head, saved when every predictor in a model had its own seal."""


def test_a_model_of_format_1_is_read_and_predicts_the_same():
    model = BioFuseModel.load(FORMAT_1)
    assert (model.encoders, model.classes) == (("haralick", "gabor"), ("a", "b", "c"))
    draw = np.random.default_rng(7)
    matrices = {card.name: draw.standard_normal((2, card.dim)).astype(np.float32) for card in model.cards}
    found = model.predictor.predict_proba(Blocks(ids=np.array(["s0", "s1"], dtype=object), matrices=matrices))
    np.testing.assert_allclose(found, [
        [0.17806987618093528, 0.6430462665387149, 0.17888385728034972],
        [0.4045566949756603, 0.28238101573001917, 0.3130622892943205],
    ], rtol=1e-12)  # fmt: skip


@pytest.mark.parametrize("victim", ["members/0/members/1/arrays.safetensors", "members/1/predictor.json"])
def test_a_damaged_member_of_a_model_of_format_1_is_never_opened(victim, tmp_path):
    folder = shutil.copytree(FORMAT_1, tmp_path / "model")
    path = folder / "predictor" / victim
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match="not opened"):
        BioFuseModel.load(folder)


def test_a_model_saved_again_is_of_this_format(tmp_path):
    again = BioFuseModel.load(FORMAT_1).save(tmp_path / "again")
    assert json.loads((again / "model.json").read_text())["format"] == FORMAT_VERSION
    inner = json.loads((again / "predictor" / "predictor.json").read_text())
    assert not {"files", "checksum", "format"} & set(inner)
    assert BioFuseModel.load(again).encoders == ("haralick", "gabor")


@pytest.mark.parametrize("path", ["nowhere", "saved/model.json"])
def test_no_model_is_one_clear_error(saved, path):
    with pytest.raises(ArtifactError):
        BioFuseModel.load(saved.parent / path)


def test_it_prints_well(model):
    assert repr(model) == f"<BioFuseModel: haralick + hog ({model.dim} columns), multiclass over 3 classes>"
    assert "<td>hog</td>" in model._repr_html_()


def test_predicting_writes_nothing_unless_asked_to(made, tmp_path):
    images, store = made.pictures[:4], tmp_path / "store"
    first = made.model.predict_proba(images, store=store, options=ALONE, progress=False)
    assert not store.exists()
    shutil.copytree(made.store, store)
    before = sorted(store.rglob("*"))
    found = made.model.embed_blocks([Image.new("RGB", (30, 30), "red"), *images], store=store, options=ALONE)
    assert {work.encoder: (work.computed, work.reused) for work in found.work} == {"haralick": (1, 4), "hog": (1, 4)}
    assert sorted(store.rglob("*")) == before
    kept = made.model.predict_proba(images, store=tmp_path / "kept", keep=True, options=ALONE, progress=False)
    assert list((tmp_path / "kept").glob("*/*.arrow"))
    np.testing.assert_array_equal(first, kept)
