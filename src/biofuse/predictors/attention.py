"""Attention over the images of a bag: which of them decide is learned, and said.

Gated attention (Ilse, Tomczak and Welling 2018, arXiv:1802.04712): an image with the reduced embedding h has the score
``w · (tanh(V h + v) * sigmoid(U h + u))``; a softmax over the images of a sample makes weights of the scores, and the
margins of the classes are those of the weighted mean of h, ``B h + b``. They are linear in h, so that they are a sum
over images of weight times contribution, which is what :meth:`AttentionPredictor.attend` gives back.

Training starts at mean pooling, all scores 0, with a ridge head on it, and leaves it only as far as samples that were
not trained on gain: with few samples, or where every image says the same, that is where it ends.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.blocks.pooling import Bags
from biofuse.core.errors import ArtifactError, DataError, SearchError, option
from biofuse.core.hashing import derive_seed
from biofuse.core.machine import limit_threads
from biofuse.core.seals import Arrays
from biofuse.core.target import Labels, Target, Task
from biofuse.data.splits import make_folds
from biofuse.fusion.projections import FittedProjection, PrincipalComponents
from biofuse.heads.base import ClassWeight, Outputs, Scores, Setup, set_up
from biofuse.heads.ridge import Ridge
from biofuse.predictors.fused import Predictor, below, in_order, readable, write_artefact

if TYPE_CHECKING:
    import torch

HIDDEN = 16
"""Columns of V and U. On bags of 15 to 150 crops of blood cells (60 and 200 bags, of which one or two crops of a class
decide; three encoders) 16 are as good in AUROC as 32, and better in log-loss on most."""

RATE, DECAY = 1e-2, 1e-2
"""Step length and weight decay of AdamW. On the same bags .003 and .005 end where .01 does, after twice as many
steps, and a decay of .1 or 1 changes AUROC by less than .01, in both directions."""

STEPS, PATIENCE = 300, 20
"""Most steps, each over all training samples, and steps without a gain after which no more are made."""

GAIN = 1e-3
"""Least gain in log-loss that counts."""

N_FOLDS = 5
"""Networks, each stopped by a fifth of the samples and trained on the others; their margins are averaged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Networks:
    """Gated attention networks of one shape: k of them, on d columns, with h hidden ones and m margins.

    Attributes
    ----------
    value, gate : ndarray of float64, shape (k, d, h)
        V and U.
    value_bias, gate_bias, score : ndarray of float64, shape (k, h)
        v, u and w.
    coef, intercept : ndarray of float64, shapes (k, d, m) and (k, m)
        B and b.
    """

    value: NDArray[np.float64]
    value_bias: NDArray[np.float64]
    gate: NDArray[np.float64]
    gate_bias: NDArray[np.float64]
    score: NDArray[np.float64]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Numbers of networks, columns, hidden columns and margins: k, d, h, m."""
        return (*self.value.shape, self.coef.shape[-1])

    def fits(self) -> bool:
        """Return whether the arrays belong together."""
        if self.value.ndim != 3 or self.coef.ndim != 3:
            return False
        k, d, h, m = self.shape
        shapes = [(k, d, h), (k, h), (k, d, h), (k, h), (k, h), (k, d, m), (k, m)]
        return [array.shape for array in self.arrays().values()] == shapes

    def arrays(self) -> Arrays:
        """Return the arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def attend(self, rows: Matrix, starts: NDArray[np.int64]) -> tuple[Scores, Scores]:
        """Return the mean weight of each image, shape (n_images,), and of weight times contribution (n_images, m).

        Parameters
        ----------
        rows : ndarray of float32, shape (n_images, d)
        starts : ndarray of int64, shape (n,)
            First image of each sample; a sample's images follow one another.
        """
        from scipy.special import expit

        k, _, _, m = self.shape
        sizes = np.diff(np.append(starts, len(rows)))
        weights, contributions = np.zeros(len(rows)), np.zeros((len(rows), m))
        for number in range(k):
            value = np.tanh(rows @ self.value[number] + self.value_bias[number])
            gate = expit(rows @ self.gate[number] + self.gate_bias[number])
            found = np.exp((value * gate) @ self.score[number])
            found /= np.repeat(np.add.reduceat(found, starts), sizes)
            weights += found / k
            contributions += found[:, None] * (rows @ self.coef[number]) / k
        return weights, contributions


