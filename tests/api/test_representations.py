"""How results show themselves in a notebook: whole, and with nothing in them that runs."""

import html5lib
import pytest

from biofuse import BioFuseModel
from biofuse.report.compare import RunComparison

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
    assert f"{test_scores['auroc']:.4f}" in words(test_scores._repr_html_())
    assert all(sentence in words(test_scores._repr_html_()) for sentence in test_scores.sentences())
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
