"""What kind of label is predicted."""

from enum import StrEnum


class Task(StrEnum):
    """The kind of classification task."""

    BINARY = "binary"
    """Two classes, one label per sample."""
    MULTICLASS = "multiclass"
    """Three or more unordered classes, one label per sample."""
    MULTILABEL = "multilabel"
    """Any number of labels per sample, each present or absent."""
    ORDINAL = "ordinal"
    """Ordered classes (grades), one label per sample."""
