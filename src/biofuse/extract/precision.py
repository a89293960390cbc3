"""What each encoder computes in: decided before the first row is written, since it is part of the fingerprint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from biofuse.core.hashing import Contents
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.store.store import EmbeddingStore

PrecisionOption = Literal["auto", "fp32", "bf16", "fp16"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")

PARITY_IMAGES = 16
"""Images of the job that are embedded at both precisions before the lower one is trusted."""

PARITY_COSINE = 0.999
"""Least cosine between an image's embeddings at the lower precision and at fp32 (issue: cosine >= 0.999, else fp32)."""

ENOUGH = 0.5
"""Share of the embeddings needed that the store must hold at a precision for ``auto`` to go on with that one."""

CPU_BF16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16", "sve_bf16")
"""Instruction sets with arithmetic or conversion of bfloat16, as ``torch.cpu.get_capabilities`` names them."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The precision of one encoder.

    Attributes
    ----------
    precision : {"fp32", "bf16", "fp16"}
    reason : str
        Why it is not what one would expect; empty where there is nothing to say.
    check : bool
        Whether it must still pass the comparison with fp32 on real images before a row is written.
    """

    precision: Precision = "fp32"
    reason: str = ""
    check: bool = False

    def refused(self, cosine: float) -> "Choice":
        """Return fp32 in its place, because of an image whose embeddings differ too much."""
        return replace(
            self,
            precision="fp32",
            check=False,
            reason=f"{self.precision} changes an embedding too much (cosine {cosine:.5f} to fp32, {PARITY_COSINE} "
            "is asked for)",
        )


def native(precision: Precision, device: str) -> bool:
    """Tell whether a device computes at a precision by itself, faster than at fp32.

    A processor without bfloat16 instructions emulates them, which takes longer than fp32; none is quick at float16.
    """
    if precision == "fp32":
        return True
    import torch

    kind = device.partition(":")[0]
    if kind == "cpu":
        # Releases of torch that cannot tell are taken to be on a processor without.
        able: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return precision == "bf16" and any(able.get(name) for name in CPU_BF16)
    if kind == "cuda" and precision == "bf16":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return kind in {"cuda", "mps"} and precision == "fp16"


def advised(card: EncoderCard, device: str) -> Precision:
    """Return what an encoder should compute in on a device: the card's advice, where the device has it.

    A processor gets bf16 for either of the low precisions: it has no float16, and those who run an encoder at float16
    on an accelerator have shown that it stands less mantissa; the comparison with fp32 has the last word.
    """
    if card.runtime == "numpy" or card.advised_precision == "fp32" or card.loader == "onnx":
        return "fp32"
    if device.partition(":")[0] == "cpu":
        return "bf16" if native("bf16", device) else "fp32"
    return card.advised_precision if native(card.advised_precision, device) else "fp32"


def choose_precision(
    card: EncoderCard,
    contents: Contents,
    *,
    store: EmbeddingStore,
    wanted: PrecisionOption,
    fixed: Mapping[str, Precision],
    device: Callable[[], str],
) -> Choice:
    """Decide what an encoder computes in, as far as that can be told before it is loaded.

    Parameters
    ----------
    card : EncoderCard
    contents : ndarray of S16
        The images whose embeddings are needed.
    store : EmbeddingStore
    wanted : {"auto", "fp32", "bf16", "fp16"}
        What the user asked for.
    fixed : mapping of str to precision
        What encoders were run at before and have to be run at again, such as those of a fitted model.
    device : callable
        Returns the device; not called where the store has everything.

    Returns
    -------
    Choice
    """
    if card.runtime == "numpy":
        return Choice()
    if card.name in fixed:
        return _again(card, fixed[card.name], contents, store, device)
    if wanted != "auto":
        return _asked(card, wanted, device)
    shares = {precision: _share(store, card, precision, contents) for precision in PRECISIONS}
    most = max(PRECISIONS, key=lambda precision: shares[precision])  # fp32 among equals
    if len(contents) and shares[most] == 1:
        return Choice(precision=most, reason="" if most == "fp32" else "the store has these embeddings")
    if shares[most] >= ENOUGH and native(most, device()):
        reason = "" if most == "fp32" else "the store has most of these embeddings"
        return Choice(precision=most, reason=reason, check=most != "fp32")
    best = advised(card, device())
    return Choice(precision=best, check=best != "fp32")


def _again(
    card: EncoderCard, precision: Precision, contents: Contents, store: EmbeddingStore, device: Callable[[], str]
) -> Choice:
    if precision == "fp32" or _share(store, card, precision, contents) == 1 or native(precision, device()):
        return Choice(precision=precision)
    return Choice(reason=f"this device has no {precision}, which it was run at before")


def _asked(card: EncoderCard, precision: Precision, device: Callable[[], str]) -> Choice:
    if precision != "fp32" and card.loader == "onnx":
        return Choice(reason="the precision of an ONNX file is fixed")
    if not native(precision, device()):
        return Choice(reason=f"this device has no {precision}")
    return Choice(precision=precision, check=precision != "fp32")


def _share(store: EmbeddingStore, card: EncoderCard, precision: Precision, contents: Contents) -> float:
    folder = store.open(card, precision=precision)
    if not len(contents) or not folder.part_paths():
        return 0.0
    return 1 - float(folder.missing(contents).mean())


def least_cosine(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Return the least cosine between corresponding rows; NaN, where a row is zero or not finite, counts as -1."""
    a, b = (np.asarray(each, dtype=np.float64) for each in (first, second))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = np.nan_to_num((a * b).sum(axis=1) / norms, nan=-1.0)
    return float(cosines.min()) if len(cosines) else 1.0


def announce(choices: Mapping[str, Choice], names: Sequence[str]) -> list[str]:
    """Say which encoders are run at another precision than fp32, or than was to be expected, and why."""
    return [
        f"{name} is run at {choices[name].precision}: {choices[name].reason}." for name in names if choices[name].reason
    ]
