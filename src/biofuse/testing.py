"""The contracts of encoders, fusions and heads: each function here raises where one is broken."""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.core.errors import AlignmentError, DataError, EncoderError
from biofuse.core.target import Target, Task
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import Encoder, UInt8Images, check_encoder, probe_images, tolerance
from biofuse.encoders.registry import load_encoder
from biofuse.fusion.base import FittedFusion, Fusion
from biofuse.heads.base import FittedHead, Head, takes


def assert_encoder_contract(
    encoder: str | EncoderCard | Encoder,
    *,
    device: str = "cpu",
    precision: Precision = "fp32",
    weights_path: Path | None = None,
) -> None:
    """Fail unless an encoder keeps every promise that the rest of BioFuse relies on.

    Parameters
    ----------
    encoder : str, EncoderCard or Encoder
        A registered name, a card, or an encoder already loaded.
    device, precision, weights_path
        How to load it, as in :func:`biofuse.encoders.load_encoder`.

    Raises
    ------
    AssertionError
        If a promise is broken; the message says which.
    BioFuseError
        If the encoder cannot be loaded at all.
    """
    if isinstance(encoder, str | EncoderCard):
        loaded = load_encoder(encoder, device=device, precision=precision, weights_path=weights_path)
    else:
        loaded = encoder
    try:
        check_encoder(loaded)
    except EncoderError as error:
        raise AssertionError(str(error)) from error
    _card_is_complete(loaded.card)
    _any_image_can_be_embedded(loaded)
    _rows_are_independent(loaded)
    _bad_batches_are_refused(loaded)
    if loaded.card.runtime == "numpy":
        _travels_to_workers(loaded)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _card_is_complete(card: EncoderCard) -> None:
    again = EncoderCard.model_validate_json(card.model_dump_json())
    _require(again == card, f"{card.name}: the card does not survive JSON.")
    _require(again.fingerprint() == card.fingerprint(), f"{card.name}: the fingerprint does not survive JSON.")
    for field in ("title", "licence", "source", "modality"):
        _require(bool(getattr(card, field)), f"{card.name}: the card has no {field}.")
    if card.weights is not None:
        _require(card.weights.sha256 is not None, f"{card.name}: the hash of the weights is not on the card.")


def _odd_images() -> list[UInt8Images]:
    noise: UInt8Images = np.random.default_rng(0).integers(0, 256, (37, 81, 3), dtype=np.uint8)
    flat = [np.full((1, 1, 3), level, np.uint8) for level in (0, 127, 255)]
    return [noise, np.ascontiguousarray(noise.swapaxes(0, 1)), noise[:1], noise[:, :1], *flat]


def _any_image_can_be_embedded(encoder: Encoder) -> None:
    card = encoder.card
    side = card.preprocessing.output_size
    batch: UInt8Images = np.stack([card.preprocessing.apply(image) for image in _odd_images()])
    _require(batch.shape[1:] == (side, side, 3), f"{card.name}: preprocessing gives {batch.shape[1:]}.")
    batch.flags.writeable = False
    embeddings = encoder.encode(batch)
    _require(
        isinstance(embeddings, np.ndarray)
        and embeddings.dtype == np.float32
        and embeddings.shape == (len(batch), card.dim),
        f"{card.name}: embeddings are not float32 of shape (n, {card.dim}).",
    )
    _require(bool(np.isfinite(embeddings).all()), f"{card.name}: a constant or tiny image gives NaN or infinity.")
    _require(encoder.encode(batch[:0]).shape == (0, card.dim), f"{card.name}: an empty batch must give no rows.")


def _rows_are_independent(encoder: Encoder) -> None:
    name = encoder.card.name
    images = probe_images(encoder.card.preprocessing.output_size)
    before = images.copy()
    first = encoder.encode(images)
    _require(np.array_equal(images, before), f"{name}: encode changes the images it is given.")
    allowed = tolerance(encoder) * float(np.abs(first).max())
    _require(
        bool(np.abs(encoder.encode(images) - first).max() <= allowed), f"{name}: the same images give other embeddings."
    )
    _require(
        bool(np.abs(encoder.encode(images[::-1])[::-1] - first).max() <= allowed),
        f"{name}: the order of the images changes their embeddings.",
    )


