"""A fitted model as one graph of tensors, which torch can write as ONNX.

A part that BioFuse itself has not written, or whose answers are no arithmetic on a row, has no graph; it is named.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from biofuse.core.errors import ArtifactError, EncoderError, option
from biofuse.core.target import Target, Task
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.encoder import Encoder, TorchEncoder
from biofuse.encoders.loaders import loader_of
from biofuse.encoders.registry import load_encoder
from biofuse.evaluation.calibration import TINY, Calibration
from biofuse.fusion.base import FittedFusion
from biofuse.fusion.concatenation import FittedConcatenation, FittedWeightedConcatenation
from biofuse.fusion.projections import FittedProjection
from biofuse.heads.base import FittedHead, Outputs
from biofuse.heads.linear import FittedLinear
from biofuse.model.model import BioFuseModel
from biofuse.predictors.combined import SMALLEST, EnsemblePredictor, LateFusion
from biofuse.predictors.fused import FusedPredictor, Predictor
from biofuse.predictors.mean import MeanPredictor

Tensors = Mapping[str, torch.Tensor]
"""Encoder to embeddings, shape (n, dim)."""

EMBEDDINGS = f"export from embeddings to probabilities, {option('embeddings', True)}: encoders then run in BioFuse."


PARTS = ("mean", "scale", "axes", "gain")
"""What a fusion does to a block: subtract, divide, project, multiply."""


class Fused(nn.Module):
    """Blocks, standardised, weighed or projected, as one matrix."""

    def __init__(self, fusion: FittedFusion) -> None:
        super().__init__()
        self.encoders = fusion.encoders
        self.summed = False
        parts: list[tuple[NDArray[np.float64] | None, ...]] = []
        if isinstance(fusion, FittedProjection):
            self.summed = fusion.summed
            for standard, axes in zip(fusion.standards, fusion.axes, strict=True):
                parts.append((standard.mean, standard.scale, axes, None))
        elif isinstance(fusion, FittedConcatenation):
            shares = fusion.shares if isinstance(fusion, FittedWeightedConcatenation) else None
            for number, columns in enumerate(fusion.columns.values()):
                gain = None if shares is None else np.sqrt(shares[number : number + 1])
                parts.append((fusion.mean[columns], fusion.scale[columns], None, gain))
        else:
            raise ArtifactError(
                f"The fusion {type(fusion).__name__} has no graph: it is not one of BioFuse's own.",
                remedy=f"Fit with another fusion: {option('fusion', 'concatenation')}.",
            )
        for number, part in enumerate(parts):
            for name, values in zip(PARTS, part, strict=True):
                _keep(self, f"{name}{number}", values)

    def forward(self, blocks: Tensors) -> torch.Tensor:
        """Return the fused matrix, shape (n, d)."""
        parts = []
        for number, encoder in enumerate(self.encoders):
            mean, scale, axes, gain = (getattr(self, f"{name}{number}") for name in PARTS)
            part = (blocks[encoder].to(mean.dtype) - mean) / scale
            part = part if axes is None else part @ axes
            parts.append(part if gain is None else part * gain)
        return torch.stack(parts).sum(dim=0) if self.summed else torch.cat(parts, dim=1)


class Linear(nn.Module):
    """A linear head: margins, and the probabilities that follow."""

    def __init__(self, head: FittedHead, *, name: str) -> None:
        super().__init__()
        if not isinstance(head, FittedLinear):
            raise ArtifactError(
                f"The head {name} has no graph: its answers are no linear functions of the embeddings.",
                remedy=f"Fit with a linear head: {option('head', 'logistic')}, ridge or lda.",
            )
        slope = np.ones(len(head.intercept)) if head.slope is None else head.slope
        _keep(self, "coef", head.coef * slope)
        _keep(self, "intercept", head.intercept * slope)
        self.outputs: Outputs = head.outputs
        if self.outputs.task.timed:
            raise ArtifactError(
                "Times to an event have no graph: their probabilities are no function of the margins alone.",
                remedy="Load the model with BioFuse.",
            )

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Return probabilities, shape (n, n_classes); see :meth:`biofuse.heads.base.Outputs.probabilities`."""
        coef, intercept = self.get_buffer("coef"), self.get_buffer("intercept")
        margins = X.to(coef.dtype) @ coef + intercept
        nothing = torch.zeros_like(X[:, :1]).to(coef.dtype)
        columns = [nothing + self.outputs.constant.get(column, 0.0) for column in range(self.outputs.n_classes)]
        start = 0
        for places, width in zip(self.outputs.columns, self.outputs.widths, strict=True):
            part = margins[:, start : start + width]
            start += width
            if self.outputs.task.measured:
                found = part
            elif width == 1:
                found = torch.cat([torch.sigmoid(-part), torch.sigmoid(part)], 1)
            else:
                found = torch.softmax(part, 1)
            for place, column in enumerate(places, start=found.shape[1] - len(places)):
                columns[column] = found[:, place : place + 1]
        return torch.cat(columns, dim=1)


class Mean(nn.Module):
    """The mean of the probabilities of several parts."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, given: Any) -> torch.Tensor:
        """Return the mean, shape (n, n_classes)."""
        return torch.stack([part(given) for part in self.parts]).mean(dim=0)


class Chain(nn.Module):
    """One part after another."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, given: Any) -> torch.Tensor:
        """Return what the second makes of the first's."""
        found: torch.Tensor = self.second(self.first(given))
        return found


