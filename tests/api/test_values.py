"""A model of values, from images to predictions: fitted, saved, scored, described, and refused what it cannot."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import RidgeCV
from sklearn.metrics import mean_absolute_error, r2_score

import biofuse
from biofuse.api.service.served import Served
from biofuse.core.errors import ArtifactError, SearchError
from biofuse.core.target import Task
from biofuse.heads.ridge import RELATIVE_PENALTIES
from biofuse.model.card import model_card

ALL = ("t_colour", "t_spread", "t_edge")


@pytest.fixture(scope="module")
def valued(study, tmp_path_factory):
    """Samples whose value is a sum over two encoders, and noise; the run that a fit on them wrote."""
    samples = study.samples
    blocks = biofuse.embed(samples, ALL, store=study.store, progress=False)
    rng = np.random.default_rng(0)
    signal = blocks["t_colour"][:, 0].astype(float) + 3 * blocks["t_spread"][:, 0]
    values = 60 + 5 * (signal - signal.mean()) / signal.std() + 0.5 * rng.standard_normal(len(samples))
    samples = replace(samples, labels=values, classes=("age",), task=Task.VALUE)
    out = tmp_path_factory.mktemp("valued") / "run"
    options = {"head": "ridge", "predictor": "fused", "folds": 3, "repeats": 1}
    result = biofuse.fit(samples, encoders=ALL, store=study.store, out=out, progress=False, **options)
    return samples, result, out


def test_a_run_on_values_is_chosen_by_what_is_explained_and_its_scores_are_scikit_learns(valued, study):
    samples, result, out = valued
    assert result.selection.metric == result.config.metric == "r2"
    assert {"t_colour", "t_spread"} <= set(result.model.encoders)
    assert result.evidence.attribution.empty == 0
    train = result.embeddings
    X, test = train.blocks.only(result.model.encoders), samples.in_split("test")
    matrix = np.hstack(list(X.values())).astype(np.float64)
    mean, scale = matrix.mean(axis=0), matrix.std(axis=0)
    scale[scale == 0] = 1
    standard = (matrix - mean) / scale
    grid = np.array(RELATIVE_PENALTIES) * np.square(standard).sum() / len(standard)
    ridge = RidgeCV(alphas=grid).fit(standard, train.labels)
    new = biofuse.embed(test, result.model.encoders, store=study.store, progress=False)
    expected = ridge.predict((np.hstack(list(new.blocks.values())) - mean) / scale)
    evaluation = biofuse.evaluate(out, samples, store=study.store, progress=False)
    given = dict(zip(test.ids.tolist(), expected, strict=True))
    said = evaluation.predictions
    np.testing.assert_allclose(said["p_age"], [given[name] for name in said["id"]], rtol=1e-5)
    assert evaluation["r2"] == pytest.approx(r2_score(said["true_age"], said["p_age"]), abs=1e-9)
    assert evaluation["mae"] == pytest.approx(mean_absolute_error(said["true_age"], said["p_age"]), abs=1e-9)
    again = biofuse.fit(
        samples, encoders=ALL, store=study.store, out=out, progress=False,
        head="ridge", predictor="fused", folds=3, repeats=1,
    )  # fmt: skip
    assert again.reused


def test_a_loaded_model_gives_numbers_and_the_ends_of_their_intervals(valued, study):
    samples, _, out = valued
    test = samples.in_split("test")
    model = biofuse.BioFuseModel.load(out)
    frame, _ = model.predict_frame(test, coverage=0.8, store=study.store, progress=False)
    assert frame.columns.tolist() == ["id", "prediction", "low_age", "high_age", "novelty"]
    np.testing.assert_array_equal(frame["prediction"], model.predict(test, store=study.store, progress=False))
    assert ((frame["low_age"] < frame["prediction"]) & (frame["prediction"] < frame["high_age"])).all()
    assert model.score(test, test.labels, store=study.store, progress=False) == pytest.approx(
        r2_score(test.labels, frame["prediction"])
    )
    assert "value over 1 column" in repr(model)
    card = model_card(model)
    assert "A predictor of a number per sample" in card
    assert "image-classification" not in card
    assert f"with BioFuse {biofuse.__version__}." in card


def test_what_values_have_not_is_refused_before_an_image_is_read(valued, unread):
    samples, result, out = valued
    for options, said in (
        ({"head": "lda"}, "lda does not predict a number"),
        ({"metric": "accuracy"}, "There is no accuracy of a number"),
    ):
        unseen = replace(samples, sources=tuple(unread(name) for name in samples.ids))
        with pytest.raises(SearchError, match=said):
            biofuse.fit(unseen, encoders=ALL, progress=False, **options)
    with pytest.raises(ArtifactError, match="Thresholds decide about classes"):
        result.model.predict(samples, threshold=0.5)
    with pytest.raises(ArtifactError, match="The service answers with classes"):
        Served.load(out)
    with pytest.raises(ArtifactError, match="biofuse predict RUN"):
        Served.in_memory(result.model)
    with pytest.raises(ArtifactError, match="gives probabilities of classes"):
        biofuse.export_onnx(out, out.parent / "onnx")
    with pytest.raises(SearchError, match="counts labelled samples per class"):
        biofuse.curve(out, progress=False)


def test_the_map_is_coloured_by_quarters_of_the_values(valued, study):
    page = biofuse.write_report(valued[2], store=study.store).read_text()
    assert "coloured by the quarter of age it lies in" in page
    assert all(f"{which} quarter" in page for which in ("lowest", "second", "third", "highest"))
