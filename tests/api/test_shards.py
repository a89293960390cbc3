import pytest
from typer.testing import CliRunner

import biofuse
from biofuse.cli.app import app
from biofuse.core.errors import DataError


def embed(folder, store, **options):
    return biofuse.embed(folder, ["lbp"], store=store, workers=0, progress=False, **options)


def test_shards_together_are_the_whole_which_then_computes_nothing(make_images, tmp_path):
    make_images(tmp_path / "images", per_class=5)
    whole = embed(tmp_path / "images", tmp_path / "other")
    parts = [embed(tmp_path / "images", tmp_path / "store", shard=f"{index}/3") for index in (1, 2, 3)]
    assert [name for part in parts for name in part.ids] == whole.ids.tolist()
    assert [part.work[0].computed for part in parts] == [3, 3, 4]
    after = embed(tmp_path / "images", tmp_path / "store")
    assert after.work[0].computed == 0
    assert (after["lbp"] == whole["lbp"]).all()


def test_a_shard_reads_only_its_own_rows(make_images, tmp_path):
    paths = make_images(tmp_path / "images", per_class=4)
    for path in paths[4:]:
        path.write_bytes(b"not an image")
    assert len(embed(tmp_path / "images", tmp_path / "store", shard="1/2").ids) == 4
    with pytest.raises(DataError):
        embed(tmp_path / "images", tmp_path / "store", shard="2/2")


def test_a_shard_without_rows_has_nothing_to_do(make_images, tmp_path):
    make_images(tmp_path / "images", per_class=1)
    assert len(embed(tmp_path / "images", tmp_path / "store", shard="1/5").ids) == 0


def test_embed_shard_on_the_command_line_fills_the_store_and_writes_nothing_else(make_images, tmp_path):
    make_images(tmp_path / "images", per_class=3)
    common = ["embed", str(tmp_path / "images"), "-e", "lbp", "--store", str(tmp_path / "store"), "--workers", "0"]
    for index in (1, 2):
        done = CliRunner().invoke(app, [*common, "--shard", f"{index}/2"])
        assert done.exit_code == 0, done.output
        assert f"Shard {index}/2: 3 of 6 samples." in done.output
    done = CliRunner().invoke(app, [*common, "--out", str(tmp_path / "e.npz")])
    assert "No embedding had to be computed" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npz", "images", "store"]
    wrong = CliRunner().invoke(app, [*common, "--shard", "0/2"])
    assert wrong.exit_code != 0