def _bad_batches_are_refused(encoder: Encoder) -> None:
    images = probe_images(encoder.card.preprocessing.output_size)
    wrong: list[Any] = [images.astype(np.float32), images[0], images[:, 1:], images[..., :1]]
    for bad in wrong:
        try:
            encoder.encode(bad)
        except EncoderError:
            continue
        raise AssertionError(f"{encoder.card.name}: a batch of {bad.dtype} {bad.shape} must raise an EncoderError.")


def _travels_to_workers(encoder: Encoder) -> None:
    import pickle

    import cloudpickle  # type: ignore[import-untyped]

    images = probe_images(encoder.card.preprocessing.output_size)
    there = pickle.loads(cloudpickle.dumps(encoder))  # noqa: S301 - our own bytes, as a worker process receives them
    _require(
        np.array_equal(there.encode(images), encoder.encode(images)),
        f"{encoder.card.name}: embeds differently in a worker process.",
    )


DIMS = {"wide": 30, "narrow": 3, "middle": 8}
"""Encoders of the made-up pool, of different widths, not in alphabetical order."""


def assert_fusion_contract(factory: Callable[[], Fusion], *, tolerance: float = 1e-5) -> None:
    """Fail unless a fusion keeps every promise that the rest of BioFuse relies on.

    Parameters
    ----------
    factory : callable
        Gives a new, unfitted fusion.
    tolerance : float, default 1e-5
        Largest difference allowed where the order of the training rows changes.

    Raises
    ------
    AssertionError
        If a promise is broken; the message says which.
    """
    blocks, labels = _blocks(40)
    more, _ = _blocks(7, seed=1)
    fusion = factory()
    json.dumps(fusion.options, allow_nan=False)
    fitted = fusion.fit(blocks, labels)
    fused = fitted.transform(more)
    _require(fused.dtype == np.float32, f"{fusion.name}: the fused matrix is {fused.dtype}, not float32.")
    _require(fused.shape == (7, fitted.dim), f"{fusion.name}: shape {fused.shape} for 7 rows and dim {fitted.dim}.")
    _require(bool(np.isfinite(fused).all()), f"{fusion.name}: the fused matrix is not finite.")
    _require(fitted.encoders == blocks.encoders, f"{fusion.name}: encoders are not in pool order.")
    _require(fitted.transform(more.take(np.arange(0))).shape == (0, fitted.dim), f"{fusion.name}: fails on zero rows.")
    _rows_and_blocks(fusion, fitted, more, fused)
    order = np.random.default_rng(2).permutation(blocks.n_samples)
    again = fusion.fit(blocks.take(order), labels[order]).transform(more)
    _require(np.allclose(again, fused, atol=tolerance), f"{fusion.name}: the order of the training rows matters.")
    _survives_saving(fusion, fitted, more, fused)
    _fits_what_is_unusual(fusion, blocks, labels, more)


def _fits_what_is_unusual(fusion: Fusion, blocks: Blocks, labels: np.ndarray, more: Blocks) -> None:
    flat = Blocks(ids=blocks.ids, matrices={**blocks.matrices, "narrow": np.ones_like(blocks["narrow"])})
    several = (labels[:, None] == np.arange(3)).astype(np.int64)
    few, one = np.arange(12), np.arange(1)
    for case, given, known in (
        ("more columns than rows", blocks.take(few), labels[few]),
        ("a single row", blocks.take(one), labels[one]),
        ("a block without variance", flat, labels),
        ("one class alone", blocks, np.zeros_like(labels)),
        ("several labels for each row", blocks, several),
    ):
        fitted = fusion.fit(given, known)
        fused = fitted.transform(more)
        usable = fused.shape == (7, fitted.dim) and fitted.dim > 0 and bool(np.isfinite(fused).all())
        _require(usable, f"{fusion.name}: cannot be fitted on {case}.")