@dataclass(frozen=True, kw_only=True, eq=False)
class Attended:
    """What the images of some samples do in a prediction.

    Attributes
    ----------
    weights : ndarray of float64, shape (n_images,)
        Those of a sample's images add up to 1.
    contributions : ndarray of float64, shape (n_images, n_margins)
        What each adds to the margins of its sample, relative to an image like the mean of the training images.
    margins : ndarray of float64, shape (n, n_margins)
    sizes : ndarray of int64, shape (n,)
        Images of each sample.
    """

    weights: Scores
    contributions: Scores
    margins: Scores
    sizes: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionPredictor:
    """Gated attention over the images of each sample; see :func:`fit_attention`.

    Attributes
    ----------
    reduction : FittedProjection
        From the images' embeddings to a few columns of each encoder.
    limits : ndarray of float32, shape (2, n_columns)
        Least and largest value of each of these among the training images. New images are taken to be within: what
        hardly varied there may be thousands of standard deviations off in one of them, and would decide alone.
    networks : Networks
        Their margins are averaged.
    outputs : Outputs
        Which classes the margins are of.
    steps : tuple of int
        After how many steps each network was best; 0 is mean pooling with a ridge head.
    notes : tuple of str
        What was noticed at fitting.
    kind : str
        What ``predictor.json`` calls it.
    """

    kind: ClassVar = "attention"

    reduction: FittedProjection
    limits: Matrix
    networks: Networks
    outputs: Outputs
    steps: tuple[int, ...]
    notes: tuple[str, ...] = ()

    @property
    def encoders(self) -> tuple[str, ...]:
        """The encoders whose blocks it takes, in pool order."""
        return self.reduction.encoders

    @property
    def task(self) -> Task:
        """Kind of task it was fitted on."""
        return self.outputs.task

    @property
    def n_classes(self) -> int:
        """Number of classes, or labels."""
        return self.outputs.n_classes

    def attend(self, blocks: Blocks) -> Attended:
        """Return weights and contributions of every image.

        Raises
        ------
        AlignmentError
            If an encoder has no block, or one of another width than at fitting.
        """
        m = self.networks.shape[-1]
        weights, contributions, margins = [np.zeros(0)], [np.zeros((0, m))], [np.zeros((0, m))]
        blocks = blocks.only(self.encoders)
        sizes = bags_of(blocks).sizes
        for some in pieces(blocks):
            starts = np.cumsum(bags_of(some).sizes) - bags_of(some).sizes
            rows = np.clip(self.reduction.transform(images_of(some)), *self.limits)
            own, parts = self.networks.attend(rows, starts)
            weights.append(own)
            contributions.append(parts)
            margins.append(np.add.reduceat(parts, starts, axis=0) + self.networks.intercept.mean(axis=0))
        return Attended(
            weights=np.concatenate(weights),
            contributions=np.concatenate(contributions),
            margins=np.concatenate(margins),
            sizes=sizes,
        )

    def predict_proba(self, blocks: Blocks) -> Scores:
        """Return probabilities; see :meth:`~biofuse.predictors.fused.Predictor.predict_proba`."""
        return self.outputs.probabilities(self.outputs.split(self.attend(blocks).margins), n=blocks.n_samples)

    def decision(self, blocks: Blocks) -> Scores:
        """Return log-odds to rank by; see :meth:`~biofuse.heads.base.FittedHead.decision`."""
        margins = self.outputs.split(self.attend(blocks).margins)
        return self.outputs.decision(margins, n=blocks.n_samples, log_odds=True)

    def save(self, folder: Path) -> None:
        """Write ``predictor.json`` and ``arrays.safetensors``; see :meth:`~biofuse.predictors.fused.Predictor.save`."""
        reduction, arrays = self.reduction.state()
        kept = {"limits": self.limits} | {f"reduction.{name}": array for name, array in arrays.items()}
        kept |= {f"networks.{name}": array for name, array in self.networks.arrays().items()}
        content = {
            "encoders": list(self.encoders),
            "reduction": reduction,
            "outputs": self.outputs.to_json(),
            "steps": list(self.steps),
            "notes": list(self.notes),
        }
        write_artefact(folder, kind=self.kind, content=content, arrays=kept)

    @classmethod
    def from_artefact(
        cls,
        folder: Path,
        content: Mapping[str, Any],
        arrays: Mapping[str, NDArray[Any]],
        members: Sequence[Predictor],  # noqa: ARG003 (it has none)
    ) -> Self:
        """Build it from what was read; ``folder`` is named in errors only."""
        with readable(folder):
            own = below("networks.", arrays)
            predictor = cls(
                reduction=FittedProjection.restore(content["reduction"], below("reduction.", arrays)),
                limits=np.array(arrays["limits"], dtype=np.float32),
                networks=Networks(**{name: np.array(array, dtype=np.float64) for name, array in own.items()}),
                outputs=Outputs.from_json(content["outputs"]),
                steps=tuple(int(step) for step in content["steps"]),
                notes=tuple(str(note) for note in content["notes"]),
            )
        networks = predictor.networks
        there = networks.fits() and networks.shape[1::2] == (predictor.reduction.dim, sum(predictor.outputs.widths))
        there = there and predictor.limits.shape == (2, predictor.reduction.dim)
        if not there or list(predictor.encoders) != content.get("encoders"):
            raise ArtifactError(f"The networks in {folder} do not fit their encoders.", remedy="Fit again.")
        return predictor


