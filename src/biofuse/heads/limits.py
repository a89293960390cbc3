"""Refuses a problem that is too large for a head before hours are spent on it."""

from biofuse.core.errors import SearchError
from biofuse.heads.protocol import Head

MATRIX_CELLS = 2_000_000_000
"""Rows times columns that the linear heads take: 16 GB in float64. The union of training and validation data of the
largest MedMNIST+ set (189,106 rows) with all nine encoders of the paper (8,704 columns) has 1.65e9."""


def within_limits(head: Head, *, rows: int, features: int, classes: int) -> bool:
    """Return whether a problem is within a head's limits; see :func:`check_limits`."""
    return not head.limits.exceeded_by(rows=rows, features=features, classes=classes)


def check_limits(head: Head, *, rows: int, features: int, classes: int) -> None:
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
    exceeded = head.limits.exceeded_by(rows=rows, features=features, classes=classes)
    if exceeded:
        raise SearchError(
            f"The head {head.name} is not meant for {exceeded}.",
            remedy=_remedy(rows=rows, features=features, classes=classes),
        )


def _remedy(*, rows: int, features: int, classes: int) -> str:
    from biofuse.heads.registry import OWN_HEADS, make_head

    able = [name for name in OWN_HEADS if within_limits(make_head(name), rows=rows, features=features, classes=classes)]
    if able:
        return f"Choose another head: {', '.join(able)}."
    return "No head of BioFuse takes so much: give fewer rows, fewer encoders, or fewer classes."
