"""A fit: what it sees, does, hands back and refuses; and the weights that it belongs to."""

import builtins
import inspect
import io
import itertools
import json
import os
import shutil
import socket
import threading
from dataclasses import replace

import html5lib
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import biofuse
from biofuse import BioFuse, BioFuseModel, ExtractOptions
from biofuse.api.fit import ONE_PREDICTOR, evaluate, fit_models, predictor_notes
from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import (
    ArtifactError,
    BioFuseError,
    DataError,
    LeakageError,
    SearchError,
    UnreadableImageError,
)
from biofuse.data.load import load_samples, split_off_test
from biofuse.data.samples import hash_samples
from biofuse.report.compare import RunComparison
from biofuse.runs.run import Run
from biofuse.search.config import SearchConfig
from biofuse.search.problem import Problem
from biofuse.search.search import encoders_to_fit, fit_predictors, singles_to_fit
from biofuse.store.store import EmbeddingStore

ALL = ("t_colour", "t_spread", "t_edge")


def scores(result):
    return {row.subset: row.mean("auroc") for row in result.leaderboard}


# --- what a fit sees and hands back


def test_a_fit_scores_every_subset_and_hands_back_what_it_was_made_from(fitted, study):
    every = [subset for size in (1, 2, 3) for subset in itertools.combinations(ALL, size)]
    assert [row.subset for row in fitted.screen] == every
    assert [row.subset for row in fitted.leaderboard] == every  # fewer than there may be finalists
    assert set(fitted.models) == {"chosen", "best_single", "all", "greedy", "lean"}
    assert fitted.model.encoders == fitted.selection.chosen.subset
    assert fitted.models["all"].encoders == ALL
    assert len(fitted.models["best_single"].encoders) == 1
    train, val = study.samples.in_split("train"), study.samples.in_split("val")
    assert fitted.train_embeddings.ids.tolist() == train.ids.tolist()
    assert fitted.val_embeddings.ids.tolist() == val.ids.tolist()
    assert fitted.train_embeddings.labels.tolist() == train.labels.tolist()
    np.testing.assert_array_equal(fitted.model.embed(train, store=study.store), fitted.train_embeddings.matrix)
    assert fitted.model.facts["fitted_on"] == "train + val"
    assert fitted.model.facts["n_samples"] == len(train) + len(val)
    assert any("21 test samples are set aside" in note for note in fitted.notes)
    assert fitted.model.classes == ("ctl", "mid", "sev")
    assert fitted.model.classes_.tolist() == ["ctl", "mid", "sev"]


