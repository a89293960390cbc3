from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from biofuse.core.errors import SearchError
from biofuse.evaluation.comparison import corrected_standard_error
from biofuse.search.attribution import cross_modal, paired_gain
from biofuse.search.leaderboard import Leaderboard, Row, all_subsets

POOL = ("photo2", "photo", "path2", "path", "xray")
MODALITY = {"photo": "general", "photo2": "general", "path": "pathology", "path2": "pathology", "xray": "radiology"}
WORTH = {"photo": 0.10, "photo2": 0.06, "path": 0.20, "path2": 0.15, "xray": 0.099}


def board(value=None, *, pool=POOL, n_folds=10, metric="auroc", seed=0, noise=0.01):
    random = np.random.default_rng(seed)
    value = value or (lambda subset: 0.5 + sum(WORTH[name] for name in subset) / 1.7)
    rows = []
    for subset in all_subsets(pool):
        mean = value(subset)
        if mean is not None:
            folds = {metric: tuple(mean + noise * random.normal(size=n_folds))}
            rows.append(Row(subset=subset, n_dims=1, folds=folds))
    return Leaderboard(
        encoders=pool, metrics=(metric,), rows=tuple(rows), n_train=(80,) * n_folds, n_test=(20,) * n_folds
    )


def test_every_modality_is_compared_with_the_best_general_purpose_encoder():
    leaderboard = board()
    found = cross_modal(leaderboard, MODALITY)
    assert (found.baseline, found.baseline_modality) == ("photo", "general")
    assert found.baseline_score == leaderboard[("photo",)].mean("auroc")
    lines = {line.name: line for line in found.modalities}
    assert set(lines) == {"pathology", "radiology", "general"}
    pathology = lines["pathology"]
    assert (pathology.encoders, pathology.best) == (("path2", "path"), "path")
    assert pathology.score == leaderboard[("path",)].mean("auroc")

    def difference(one, other):
        return np.subtract(leaderboard[one].folds["auroc"], leaderboard[other].folds["auroc"])

    assert pathology.alone.gain == pytest.approx(difference(("path",), ("photo",)).mean())
    joined = difference(("photo", "path", "path2"), ("photo",))
    reach = t.ppf(0.975, 9) * corrected_standard_error(joined, 80, 20)
    assert pathology.added.gain == pytest.approx(joined.mean())
    assert (pathology.added.low, pathology.added.high) == pytest.approx((joined.mean() - reach, joined.mean() + reach))
    assert pathology.added.p_value == pytest.approx(
        2 * t.sf(joined.mean() / corrected_standard_error(joined, 80, 20), 9)
    )
    assert lines["general"].encoders == ("photo2",)
    assert found.modalities[0] is pathology


def test_every_encoder_has_a_line_too():
    leaderboard = board()
    found = cross_modal(leaderboard, MODALITY)
    assert [line.name for line in found.encoders] == ["path", "path2", "xray", "photo2"]
    lines = {line.name: line for line in found.encoders}
    expected = leaderboard[("photo", "xray")].mean("auroc") - leaderboard[("photo",)].mean("auroc")
    assert lines["xray"].added.gain == pytest.approx(expected)
    assert lines["xray"].modality == "radiology"


def test_words_tell_gain_from_noise():
    sentences = {text.split()[2]: text for text in cross_modal(board(noise=0.004), MODALITY).sentences}
    assert sentences["pathology"].startswith(
        "The best pathology encoder, path, scores better than photo by itself (+0."
    )
    assert "; photo joined by all 2 pathology encoders scores better than photo without (+" in sentences["pathology"]
    assert "xray, differs from photo by itself by no more than noise (" in sentences["radiology"]
    assert "joined by it scores better" in sentences["radiology"]
    assert "photo2, scores worse than photo by itself (-0.0" in sentences["general"]
    assert str(cross_modal(board(), MODALITY)).startswith("photo (general) by itself: mean AUROC 0.5")


def test_on_noise_no_modality_gains_anything():
    false = 0
    for seed in range(40):
        found = cross_modal(board(lambda _: 0.7, seed=seed), MODALITY)
        false += any(not gain.noise for line in found.modalities for gain in (line.alone, line.added))
    assert false <= 4  # at a level of 5 %, over all gains of a table together


