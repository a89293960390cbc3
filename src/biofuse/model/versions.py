"""Versions of the libraries that a model's answers depend on, and which differences matter."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any

from biofuse.encoders.card import EncoderCard
from biofuse.encoders.loaders import libraries_of

OWN = "biofuse-embed"
"""The distribution that BioFuse is."""

UNVERSIONED = "of an unknown version"
"""What is said in a sentence where a model does not know it."""

ALWAYS = (OWN, "numpy", "pillow")
"""Every prediction goes through these."""

HEADS = {"xgboost": ("xgboost",), "sklearn": ("scikit-learn",)}
"""Libraries that compute a head, by how its name begins; BioFuse's own heads are numpy."""

MATTER = {
    OWN: 2,
    "scikit-image": 2,
    "scikit-learn": 2,
    "xgboost": 2,
    "timm": 2,
    "transformers": 1,
    "open_clip_torch": 1,
    "onnxruntime": 1,
    "torch": 1,
    "pillow": 1,
    "numpy": 1,
}
"""Leading numbers of a version that have to agree. A minor release of scikit-image or timm may change what a function
or architecture of the same name computes, scikit-learn and XGBoost do not promise to read models of a newer one, and
BioFuse is below 1.0. Of the others only a major release is expected to change more than rounding. Patch releases never
matter."""


def versions_of(cards: Iterable[EncoderCard], *, head: str) -> dict[str, str]:
    """Return the versions, here, of the libraries that a model uses.

    Parameters
    ----------
    cards : iterable of EncoderCard
        Its encoders.
    head : str
        The name of its head.

    Returns
    -------
    dict of str to str
        By distribution; those that are not installed are left out.
    """
    used = set(ALWAYS)
    for card in cards:
        used |= {*libraries_of(card.loader).values(), *card.requires} & MATTER.keys()
        used |= {"torch"} if card.runtime == "torch" else set()
    used |= {library for name, libraries in HEADS.items() if head.startswith(name) for library in libraries}
    found = {name: installed(name) for name in sorted(used)}
    return {name: version for name, version in found.items() if version is not None}


def fitted_with(facts: Mapping[str, Any], *, otherwise: str) -> str:
    """Return the version of BioFuse that a model was fitted with, by its facts."""
    return str(facts.get("versions", {}).get(OWN, otherwise))


def installed(distribution: str) -> str | None:
    """Return the version of a distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def mismatch(fitted: Mapping[str, str]) -> str:
    """Say which libraries are of other versions than when a model was fitted, where that can change its answers.

    Libraries that are not here at all are left to those who need them.

    Parameters
    ----------
    fitted : mapping of str to str
        What :func:`versions_of` returned then; empty for models of versions of BioFuse that did not note it.

    Returns
    -------
    str
        A sentence; empty where nothing matters.
    """
    here = {name: installed(name) for name in fitted}
    different = {
        name: version
        for name, version in here.items()
        if version is not None and _leading(name, version) != _leading(name, fitted[name])
    }
    if not different:
        return ""
    then = ", ".join(f"{name} {fitted[name]}" for name in different)
    now = ", ".join(different.values())
    return (
        f"This model was fitted with {then}; here {'is' if len(different) == 1 else 'are'} {now}: its predictions may "
        "differ from those it was tested by."
    )


def _leading(name: str, version: str) -> list[str]:
    return version.split("+", maxsplit=1)[0].split(".")[: MATTER.get(name, 0)]