def test_the_fit_is_scikit_learns_on_the_same_matrix(quick, study):
    """The whole chain against its parts done by hand: rows by id, standardised columns, logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    model = quick(head="logistic", search="all").fit(study.images, progress=False).result_.model
    development, test = study.samples.in_split("train", "val"), study.samples.in_split("test")
    X, Z = (model.embed(part, store=study.store) for part in (development, test))
    scaler = StandardScaler().fit(X)
    regression = LogisticRegression(C=model.predictor.head.penalty[0], solver="newton-cg", max_iter=500, tol=1e-8)
    expected = regression.fit(scaler.transform(X), development.labels).predict_proba(scaler.transform(Z))
    calibrated = model.trust.calibrated(model.target, expected)
    np.testing.assert_allclose(model.predict_proba(test, store=study.store), calibrated, atol=1e-4)


def test_train_and_val_given_apart_keep_ids_order_and_split(quick, study):
    train, val = study.samples.in_split("train"), study.samples.in_split("val")
    train, val = train.take(np.random.default_rng(1).permutation(len(train))), val.take(np.arange(len(val))[::-1])
    result = quick(["t_colour", "t_edge"]).fit(train, validation=val, test=None, progress=False).result_
    assert result.train_embeddings.ids.tolist() == train.ids.tolist()
    assert result.val_embeddings.ids.tolist() == val.ids.tolist()
    assert result.train_embeddings.labels.tolist() == train.labels.tolist()
    np.testing.assert_array_equal(result.model.embed(val, store=study.store), result.val_embeddings.matrix)
    assert set(result.val_embeddings.splits) == {"val"}


@pytest.mark.slow
def test_an_eager_fit_gives_a_first_result_and_the_very_same_final_one(study, tmp_path):
    pool, cheap, told = ["t_colour", "timm:test_vit", "t_edge"], ("t_colour", "t_edge"), []
    given = {"folds": 3, "repeats": 1, "head": "ridge", "allow_random_weights": True, "workers": 0, "progress": False}
    store, out = tmp_path / "store", tmp_path / "run"
    final = biofuse.fit(study.images, encoders=pool, store=store, out=out, eager=True, tell=told.append, **given)
    first = Run.open(tmp_path / "run-first")
    assert (first.record.state, first.record.options.encoders) == ("complete", cheap)
    alone = biofuse.fit(study.images, encoders=cheap, store=store, **given)
    assert BioFuseModel.load(first.path).encoders == alone.model.encoders
    begins, ends = (line for line in told if "irst result" in line)
    assert begins.startswith("A first result comes from 2 of 3 encoders, without timm-test_vit")
    assert ends == (
        f"That was the first result, by {' + '.join(alone.model.encoders)}. It is a run of its own: {first.path}. "
        "The final one follows."
    )
    assert final.embeddings.computed == len(final.embeddings.samples)  # the network's alone
    whole = biofuse.fit(study.images, encoders=pool, store=store, eager=True, tell=told.append, **given)
    assert len([line for line in told if "irst result" in line]) == 2  # the store has everything: there is no wait
    assert scores(whole) == scores(final)
    assert whole.model.encoders == final.model.encoders


def test_style_bug_8_train_and_val_share_one_table_of_classes(quick, tmp_path, draw):
    draw(tmp_path / "train", each=6)
    draw(tmp_path / "val", classes=("mid", "sev"), each=4)
    result = quick(["t_colour"]).fit(tmp_path / "train", validation=tmp_path / "val", test=None, progress=False).result_
    assert result.model.classes == ("ctl", "mid", "sev")
    assert result.val_embeddings.labels.tolist() == [1] * 4 + [2] * 4
    # The two folders name their files alike, so ids need the split's name to stay apart.
    assert result.val_embeddings.ids.tolist() == [
        f"val/{name}/{n:03d}.png" for name in ("mid", "sev") for n in range(4)
    ]


def test_arrays_with_labels_apart(quick):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 200, (30, 8, 8, 3), dtype=np.uint8)
    labels = ["a", "b", "c"] * 10
    result = (
        quick(["t_colour"])
        .fit(images[:21], labels[:21], validation=list(images[21:]), val_labels=np.array(labels[21:]), progress=False)
        .result_
    )
    # The encoder takes 8 x 8 pixels: nothing is resized, so the rows can be told by eye.
    np.testing.assert_allclose(result.train_embeddings.matrix, images[:21].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(result.val_embeddings.matrix, images[21:].mean((1, 2)), rtol=1e-5)
    assert result.val_embeddings.labels.tolist() == [0, 1, 2] * 3
    assert result.model.predict(images[:2]).shape == (2,)
    with pytest.raises(DataError, match="val_labels"):
        quick(["t_colour"]).fit(images, labels, val_labels=labels, progress=False)


def test_generate_embeddings_without_a_search_fuses_every_encoder(quick, study):
    train, val, test = (study.samples.in_split(name) for name in ("train", "val", "test"))
    made = quick(search="all").generate_embeddings(train, val, progress=False)
    assert made.model.encoders == ALL
    assert made.train.matrix.shape == (36, 9)
    assert made.train.ids.tolist() == train.ids.tolist()
    assert made.val.labels.tolist() == val.labels.tolist()
    columns = made.model.embed(test, store=study.store)
    assert columns.shape == (21, 9)
    order = [(name, dim) for name, dim in made.train.blocks.dims.items()]
    assert order == [(card.name, card.dim) for card in made.model.cards]
    np.testing.assert_array_equal(made.model.embed(train, store=study.store), made.train.matrix)


def test_style_bug_13_a_search_always_ends_with_a_choice_that_generates_embeddings(quick, study):
    train, val = study.samples.in_split("train"), study.samples.in_split("val")
    made = quick(["t_spread", "t_edge"]).generate_embeddings(train, val, progress=False)
    assert made.model.encoders
    assert (made.train.ids.tolist(), made.val.ids.tolist()) == (train.ids.tolist(), val.ids.tolist())
    assert made.train.matrix.shape == (36, made.model.dim)
    assert made.val.matrix.shape == (15, made.model.dim)


# --- options


def test_holdout_fits_on_train_and_scores_the_given_validation_split(quick, study):
    result = quick(["t_colour", "t_edge"], select="holdout").fit(study.images, progress=False).result_
    assert result.config.rule == "first_best"
    assert (result.leaderboard.n_train, result.leaderboard.n_test) == ((36,), (15,))
    assert result.model.facts["fitted_on"] == "train"
    assert result.model.facts["n_samples"] == 36


def test_holdout_makes_a_validation_split_where_none_is_given_and_says_so(quick, study):
    train = study.samples.in_split("train")
    result = quick(["t_colour"], select="holdout").fit(replace(train, splits=None), test=None, progress=False).result_
    assert any("Validation samples (20%) were taken out of train" in note for note in result.notes)
    n_val = len(result.val_embeddings.ids)
    assert 3 <= n_val <= 12
    assert (result.leaderboard.n_train, result.leaderboard.n_test) == ((36 - n_val,), (n_val,))


def test_holdout_says_that_validation_images_are_training_images(quick, tmp_path, draw):
    draw(tmp_path / "train", each=6)
    for path in draw(tmp_path / "val", each=3, seed=1):
        if path.name == "001.png":
            path.write_bytes((tmp_path / "train" / path.parent.name / "004.png").read_bytes())
    result = quick(["t_colour"], select="holdout").fit(tmp_path, test=None, progress=False).result_
    assert any("3 of 9 validation samples are also training samples" in note for note in result.notes)


@pytest.mark.slow
def test_style_bug_6_the_paper_preset_is_seeded_xgboost_on_the_validation_split(quick, study):
    result = quick(["t_colour"], preset="paper").fit(study.images, progress=False).result_
    model = result.model
    assert (model.predictor.head_name, result.config.select, result.config.rule) == ("xgboost", "holdout", "first_best")
    assert result.selection.metric == "accuracy"
    assert model.facts["fitted_on"] == "train"
    published = {"trees": 250, "learning_rate": 0.1, "depth": 6}
    assert {name: model.predictor.head_options[name] for name in published} == published
    again = quick(["t_colour"], preset="paper").fit(study.images, progress=False).result_.model
    test = study.images / "test"
    np.testing.assert_array_equal(again.predict_proba(test), model.predict_proba(test))


@pytest.mark.slow
def test_class_weights_reach_the_head(quick, tmp_path, draw):
    draw(tmp_path, classes=("ctl",), each=30)
    draw(tmp_path, classes=("ctl", "mid"), each=6, seed=1)
    plain = quick(["t_colour"], head="logistic").fit(tmp_path, progress=False).result_.model
    weighted = quick(["t_colour"], head="logistic", class_weight="balanced").fit(tmp_path, progress=False).result_.model
    assert weighted.predictor.head_options["class_weight"] == "balanced"
    rare = weighted.predict_proba(tmp_path)[:, 1] - plain.predict_proba(tmp_path)[:, 1]
    assert rare.mean() > 0.1


@pytest.mark.parametrize(("classes", "task"), [(("ctl", "sev"), "binary"), (("1", "2", "3"), "ordinal")])
def test_binary_and_ordinal_tasks(quick, tmp_path, draw, classes, task):
    draw(tmp_path / "images", classes=classes, each=8)
    result = (
        quick(["t_colour", "t_edge"], folds=2)
        .fit(tmp_path / "images", task=task if task == "ordinal" else None, progress=False)
        .result_
    )
    assert result.model.task == task
    draw(tmp_path / "more", classes=classes, each=4, seed=5)
    found = result.evaluate(tmp_path / "more", progress=False)
    assert ("quadratic_kappa" in found.models["chosen"].metrics) == (task == "ordinal")
    assert result.model.predict_proba(tmp_path / "more").shape == (4 * len(classes), len(classes))


def test_groups_stay_whole_and_fewer_folds_are_announced(quick, study, tmp_path):
    train = study.samples.in_split("train")
    groups = np.array([f"p{label}{number % 4}" for number, label in enumerate(train.labels)], dtype=object)
    result = (
        quick(["t_colour"], folds=5).fit(replace(train, splits=None, groups=groups), test=None, progress=False).result_
    )
    assert any("4 folds instead of 5" in note for note in result.notes)
    problem = Problem.from_embeddings(result.embeddings, result.config)
    assert len(problem.plan.folds) == 4
    for fit_rows, score_rows in problem.plan.folds:
        assert not set(groups[fit_rows]) & set(groups[score_rows])


def test_identical_images_stay_together_across_folds(quick, tmp_path, draw):
    first = draw(tmp_path / "one", each=6)
    labels = [path.parent.name for path in first]
    arrays = [np.asarray(Image.open(path)) for path in first]
    result = quick(["t_colour"]).fit(arrays + arrays, labels + labels, progress=False).result_
    problem = Problem.from_embeddings(result.embeddings, result.config)
    twin = np.arange(36) % 18
    for fit_rows, score_rows in problem.plan.folds:
        assert not set(twin[fit_rows]) & set(twin[score_rows])


def test_duplicates_join_their_groups(quick, tmp_path, draw):
    """Two patients who share one image are one unit."""
    paths = draw(tmp_path / "one", each=9)
    labels = [path.parent.name for path in paths]
    arrays = [np.asarray(Image.open(path)) for path in paths]
    groups = [f"p{row // 3}" for row in range(27)]
    arrays[3] = arrays[0]
    result = (
        quick(["t_colour"])
        .fit(load_samples(arrays, labels=labels, group=groups, name="grouped"), test=None, progress=False)
        .result_
    )
    for fit_rows, score_rows in Problem.from_embeddings(result.embeddings, result.config).plan.folds:
        units = [
            {"p0" if group == "p1" else group for group in np.array(groups)[rows]} for rows in (fit_rows, score_rows)
        ]
        assert not units[0] & units[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"select": "loo"}, "select"),
        ({"folds": 1}, "folds"),
        ({"preset": "thesis"}, "thesis"),
        ({"select": "holdout", "rule": "one_se"}, "one_se needs cross-validation"),
        ({"search": "greedy2"}, "search"),
    ],
)
def test_style_bug_18_an_option_is_used_or_refused_before_any_work(study, options, words):
    with pytest.raises(SearchError, match=words):
        BioFuse(["t_colour"], **options)


@pytest.mark.parametrize("options", [{"head": "forest"}, {"fusion": "sum"}], ids=str)
def test_style_bug_18_a_part_that_does_not_exist_is_refused_before_any_data_are_read(tmp_path, options):
    (name,) = options.values()
    with pytest.raises(SearchError, match=name):
        BioFuse(["t_colour"], **options).fit(tmp_path / "nowhere")


def test_style_bug_10_the_fusion_and_scaling_asked_for_are_the_ones_used(quick, study):
    plain = quick(search="all", head="logistic").fit(study.images, progress=False).result_.model
    block = quick(search="all", head="logistic", scaling="block").fit(study.images, progress=False).result_.model
    assert (plain.predictor.fusion_name, block.predictor.fusion_options["scaling"]) == ("concatenation", "block")
    test = study.images / "test"
    assert np.abs(plain.predict_proba(test) - block.predict_proba(test)).max() > 1e-4


def test_style_bug_12_blocks_of_different_widths_are_fused_and_every_column_counts(fitted, study):
    everything = fitted.models["all"]
    assert [card.dim for card in everything.cards] == [3, 2, 4]
    assert everything.embed(study.images / "test", store=study.store).shape == (21, 9)
    assert everything.predictor.fusion.transform(fitted.embeddings.blocks).shape == (51, 9)


# --- what must be refused


def test_data_that_nothing_can_be_learned_from(quick, study, tmp_path, draw):
    with pytest.raises(DataError, match="no labels"):
        quick().fit([np.zeros((9, 9), np.uint8)] * 4, progress=False)
    with pytest.raises(DataError, match="no training samples"):
        quick().fit(study.samples.in_split("test"), progress=False)
    draw(tmp_path / "one", classes=("ctl",), each=6)
    with pytest.raises(DataError):
        quick().fit(tmp_path / "one", progress=False)
    draw(tmp_path / "rare", classes=("ctl", "mid"), each=1)
    draw(tmp_path / "rare", classes=("ctl",), each=6)
    with pytest.raises(DataError, match="mid"):
        quick().fit(tmp_path / "rare", progress=False)


def test_nothing_readable_is_one_clear_error(quick, tmp_path, draw):
    for path in draw(tmp_path, each=3):
        path.write_bytes(b"")
    with pytest.raises(UnreadableImageError, match="empty"):
        quick().fit(tmp_path, progress=False)
    with pytest.raises(DataError, match="No image of"):
        quick(options=ExtractOptions(workers=0, on_error="quarantine")).fit(tmp_path, progress=False)


@pytest.mark.parametrize("role", ["train", "val"])
def test_test_samples_given_as_development_data_are_refused(quick, study, role):
    parts = {"train": study.samples.in_split("train"), "val": study.samples.in_split("val")}
    parts[role] = study.samples
    with pytest.raises(LeakageError, match=f"given as {role} are of split test"):
        quick().fit(parts["train"], validation=parts["val"], progress=False)


# --- style bug 3: test data in the search


@pytest.fixture
def mined(study, unread):
    """Return the study's samples with test images that must not be read."""
    sources = tuple(
        unread(name) if split == "test" else source
        for name, split, source in zip(study.samples.ids, study.samples.splits, study.samples.sources, strict=True)
    )
    return replace(study.samples, sources=sources)


