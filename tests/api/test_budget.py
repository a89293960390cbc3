import pytest

from biofuse.core.errors import SearchError
from biofuse.encoders.registry import get_card
from biofuse.extract.options import ExtractOptions
from biofuse.search import search as budget
from biofuse.search.config import SearchConfig
from biofuse.search.search import make_budget


def test_the_limit_is_kept_by_the_fit_and_said(quick, study):
    assert (get_card("hog").commercial, get_card("t_colour").commercial) == (True, None)
    said = []
    fuse = quick(["t_colour", "hog"], commercial_only=True, head="ridge", folds=2)
    result = fuse.fit(study.images, progress=False, tell=said.append).result_
    assert result.config.encoders == ("hog",)
    assert set(result.embeddings) == {"hog"}
    (note,) = [line for line in said if "t_colour" in line]
    assert note == "t_colour is left out: its licence (unknown) does not say whether commercial use is allowed."
    assert note in result.notes
    with pytest.raises(SearchError, match="allows commercial use"):
        quick(["t_colour", "t_edge"], commercial_only=True).fit(study.images, progress=False)


def test_encoders_are_timed_only_where_time_is_limited(fitted, monkeypatch):
    monkeypatch.setattr(budget, "measure_latency", lambda *_, **__: pytest.fail("nothing asked for the time"))
    found = make_budget(
        SearchConfig(max_encoders=2), fitted.embeddings, options=ExtractOptions(workers=0), tell=pytest.fail
    )
    assert (found.max_encoders, found.max_latency) == (2, None)


def test_a_limit_on_time_binds_the_choice_and_what_was_measured_is_said(quick, study, monkeypatch, tmp_path):
    latency = {"t_colour": 9.0, "t_spread": 2.0, "t_edge": 3.5}
    asked = []

    def measure(samples, cards, *, options):
        asked.append((len(samples), [card.name for card in cards], options))
        return latency

    monkeypatch.setattr(budget, "measure_latency", measure)
    said = []
    fuse = quick(max_latency=6, head="ridge", rule="best")
    result = fuse.fit(study.images, out=tmp_path / "run", progress=False, tell=said.append).result_
    # Timed at the precision they were run at.
    assert asked == [(51, list(latency), fuse.extraction.but(precisions=dict.fromkeys(latency, "fp32")))]
    assert "Milliseconds per image: t_colour 9.0, t_spread 2.0, t_edge 3.5." in said
    assert set(result.model.encoders) <= {"t_spread", "t_edge"}
    assert set(result.models["all"].encoders) == set(latency)  # stands beside the choice all the same
    best = max(result.leaderboard, key=lambda row: row.mean("auroc") if sum(map(latency.get, row.subset)) <= 6 else 0)
    assert result.model.encoders == best.subset


def test_a_limit_that_no_encoder_keeps_is_refused_and_says_what_it_would_have_to_be(quick, study, monkeypatch):
    monkeypatch.setattr(budget, "measure_latency", lambda *_, **__: {"t_colour": 9.0, "t_spread": 2.0, "t_edge": 3.5})
    with pytest.raises(SearchError, match="max_latency of 1 ms") as caught:
        quick(max_latency=1).fit(study.images, progress=False)
    assert "2 ms per image (t_spread)" in caught.value.message
    assert caught.value.remedy


def test_a_limit_on_their_number_binds_the_choice_while_all_encoders_stand_beside_it(quick, study):
    result = quick(max_encoders=1, head="ridge", rule="best").fit(study.images, progress=False).result_
    assert len(result.model.encoders) == 1
    assert result.model.encoders == result.models["best_single"].encoders
    assert len(result.models["all"].encoders) == 3
    found = result.evaluate(progress=False)
    assert {name: len(scores.encoders) for name, scores in found.models.items()} == {
        "chosen": 1, "best_single": 1, "all": 3, "greedy": 1, "lean": 1,
    }  # fmt: skip