def _rows_and_blocks(fusion: Fusion, fitted: FittedFusion, more: Blocks, fused: np.ndarray) -> None:
    order = np.array([3, 0, 6])
    _require(
        np.allclose(fitted.transform(more.take(order)), fused[order], atol=1e-6),
        f"{fusion.name}: a row of the fused matrix depends on the other rows.",
    )
    turned = Blocks(ids=more.ids, matrices={name: more[name] for name in reversed(more.encoders)})
    extended = Blocks(ids=more.ids, matrices={"unknown": more["wide"], **turned.matrices})
    for given in (turned, extended):
        _require(
            np.array_equal(fitted.transform(given), fused),
            f"{fusion.name}: the order of the blocks given, or one too many, changes the result.",
        )
    try:
        fitted.transform(more.only(["wide", "middle"]))
    except AlignmentError:
        return
    raise AssertionError(f"{fusion.name}: a missing block raises no AlignmentError.")


def _survives_saving(fusion: Fusion, fitted: FittedFusion, more: Blocks, fused: np.ndarray) -> None:
    values, arrays = fitted.state()
    restored = fusion.restore(json.loads(json.dumps(values, allow_nan=False)), arrays)
    _require(restored.encoders == fitted.encoders, f"{fusion.name}: the restored fusion has other encoders.")
    _require(np.array_equal(restored.transform(more), fused), f"{fusion.name}: the restored fusion differs.")