@pytest.mark.parametrize("select", ["cv", "holdout"])
def test_style_bug_3_a_search_never_reads_a_test_row(quick, mined, tmp_path, select):
    fuse = quick(["t_colour", "t_edge"], select=select, store=tmp_path / "store")
    result = fuse.fit(mined, out=tmp_path / "run", progress=False).result_
    assert len(result.embeddings.ids) == 51
    with pytest.raises(AssertionError, match="a search read test/"):
        result.evaluate(progress=False)


def test_style_bug_3_making_a_validation_split_leaves_given_test_rows_unread(quick, mined):
    splits = mined.splits.copy()
    splits[splits == "val"] = "train"
    made, note = split_off_test(replace(mined, splits=splits), seed=0)
    assert "Val was taken out of train" in note
    np.testing.assert_array_equal(made.splits == "test", mined.splits == "test")
    assert {"train", "val"} <= set(made.splits)
    result = quick(["t_colour"]).fit(replace(mined, splits=splits), progress=False).result_
    assert note in result.notes


def test_style_bug_3_test_rows_do_not_change_the_search(quick, study, fitted):
    without = quick().fit(study.samples.in_split("train", "val"), test=None, progress=False).result_
    assert scores(without) == scores(fitted)
    assert without.held_out is None


# --- invariance


