"""Which samples a fit sets aside for testing."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import biofuse
from biofuse import BioFuse
from biofuse.core.errors import DataError
from biofuse.data.load import load_samples


def splits_of(result):
    """Return how many samples each split has, test data included."""
    kept = [*result.embeddings.splits.tolist(), *([] if result.held_out is None else ["test"] * len(result.held_out))]
    return {name: kept.count(name) for name in ("train", "val", "test")}


def test_data_without_splits_are_divided_by_a_hash_and_the_sentence_says_so(quick, study, tmp_path, draw):
    draw(tmp_path / "images", each=20)
    said = []
    result = (
        quick(["t_colour"]).fit(tmp_path / "images", progress=False, tell=said.append, out=tmp_path / "run").result_
    )
    assert splits_of(result) == {"train": 36, "val": 9, "test": 15}
    assert "Splits were made by a hash of ids and seed 0: 36 train, 9 val, 15 test." in said
    again = quick(["t_colour"]).fit(tmp_path / "images", progress=False).result_
    assert again.held_out.ids.tolist() == result.held_out.ids.tolist()
    other = quick(["t_colour"], seed=1).fit(tmp_path / "images", progress=False).result_
    assert other.held_out.ids.tolist() != result.held_out.ids.tolist()
    assert result.evaluate(progress=False).n == 15
    assert biofuse.evaluate(tmp_path / "run", store=study.store, workers=0, progress=False).n == 15


def test_train_and_val_without_a_test_split_both_give_a_quarter_of_it(quick, study):
    given = study.samples.in_split("train", "val")
    result = quick(["t_colour"]).fit(given, progress=False).result_
    assert any("Test samples were taken out of train and val" in note for note in result.notes)
    counts = splits_of(result)
    assert sum(counts.values()) == 51
    assert 9 <= counts["test"] <= 15
    left = dict(zip(given.ids.tolist(), given.splits.tolist(), strict=True))
    assert [left[name] for name in result.embeddings.ids.tolist()] == result.embeddings.splits.tolist()
    apart = (
        quick(["t_colour"])
        .fit(study.samples.in_split("train"), validation=study.samples.in_split("val"), progress=False)
        .result_
    )
    assert apart.held_out.ids.tolist() == result.held_out.ids.tolist()


def test_groups_and_identical_images_stay_on_one_side(quick, study):
    train = study.samples.in_split("train")
    twins = load_samples(
        [np.asarray(Image.open(source.path)) for source in train.sources] * 2,
        labels=[train.classes[label] for label in train.labels] * 2,
        group=[f"p{row % 36 // 2}" for row in range(72)],
        name="twins",
    )
    result = quick(["t_colour"]).fit(twins, progress=False).result_
    kept, aside = ({int(name) % 36 // 2 for name in part.ids} for part in (result.embeddings, result.held_out))
    assert not kept & aside


def test_nothing_is_set_aside_where_none_is_asked_for(quick, study):
    result = quick(["t_colour"]).fit(study.samples.in_split("train", "val"), test=None, progress=False).result_
    assert result.held_out is None
    assert splits_of(result) == {"train": 36, "val": 15, "test": 0}


def test_test_data_may_come_apart_and_are_found_again(quick, study, tmp_path):
    result = (
        quick(["t_colour"])
        .fit(
            study.images / "train",
            validation=study.images / "val",
            test=study.images / "test",
            out=tmp_path / "run",
            progress=False,
        )
        .result_
    )
    assert splits_of(result) == {"train": 36, "val": 15, "test": 21}
    found = biofuse.evaluate(tmp_path / "run", store=study.store, workers=0, progress=False)
    assert found.n == 21
    assert found.predictions["id"].tolist() == result.held_out.ids.tolist()
    assert found["auroc"] == result.evaluate(progress=False)["auroc"]
    with pytest.raises(DataError, match="test samples of its own"):
        quick(["t_colour"]).fit(study.images, test=study.images / "test", progress=False)


def test_the_command_line_sets_the_same_samples_aside(quick, tmp_path, draw):
    from typer.testing import CliRunner

    from biofuse.cli.app import app

    draw(tmp_path / "images", each=12)
    result = (
        BioFuse("haralick", head="ridge", folds=2, repeats=1, store=tmp_path / "store", workers=0)
        .fit(tmp_path / "images", progress=False)
        .result_
    )
    asked = "fit {0}/images -e haralick --head ridge --folds 2 --repeats 1 --store {0}/store --workers 0 --out {0}/run"
    done = CliRunner().invoke(app, asked.format(tmp_path).split())
    assert done.exit_code == 0, done.output
    table = pd.read_parquet(tmp_path / "run" / "samples.parquet")
    assert set(table.loc[table["split"] == "test", "id"]) == set(result.held_out.ids)
    done = CliRunner().invoke(app, [*asked.format(tmp_path).split()[:-1], str(tmp_path / "all"), "--no-test"])
    assert done.exit_code == 0, done.output
    assert "test" not in set(pd.read_parquet(tmp_path / "all" / "samples.parquet")["split"])


def test_python_is_told_that_test_data_were_set_aside_unless_it_wants_no_news(make_images, tmp_path, capsys):
    make_images(images := tmp_path / "images", per_class=16)
    BioFuse("colour", search="all", head="ridge").fit(images, progress=False)
    assert capsys.readouterr().err == ""
    BioFuse("colour", search="all", head="ridge").fit(images)
    assert "set aside" in capsys.readouterr().err
