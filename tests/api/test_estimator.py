import itertools
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from biofuse import BioFuse, ExtractOptions
from biofuse.core.errors import BioFuseError, DataError, LeakageError, SearchError, UnreadableImageError
from biofuse.core.target import Task
from biofuse.data.load import load_samples, split_off_test
from biofuse.search.problem import Problem

ALL = ("t_colour", "t_spread", "t_edge")


def scores(result):
    return {row.subset: row.mean("auroc") for row in result.leaderboard}


# --- what a fit sees and hands back


def test_a_fit_scores_every_subset_and_hands_back_what_it_was_made_from(fitted, study):
    every = [subset for size in (1, 2, 3) for subset in itertools.combinations(ALL, size)]
    assert [row.subset for row in fitted.screen] == every
    assert [row.subset for row in fitted.leaderboard] == every  # fewer than there may be finalists
    assert set(fitted.models) == {"chosen", "best_single", "all", "greedy"}
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

    model = quick(head="logistic", search="all").fit(study.images, progress=False).model
    development, test = study.samples.in_split("train", "val"), study.samples.in_split("test")
    X, Z = (model.embed(part, store=study.store) for part in (development, test))
    scaler = StandardScaler().fit(X)
    regression = LogisticRegression(C=model.predictor.head.penalty[0], solver="newton-cg", max_iter=500, tol=1e-8)
    expected = regression.fit(scaler.transform(X), development.labels).predict_proba(scaler.transform(Z))
    np.testing.assert_allclose(model.predict_proba(test, store=study.store), expected, atol=1e-4)


def test_results_print_and_show_well(fitted):
    assert fitted.selection.reason in repr(fitted)
    assert "<table" in fitted._repr_html_()
    assert repr(fitted.model).startswith("<BioFuseModel: t_")
    assert "3 classes" in fitted.model._repr_html_()
    assert repr(BioFuse(["t_edge"], head="ridge", seed=3)) == "BioFuse(encoders=['t_edge'], head='ridge', seed=3)"


def test_train_and_val_given_apart_keep_ids_order_and_split(quick, study):
    train, val = study.samples.in_split("train"), study.samples.in_split("val")
    train, val = train.take(np.random.default_rng(1).permutation(len(train))), val.take(np.arange(len(val))[::-1])
    result = quick(["t_colour", "t_edge"]).fit(train, val, test=None, progress=False)
    assert result.train_embeddings.ids.tolist() == train.ids.tolist()
    assert result.val_embeddings.ids.tolist() == val.ids.tolist()
    assert result.train_embeddings.labels.tolist() == train.labels.tolist()
    np.testing.assert_array_equal(result.model.embed(val, store=study.store), result.val_embeddings.matrix)
    assert set(result.val_embeddings.splits) == {"val"}