@pytest.mark.slow
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), pool=st.permutations(ALL))
def test_the_order_of_rows_and_of_encoders_changes_nothing(quick, study, fitted, seed, pool):
    order = np.random.default_rng(seed).permutation(len(study.samples))
    other = quick(pool).fit(study.samples.take(order), progress=False).result_
    assert set(other.model.encoders) == set(fitted.model.encoders)
    mine, theirs = ({frozenset(subset): mean for subset, mean in scores(result).items()} for result in (fitted, other))
    assert mine == pytest.approx(theirs, abs=1e-4)
    test = study.samples.in_split("test")
    np.testing.assert_allclose(
        other.model.predict_proba(test, store=study.store),
        fitted.model.predict_proba(test, store=study.store),
        atol=1e-4,
    )
    assert (
        other.model.predict(test, store=study.store).tolist() == fitted.model.predict(test, store=study.store).tolist()
    )


def test_a_leaked_label_column_raises_and_names_the_encoder(quick, study):
    development = study.samples.in_split("train", "val")
    result = quick(["t_colour"]).fit(development, test=None, progress=False).result_
    blocks = result.embeddings.blocks
    matrix = np.column_stack([blocks["t_colour"], development.labels == 1]).astype(np.float32)
    leaked = replace(result.embeddings, blocks=replace(blocks, matrices={"t_colour": matrix}))
    with pytest.raises(LeakageError, match="Column 3 of encoder t_colour"):
        Problem.from_embeddings(leaked, result.config)