def fit_attention(
    blocks: Blocks,
    labels: Labels,
    *,
    encoders: Sequence[str] | None = None,
    target: Target,
    groups: Sequence[object] | NDArray[np.object_] | None = None,
    class_weight: ClassWeight = None,
    sample_weight: NDArray[np.float64] | None = None,
    seed: int = 0,
    threads: int = 1,
    n_folds: int = N_FOLDS,
) -> AttentionPredictor:
    """Fit gated attention over the images of training samples.

    The columns of every encoder are standardised over the images and reduced to their leading principal components,
    64 at most; every encoder has equal say. One network is trained for each inner fold, without it, on all samples at
    a time (AdamW on the log-loss), from mean pooling with a ridge head; of its steps the one with the least log-loss on
    the fold is kept. It is the same, bit for bit, in whatever order samples and encoders are given, and with any number
    of threads.

    Parameters
    ----------
    blocks : Blocks
        Training rows, with the images behind them.
    labels : ndarray of int64, shape (n,) or (n, n_labels)
        Row i belongs to ``blocks.ids[i]``.
    encoders : sequence of str, optional
        The subset; all encoders of the blocks if not given.
    target : Target
        What is predicted: classes or labels, those that are absent included.
    groups : sequence of str, shape (n,), optional
        Rows of one group stay in one inner fold.
    class_weight : mapping, "balanced" or None
        As in scikit-learn.
    sample_weight : ndarray of float64, shape (n,), optional
        Weight of each row.
    seed : int
        Decides inner folds and the networks' start.
    threads : int
        For standardisation and reduction; networks are trained by one.
    n_folds : int, default 5
        Inner folds; fewer, with a note, where a class has fewer groups.

    Raises
    ------
    AlignmentError
        If an encoder has no block or is named twice, or there is not one label, weight or group per row.
    DataError
        If every sample is one image, the features or labels cannot be used, or a class has
        samples in one group only.
    SearchError
        If no classes or labels are predicted.
    """
    if not target.categorical:
        raise SearchError(
            f"Attention predicts classes or labels, not {target.text}.",
            remedy=f"Leave {option('predictor', 'attention')} out.",
        )
    require_bags(blocks.bags is not None)
    per_row = {"labels": labels, "sample weights": sample_weight, "groups": groups}
    order, subset = in_order(blocks, encoders, per_row)
    labels = np.asarray(labels)[order]
    weights = None if sample_weight is None else np.asarray(sample_weight)[order]
    with limit_threads(threads):
        reduction = _reduction(subset)
        rows = np.concatenate([reduction.transform(images_of(some)) for some in pieces(subset)])
        # Of unit size, column by column on average, which is what random weights are drawn for.
        size = float(np.sqrt(np.square(rows, dtype=np.float64).mean())) or 1.0
        reduction, rows = (
            replace(reduction, axes=tuple(axes / size for axes in reduction.axes)),
            (rows / size).astype(np.float32),
        )
    sizes = bags_of(subset).sizes
    means = np.add.reduceat(rows.astype(np.float64), np.cumsum(sizes) - sizes, axis=0) / sizes[:, None]
    setup = set_up(means, labels, target=target, class_weight=class_weight, sample_weight=weights)
    seed = derive_seed(seed, "attention")
    limits = np.stack([rows.min(axis=0), rows.max(axis=0)])
    if not setup.problems:
        nothing = _start(np.zeros((1, rows.shape[1], 0)), np.zeros((1, 0)), seed=seed)
        return AttentionPredictor(
            reduction=reduction, limits=limits, networks=nothing, outputs=setup.outputs, steps=(0,), notes=setup.notes
        )
    plan = make_folds(
        labels,
        ids=subset.ids,
        groups=None if groups is None else [groups[row] for row in order.tolist()],
        n_folds=n_folds,
        n_repeats=1,
        seed=seed,
        classes=target.classes,
    )
    held_out, heads = [], []
    head = Ridge(class_weight=class_weight)
    for fit, held in plan.folds:
        own = None if weights is None else weights[fit]
        found = head.fit(means[fit], labels[fit], target=target, sample_weight=own, seed=seed, threads=1)
        if found.outputs.columns == setup.outputs.columns:  # else a label of few samples is not in the others
            heads.append(found)
            held_out.append(held)
    if not heads:
        raise DataError(
            "Every inner fold holds all samples of some label, so that none can stop the training of attention.",
            remedy=f"Give more samples of rare labels, or leave {option('predictor', 'attention')} out.",
        )
    slopes = [np.ones(len(each.intercept)) if each.slope is None else each.slope for each in heads]
    start = _start(
        np.stack([each.coef * slope for each, slope in zip(heads, slopes, strict=True)]),
        np.stack([each.intercept * slope for each, slope in zip(heads, slopes, strict=True)]),
        seed=seed,
    )
    with limit_threads(1):
        networks, steps = _train(start, rows, sizes, setup, held_out)
    return AttentionPredictor(
        reduction=reduction,
        limits=limits,
        networks=networks,
        outputs=setup.outputs,
        steps=steps,
        notes=(*setup.notes, *plan.notes),
    )