def test_several_gains_are_corrected_together():
    found = cross_modal(board(), MODALITY)
    for lines in (found.modalities, found.encoders):
        gains = [gain for line in lines for gain in (line.alone, line.added)]
        least = min(gains, key=lambda gain: gain.p_value)
        assert least.p_holm == pytest.approx(min(1.0, len(gains) * least.p_value))


def test_a_baseline_may_be_named():
    found = cross_modal(board(), MODALITY, baseline="path2")
    assert (found.baseline, found.baseline_modality) == ("path2", "pathology")
    lines = {line.name: line for line in found.modalities}
    assert lines["pathology"].encoders == ("path",)
    assert lines["general"].encoders == ("photo2", "photo")
    with pytest.raises(SearchError, match="no encoder 'dino'"):
        cross_modal(board(), MODALITY, baseline="dino")


def test_subsets_that_were_not_scored_leave_a_gap():
    found = cross_modal(board(lambda subset: 0.7 if len(subset) < 3 else None), MODALITY)
    lines = {line.name: line for line in found.modalities}
    assert lines["pathology"].added is None
    assert lines["radiology"].added is not None
    assert "joined" not in str(lines["pathology"])
    frame = found.to_frame().set_index("name")
    assert np.isnan(frame.loc["pathology", "added"])
    assert frame.loc["radiology", "added"] == lines["radiology"].added.gain


def test_the_table_has_a_row_per_modality_and_per_encoder():
    found = cross_modal(board(), MODALITY)
    frame = found.to_frame()
    assert list(frame["kind"]) == ["modality"] * 3 + ["encoder"] * 4
    columns = ["alone", "alone_low", "alone_high", "alone_p", "added", "added_low", "added_high", "added_p"]
    assert list(frame.columns) == ["kind", "name", "modality", "encoders", "best", "score", *columns]
    assert frame.loc[0, "alone_p"] == found.modalities[0].alone.p_holm


def test_of_a_loss_a_gain_is_what_it_saves():
    found = cross_modal(board(lambda subset: 1 - sum(WORTH[n] for n in subset), metric="log_loss"), MODALITY)
    assert found.baseline == "photo"
    assert found.modalities[0].name == "pathology"
    assert found.modalities[0].alone.gain == pytest.approx(0.1, abs=0.02)


def test_a_single_split_has_gains_but_tells_nothing_from_noise():
    found = cross_modal(board(n_folds=1), MODALITY)
    gain = found.modalities[0].alone
    assert gain.noise
    assert np.isnan(gain.low)
    assert "from too few folds for an interval" in found.sentences[0]


def test_a_pool_without_a_general_purpose_encoder_needs_a_baseline():
    pool = ("path", "path2", "xray")
    leaderboard = board(pool=pool)
    with pytest.raises(SearchError, match=r"no encoder of modality 'general'.*it has pathology, radiology") as error:
        cross_modal(leaderboard, MODALITY)
    assert "Name a baseline" in error.value.remedy
    assert cross_modal(leaderboard, MODALITY, baseline="path2").baseline == "path2"
    assert cross_modal(leaderboard, MODALITY, general="radiology").baseline == "xray"


def test_what_cannot_be_compared_is_said():
    with pytest.raises(SearchError, match="The modality of xray is not given"):
        cross_modal(board(), {name: kind for name, kind in MODALITY.items() if name != "xray"})
    with pytest.raises(SearchError, match="xray was not scored by itself"):
        cross_modal(board(lambda subset: None if subset == ("xray",) else 0.7), MODALITY)
    with pytest.raises(SearchError, match="photo is the only encoder"):
        cross_modal(board(pool=("photo",)), MODALITY)


def test_a_gain_is_the_paired_difference_over_folds_in_which_both_are_defined():
    leaderboard = board(n_folds=4)
    row, against = leaderboard[("path",)], leaderboard[("photo",)]
    holes = replace(row, folds={"auroc": (float("nan"), *row.folds["auroc"][1:])})
    gain = paired_gain(leaderboard, holes, against)
    assert gain.gain == pytest.approx(np.subtract(row.folds["auroc"], against.folds["auroc"])[1:].mean())
    assert str(gain).startswith("path against photo: a gain (+0.0")
    same = paired_gain(leaderboard, row, row)
    assert (same.gain, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    steady = replace(row, folds={"auroc": tuple(v + 0.25 for v in (0.5, 0.5, 0.25, 0.5))})
    flat = replace(row, folds={"auroc": (0.5, 0.5, 0.25, 0.5)})
    assert paired_gain(leaderboard, steady, flat).p_value == 0
