"""What a hurried person may hand in: one clear message or a quarantine entry, no traceback, never a wrong row."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import biofuse
from biofuse.cli import main

ENCODERS = "haralick,hog"
SMALL = ("-e", ENCODERS, "--folds", 2, "--repeats", 1)


def truncated(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path, quality=90)
    path.write_bytes(path.read_bytes()[:1500])


SPOILT = {
    "truncated.jpg": truncated,
    "empty.png": lambda path: path.write_bytes(b""),
    "text.png": lambda path: path.write_text("path,label\n1.png,red\n"),
}


@pytest.fixture
def whole(images, succeeds, tmp_path):
    """Embeddings of the images before anything is spoilt, by id."""
    succeeds("embed", images, "-e", ENCODERS, "--store", tmp_path / "other", "--out", tmp_path / "whole.npz")
    with np.load(tmp_path / "whole.npz") as file:
        return dict(zip(file["id"].tolist(), file["hog"], strict=True))


@pytest.mark.parametrize("command", [("embed", "-e", ENCODERS), ("fit", *SMALL)], ids=["embed", "fit"])
@pytest.mark.parametrize("name", SPOILT)
def test_an_unreadable_image_stops_the_command_and_is_named(name, command, images, fails, tmp_path):
    SPOILT[name](images / "red" / name)
    ran = fails(*command, images, "--out", tmp_path / "e.npz")
    assert name in ran.err
    assert "--on-error quarantine" in ran.err
    assert not (tmp_path / "e.npz").exists()


@pytest.mark.parametrize("name", SPOILT)
def test_an_unreadable_image_is_set_aside_on_request(name, whole, images, succeeds, tmp_path):
    SPOILT[name](images / "red" / name)
    ran = succeeds("embed", images, "-e", ENCODERS, "--on-error", "quarantine", "--out", tmp_path / "e.npz")
    assert name in ran.err
    with np.load(tmp_path / "e.npz") as file:
        assert f"red/{name}" not in file["id"]
        assert sorted(file["id"].tolist()) == sorted(whole)
        assert file["label"].tolist() == [row.split("/")[0] for row in file["id"].tolist()]
        for row, embedding in zip(file["id"].tolist(), file["hog"], strict=True):
            np.testing.assert_array_equal(embedding, whole[row])
    listed = pd.read_csv(tmp_path / "e.quarantine.csv")
    assert listed["id"].tolist() == [f"red/{name}"]
    assert name in listed["source"][0]
    assert listed["reason"][0]


def test_each_cause_of_unreadable_images_brings_its_own_remedy(images, fails, tmp_path):
    (images / "red" / "scan.png").write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 40)
    (images / "red" / "pointer.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    for command in (("embed", "-e", ENCODERS), ("fit", *SMALL)):
        ran = fails(*command, images, "--out", tmp_path / "e.npz")
        assert "a DICOM file" in ran.err
        _, remedy = ran.err.split("what to do: ")
        assert "whose name ends in .dcm" in remedy
        assert "git lfs pull" in remedy
        assert "--on-error quarantine" in remedy


def test_pages_and_brightness_that_were_chosen_are_said(images, succeeds, tmp_path):
    deep = [Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 9 + page) for page in range(3)]
    deep[0].save(images / "red" / "stack.tif", save_all=True, append_images=deep[1:])
    for said in (
        succeeds("check", images).out,
        succeeds("embed", images, "-e", ENCODERS, "--out", tmp_path / "e.npz").err,
    ):
        assert "1 image(s) have several pages, of which page 0 (from 0) is read: --page chooses:" in said
        assert "1 image(s) are grey of more than 8 bits and were made 8-bit by --sixteen-bit minmax" in said


def test_an_image_larger_than_pillow_likes_is_named(images, succeeds, monkeypatch, tmp_path):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)
    Image.new("L", (100, 95)).save(images / "red" / "large.png")
    ran = succeeds("embed", images, "-e", ENCODERS, "--out", tmp_path / "e.npz")
    assert "large.png (100 x 95)" in ran.err
    assert "DecompressionBomb" not in ran.everything


@pytest.mark.parametrize(
    ("error", "words"),
    [(MemoryError(), "no memory left"), (RuntimeError("can't start new thread"), "may not start another thread")],
    ids=repr,
)
def test_no_memory_and_no_threads_are_one_message(images, fails, monkeypatch, error, words):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(biofuse, "load_samples", full)
    assert words in fails("check", images).err


@pytest.mark.parametrize("command", [("evaluate",), ("report",), ("predict", "new.png", "--out", "p.csv")], ids=str)
def test_a_name_too_long_for_the_disk_is_one_message(fails, command):
    assert fails(command[0], "x" * 300, *command[1:]).err


def test_several_unreadable_images_are_one_message(images, fails, tmp_path):
    for name, spoil in SPOILT.items():
        spoil(images / "red" / name)
    ran = fails("embed", images, "-e", ENCODERS, "--out", tmp_path / "e.npz")
    # The empty file is found when contents are hashed, before any image is decoded.
    assert "empty.png" in ran.err


def test_a_failed_embed_keeps_what_is_finished(images, fails, succeeds, tmp_path):
    truncated(images / "red" / "zzz.jpg")
    fails("embed", images, "-e", ENCODERS, "--batch-size", 4, "--out", tmp_path / "e.npz")
    (images / "red" / "zzz.jpg").unlink()
    ran = succeeds("embed", images, "-e", ENCODERS, "--out", tmp_path / "e.npz")
    assert "No embedding had to be computed" in ran.err


def test_fit_and_evaluate_set_unreadable_images_aside_on_request(images, succeeds, tmp_path):
    paths = sorted(images.rglob("*.png"))
    table = pd.DataFrame({"path": [str(p) for p in paths], "label": [p.parent.name for p in paths]})
    table["split"] = [("train", "val", "test")[i % 3] for i in range(len(paths))]
    table.to_csv(tmp_path / "m.csv", index=False)
    for row in (0, 2):  # one of train, one of test
        paths[row].write_bytes(b"")
    succeeds("fit", tmp_path / "m.csv", *SMALL, "--on-error", "quarantine", "--out", tmp_path / "run")
    listed = pd.read_csv(tmp_path / "run" / "quarantine.csv")
    assert [Path(name).name for name in listed["id"]] == [paths[0].name]
    ran = succeeds("evaluate", tmp_path / "run", "--on-error", "quarantine")
    assert "7 samples" in ran.out
    predicted = pd.read_parquet(tmp_path / "run" / "predictions.parquet")["id"].tolist()
    assert str(paths[2]) not in predicted
    assert len(predicted) == 7


@pytest.fixture
def manifest(images, tmp_path):
    paths = sorted(images.rglob("*.png"))
    table = pd.DataFrame(
        {
            "path": [str(p.relative_to(tmp_path)) for p in paths],
            "label": [p.parent.name for p in paths],
            "patient": [f"p{i // 2}" for i in range(len(paths))],
        }
    )

    def write(**columns):
        table.assign(**columns).to_csv(tmp_path / "manifest.csv", index=False)
        return tmp_path / "manifest.csv"

    return write


def test_a_missing_file_in_a_manifest(manifest, images, fails, succeeds, tmp_path):
    table = manifest()
    (images / "red" / "003.png").unlink()
    ran = fails("embed", table, "-e", ENCODERS, "--out", tmp_path / "e.npz")
    assert "003.png" in ran.err
    succeeds("embed", table, "-e", ENCODERS, "--on-error", "quarantine", "--out", tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as file:
        assert len(file["id"]) == 23
        assert "images/red/003.png" not in file["id"]
    assert "003.png" in pd.read_csv(tmp_path / "e.quarantine.csv")["reason"][0]


def test_blanks_in_the_label_column(manifest, fails, tmp_path):
    labels = ["blue"] * 12 + ["red"] * 12
    labels[5] = ""
    labels[20] = "  "
    table = manifest(label=labels)
    for command in (("embed",), ("fit", "--folds", 2)):
        ran = fails(*command, table, "-e", ENCODERS, "--out", tmp_path / "out.npz")
        assert "images/blue/005.png" in ran.err
        assert "images/red/008.png" in ran.err
    assert not (tmp_path / "out.npz").exists()


def test_one_class_only(manifest, fails, tmp_path):
    ran = fails("fit", manifest(label=["red"] * 24), *SMALL, "--out", tmp_path / "run")
    assert "'red'" in ran.err
    assert not (tmp_path / "run").exists()


def test_two_images(fails, succeeds, tmp_path, images):
    for path in [*sorted((images / "red").iterdir())[1:], *sorted((images / "blue").iterdir())[1:]]:
        path.unlink()
    fails("fit", images, *SMALL, "--out", tmp_path / "run")
    succeeds("embed", images, "-e", ENCODERS, "--out", tmp_path / "e.npz")
    with np.load(tmp_path / "e.npz") as file:
        assert file["id"].tolist() == ["blue/000.png", "red/000.png"]
        assert file["label"].tolist() == ["blue", "red"]


def test_a_single_image_in_all(images, fails, succeeds, tmp_path):
    succeeds("embed", images / "red" / "000.png", "-e", ENCODERS, "--out", tmp_path / "e.npz")
    fails("fit", images / "red" / "000.png", *SMALL, "--out", tmp_path / "run")


def test_a_group_that_spans_splits(manifest, fails, biofuse, tmp_path):
    splits = ["train"] * 24
    splits[1] = splits[13] = "test"
    table = manifest(split=splits)
    for command in ("embed", "fit"):
        ran = fails(command, table, "--group", "patient", "-e", ENCODERS, "--out", tmp_path / "out.npz")
        assert "p0 (train, test)" in ran.err
        assert "p6 (train, test)" in ran.err
    assert biofuse("check", table, "--group", "patient").code == 1
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("command", ["embed", "fit"])
def test_an_unknown_encoder_is_refused_with_the_nearest_name(command, images, fails, tmp_path):
    ran = fails(command, images, "-e", "haralick,hogg", "--out", tmp_path / "out.npz")
    assert "'hogg'" in ran.err
    assert "Did you mean 'hog'?" in ran.err


@pytest.mark.parametrize(
    ("option", "column"),
    [("--label", "diagnosis"), ("--group", "slide")],
)
def test_a_column_that_is_not_there(option, column, manifest, fails, tmp_path):
    ran = fails("fit", manifest(), option, column, *SMALL, "--out", tmp_path / "run")
    assert column in ran.err
    assert "patient" in ran.err  # the columns there are


def test_an_image_listed_twice(manifest, images, fails, tmp_path):
    table = pd.read_csv(manifest())
    again = table.iloc[[3]].assign(label="other")
    pd.concat([table, again]).to_csv(tmp_path / "twice.csv", index=False)
    assert "images/blue/003.png" in fails("embed", tmp_path / "twice.csv", "-e", "hog", "--out", tmp_path / "e.npz").err


@pytest.mark.parametrize(
    ("name", "content"), [("empty.csv", ""), ("header.csv", "path,label\n"), ("data.xlsx", "x"), ("bad.parquet", "x")]
)
def test_tables_that_are_none(name, content, fails, tmp_path):
    (tmp_path / name).write_text(content)
    for command in (("check",), ("embed", "-e", "hog", "--out", tmp_path / "e.npz")):
        assert Path(name).stem in fails(*command, tmp_path / name).err


@pytest.mark.parametrize("command", ["check", "embed", "fit"])
def test_a_path_that_is_not_there_and_an_empty_folder(command, fails, tmp_path):
    rest = () if command == "check" else ("-e", "hog", "--out", tmp_path / "out.npz")
    assert "nowhere" in fails(command, tmp_path / "nowhere", *rest).err
    (tmp_path / "hollow").mkdir()
    assert "hollow" in fails(command, tmp_path / "hollow", *rest).err


def test_a_class_that_is_one_image_many_times_cannot_be_validated(images, fails, tmp_path):
    one = (images / "red" / "000.png").read_bytes()
    for path in (images / "red").iterdir():
        path.write_bytes(one)
    ran = fails("fit", images, *SMALL, "--out", tmp_path / "run")
    assert "red" in ran.err


def test_a_device_that_is_not_there(images, fails, tmp_path):
    ran = fails("embed", images, "-e", "efficientnet_lite0", "--device", "cuda:99", "--out", tmp_path / "e.npz")
    assert "cuda:99" in ran.err
    assert "--device" in ran.err.split("what to do:")[1]


# --- disks ---------------------------------------------------------------------------------------------------------


def test_a_file_where_the_store_should_be(images, fails, tmp_path):
    (tmp_path / "file").write_text("mine")
    for store in (tmp_path / "file", tmp_path / "file" / "below"):
        ran = fails("embed", images, "-e", ENCODERS, "--store", store, "--out", tmp_path / "e.npz")
        assert str(store) in ran.err
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "e.npz").exists()


def test_an_output_that_cannot_be_written(images, fitted, fails, tmp_path):
    (tmp_path / "file").write_text("mine")
    for command in (("embed", images, "-e", "hog"), ("predict", fitted, images)):
        ran = fails(*command, "--out", tmp_path / "file" / "e.csv")
        assert str(tmp_path / "file" / "e.csv") in ran.err
        (tmp_path / "folder.csv").mkdir(exist_ok=True)
        assert "folder.csv" in fails(*command, "--out", tmp_path / "folder.csv").err
    ran = fails("fit", images, *SMALL, "--out", tmp_path / "file")
    assert str(tmp_path / "file") in ran.err
    ran = fails("fit", images, *SMALL, "--out", tmp_path / "file" / "run")
    assert str(tmp_path / "file") in ran.err


@pytest.fixture
def mounted(tmp_path):
    """Return a function that mounts a small memory disk; skip where this process may not."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root on Linux")
    points = []

    def mount(options):
        point = tmp_path / f"disk{len(points)}"
        point.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "biofuse-test", str(point)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"a small disk cannot be mounted here: {made.stderr.strip()}")
        points.append(point)
        return point

    yield mount
    for point in points:
        subprocess.run(["umount", "-l", str(point)], check=True)


