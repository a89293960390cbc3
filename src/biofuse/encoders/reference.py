"""Golden vectors: what an encoder gave for a fixed set of real images when somebody knew it to be right."""

import datetime
import importlib.metadata
import importlib.resources
import json
import platform
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import ArtifactError, DependencyError
from biofuse.core.files import atomic_path
from biofuse.core.hashing import digest
from biofuse.encoders.card import EncoderCard
from biofuse.encoders.encoder import Embeddings, Encoder
from biofuse.encoders.loaders import libraries_of

IMAGES = {
    "astronaut.png": "6297127cf97a55f68b26b6b9d60de62a",
    "chelsea.png": "ec40bd7625c9df4b8677014e16ac7185",
    "ihc.png": "0c633a435c2f9daa227da788326429e4",
    "cell.png": "00bbbc488015e033d3bf6f02fdcd9dca",
    "coins.png": "a1996c31da862090bc5d926e8f29da03",
    "microaneurysms.png": "133a17dc4ee5d9da626ee8d69fbc751a",
}
"""Images that come with scikit-image, and the BLAKE2b-128 of their pixels as RGB: a portrait and a cat (general),
stained tissue, a cell under the microscope, coins (grey, tall edges), and a piece of a retina that has to be enlarged.
All are PNG, which every decoder reads alike."""

COSINE = 0.9999
"""Cosine that an embedding must have with its golden vector: other hardware keeps it."""

RELATIVE_ERROR = 0.01
"""Length of the difference, relative to the golden vector's: what the angle leaves (0.014), and the scale with it."""

TENSOR = "embeddings"


@dataclass(frozen=True, kw_only=True, eq=False)
class Golden:
    """Golden vectors of one encoder.

    Attributes
    ----------
    fingerprint : str
        Of the card they belong to, in fp32.
    images : dict of str to str
        Names and hashes of the images, a row each.
    embeddings : ndarray of float32, shape (len(images), dim)
    made_with : dict of str to str
        Versions of the libraries and of BioFuse, and the device.
    weights : dict of str to str
        Repository, revision, file and SHA-256 of the weights that were run; empty for encoders without.
    by : str
        Who made them, and says that the weights are the published ones.
    date : str
        The day, as in 2026-11-27.
    """

    fingerprint: str
    images: Mapping[str, str]
    embeddings: Embeddings
    made_with: Mapping[str, str]
    weights: Mapping[str, str]
    by: str
    date: str


@dataclass(frozen=True, kw_only=True)
class GoldenComparison:
    """How an encoder's embeddings compare with its golden vectors.

    Attributes
    ----------
    cosine : float
        The smallest of any image.
    relative_error : float
        The largest of any image.
    problem : str
        Why the two cannot be compared, or do not agree; empty where they do.
    """

    cosine: float | None
    relative_error: float | None
    problem: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the embeddings are the golden ones."""
        return not self.problem


def fixed_images() -> dict[str, NDArray[np.uint8]]:
    """Return the images that golden vectors are made of, by name: uint8, shape (height, width, 3).

    Raises
    ------
    DependencyError
        If this release of scikit-image does not bring them, or brings others.
    """
    from PIL import Image

    folder = importlib.resources.files("skimage") / "data"
    images: dict[str, NDArray[np.uint8]] = {}
    for name, expected in IMAGES.items():
        try:
            with (folder / name).open("rb") as file:
                images[name] = np.asarray(Image.open(file).convert("RGB"))
        except OSError as error:
            raise DependencyError(
                f"The image {name}, on which encoders are verified, does not come with this scikit-image.",
                remedy="pip install scikit-image==0.26.0",
            ) from error
        if pixel_hash(images[name]) != expected:
            raise DependencyError(
                f"The image {name}, on which encoders are verified, is another one in this scikit-image.",
                remedy="pip install scikit-image==0.26.0",
            )
    return images


def pixel_hash(image: NDArray[np.uint8]) -> str:
    """Return the hash of an image's pixels and shape."""
    return digest(str(image.shape).encode(), np.ascontiguousarray(image).tobytes()).hex()


def embed_fixed(encoder: Encoder) -> Embeddings:
    """Embed the fixed images one by one, each as its card prepares it."""
    prepare = encoder.card.preprocessing.apply
    return np.concatenate([encoder.encode(prepare(image)[None]) for image in fixed_images().values()])


