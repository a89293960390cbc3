"""A head's options as JSON values."""

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def options_of(head: "DataclassInstance") -> dict[str, Any]:
    """Return the fields of a head as JSON values; class weights are keyed by text."""
    values = {field.name: getattr(head, field.name) for field in fields(head)}
    return {
        name: {str(key): float(weight) for key, weight in sorted(value.items())}
        if isinstance(value, Mapping)
        else value
        for name, value in values.items()
    }