def _blocks(n: int, *, seed: int = 0) -> tuple[Blocks, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    matrices = {
        name: (rng.standard_normal((n, dim)) * 5 + 2 + labels[:, None]).astype(np.float32) for name, dim in DIMS.items()
    }
    ids = np.array([f"sample-{row}" for row in range(n)], dtype=object)
    return Blocks(ids=ids, matrices=matrices), labels


CASES = ((Task.BINARY, 2), (Task.MULTICLASS, 3), (Task.ORDINAL, 4), (Task.MULTILABEL, 3))
"""Tasks and numbers of classes that every head is tried on."""


def assert_head_contract(factory: Callable[[], Head], *, tolerance: float = 1e-4) -> None:
    """Fail unless a head keeps every promise that the rest of BioFuse relies on.

    Parameters
    ----------
    factory : callable
        Gives a new, unfitted head.
    tolerance : float, default 1e-4
        Largest difference in probability allowed where the training rows change places.

    Raises
    ------
    AssertionError
        If a promise is broken; the message says which.
    """
    head = factory()
    json.dumps(head.options, allow_nan=False)
    head.limits.exceeded_by(rows=1, features=1, classes=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # what a user should know belongs into the notes
        if takes(head, Target.until([1.0])):
            _times(head, tolerance)
        if not takes(head, Target.numbered(*CASES[0])):
            return
        for task, n_classes in CASES:
            _one_task(head, task, n_classes, tolerance)
        _absent_classes(head)
        _one_class_only(head)
        _constant_label(head)
        _bad_input(head)


def _one_task(head: Head, task: Task, n_classes: int, tolerance: float) -> None:
    where = f"{head.name}, {task}"
    X, labels = _data(task, n_classes)
    new, new_labels = _data(task, n_classes, seed=1)
    fitted = head.fit(X, labels, target=Target.numbered(task, n_classes))
    probabilities, decision = fitted.predict_proba(new), fitted.decision(new)
    _probabilities_are_such(fitted, probabilities, decision, task, where)
    truth = new_labels if task is Task.MULTILABEL else new_labels[:, None] == np.arange(n_classes)
    gap = (
        np.where(truth, probabilities, 0).sum() / truth.sum()
        - np.where(truth, 0, probabilities).sum() / (~(truth > 0)).sum()
    )
    _require(
        gap > 0.15, f"{where}: the probabilities of true classes are no higher than others' (difference {gap:.2f})."
    )
    again = head.fit(X, labels, target=Target.numbered(task, n_classes))
    _require(np.array_equal(again.predict_proba(new), probabilities), f"{where}: two fits differ.")
    some = np.array([5, 0, 9])
    _require(
        np.allclose(fitted.predict_proba(new[some]), probabilities[some], atol=1e-9),
        f"{where}: a row's prediction depends on the other rows.",
    )
    order = np.random.default_rng(2).permutation(len(X))
    shuffled = head.fit(X[order], labels[order], target=Target.numbered(task, n_classes))
    difference = float(np.abs(shuffled.predict_proba(new) - probabilities).max())
    _require(
        difference <= tolerance, f"{where}: the order of the training rows changes predictions by {difference:.1e}."
    )
    values, arrays = fitted.state()
    restored = head.restore(json.loads(json.dumps(values, allow_nan=False)), arrays)
    for name, result in (("predict_proba", probabilities), ("decision", decision)):
        _require(np.array_equal(getattr(restored, name)(new), result), f"{where}: {name} differs after saving.")
    _require(
        (restored.n_classes, restored.n_features, restored.notes) == (n_classes, X.shape[1], fitted.notes),
        f"{where}: classes, features or notes differ after saving.",
    )


def _times(head: Head, tolerance: float) -> None:
    """Try a head on times to an event, two horizons, which are not two classes."""
    where, target = f"{head.name}, survival", Target.until([0.5, 1.0])
    (X, labels), (new, later) = (_hazards(seed=seed) for seed in (0, 1))
    fitted = head.fit(X, labels, target=target)
    risk, decision = fitted.predict_proba(new), fitted.decision(new)
    for name, values in (("predict_proba", risk), ("decision", decision)):
        _require(values.dtype == np.float64, f"{where}: {name} gives {values.dtype}, not float64.")
        _require(values.shape == (len(new), 2), f"{where}: {name} has shape {values.shape}.")
        _require(bool(np.isfinite(values).all()), f"{where}: {name} is not finite.")
    _require(bool(((risk >= 0) & (risk <= 1)).all()), f"{where}: risks outside 0 to 1.")
    _require(bool((np.diff(risk, axis=1) >= 0).all()), f"{where}: the risk falls with time.")
    early = later[:, 0] < np.median(later[:, 0])
    _require(bool(risk[early].mean() > risk[~early].mean()), f"{where}: early events have no higher risk.")
    order = np.random.default_rng(2).permutation(len(X))
    shuffled = head.fit(X[order], labels[order], target=target).predict_proba(new)
    _require(bool(np.abs(shuffled - risk).max() <= tolerance), f"{where}: the order of the rows changes risks.")
    state, arrays = fitted.state()
    restored = head.restore(json.loads(json.dumps(state, allow_nan=False)), arrays)
    for name, result in (("predict_proba", risk), ("decision", decision)):
        _require(np.array_equal(getattr(restored, name)(new), result), f"{where}: {name} differs after saving.")
    flat = head.fit(np.ones_like(X), labels, target=target).decision(new)
    _require(bool(np.isfinite(flat).all()), f"{where}: constant features give no number.")
    for what, events in (("no event", 0), ("one event", 1)):
        few = np.column_stack([labels[:, 0], np.arange(len(labels)) < events]).astype(np.float64)
        try:
            head.fit(X, few, target=target)
        except DataError:
            continue
        raise AssertionError(f"{where}: {what} raises no DataError.")


def _hazards(*, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """More columns than rows, and times that depend on them, two thirds of them up to an event."""
    X, grades = _data(Task.ORDINAL, 4, seed=seed)
    rng = np.random.default_rng(seed)
    time = rng.exponential(2.0 ** -grades.astype(np.float64))
    return X, np.column_stack([time, rng.random(len(X)) < 2 / 3]).astype(np.float64)


def _probabilities_are_such(
    fitted: FittedHead, probabilities: NDArray[np.float64], decision: NDArray[np.float64], task: Task, where: str
) -> None:
    for name, values in (("predict_proba", probabilities), ("decision", decision)):
        _require(values.dtype == np.float64, f"{where}: {name} gives {values.dtype}, not float64.")
        _require(values.shape == (len(probabilities), fitted.n_classes), f"{where}: {name} has shape {values.shape}.")
        _require(bool(np.isfinite(values).all()), f"{where}: {name} is not finite.")
    _require(bool(((probabilities >= 0) & (probabilities <= 1)).all()), f"{where}: probabilities outside 0 to 1.")
    if task is not Task.MULTILABEL:
        _require(np.allclose(probabilities.sum(axis=1), 1), f"{where}: the probabilities of a row do not sum to 1.")
        same = decision.argmax(axis=1) == probabilities.argmax(axis=1)
        _require(bool(same.all()), f"{where}: decision and predict_proba favour different classes.")
    empty = np.zeros((0, fitted.n_features), dtype=np.float32)
    _require(fitted.predict_proba(empty).shape == (0, fitted.n_classes), f"{where}: fails on zero rows.")


def _absent_classes(head: Head) -> None:
    X, labels = _data(Task.MULTICLASS, 3)
    for present in ((0, 1, 2), (0, 2)):
        rows = np.isin(labels, present)
        # Classes 1, 2 and 3 of five: the first and the last are absent.
        fitted = head.fit(X[rows], labels[rows] + 1, target=Target.numbered(Task.MULTICLASS, 5))
        probabilities = fitted.predict_proba(X)
        absent = sorted(set(range(5)) - {label + 1 for label in present})
        _require(probabilities.shape == (len(X), 5), f"{head.name}: absent classes lose their columns.")
        _require(not probabilities[:, absent].any(), f"{head.name}: an absent class has a probability above 0.")
        _require(np.allclose(probabilities.sum(axis=1), 1), f"{head.name}: with absent classes rows do not sum to 1.")
        _require(
            bool(np.isfinite(fitted.decision(X)).all()), f"{head.name}: decision is not finite for absent classes."
        )
        _require(bool(fitted.notes), f"{head.name}: says nothing of absent classes in its notes.")


def _one_class_only(head: Head) -> None:
    X, _ = _data(Task.BINARY, 2)
    fitted = head.fit(X, np.ones(len(X), dtype=np.int64), target=Target.numbered(Task.BINARY, 2))
    _require(np.array_equal(fitted.predict_proba(X), np.tile([0.0, 1.0], (len(X), 1))), f"{head.name}: one class only.")
    values, arrays = fitted.state()
    restored = head.restore(json.loads(json.dumps(values, allow_nan=False)), arrays)
    _require(np.array_equal(restored.decision(X), fitted.decision(X)), f"{head.name}: one class only, after saving.")


def _constant_label(head: Head) -> None:
    X, labels = _data(Task.MULTILABEL, 3)
    labels[:, 1] = 0
    fitted = head.fit(X, labels, target=Target.numbered(Task.MULTILABEL, 3))
    probabilities = fitted.predict_proba(X)
    _require(not probabilities[:, 1].any(), f"{head.name}: a label that never occurs has a probability above 0.")
    _require(probabilities[:, [0, 2]].std() > 0, f"{head.name}: one constant label makes the others constant.")
    _require(bool(fitted.notes), f"{head.name}: says nothing of a constant label in its notes.")


def _bad_input(head: Head) -> None:
    X, labels = _data(Task.MULTICLASS, 3)
    holed = X.copy()
    holed[3, 1] = np.nan
    fitted = head.fit(X, labels, target=Target.numbered(Task.MULTICLASS, 3))
    trials: dict[str, Callable[[], object]] = {
        "a value that is not a number, at fitting": lambda: head.fit(
            holed, labels, target=Target.numbered(Task.MULTICLASS, 3)
        ),
        "a value that is not a number, at prediction": lambda: fitted.predict_proba(holed),
        "a column too few": lambda: fitted.predict_proba(X[:, :-1]),
        "a label too few": lambda: head.fit(X, labels[:-1], target=Target.numbered(Task.MULTICLASS, 3)),
        "a class out of range": lambda: head.fit(X, labels + 1, target=Target.numbered(Task.MULTICLASS, 3)),
        "no rows": lambda: head.fit(X[:0], labels[:0], target=Target.numbered(Task.MULTICLASS, 3)),
    }
    for what, trial in trials.items():
        try:
            trial()
        except DataError:
            continue
        raise AssertionError(f"{head.name}: {what} raises no DataError.")


def _data(task: Task, n_classes: int, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """More columns than rows, one of them constant, one on another scale; classes that overlap a little."""
    rng = np.random.default_rng(seed)
    n, d = 60, 80
    labels = np.random.default_rng(seed + 100).permutation(np.arange(n) % n_classes).astype(np.int64)
    if task is Task.MULTILABEL:
        labels = (rng.random((n, n_classes)) < 0.4).astype(np.int64)
    centres = np.random.default_rng(99).standard_normal((n_classes, d)) * 0.6
    X = rng.standard_normal((n, d)) + (labels @ centres if task is Task.MULTILABEL else centres[labels])
    X[:, 3] = 1.5
    X[:, 4] *= 10
    return X.astype(np.float32), labels
