"""The heads that can be asked for by name."""

import functools
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, NamedTuple, Protocol

from biofuse.core.errors import SearchError
from biofuse.core.registry import Registry

if TYPE_CHECKING:
    from biofuse.heads.base import ClassWeight, Head

ENTRY_POINT_GROUP = "biofuse.heads"
"""Each entry point of this group is a class or function that takes ``class_weight`` by keyword and gives a head."""


class _Row(NamedTuple):
    where: str
    cheap: bool = False


HEADS = {
    "logistic": _Row("biofuse.heads.logistic:Logistic", cheap=True),
    "ridge": _Row("biofuse.heads.ridge:Ridge", cheap=True),
    "lda": _Row("biofuse.heads.lda:LDA", cheap=True),
    "knn": _Row("biofuse.heads.knn:Neighbours"),
    "xgboost": _Row("biofuse.heads.xgboost:XGBoost"),
}
"""BioFuse's own heads, the default first. A new one is a class in a file of its own and a row here."""

OWN_HEADS = tuple(HEADS)
"""Names of BioFuse's own heads."""

CHEAP_HEADS = tuple(name for name, row in HEADS.items() if row.cheap)
"""The heads among which ``head="auto"`` chooses by cross-validation: each is linear, deterministic, needs no extra and
fits in seconds. With 4 classes and one thread a fit takes 0.2, 0.3 and 0.2 s on 1,000 x 4,000 made-up embeddings, 0.8,
2.0 and 1.2 s on 2,000 x 8,000 (CPU time). The default comes first, to be taken where scores are equal."""

REMOVED = {
    "lightgbm": "Use the head xgboost, with column_share=0.1 to grow each tree on a share of the columns, as lightgbm "
    "did; a model that was saved with lightgbm has to be fitted again."
}
"""Heads of earlier versions, and what to do instead."""


class HeadFactory(Protocol):
    """Makes a head with its default options and the given class weights."""

    def __call__(self, *, class_weight: "ClassWeight" = None) -> "Head":
        """Make it."""
        ...


@functools.cache
def head_registry() -> Registry[HeadFactory]:
    """Return the registry that :func:`make_head` uses."""
    own = {name: EntryPoint(name, row.where, ENTRY_POINT_GROUP).load for name, row in HEADS.items()}
    return Registry(kind="head", group=ENTRY_POINT_GROUP, own=own)


def make_head(head: "str | Head", *, class_weight: "ClassWeight" = None) -> "Head":
    """Return the head of that name with its default options, or the object given.

    Parameters
    ----------
    head : str or Head
        A registered name (see :data:`OWN_HEADS`; other packages may bring more), or a head.
    class_weight : mapping, "balanced" or None
        As in scikit-learn; only for a head given by name.

    Raises
    ------
    SearchError
        If no head has that name, or class weights are given beside a head that has its own.
    """
    if isinstance(head, str):
        if head in REMOVED and head not in head_registry().names():
            raise SearchError(f"The head {head} was removed from BioFuse.", remedy=REMOVED[head])
        return head_registry().get(head)(class_weight=class_weight)
    if class_weight is not None:
        raise SearchError(
            f"Class weights are given beside the head {head.name}, which has its own.",
            remedy="Give them to the head: its class takes class_weight=.",
        )
    return head


def check_limits(head: "Head", *, rows: int, features: int, classes: int) -> None:
    """Refuse a problem that exceeds the limits that a head declares.

    Parameters
    ----------
    head : Head
        What is to be fitted.
    rows, features, classes : int
        Training rows, columns of the fused matrix, and classes or labels, absent ones included.

    Raises
    ------
    SearchError
        Naming the head, what exceeds which limit, why there is one, and the heads that would take the problem.
    """

    def excess(candidate: "Head") -> str:
        return candidate.limits.exceeded_by(rows=rows, features=features, classes=classes)

    if excess(head):
        able = [name for name in OWN_HEADS if not excess(make_head(name))]
        raise SearchError(
            f"The head {head.name} is not meant for {excess(head)}.",
            remedy=f"Choose another head: {', '.join(able)}."
            if able
            else "No head of BioFuse takes so much: give fewer rows, fewer encoders, or fewer classes.",
        )
