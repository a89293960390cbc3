"""The heads that can be asked for by name."""

import functools
from typing import Protocol

from biofuse.core.errors import SearchError
from biofuse.core.registry import Registry
from biofuse.heads.base import ClassWeight, Head

ENTRY_POINT_GROUP = "biofuse.heads"
"""Each entry point of this group is a class or function that takes ``class_weight`` by keyword and gives a head."""

OWN_HEADS = ("logistic", "ridge", "lda", "knn", "xgboost", "lightgbm")
"""BioFuse's own heads; ``lightgbm`` needs the extra of that name."""

CHEAP_HEADS: tuple[str, ...] = ("logistic", "ridge", "lda")
"""The heads among which ``head="auto"`` chooses by cross-validation: each is linear, deterministic, needs no extra and
fits in seconds. With 4 classes and one thread a fit takes 0.2, 0.3 and 0.2 s on 1,000 x 4,000 made-up embeddings, 0.8,
2.0 and 1.2 s on 2,000 x 8,000 (CPU time). The default comes first, to be taken where scores are equal."""


class HeadFactory(Protocol):
    """Makes a head with its default options and the given class weights."""

    def __call__(self, *, class_weight: ClassWeight = None) -> Head:
        """Make it."""
        ...


@functools.cache
def head_registry() -> Registry[HeadFactory]:
    """Return the registry that :func:`make_head` uses."""
    own = dict(zip(OWN_HEADS, (_logistic, _ridge, _lda, _knn, _xgboost, _lightgbm), strict=True))
    return Registry(kind="head", group=ENTRY_POINT_GROUP, own=own)


def make_head(head: str | Head, *, class_weight: ClassWeight = None) -> Head:
    """Return the head of that name with its default options, or the object given.

    Parameters
    ----------
    head : str or Head
        ``"logistic"``, ``"ridge"``, ``"lda"``, ``"knn"``, ``"xgboost"``, ``"lightgbm"`` (which needs the extra of
        that name when it is fitted), the name of another package's head, or a head.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; only for a head given by name.

    Raises
    ------
    SearchError
        If no head has that name, or class weights are given beside a head that has its own.
    """
    if isinstance(head, str):
        return head_registry().get(head)(class_weight=class_weight)
    if class_weight is not None:
        raise SearchError(
            f"Class weights are given beside the head {head.name}, which has its own.",
            remedy="Give them to the head: its class takes class_weight=.",
        )
    return head


def _logistic() -> HeadFactory:
    from biofuse.heads.logistic import Logistic

    return Logistic


def _ridge() -> HeadFactory:
    from biofuse.heads.ridge import Ridge

    return Ridge


def _lda() -> HeadFactory:
    from biofuse.heads.lda import LDA

    return LDA


def _knn() -> HeadFactory:
    from biofuse.heads.knn import Neighbours

    return Neighbours


def _xgboost() -> HeadFactory:
    from biofuse.heads.xgboost import XGBoost

    return XGBoost


def _lightgbm() -> HeadFactory:
    from biofuse.heads.lightgbm import LightGBM

    return LightGBM