IMAGES_AT_ONCE = 8192
"""Images whose embeddings are copied out of the blocks at a time; of one sample, all."""


def require_bags(there: bool) -> None:
    """Refuse to learn attention where every sample is one image.

    Raises
    ------
    DataError
        If there are no bags.
    """
    if not there:
        raise DataError(
            "Attention weighs the images of a sample, and here every sample is one image.",
            remedy=f"Say which images belong together: {option('bag', 'patient')}; or leave "
            f"{option('predictor', 'attention')} out.",
        )


def bags_of(blocks: Blocks) -> Bags:
    """Return the images behind blocks; where none are known, every sample is one image."""
    if blocks.bags is not None:
        return blocks.bags
    alone = np.arange(blocks.n_samples)
    return Bags(matrices=blocks.matrices, starts=alone, sizes=np.ones_like(alone))


def images_of(blocks: Blocks) -> Blocks:
    """Return the blocks of the images of all samples, sample by sample, called ``ID#000`` and so on."""
    bags = bags_of(blocks)
    ids = [f"{name}#{k:03d}" for name, size in zip(blocks.ids, bags.sizes.tolist(), strict=True) for k in range(size)]
    return Blocks(ids=np.array(ids, dtype=object), matrices={name: bags.images(name) for name in blocks.encoders})


def pieces(blocks: Blocks) -> Iterator[Blocks]:
    """Yield some samples at a time, in order."""
    piece = (np.cumsum(bags_of(blocks).sizes) - 1) // IMAGES_AT_ONCE
    for number in np.unique(piece):
        yield blocks.take(np.flatnonzero(piece == number))


def _reduction(blocks: Blocks) -> FittedProjection:
    """Learn the reduction of every encoder, with the images of one at a time in memory."""
    found = [PrincipalComponents(scaling="block").fit(images_of(blocks.only([name]))) for name in blocks.encoders]
    return FittedProjection(
        encoders=blocks.encoders,
        standards=tuple(part.standards[0] for part in found),
        axes=tuple(part.axes[0] for part in found),
        summed=False,
    )


def _start(coef: NDArray[np.float64], intercept: NDArray[np.float64], *, seed: int) -> Networks:
    """Return networks whose scores are 0, with heads as given; V and U keep the size of what they are given."""
    k, d, _ = coef.shape
    drawn = np.random.default_rng(seed).standard_normal((2, k, d, HIDDEN)) / np.sqrt(d)
    zeros = np.zeros((k, HIDDEN))
    return Networks(
        value=drawn[0],
        gate=drawn[1],
        value_bias=zeros,
        gate_bias=zeros,
        score=zeros,
        coef=coef,
        intercept=intercept,
    )