def test_style_bug_8_train_and_val_share_one_table_of_classes(quick, tmp_path, draw):
    draw(tmp_path / "train", each=6)
    draw(tmp_path / "val", classes=("mid", "sev"), each=4)
    result = quick(["t_colour"]).fit(tmp_path / "train", tmp_path / "val", test=None, progress=False)
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
    result = quick(["t_colour"]).fit(
        images[:21], list(images[21:]), labels=labels[:21], val_labels=np.array(labels[21:]), test=None, progress=False
    )
    # The encoder takes 8 x 8 pixels: nothing is resized, so the rows can be told by eye.
    np.testing.assert_allclose(result.train_embeddings.matrix, images[:21].mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(result.val_embeddings.matrix, images[21:].mean((1, 2)), rtol=1e-5)
    assert result.val_embeddings.labels.tolist() == [0, 1, 2] * 3
    assert result.model.predict(images[:2]).shape == (2,)
    with pytest.raises(DataError, match="val_labels"):
        quick(["t_colour"]).fit(images, labels=labels, val_labels=labels, test=None, progress=False)


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
    assert made.train.matrix.shape == (36, made.model.dim)
    assert made.val.matrix.shape == (15, made.model.dim)


# --- options


def test_holdout_fits_on_train_and_scores_the_given_validation_split(quick, study):
    result = quick(["t_colour", "t_edge"], select="holdout").fit(study.images, progress=False)
    assert result.config.rule == "first_best"
    assert (result.leaderboard.n_train, result.leaderboard.n_test) == ((36,), (15,))
    assert result.model.facts["fitted_on"] == "train"
    assert result.model.facts["n_samples"] == 36


def test_holdout_makes_a_validation_split_where_none_is_given_and_says_so(quick, study):
    train = study.samples.in_split("train")
    result = quick(["t_colour"], select="holdout").fit(replace(train, splits=None), test=None, progress=False)
    assert any("Validation samples (20%) were taken out of train" in note for note in result.notes)
    n_val = len(result.val_embeddings.ids)
    assert 3 <= n_val <= 12
    assert (result.leaderboard.n_train, result.leaderboard.n_test) == ((36 - n_val,), (n_val,))


def test_holdout_says_that_validation_images_are_training_images(quick, tmp_path, draw):
    draw(tmp_path / "train", each=6)
    for path in draw(tmp_path / "val", each=3, seed=1):
        if path.name == "001.png":
            path.write_bytes((tmp_path / "train" / path.parent.name / "004.png").read_bytes())
    result = quick(["t_colour"], select="holdout").fit(tmp_path, test=None, progress=False)
    assert any("3 of 9 validation samples are also training samples" in note for note in result.notes)


def test_style_bug_6_the_paper_preset_is_seeded_xgboost_on_the_validation_split(quick, study):
    result = quick(["t_colour"], preset="paper").fit(study.images, progress=False)
    model = result.model
    assert (model.predictor.head_name, result.config.select, result.config.rule) == ("xgboost", "holdout", "first_best")
    assert result.selection.metric == "accuracy"
    assert model.facts["fitted_on"] == "train"
    published = {"trees": 250, "learning_rate": 0.1, "depth": 6}
    assert {name: model.predictor.head_options[name] for name in published} == published
    again = quick(["t_colour"], preset="paper").fit(study.images, progress=False).model
    test = study.images / "test"
    np.testing.assert_array_equal(again.predict_proba(test), model.predict_proba(test))


def test_class_weights_reach_the_head(quick, tmp_path, draw):
    draw(tmp_path, classes=("ctl",), each=30)
    draw(tmp_path, classes=("ctl", "mid"), each=6, seed=1)
    plain = quick(["t_colour"], head="logistic").fit(tmp_path, progress=False).model
    weighted = quick(["t_colour"], head="logistic", class_weight="balanced").fit(tmp_path, progress=False).model
    assert weighted.predictor.head_options["class_weight"] == "balanced"
    rare = weighted.predict_proba(tmp_path)[:, 1] - plain.predict_proba(tmp_path)[:, 1]
    assert rare.mean() > 0.1


def test_several_labels_at_once(quick, study, tmp_path):
    development = study.samples.in_split("train", "val")
    high, odd = development.labels > 0, development.labels != 1
    table = pd.DataFrame(
        {"path": [str(source.path) for source in development.sources], "high": high.astype(int), "odd": odd.astype(int)}
    )
    result = quick(["t_colour", "t_edge"], folds=2).fit(table, label=["high", "odd"], progress=False)
    assert result.model.task is Task.MULTILABEL
    proba = result.model.predict_proba(study.images / "test", store=study.store)
    assert proba.shape == (21, 2)
    names = result.model.predict(study.images / "test", store=study.store)
    assert set(names) <= {"", "high", "odd", "high|odd"}
    for row, name in zip(proba, names, strict=True):
        assert name == "|".join(label for label, p in zip(("high", "odd"), row, strict=True) if p > 0.5)


@pytest.mark.parametrize(("classes", "task"), [(("ctl", "sev"), "binary"), (("1", "2", "3"), "ordinal")])
def test_binary_and_ordinal_tasks(quick, tmp_path, draw, classes, task):
    draw(tmp_path / "images", classes=classes, each=8)
    result = quick(["t_colour", "t_edge"], folds=2).fit(
        tmp_path / "images", task=task if task == "ordinal" else None, progress=False
    )
    assert result.model.task == task
    draw(tmp_path / "more", classes=classes, each=4, seed=5)
    found = result.evaluate(tmp_path / "more", progress=False)
    assert ("quadratic_kappa" in found.models["chosen"].metrics) == (task == "ordinal")
    assert result.model.predict_proba(tmp_path / "more").shape == (4 * len(classes), len(classes))


def test_groups_stay_whole_and_fewer_folds_are_announced(quick, study, tmp_path):
    train = study.samples.in_split("train")
    groups = np.array([f"p{label}{number % 4}" for number, label in enumerate(train.labels)], dtype=object)
    result = quick(["t_colour"], folds=5).fit(replace(train, splits=None, groups=groups), test=None, progress=False)
    assert any("4 folds instead of 5" in note for note in result.notes)
    problem = Problem.from_embeddings(result.embeddings, result.config)
    assert len(problem.plan.folds) == 4
    for fit_rows, score_rows in problem.plan.folds:
        assert not set(groups[fit_rows]) & set(groups[score_rows])


def test_identical_images_stay_together_across_folds(quick, tmp_path, draw):
    first = draw(tmp_path / "one", each=6)
    labels = [path.parent.name for path in first]
    arrays = [np.asarray(Image.open(path)) for path in first]
    result = quick(["t_colour"]).fit(arrays + arrays, labels=labels + labels, test=None, progress=False)
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
    result = quick(["t_colour"]).fit(
        load_samples(arrays, labels=labels, group=groups, name="grouped"), test=None, progress=False
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
    plain = quick(search="all", head="logistic").fit(study.images, progress=False).model
    block = quick(search="all", head="logistic", scaling="block").fit(study.images, progress=False).model
    assert (plain.predictor.fusion_name, block.predictor.fusion_options["scaling"]) == ("concatenation", "block")
    test = study.images / "test"
    assert np.abs(plain.predict_proba(test) - block.predict_proba(test)).max() > 1e-4


def test_style_bug_12_blocks_of_different_widths_are_fused_and_every_column_counts(fitted, study):
    everything = fitted.models["all"]
    assert [card.dim for card in everything.cards] == [3, 2, 4]
    assert everything.embed(study.images / "test", store=study.store).shape == (21, 9)
    assert everything.predictor.transform(fitted.embeddings.blocks).shape == (51, 9)


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


def test_unreadable_images_can_be_set_aside(quick, tmp_path, draw):
    paths = draw(tmp_path / "images", each=7)
    paths[3].write_bytes(b"\x89PNG")
    careful = quick(["t_colour"], options=ExtractOptions(workers=0, on_error="quarantine"))
    result = careful.fit(tmp_path / "images", out=tmp_path / "run", test=None, progress=False)
    assert len(result.embeddings.ids) == 20
    assert pd.read_csv(tmp_path / "run" / "quarantine.csv")["id"].tolist() == ["ctl/003.png"]


@pytest.mark.parametrize("role", ["train", "val"])
def test_test_samples_given_as_development_data_are_refused(quick, study, role):
    parts = {"train": study.samples.in_split("train"), "val": study.samples.in_split("val")}
    parts[role] = study.samples
    with pytest.raises(LeakageError, match=f"given as {role} are of split test"):
        quick().fit(parts["train"], parts["val"], progress=False)


# --- style bug 3: test data in the search


@dataclass(frozen=True)
class Mine:
    """A source that blows up when it is touched."""

    description: str

    def read(self):
        raise AssertionError(f"a search read {self.description}")


@pytest.fixture
def mined(study):
    """Return the study's samples with test images that must not be read."""
    sources = tuple(
        Mine(name) if split == "test" else source
        for name, split, source in zip(study.samples.ids, study.samples.splits, study.samples.sources, strict=True)
    )
    return replace(study.samples, sources=sources)


@pytest.mark.parametrize("select", ["cv", "holdout"])
def test_style_bug_3_a_search_never_reads_a_test_row(quick, mined, tmp_path, select):
    fuse = quick(["t_colour", "t_edge"], select=select, store=tmp_path / "store")
    result = fuse.fit(mined, out=tmp_path / "run", progress=False)
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
    result = quick(["t_colour"]).fit(replace(mined, splits=splits), progress=False)
    assert note in result.notes


def test_style_bug_3_test_rows_do_not_change_the_search(quick, study, fitted):
    without = quick().fit(study.samples.in_split("train", "val"), test=None, progress=False)
    assert scores(without) == scores(fitted)
    assert without.held_out is None


# --- invariance


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), pool=st.permutations(ALL))
def test_the_order_of_rows_and_of_encoders_changes_nothing(quick, study, fitted, seed, pool):
    order = np.random.default_rng(seed).permutation(len(study.samples))
    other = quick(pool).fit(study.samples.take(order), progress=False)
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
    result = quick(["t_colour"]).fit(development, test=None, progress=False)
    blocks = result.embeddings.blocks
    matrix = np.column_stack([blocks["t_colour"], development.labels == 1]).astype(np.float32)
    leaked = replace(result.embeddings, blocks=replace(blocks, matrices={"t_colour": matrix}))
    with pytest.raises(LeakageError, match="Column 3 of encoder t_colour"):
        Problem.from_embeddings(leaked, result.config)


def test_errors_are_biofuses(quick):
    with pytest.raises(BioFuseError):
        quick().fit("no/such/folder", progress=False)