PLANTED = ("a", "b", "c", "d")


def test_the_chosen_predictor_and_its_companions_are_fitted_on_the_rows_given(plant, posed, searched):
    embeddings = plant()
    problem, search = posed(embeddings, head="ridge"), searched(embeddings, head="ridge")
    rows = np.arange(0, 48, 2)
    found = fit_predictors(problem, search, rows, threads=1)
    assert list(found) == ["chosen", "best_single", "all", "greedy", "lean"]
    assert {name: predictor.encoders for name, predictor in found.items()} == encoders_to_fit(search)
    assert found["all"].encoders == PLANTED
    # Rows that were not given change nothing.
    blocks = problem.blocks
    other = {name: blocks[name] + np.isin(np.arange(48), rows, invert=True)[:, None] * 9 for name in blocks}
    changed = plant()
    changed = type(changed)(**{**vars(changed), "blocks": Blocks(ids=blocks.ids, matrices=other)})
    again = fit_predictors(posed(changed, head="ridge"), search, rows, threads=1)
    for name, predictor in found.items():
        np.testing.assert_array_equal(again[name].predict_proba(blocks), predictor.predict_proba(blocks))


def test_every_model_of_a_run_can_be_loaded_by_name(fitted, study, tmp_path):
    for name, model in fitted.models.items():
        loaded = BioFuseModel.load(fitted.path, variant=name)
        assert loaded.encoders == model.encoders
        np.testing.assert_array_equal(loaded.predict_proba(study.images), model.predict_proba(study.images))
    assert fitted.models["lean"].encoders == fitted.selection.lean.subset
    for path, variant, words in (
        (fitted.path, "leanest", "no model 'leanest'"),
        (fitted.path / "model", "lean", "is not a run"),
        (tmp_path, "lean", "is not a run"),
    ):
        with pytest.raises(ArtifactError, match=words) as caught:
            BioFuseModel.load(path, variant=variant)
        assert caught.value.remedy
    shutil.copytree(fitted.path, tmp_path / "older")
    shutil.rmtree(tmp_path / "older" / "comparators" / "lean")
    with pytest.raises(ArtifactError, match=r"has no lean model.*older BioFuse") as caught:
        BioFuseModel.load(tmp_path / "older", variant="lean")
    assert "best_single, all, greedy;" in caught.value.remedy