def _train(
    start: Networks, rows: Matrix, sizes: NDArray[np.int64], setup: Setup, held_out: Sequence[NDArray[np.int64]]
) -> tuple[Networks, tuple[int, ...]]:
    """Train all networks at once, each without its fold, and keep of each the step that is best on that fold."""
    import torch

    k, n = len(held_out), len(sizes)
    images = torch.from_numpy(np.ascontiguousarray(rows, dtype=np.float32))
    sample = torch.from_numpy(np.repeat(np.arange(n), sizes))
    held = torch.zeros(k, n)
    for number, those in enumerate(held_out):
        held[number, torch.from_numpy(those)] = 1
    parts = {
        name: torch.from_numpy(array.astype(np.float32)).requires_grad_() for name, array in start.arrays().items()
    }
    optimiser = AdamW(parts, decayed=("value", "gate", "score", "coef"))
    best, kept, steps = torch.full((k,), torch.inf), {n: p.detach().clone() for n, p in parts.items()}, [0] * k
    for step in range(STEPS + 1):
        losses = _losses(_margins(parts, images, sample, n), setup)
        found = (losses.detach() * held).sum(dim=1) / held.sum(dim=1)
        better = found < best - GAIN
        best = torch.where(better, found, best)
        for name, part in parts.items():
            kept[name][better] = part.detach()[better]
        steps = [step if gained else at for gained, at in zip(better.tolist(), steps, strict=True)]
        if step - max(steps) >= PATIENCE:
            break
        ((losses * (1 - held)).sum(dim=1) / (1 - held).sum(dim=1)).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return Networks(**{name: part.numpy().astype(np.float64) for name, part in kept.items()}), tuple(steps)


class AdamW:
    """torch's own, by its defaults but for :data:`RATE`, :data:`DECAY` and what is decayed.

    ``torch.optim`` takes three seconds to import, in every process that fits.

    Parameters
    ----------
    parts : mapping of str to tensor
        What is moved.
    decayed : sequence of str
        Names of those that are pulled to 0.
    """

    BETAS = (0.9, 0.999)
    LEAST = 1e-8

    def __init__(self, parts: Mapping[str, "torch.Tensor"], *, decayed: Sequence[str]) -> None:
        self._parts, self._decayed = parts, frozenset(decayed)
        self._moments = {name: (part.detach() * 0, part.detach() * 0) for name, part in parts.items()}
        self._steps = 0

    def step(self) -> None:
        """Move every part against its gradient, which is then forgotten."""
        self._steps += 1
        one, two = (1 - beta**self._steps for beta in self.BETAS)
        for name, part in self._parts.items():
            if part.grad is None:
                continue
            mean, square = self._moments[name]
            mean.lerp_(part.grad, 1 - self.BETAS[0])
            square.lerp_(part.grad**2, 1 - self.BETAS[1])
            part.data *= 1 - RATE * DECAY * (name in self._decayed)
            part.data -= RATE / one * mean / ((square / two).sqrt() + self.LEAST)
            part.grad = None


def _margins(
    parts: Mapping[str, "torch.Tensor"], images: "torch.Tensor", sample: "torch.Tensor", n: int
) -> "torch.Tensor":
    """Return the margins of all networks, shape (k, n, m).

    A score is at most the sum of |w|, which :data:`STEPS` steps of :data:`RATE` keep far below what overflows.
    """
    import torch

    value = torch.tanh(images @ parts["value"] + parts["value_bias"][:, None])
    gate = torch.sigmoid(images @ parts["gate"] + parts["gate_bias"][:, None])
    scores = torch.exp((value * gate * parts["score"][:, None]).sum(dim=-1))
    k, _, m = parts["coef"].shape
    total = torch.zeros(k, n).index_add(1, sample, scores)
    weighted = (scores / total[:, sample])[..., None] * (images @ parts["coef"])
    return torch.zeros(k, n, m).index_add(1, sample, weighted) + parts["intercept"][:, None]


def _losses(margins: "torch.Tensor", setup: Setup) -> "torch.Tensor":
    """Return the weighted log-loss of each network and sample, shape (k, n), added up over labels."""
    import torch
    from torch.nn import functional

    k, n, _ = margins.shape
    total = torch.zeros(k, n)
    ends = np.cumsum(setup.outputs.widths).tolist()
    for problem, width, end in zip(setup.classifications, setup.outputs.widths, ends, strict=True):
        own, codes = margins[..., end - width : end], torch.from_numpy(problem.codes)
        if width == 1:
            wanted = codes.to(own.dtype).expand(k, n)
            loss = functional.binary_cross_entropy_with_logits(own[..., 0], wanted, reduction="none")
        else:
            loss = functional.cross_entropy(own.reshape(k * n, width), codes.repeat(k), reduction="none").reshape(k, n)
        total = total + loss * torch.from_numpy(problem.weights.astype(np.float32))
    return total
