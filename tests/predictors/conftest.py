"""A folder that holds a predictor and is sealed, as that of a model is."""

import json
from pathlib import Path

import pytest

from biofuse.core.seals import seal, unseal
from biofuse.predictors.combined import load_predictor
from biofuse.predictors.fused import Predictor


class SealedPredictor:
    """Saves, loads, and changes with a valid seal, as only someone who knows how can."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, predictor: Predictor) -> None:
        predictor.save(self.folder / "p")
        self.seal()

    def seal(self) -> None:
        seal(self.folder, name="seal.json", content={})

    def load(self) -> Predictor:
        return load_predictor(unseal(self.folder, name="seal.json").below("p"))

    def change(self, **changes: object) -> None:
        record = self.folder / "p" / "predictor.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | changes))
        self.seal()


@pytest.fixture
def kept(tmp_path: Path) -> SealedPredictor:
    return SealedPredictor(tmp_path)