def remount(point, options):
    made = subprocess.run(
        ["mount", "-o", f"remount,{options}", str(point)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a disk cannot be remounted here: {made.stderr.strip()}")


def test_a_read_only_store_says_so_and_still_serves_what_it_has(mounted, images, fails, succeeds, tmp_path):
    disk = mounted("size=16m")
    succeeds("embed", images, "-e", "hog", "--store", disk, "--out", tmp_path / "before.npz")
    remount(disk, "ro")
    again = succeeds("embed", images, "-e", "hog", "--store", disk, "--out", tmp_path / "after.npz")
    assert "No embedding had to be computed" in again.err
    assert (tmp_path / "after.npz").read_bytes() == (tmp_path / "before.npz").read_bytes()
    ran = fails("embed", images, "-e", ENCODERS, "--store", disk, "--out", tmp_path / "e.npz")
    assert str(disk) in ran.err
    assert "read-only" in ran.err
    assert "BIOFUSE_HOME" in ran.err.split("what to do:")[1]
    assert not (tmp_path / "e.npz").exists()


def test_a_full_disk_says_so_and_the_next_run_goes_on(mounted, images, fails, succeeds, tmp_path):
    disk = mounted("size=64k")
    (disk / "ballast").write_bytes(b"x" * 40_000)
    ran = fails("embed", images, "-e", "haralick,hog,gabor", "--store", disk, "--out", tmp_path / "e.npz")
    assert "full" in ran.err
    assert str(disk) in ran.err
    assert not (tmp_path / "e.npz").exists()
    assert not [path for path in disk.rglob("*") if path.suffix == ".tmp"]  # nothing half-written is left
    (disk / "ballast").unlink()
    remount(disk, "size=16m")
    succeeds("store", "verify", "--store", disk)
    succeeds("embed", images, "-e", "haralick,hog,gabor", "--store", disk, "--out", tmp_path / "e.npz")
    succeeds("embed", images, "-e", "haralick,hog,gabor", "--out", tmp_path / "elsewhere.npz")
    assert (tmp_path / "e.npz").read_bytes() == (tmp_path / "elsewhere.npz").read_bytes()


def test_a_full_disk_for_the_output(mounted, images, fails, tmp_path):
    disk = mounted("size=16k")
    ran = fails("embed", images, "-e", ENCODERS, "--out", disk / "e.csv")
    assert "full" in ran.err
    assert not list(disk.iterdir())


def test_a_full_disk_for_the_run(mounted, images, fails, succeeds, tmp_path):
    disk = mounted("size=16k")
    ran = fails("fit", images, *SMALL, "--out", disk / "run")
    assert "full" in ran.err
    remount(disk, "size=16m")
    succeeds("fit", images, *SMALL, "--out", disk / "run")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipes_and_devices_are_named_and_never_waited_for(images, fails, biofuse, tmp_path):
    os.mkfifo(images / "red" / "pipe.png")
    (images / "red" / "endless.png").symlink_to("/dev/zero")
    for suffix in ("csv", "parquet", "jsonl", "npz", "toml"):
        os.mkfifo(tmp_path / f"pipe.{suffix}")
    ran = fails("embed", images, "-e", ENCODERS, "--out", tmp_path / "e.npz")
    assert "pipe.png: cannot be read: it is a named pipe, not a file." in ran.err
    assert "endless.png: cannot be read: it is a device, not a file." in ran.err
    assert biofuse("check", images).code == 1
    for table in ("pipe.csv", "pipe.parquet", "pipe.jsonl", "pipe.npz"):
        assert "it is a named pipe" in fails("check", tmp_path / table).err
    for table in ("pipe.csv", "pipe.parquet", "pipe.npz"):
        ran = fails("store", "import", tmp_path / table, "--encoder", "mine", "--data", images / "blue")
        assert "it is a named pipe" in ran.err
    ran = biofuse("check", images, "--config", tmp_path / "pipe.toml")
    assert (ran.code, "it is a named pipe" in ran.err) == (2, True)


def test_control_characters_of_file_names_are_written_out(images, fails, biofuse, tmp_path):
    name = "evil\x1b[31m\x9b\r.png"
    (images / "red" / name).write_bytes(b"no image")
    checked, refused = biofuse("check", images), fails("embed", images, "-e", ENCODERS, "--out", tmp_path / "e.npz")
    mistyped = biofuse("check", images, name)
    for said in (checked.out, refused.err, mistyped.err, fails("check", tmp_path / name).err):
        assert r"evil\x1b[31m\x9b\x0d.png" in said.replace("\n", "")
        assert not {"\x1b", "\x9b", "\r"} & set(said)
    assert mistyped.code == 2


@pytest.mark.parametrize(("encoding", "written"), [("ascii", r"\xe9 * \u80ba"), ("latin-1", "é * \\u80ba")])
def test_an_output_that_cannot_write_every_sign(encoding, written, images, monkeypatch):
    (images / "red" / "é • 肺.png").write_bytes(b"")
    pipe = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "argv", ["biofuse", "check", str(images)])
    monkeypatch.setattr(sys, "stdout", pipe)
    with pytest.raises(SystemExit):
        main()
    pipe.flush()
    assert f"{written}.png" in pipe.buffer.getvalue().decode(encoding)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_not_utf8(images, succeeds, fails, tmp_path):
    odd = os.fsdecode(b"caf\xe9")
    (images / "red" / "003.png").rename(images / "red" / f"{odd}.png")
    (images / "blue").rename(images / odd)
    images = images.rename(tmp_path / odd)
    assert "14 name(s) are not UTF-8" in succeeds("check", images).out
    for suffix in ("csv", "parquet", "npz"):
        succeeds("embed", images, "-e", ENCODERS, "--out", tmp_path / f"e.{suffix}")
    with np.load(tmp_path / "e.npz") as file:
        assert r"red/caf\xe9.png" in file["id"]
        assert set(file["label"]) == {"red", r"caf\xe9"}
    for command, place in ((("embed", "-e", ENCODERS), f"{odd}.npz"), (("fit", *SMALL), odd + "run")):
        assert "not UTF-8" in fails(*command, images, "--out", tmp_path / place).err
    succeeds("fit", images, *SMALL, "--no-test", "--out", tmp_path / "run")
    succeeds("predict", tmp_path / "run", images, "--out", tmp_path / "p.csv")
    succeeds("evaluate", tmp_path / "run", images)
    succeeds("report", tmp_path / "run", "--no-umap")
