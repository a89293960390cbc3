"""What a service is about: the model that is served, and what its users are told of it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from biofuse.core.errors import ArtifactError
from biofuse.core.hashing import digest_file
from biofuse.evaluation.metrics import INTERVAL_METRICS, METRICS
from biofuse.model.card import licence_sentences, seen_before
from biofuse.model.evaluate import Evaluation
from biofuse.model.folder import SEAL, model_folder
from biofuse.model.model import BioFuseModel
from biofuse.model.versions import UNVERSIONED, fitted_with
from biofuse.runs.run import RECORD, Run
from biofuse.search.rules import CHOSEN


@dataclass(frozen=True, kw_only=True, eq=False)
class Served:
    """A model with what its users are told of it.

    Attributes
    ----------
    model : BioFuseModel
    version : str
        Hash of its seal, and so of every file of it.
    seal : Path or None
        The file that the version is of; None for a model that lies nowhere.
    evaluation : Evaluation or None
        Its test scores, where it is of a run that has been evaluated.
    variant : str
        Which model of the run it is.
    """

    model: BioFuseModel
    version: str
    seal: Path | None = None
    evaluation: Evaluation | None = None
    variant: str = CHOSEN

    def __post_init__(self) -> None:
        if not self.model.target.categorical:
            raise ArtifactError(
                f"The service answers with classes, and this model predicts {self.model.target.text}.",
                remedy="Use biofuse predict RUN IMAGES --out predictions.csv; in Python, model.resident().",
            )

    @classmethod
    def load(cls, path: Path | str, *, variant: str = CHOSEN) -> Self:
        """Read a model that was saved, or one of a run.

        Raises
        ------
        ArtifactError
            If there is none, a file is missing, was changed, or is of a newer format, or it predicts no classes.
        """
        folder = Path(path)
        alone = variant == CHOSEN and (folder / SEAL).exists()
        seal = (folder if alone else model_folder(folder, variant)) / SEAL
        version, model = _version_of(seal), BioFuseModel.load(folder, variant=variant)
        if version is None or version != _version_of(seal):  # an answer must name the model that gave it
            raise ArtifactError(f"{seal.parent} is being written just now.", remedy="Try again when that is done.")
        run = Run.open(folder) if (folder / RECORD).exists() else None
        return cls(
            model=model, version=version, seal=seal, evaluation=None if run is None else run.evaluation, variant=variant
        )

    @classmethod
    def in_memory(cls, model: BioFuseModel) -> Self:
        """Return a model that lies nowhere; its version is the one that it would have when saved."""
        with tempfile.TemporaryDirectory(prefix="biofuse-") as folder:
            return cls(model=model, version=digest_file(model.save(Path(folder) / "model") / SEAL))

    @property
    def replaced(self) -> bool:
        """Whether another model lies where this one was read."""
        return self.seal is not None and _version_of(self.seal) != self.version

    @property
    def data(self) -> str:
        """What the development data are called."""
        return str(self.model.facts.get("data") or "data that are not recorded")

    @property
    def of_bags(self) -> bool:
        """Whether samples of several images were what it was fitted on."""
        return "n_images" in self.model.facts

    def facts(self) -> Mapping[str, str]:
        """Return what a user should know of the model, each by its heading."""
        model, target = self.model, self.model.target
        said = {
            "Tells apart": f"{', '.join(model.classes)} ({target.text})",
            **({} if target.positive is None else {"Looks for": target.positive}),
            "Fitted on": f"{model.facts.get('n_samples', 'an unknown number of')} samples of {self.data}"
            + (f", {model.facts['n_images']} images in all" if self.of_bags else ""),
            "Encoders": ", ".join(card.title for card in model.cards),
            "How well": " ".join(self._scores()),
            "Limits": " ".join(self._limits()),
            "Licences": " ".join(warning for warnings in licence_sentences(model.cards)[::-1] for warning in warnings),
            "Version": f"{self.version}, fitted with BioFuse {fitted_with(model.facts, otherwise=UNVERSIONED)}",
        }
        return {heading: text for heading, text in said.items() if text}

    def _scores(self) -> list[str]:
        found = None if self.evaluation is None else self.evaluation.models.get(self.variant)
        if self.evaluation is None or found is None:
            return ["It was not evaluated on test data: how well it does is not known."]
        said = []
        for name in INTERVAL_METRICS:
            value, interval = found.metrics.get(name, float("nan")), found.intervals.get(name)
            if not np.isnan(value):
                known = interval is not None and not np.isnan(interval.low)
                ends = f" (95 % interval {interval.low:.3f} to {interval.high:.3f})" if interval and known else ""
                said.append(f"{METRICS[name].title} {value:.3f}{ends}")
        return [f"On {self.evaluation.n:,} {self.evaluation.split} samples: {'; '.join(said)}."]

    def _limits(self) -> list[str]:
        model = self.model
        known = ["The scores are of data from the same source as those it was fitted on; elsewhere they will be lower."]
        seen = [
            f"{card.title} may have been trained on these images ({why}), so its scores here are optimistic."
            for card, why in seen_before(model.cards, [self.data])
        ]
        odd = f"and so does anything that is none of the {len(model.classes)} {model.target.noun}"
        others = f"Images of other scanners, stains, sites or populations get an answer too, {odd}."
        bags = "It was fitted on samples of several images: a single one gets an answer, too, that nobody has tested."
        return [*(known if self.evaluation is not None else []), *seen, others, *([bags] if self.of_bags else [])]


def _version_of(seal: Path) -> str | None:
    """Hash a seal; None while there is none, as when a model is being replaced."""
    try:
        return digest_file(seal)
    except OSError:
        return None