def test_every_encoder_is_fitted_by_itself_and_none_twice(plant, posed, searched):
    embeddings = plant()
    problem, search = posed(embeddings, head="ridge"), searched(embeddings, head="ridge")
    assert singles_to_fit(search) == {name: (name,) for name in PLANTED}
    best = search.selection.best_single.subset
    models, singles = fit_models(problem, search, embeddings, threads=1)
    assert {name: model.encoders for name, model in models.items()} == encoders_to_fit(search)
    assert {name: single.encoders for name, single in singles.items()} == singles_to_fit(search)
    assert singles[best[0]] is models["best_single"]
    assert singles_to_fit(searched(embeddings, head="ridge", search="all")) == {}


def test_means_fitted_several_at_a_time_are_those_fitted_one_by_one(plant, posed, searched):
    embeddings = plant()
    problem, search = posed(embeddings), searched(embeddings)
    assert problem.config.predictor == "mean"
    one_by_one = fit_predictors(problem, search, problem.fitted_rows, threads=1)
    models, singles = fit_models(problem, search, embeddings, threads=3)
    assert {name: model.encoders for name, model in models.items()} == encoders_to_fit(search)
    assert {name: single.encoders for name, single in singles.items()} == singles_to_fit(search)
    for name, predictor in one_by_one.items():
        found = models[name].predictor.predict_proba(problem.blocks)
        np.testing.assert_allclose(found, predictor.predict_proba(problem.blocks), rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"predictor": "ensemble"},
        {"predictor": "average"},
        {"fusion": "pca"},
        {"fusion": "whitening"},
        {"fusion": "weighted"},
        {"fusion": "mean"},
        {"predictor": "stacking", "fusion": "pca", "class_weight": "balanced"},
        {"head": "lda"},
    ],
    ids=lambda options: "-".join(options.values()),
)
def test_what_was_asked_for_is_searched_fitted_saved_loaded_and_evaluated(quick, study, tmp_path, options):
    fuse = quick(folds=2, finalists=1, **{"head": "ridge", **options})
    result = fuse.fit(study.images, out=tmp_path / "run", progress=False).result_
    test = study.samples.in_split("test")
    proba = result.model.predict_proba(test, store=study.store)
    assert proba.shape == (21, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1, atol=1e-6)
    loaded = BioFuseModel.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.predict_proba(test, store=study.store), proba)
    assert loaded.predict(test, store=study.store).tolist() == result.model.predict(test, store=study.store).tolist()
    assert loaded.encoders == result.model.encoders == result.search.chosen
    np.testing.assert_array_equal(
        loaded.embed(study.samples.in_split("train"), store=study.store), result.train_embeddings.matrix
    )
    config = loaded.facts["config"]
    assert {name: config[name] for name in options} == options

    found = evaluate(tmp_path / "run", store=EmbeddingStore(study.store), options=fuse.extraction, progress=False)
    again = replace(result.evaluate(progress=False), data=found.data, split=found.split)
    assert found.to_json() == again.to_json()
    written = pd.read_parquet(tmp_path / "run" / "predictions.parquet")
    np.testing.assert_array_equal(written[["p_ctl", "p_mid", "p_sev"]], proba)
    record = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    assert Run.open(tmp_path / "run").record.chosen == result.model.encoders
    assert record["head"] == result.search.head
    assert fuse.fit(study.images, out=tmp_path / "run", progress=False).result_.reused


def test_an_ensemble_says_what_it_is_made_of(quick, study, tmp_path):
    fuse = quick(folds=2, head="ridge", predictor="ensemble")
    result = fuse.fit(study.images, out=tmp_path / "run", progress=False).result_
    ensemble = result.search.ensemble
    record = Run.open(tmp_path / "run").record
    assert record.ensemble == ensemble
    assert (record.members, record.mean, record.chosen) == (ensemble.members, ensemble.mean, result.model.encoders)
    assert result.model.facts["selection"] == str(ensemble)
    assert repr(result) == f"<FitResult: {ensemble}>"


