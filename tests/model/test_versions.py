from dataclasses import replace

import pytest

from biofuse import BioFuseModel
from biofuse.core.errors import BioFuseWarning
from biofuse.encoders.registry import get_card
from biofuse.model import versions
from biofuse.model.versions import mismatch, versions_of


def test_a_model_names_what_its_answers_depend_on(made):
    noted = made.model.facts["versions"]
    assert set(noted) == {"biofuse-embed", "numpy", "pillow", "scikit-image"}
    assert noted == versions_of(made.model.cards, head="ridge")
    network = versions_of([get_card("efficientnet_lite0")], head="xgboost")
    assert {"torch", "timm", "xgboost"} <= set(network)


@pytest.mark.parametrize(
    ("library", "fitted", "here", "matters"),
    [
        ("timm", "1.0.3", "1.0.31", False),
        ("timm", "1.0.3", "1.1.0", True),
        ("torch", "2.4.1+cpu", "2.15.0", False),
        ("torch", "2.4.1", "3.0.0", True),
        ("scikit-image", "0.25.2", "0.26.0", True),
        ("biofuse-embed", "0.1.0", "0.1.4", False),
        ("another", "1.0", "2.0", False),
        ("timm", "1.0.3", None, False),
    ],
)
def test_patches_do_not_matter(monkeypatch, library, fitted, here, matters):
    monkeypatch.setattr(versions, "installed", lambda _: here)
    said = mismatch({library: fitted})
    assert said == (f"This model was fitted with {library} {fitted}; here is {here}: its predictions may differ from "
                    "those it was tested by." if matters else "")  # fmt: skip


def test_a_difference_is_said_once_at_loading(made, tmp_path):
    older = replace(made.model, facts=made.model.facts | {"versions": {"pillow": "1.0", "scikit-image": "0.1.0"}})
    older.save(tmp_path / "older")
    with pytest.warns(BioFuseWarning, match=r"fitted with pillow 1.0, scikit-image 0.1.0; here are") as said:
        BioFuseModel.load(tmp_path / "older")
    assert len(said) == 1
