"""Encoders asked for by where they lie, from the command line."""

import json

import pandas as pd

ENCODERS = "timm:test_vit,timm:test_resnet"
"""timm's smallest: 0.3 and 0.5 million parameters."""

NAMES = ["timm-test_resnet.r160_in1k.random", "timm-test_vit.r160_in1k.random"]


def test_a_fit_over_random_weights_works_where_they_are_allowed(images, succeeds, tmp_path):
    run, out = tmp_path / "run", tmp_path / "e.csv"
    succeeds("fit", images, "-e", ENCODERS, "--folds", 2, "--repeats", 1, "--out", run, "--allow-random-weights")
    record = (run / "run.json").read_text()
    assert all(name in record for name in NAMES)
    # The fitted model brings its encoders, random weights and all: nothing has to be allowed again.
    succeeds("embed", images, "--model", run, "--out", out)
    assert len(pd.read_csv(out)) == 24


def test_random_weights_are_refused_by_default(images, biofuse, tmp_path):
    ran = biofuse("fit", images, "-e", ENCODERS, "--out", tmp_path / "run")
    assert ran.code != 0
    assert "timm/test_vit.r160_in1k" in ran.err
    assert "Traceback" not in ran.err


def test_random_weights_have_embeddings_of_their_own(images, succeeds, tmp_path, biofuse_home):
    succeeds("embed", images, "-e", ENCODERS, "--allow-random-weights", "--out", tmp_path / "e.csv")
    folders = [folder.name for folder in (biofuse_home / "embeddings").iterdir()]
    assert sorted(folder.rpartition("-")[0] for folder in folders) == NAMES


def test_an_ad_hoc_encoder_is_shown_like_any_other(succeeds):
    (card,) = json.loads(succeeds("encoders", "show", "timm:test_vit", "--json").out)
    assert (card["name"], card["dim"], card["preprocessing"]["crop"]) == ("timm-test_vit.r160_in1k", 64, 160)
    assert "licence" in card["unverified"]