@pytest.mark.slow
def test_the_paper_preset_refits_xgboost_on_every_subset_of_the_train_split_alone(quick, tmp_path, draw):
    for seed, (split, each) in enumerate({"train": 8, "val": 5}.items()):
        draw(tmp_path / "images" / split, classes=("ctl", "sev"), each=each, seed=seed)
    fuse = quick(["t_colour", "t_edge"], preset="paper")
    result = fuse.fit(tmp_path / "images", out=tmp_path / "run", test=None, progress=False).result_
    assert result.screen is None
    assert [row.subset for row in result.leaderboard] == [("t_colour",), ("t_edge",), ("t_colour", "t_edge")]
    assert (result.leaderboard.n_train, result.leaderboard.n_test) == ((16,), (10,))
    assert result.leaderboard.metrics[0] == "accuracy"
    assert result.search.head == "xgboost"
    assert result.search.heads == {}
    best = max(row.mean("accuracy") for row in result.leaderboard)
    first = next(row for row in result.leaderboard if row.mean("accuracy") == best)
    assert result.model.encoders == first.subset  # the first in combination order, among ties
    assert result.model.predictor.head_name == "xgboost"
    assert result.model.facts["n_samples"] == 16
    record = json.loads((tmp_path / "run" / "run.json").read_text(), parse_constant=pytest.fail)
    assert record["plan"]["kind"] == "holdout"
    assert record["evidence"]["optimism"]["rule"] == "first_best"


HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a&b </table>")


def parse(html):
    """Parse strictly: any error of the HTML standard raises."""
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parseFragment(html)


def words(html):
    return " ".join("".join(parse(html).itertext()).split())


@pytest.fixture(scope="module")
def test_scores(fitted):
    return fitted.evaluate(progress=False)


def test_a_search_shows_its_choice_and_its_best_subsets(fitted):
    shown = words(fitted.search._repr_html_())
    assert fitted.search.reason in shown
    assert f"Head: {fitted.search.head}" in shown
    assert f"{len(fitted.search.all_scores)} subsets were screened" in shown
    assert f"{fitted.leaderboard.best_first()[0].mean('auroc'):.4f}" in shown
    assert repr(fitted.search) == f"<Search: {fitted.search.reason}>"


def test_every_result_is_shown_with_its_numbers(fitted, test_scores):
    best = fitted.leaderboard.best_first()[0]
    assert f"{best.mean('auroc'):.4f}" in words(fitted.leaderboard._repr_html_())
    assert fitted.search.reason in words(fitted._repr_html_())
    (picture,) = parse(fitted._repr_html_()).iter("img")
    assert f"{best.mean('auroc'):.4f}" in picture.get("alt")
    assert fitted.selection.reason in repr(fitted)
    assert repr(fitted.model).startswith("<BioFuseModel: t_")
    assert "3 classes" in fitted.model._repr_html_()
    assert repr(BioFuse(["t_edge"], head="ridge", seed=3)) == "BioFuse(encoders=['t_edge'], head='ridge', seed=3)"
    assert f"{test_scores['auroc']:.4f}" in words(test_scores._repr_html_())
    assert all(sentence in words(test_scores._repr_html_()) for sentence in test_scores.sentences())
    interval = test_scores.models["chosen"].intervals["auroc"]
    assert f"({interval.low:.3f}\u2013{interval.high:.3f})" in words(test_scores._repr_html_())
    assert all(name in words(fitted.model._repr_html_()) for name in fitted.model.encoders)
    assert f"{len(fitted.embeddings.samples)} samples" in words(fitted.embeddings._repr_html_())


def test_titles_from_cards_stay_text(fitted):
    cards = tuple(card.model_copy(update={"title": HOSTILE[0], "licence": HOSTILE[1]}) for card in fitted.model.cards)
    model = BioFuseModel(**{**vars(fitted.model), "cards": cards})
    embeddings = type(fitted.embeddings)(**{**vars(fitted.embeddings), "cards": cards})
    for html in (model._repr_html_(), embeddings._repr_html_()):
        tree = parse(html)
        assert not [element for element in tree.iter() if element.tag in {"script", "img"}]
        assert HOSTILE[0] in "".join(tree.itertext())