class Stacked(nn.Module):
    """Log-probabilities of several parts, side by side; see :func:`biofuse.predictors.combined.meta_features`."""

    def __init__(self, parts: Sequence[nn.Module], *, task: Task) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.task = task

    def forward(self, blocks: Tensors) -> torch.Tensor:
        """Return what the meta-learner sees, shape (n, n_parts * n_classes)."""
        found = torch.cat([part(blocks) for part in self.parts], dim=1)
        if self.task.measured:
            return found
        logs = torch.log(found.clamp(min=SMALLEST))
        return logs - torch.log((1 - found).clamp(min=SMALLEST)) if self.task.several else logs


class Calibrated(nn.Module):
    """Probabilities at a temperature; see :class:`biofuse.evaluation.calibration.Calibration`."""

    def __init__(self, part: nn.Module, calibration: Calibration, target: Target) -> None:
        super().__init__()
        self.part = part
        self.several = target.several
        _keep(self, "temperatures", np.array(calibration.temperatures))

    def forward(self, blocks: Tensors) -> torch.Tensor:
        """Return calibrated probabilities, shape (n, n_classes)."""
        found, temperatures = self.part(blocks), self.get_buffer("temperatures")
        if not self.several:
            return torch.softmax(torch.log(found + TINY) / temperatures, dim=1)
        present, absent = torch.log(found + TINY), torch.log(1 - found + TINY)
        return torch.sigmoid((present - absent) / temperatures)


def predictor_graph(predictor: Predictor) -> nn.Module:
    """Return what maps embeddings to probabilities as a predictor does, before calibration.

    Raises
    ------
    ArtifactError
        That names the part that has no graph.
    """
    if isinstance(predictor, FusedPredictor):
        return Chain(Fused(predictor.fusion), Linear(predictor.head, name=predictor.head_name))
    if isinstance(predictor, MeanPredictor):
        heads = [Linear(head, name=name) for name, head in predictor.heads.items()]
        return Chain(Fused(predictor.fusion), Mean(heads))
    if isinstance(predictor, EnsemblePredictor | LateFusion):
        members = [predictor_graph(member) for member in predictor.members]
        if isinstance(predictor, LateFusion) and predictor.meta is not None:
            return Chain(Stacked(members, task=predictor.task), Linear(predictor.meta, name="stacking"))
        return Mean(members)
    raise ArtifactError(
        f"The predictor {type(predictor).__name__} has no graph.",
        remedy=f"Fit with another: {option('predictor', 'fused')}.",
    )


class Graph(nn.Module):
    """From embeddings, or prepared pixels, to calibrated probabilities.

    Parameters
    ----------
    model : BioFuseModel
    encoders : mapping of str to TorchEncoder
        Those that run in the graph: all of the model's, or none.
    inputs : sequence of sequence of str
        The encoders that each input is for, in order.
    double : bool
        Whether everything behind the encoders computes in float64.

    Raises
    ------
    ArtifactError
        That names the part of the model that has no graph.
    """

    def __init__(
        self,
        model: BioFuseModel,
        encoders: Mapping[str, TorchEncoder],
        inputs: Sequence[Sequence[str]],
        *,
        double: bool = False,
    ) -> None:
        super().__init__()
        self.inputs = [tuple(names) for names in inputs]
        self.networks = nn.ModuleList([encoder.network for encoder in encoders.values()])
        self.embed: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
            name: encoder.embed for name, encoder in encoders.items()
        }
        part = predictor_graph(model.predictor)
        calibration = model.trust.calibration
        part = part if calibration is None else Calibrated(part, calibration, model.target)
        self.part = part.to(torch.float64 if double else torch.float32).eval()

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        """Return probabilities, float32, shape (n, n_classes)."""
        blocks: dict[str, torch.Tensor] = {}
        for tensor, names in zip(given, self.inputs, strict=True):
            for name in names:
                blocks[name] = self.embed[name](tensor) if name in self.embed else tensor
        found: torch.Tensor = self.part(blocks)
        return found.to(torch.float32)


def load_networks(cards: Sequence[EncoderCard], *, weights_of: Callable[[EncoderCard], Any]) -> dict[str, TorchEncoder]:
    """Load the encoders of a model as networks, in fp32 on this machine's processor.

    Parameters
    ----------
    cards : sequence of EncoderCard
    weights_of : callable
        Says where the weight file of a card lies, where it is not where the card says.

    Raises
    ------
    EncoderError
        If one computes in another way than by a network of torch, before any network is loaded.
    """
    for card in cards:
        family = loader_of(card.loader)
        if family is not None and not hasattr(family, "build_architecture"):
            raise _no_network(card)
    found = {card.name: load_encoder(card, weights_path=weights_of(card)) for card in cards}
    return {name: _network(encoder) for name, encoder in found.items()}


def _network(encoder: Encoder) -> TorchEncoder:
    if not isinstance(encoder, TorchEncoder):
        raise _no_network(encoder.card)
    return encoder


def _no_network(card: EncoderCard) -> EncoderError:
    return EncoderError(
        f"The encoder {card.name} has no graph: it is no network of torch ({card.loader}).",
        remedy=f"Fit with networks only: {option('encoders')}. Or {EMBEDDINGS}",
    )


def _keep(module: nn.Module, name: str, values: NDArray[np.float64] | None) -> None:
    module.register_buffer(name, None if values is None else torch.from_numpy(np.ascontiguousarray(values)))
