"""What a fit hands back."""

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from biofuse.api.config import Config
from biofuse.api.embedding import EmbeddingSet
from biofuse.api.evaluation import CHOSEN, Evaluation, evaluate_models, hex_contents
from biofuse.api.evidence import Evidence
from biofuse.api.held_out import load_test
from biofuse.api.searching import Search
from biofuse.blocks import Blocks
from biofuse.core.errors import DataError
from biofuse.data.samples import Samples
from biofuse.extract import ExtractOptions, Progress
from biofuse.model import BioFuseModel
from biofuse.search import Leaderboard, Selection
from biofuse.store import EmbeddingStore


@dataclass(frozen=True, kw_only=True, eq=False)
class FitResult:
    """The chosen model, how it was chosen, and the embeddings it was fitted on.

    Attributes
    ----------
    models : dict of str to BioFuseModel
        ``chosen`` first, then what it is compared with: ``best_single``, ``all``, ``greedy``.
    singles : dict of str to BioFuseModel
        Every encoder that the search scored, by itself.
    search : Search
        Scores and choice, stage by stage.
    evidence : Evidence
        What corrects and explains the choice.
    embeddings : EmbeddingSet
        Development embeddings of the whole pool.
    config : Config
        What was asked for, presets resolved.
    notes : tuple of str
        What was found and decided along the way.
    held_out : Samples or None
        Test samples that came with the data; the search has not read them.
    path : Path or None
        The run directory, if one was asked for.
    reused : bool
        Whether a finished run was found there, so that nothing had to be fitted.
    """

    models: dict[str, BioFuseModel]
    singles: dict[str, BioFuseModel]
    search: Search
    evidence: Evidence
    embeddings: EmbeddingSet
    config: Config
    notes: tuple[str, ...]
    store: EmbeddingStore
    options: ExtractOptions
    held_out: Samples | None = None
    path: Path | None = None
    reused: bool = False

    @property
    def model(self) -> BioFuseModel:
        """The chosen model."""
        return self.models[CHOSEN]

    @property
    def leaderboard(self) -> Leaderboard:
        """Every subset that was scored by refitting: what the choice was made from."""
        return self.search.leaderboard

    @property
    def screen(self) -> Leaderboard | None:
        """Every subset, scored in closed form; None for a search without a screen."""
        return None if self.search.screen is None else self.search.screen.leaderboard

    @property
    def selection(self) -> Selection:
        """The chosen subset and what it stands beside, with the reason in words."""
        return self.search.selection

    @property
    def train_embeddings(self) -> EmbeddingSet:
        """Embeddings of the training samples under the chosen encoders, in the order of the caller's rows.

        ``.matrix`` puts them side by side like :meth:`BioFuseModel.embed`; ``.labels`` and ``.ids`` are aligned.
        """
        return self._of("train")

    @property
    def val_embeddings(self) -> EmbeddingSet:
        """The same for the validation samples; it has no rows where no validation data were given."""
        return self._of("val")

    def evaluate(
        self, test: Any = None, *, labels: Any = None, label: Any = None, group: str | None = None,
        progress: Progress | bool = True,
    ) -> Evaluation:  # fmt: skip
        """Score the chosen model, and what it is compared with, on test data.

        Parameters
        ----------
        test : anything :func:`biofuse.load_samples` takes, optional
            By default the test samples that came with the data. Of data with several splits, test is used.
        labels, label, group
            As for :func:`biofuse.load_samples`.
        progress : Progress or bool, default True

        Raises
        ------
        DataError
            If no test data are given and none came with the data, or they are unlabelled or have a class of their own.
        """
        samples = self._test_samples(test, labels=labels, label=label, group=group)
        groups = self.embeddings.samples.groups
        return evaluate_models(
            self.models,
            samples,
            singles=self.singles,
            known_contents=frozenset(hex_contents(self.embeddings).tolist()),
            known_groups=frozenset() if groups is None else frozenset(groups.tolist()),
            store=self.store,
            options=self.options,
            progress=progress,
            metric=self.config.metric,
            seed=self.config.seed,
        )

    def __repr__(self) -> str:
        return f"<FitResult: {self.search.reason}>"

    def _repr_html_(self) -> str:
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in (self.search.reason, *self.evidence.sentences()))
        return said + self.leaderboard._repr_html_()

    def _of(self, split: str) -> EmbeddingSet:
        samples = self.embeddings.samples
        splits = np.array([], dtype=object) if samples.splits is None else samples.splits
        rows = np.flatnonzero(splits == split)
        chosen = self.model.encoders
        blocks: Blocks = self.embeddings.blocks.only(chosen).take(rows)
        return EmbeddingSet(
            samples=samples.take(rows),
            blocks=blocks,
            cards=tuple(card for card in self.embeddings.cards if card.name in chosen),
            contents=self.embeddings.contents[rows],
            precisions={name: p for name, p in self.embeddings.precisions.items() if name in chosen},
        )

    def _test_samples(self, test: Any, *, labels: Any, label: Any, group: str | None) -> Samples:
        if test is None:
            if self.held_out is None:
                raise DataError("The data came without a test split.", remedy="Pass test data: .evaluate(test).")
            if labels is not None or label is not None or group is not None:
                raise DataError("labels=, label= and group= go with test data of their own.", remedy="Pass test data.")
            return self.held_out
        return load_test(test, self.model, labels=labels, label=label, group=group)