def test_runs_side_by_side_are_shown_as_tables(fitted, quick, study, tmp_path):
    quick(("t_colour", "t_edge")).fit(
        study.samples.in_split("train", "val"), out=tmp_path / HOSTILE[2].replace("/", ""), progress=False
    )
    comparison = RunComparison.read([fitted.path, *tmp_path.iterdir()])
    tree = parse(comparison._repr_html_())
    assert len(list(tree.iter("table"))) == len(comparison.tables())
    assert not [element for element in tree.iter() if element.tag in {"script", "img"}]


class OneHandle:
    """A data set that reads through one shared position, like an open file: two readers at once mix up their rows."""

    def __init__(self):
        self.inside = threading.Semaphore(1)

    def __len__(self):
        return 40

    def __getitem__(self, row):
        assert self.inside.acquire(blocking=False), "two rows were read at once"
        try:
            threading.Event().wait(0.001)
            return np.full((8, 8), row, np.uint8)
        finally:
            self.inside.release()


def test_style_bug_2_rows_of_a_data_set_are_read_one_at_a_time():
    hashed, reasons = hash_samples(load_samples(OneHandle()))
    assert not reasons
    assert len(set(hashed.contents.tolist())) == 40


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, False),
        ({"head": "ridge"}, True),
        ({"fusion": "pca"}, True),
        ({"head": "ridge", "predictor": "mean"}, False),
        ({"preset": "paper"}, False),
    ],
    ids=str,
)
def test_who_names_a_head_and_no_predictor_is_told_that_it_is_no_mean(options, told):
    assert (ONE_PREDICTOR in predictor_notes(options)) == told


# --- what BioFuse(...) is before a fit


def test_making_one_opens_no_file_and_no_socket(monkeypatch, tmp_path):
    """Nothing is resolved before the fit: neither encoders, nor the store, nor heads of other packages."""

    def refuse(*_, **__):
        raise AssertionError("something was opened")

    BioFuse()  # what Python itself loads for the first one is loaded
    for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "mkdir"), (os, "scandir")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(socket, "socket", refuse)
    fuse = BioFuse(
        ["hf:nobody/nothing", "imported:nowhere"], head="of-another-package", preset="paper", device="cuda:7",
        store=tmp_path / "nowhere", weights_dir=tmp_path / "absent", options=ExtractOptions(workers=1),
    )  # fmt: skip
    said, again = repr(fuse), BioFuse(**fuse.get_params())
    monkeypatch.undo()
    assert said == repr(again)
    assert "hf:nobody/nothing" in said
    assert not (tmp_path / "nowhere").exists()


def test_parameters_are_handed_back_as_given_and_can_be_cloned():
    from sklearn.base import clone

    given = {"encoders": ["hog"], "head": "ridge", "folds": 3, "device": "cpu", "options": ExtractOptions(workers=0)}
    fuse = BioFuse(**given)
    assert {name: value for name, value in fuse.get_params().items() if value is not None} == given
    copy = clone(fuse)
    assert (copy.config, copy.extraction, repr(copy)) == (fuse.config, fuse.extraction, repr(fuse))
    assert fuse.extraction == ExtractOptions(workers=0, device="cpu")
    assert fuse.set_params(folds=7).config.folds == 7


def test_help_shows_every_option_of_both_objects():
    parameters = inspect.signature(BioFuse).parameters
    for model in (SearchConfig, ExtractOptions):
        for offer in model.offers():
            assert parameters[offer.name].kind in {
                inspect.Parameter.KEYWORD_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            }
            assert f"    {offer.name} : " in BioFuse.__doc__


@pytest.mark.parametrize(
    "function",
    [
        biofuse.embed, biofuse.embed_batches, biofuse.evaluate, biofuse.write_report, BioFuseModel.embed,
        BioFuseModel.predict, BioFuseModel.predict_proba, BioFuseModel.predict_frame,
    ],
    ids=lambda function: function.__qualname__,
)  # fmt: skip
def test_whatever_embeds_takes_the_options_of_an_extraction_as_an_object_and_by_name(function):
    names = {offer.name for offer in ExtractOptions.offers()}
    assert {*names, "options"} <= set(inspect.signature(function).parameters)


def test_an_option_that_does_not_exist_is_refused_with_the_one_that_was_meant(study):
    for call in (
        lambda: BioFuse(hed="ridge"),
        lambda: biofuse.embed(study.images, ["t_edge"], hed="ridge", progress=False),
        lambda: biofuse.evaluate(study.root / "run", hed="ridge"),
    ):
        with pytest.raises(BioFuseError, match="'hed'"):
            call()
    with pytest.raises(BioFuseError) as caught:
        BioFuse(hed="ridge")
    assert "Did you mean 'head'?" in caught.value.remedy