def make_golden(encoder: Encoder, *, device: str, by: str = "") -> Golden:
    """Return golden vectors of an encoder that is loaded in fp32 and known to be right; ``by`` says who knows it."""
    return Golden(
        fingerprint=encoder.card.fingerprint(),
        images=dict(IMAGES),
        embeddings=embed_fixed(encoder),
        made_with={**_versions(encoder.card), "device": device.partition(":")[0]},
        weights=_identity(encoder.card),
        by=by,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def _identity(card: EncoderCard) -> dict[str, str]:
    if card.weights is None:
        return {}
    told = card.weights.model_dump(include={"repository", "revision", "file", "sha256"}, mode="json")
    return {field: str(value) for field, value in told.items() if value}


@dataclass(frozen=True, kw_only=True)
class Proof:
    """That somebody ran an encoder with its published weights and sent in what it gave.

    Attributes
    ----------
    by : str
        Who.
    date : str
        When, as in 2026-11-27.
    sha256 : str
        Of the weight file; empty for encoders without.
    holds : bool
        Whether it is of the card as it is now; a card that was changed since has to be proven again.
    """

    by: str
    date: str
    sha256: str
    holds: bool


def proof_of(card: EncoderCard) -> Proof | None:
    """Return who has proven an encoder with its published weights, by the golden vectors that come with BioFuse."""
    golden = read_golden(card.name)
    if golden is None:
        return None
    sha256 = golden.weights.get("sha256", "")
    same = card
    if card.weights is not None and sha256:
        seen = {"sha256": sha256} | {key: golden.weights[key] for key in ("revision",) if key in golden.weights}
        same = card.model_copy(update={"weights": card.weights.model_copy(update=seen)})
    holds = golden.fingerprint in {card.fingerprint(), same.fingerprint()}
    return Proof(by=golden.by, date=golden.date, sha256=sha256, holds=holds)


def compare(made: Golden, golden: Golden) -> GoldenComparison:
    """Compare embeddings just made with golden vectors.

    Returns
    -------
    Comparison
        With a problem if they are of another card, of other images, or differ by more than :data:`COSINE` and
        :data:`RELATIVE_ERROR` allow.
    """
    if made.fingerprint != golden.fingerprint:
        return _incomparable(f"the golden vectors are of another card: {golden.fingerprint}, not {made.fingerprint}")
    if dict(made.images) != dict(golden.images) or made.embeddings.shape != golden.embeddings.shape:
        return _incomparable("the golden vectors are of other images")
    now, then = made.embeddings.astype(np.float64), golden.embeddings.astype(np.float64)
    lengths = np.linalg.norm(now, axis=1), np.linalg.norm(then, axis=1)
    tiny = np.finfo(np.float64).tiny
    cosine = float((np.sum(now * then, axis=1) / np.maximum(lengths[0] * lengths[1], tiny)).min())
    error = float((np.linalg.norm(now - then, axis=1) / np.maximum(lengths[1], tiny)).max())
    problem = ""
    if not (cosine >= COSINE and error <= RELATIVE_ERROR):
        problem = (
            f"its embeddings are not the golden ones (made with {_words(golden.made_with)}): smallest cosine "
            f"{cosine:.6f}, largest relative error {error:.2g}"
        )
    return GoldenComparison(cosine=cosine, relative_error=error, problem=problem)


def _incomparable(problem: str) -> GoldenComparison:
    return GoldenComparison(cosine=None, relative_error=None, problem=problem)


def read_golden(name: str, *, folder: Path | None = None) -> Golden | None:
    """Return the golden vectors of an encoder, or None if there are none.

    Files are called after the encoder, with a hyphen in place of a variant's colon.

    Parameters
    ----------
    name : str
        The encoder's.
    folder : Path, optional
        Where they lie; by default those that come with BioFuse.

    Raises
    ------
    ArtifactError
        If the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    with ExitStack() as stack:
        if folder is None:
            packaged = importlib.resources.files("biofuse.encoders") / "golden_vectors" / _file_name(name)
            path = stack.enter_context(importlib.resources.as_file(packaged)) if packaged.is_file() else None
        else:
            path = folder / _file_name(name)
        if path is None or not path.is_file():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                facts = file.metadata() or {}
                return Golden(
                    fingerprint=facts["fingerprint"],
                    images=json.loads(facts["images"]),
                    embeddings=file.get_tensor(TENSOR),
                    made_with=json.loads(facts["made_with"]),
                    weights=json.loads(facts["weights"]),
                    by=facts["by"],
                    date=facts["date"],
                )
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise ArtifactError(
                f"{path} does not hold golden vectors: {error}.", remedy="Write them again: encoders verify --write."
            ) from error


def write_golden(name: str, golden: Golden, folder: Path) -> Path:
    """Write golden vectors as ``<name>.safetensors`` into a folder.

    Raises
    ------
    DiskError
        If it cannot be written to.
    """
    from safetensors.numpy import save

    facts = {
        "fingerprint": golden.fingerprint,
        "images": json.dumps(dict(golden.images)),
        "made_with": json.dumps(dict(golden.made_with)),
        "weights": json.dumps(dict(golden.weights)),
        "by": golden.by,
        "date": golden.date,
    }
    target = folder / _file_name(name)
    with atomic_path(target) as temporary:
        temporary.write_bytes(save({TENSOR: golden.embeddings.astype(np.float32)}, metadata=facts))
    return target


def _file_name(encoder: str) -> str:
    return f"{encoder.replace(':', '-')}.safetensors"


def _versions(card: EncoderCard) -> dict[str, str]:
    used = {"pillow", "numpy", *libraries_of(card.loader).values(), *card.requires}
    if card.runtime == "torch":
        used.add("torch")
    installed = {name: importlib.metadata.version(name) for name in sorted(used)}
    return {
        "biofuse": importlib.metadata.version("biofuse-embed"),
        **installed,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _words(facts: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
