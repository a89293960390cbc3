"""Published scores to stand beside one's own; ``published.json`` has the numbers, and says where they come from."""

import json
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from biofuse.data.medmnist import parse_medmnist_name
from biofuse.runs import RunRecord


class PublishedSet(BaseModel):
    """Published test scores of single encoders on one data set.

    Attributes
    ----------
    modality : str
        What the images are.
    chosen_on_validation : str
        The encoder with the best published validation accuracy.
    auroc, accuracy : dict of str to float
        By encoder, as BioFuse names it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: str
    chosen_on_validation: str
    auroc: dict[str, float]
    accuracy: dict[str, float]

    def scores(self, metric: str) -> dict[str, float]:
        """Return the scores of one metric, ``auroc`` or ``accuracy``, by encoder."""
        return {"auroc": self.auroc, "accuracy": self.accuracy}[metric]


class Published(BaseModel):
    """Published test scores of single encoders.

    Attributes
    ----------
    source : str
        Where they come from, and how they were made.
    size : int
        Pixels of the images.
    encoders : dict of str to str
        BioFuse's name of each encoder: the published one.
    notes : dict of str to str
        What is to be known of an encoder's numbers.
    datasets : dict of str to PublishedSet
        By MedMNIST flag, in the order of the publication.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    size: int
    encoders: dict[str, str]
    notes: dict[str, str]
    datasets: dict[str, PublishedSet]


@lru_cache(maxsize=1)
def published_singles() -> Published:
    """Return the published scores of single encoders on the 12 two-dimensional MedMNIST+ sets."""
    content: dict[str, Any] = json.loads(
        resources.files("biofuse.benchmark").joinpath("published.json").read_text(encoding="utf-8")
    )
    return Published.model_validate(content)


def medmnist_modality(record: RunRecord) -> str:
    """Say what the images of a run are, if its data are a MedMNIST set; otherwise nothing."""
    named = parse_medmnist_name(Path(str(record.data.get("source") or "")).stem)
    known = published_singles().datasets.get(named[0]) if named else None
    return known.modality if known else ""
