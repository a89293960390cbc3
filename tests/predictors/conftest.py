"""A folder that holds a predictor and is sealed, as that of a model is."""

import json
from pathlib import Path

import numpy as np
import pytest

from biofuse.blocks.blocks import Blocks
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

    def check_round_trip(self, predictor: Predictor, new: Blocks) -> Predictor:
        """Save and load a predictor, which must say and predict the same, bit for bit, and take zero rows."""
        self.save(predictor)
        loaded = self.load()
        assert type(loaded) is type(predictor)
        assert np.array_equal(loaded.predict_proba(new), predictor.predict_proba(new))
        assert np.array_equal(loaded.decision(new), predictor.decision(new))
        for fact in ("encoders", "task", "n_classes", "notes"):
            assert getattr(loaded, fact) == getattr(predictor, fact)
        assert loaded.predict_proba(new.take(np.arange(0))).shape == (0, predictor.n_classes)
        assert {path.suffix for path in (self.folder / "p").rglob("*") if path.is_file()} == {".json", ".safetensors"}
        return loaded

    def change(self, **changes: object) -> None:
        record = self.folder / "p" / "predictor.json"
        record.write_text(json.dumps(json.loads(record.read_text()) | changes))
        self.seal()


@pytest.fixture
def kept(tmp_path: Path) -> SealedPredictor:
    return SealedPredictor(tmp_path)
