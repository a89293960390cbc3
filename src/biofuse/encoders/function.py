"""Encoders that are one Python function, and how encoders of a program reach its other processes."""

import ast
import inspect
import pickle
import sys
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeVar, Unpack

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError, EncoderError
from biofuse.core.hashing import canonical_json, digest, digest_json
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import Embeddings, UInt8Images, require_embeddings, require_images
from biofuse.encoders.preprocessing import Preprocessing, card_errors
from biofuse.encoders.registry import ENCODERS, CardFacts, EncoderRegistry

EncodingFunction = Callable[[NDArray[np.uint8]], Any]
"""Maps images of shape (n, size, size, 3) to an array of shape (n, dim)."""

F = TypeVar("F", bound=EncodingFunction)

STATELESS = (
    "Load state inside the function; or state a version=, which alone then tells one function from another; or "
    "register a network with register_torch."
)


@dataclass(frozen=True)
class FunctionEncoder:
    """A function with a card; travels to worker processes by cloudpickle."""

    card: EncoderCard
    function: EncodingFunction

    def encode(self, images: UInt8Images) -> Embeddings:
        """Embed a batch that ``card.preprocessing.apply`` has prepared.

        Raises
        ------
        EncoderError
            If the images are not of the card's size, the function fails, or its result has another dimension or is
            not finite.
        """
        require_images(self.card, images)
        if len(images) == 0:
            return np.zeros((0, self.card.dim), dtype=np.float32)
        try:
            values = self.function(images)
        except BioFuseError:
            raise
        except Exception as error:  # a user's function may raise anything
            raise EncoderError(
                f"Encoder {self.card.name} failed on {len(images)} images: {type(error).__name__}: {error}",
                remedy="Correct its function; it is given uint8 images of shape (n, size, size, 3).",
            ) from error
        return require_embeddings(self.card, values, rows=len(images))

    def __reduce__(self) -> tuple[object, ...]:
        return _unpacked, (self.card, packed(self.function))


@dataclass(frozen=True)
class FunctionBuilder:
    """Builds the encoder of one registered function."""

    function: EncodingFunction

    def __call__(
        self, card: EncoderCard, *, device: str, precision: Precision, weights_path: Path | None
    ) -> FunctionEncoder:
        """Build it; a function has no weights and runs on the CPU in its own precision."""
        del device, precision, weights_path
        return FunctionEncoder(card, self.function)

    def __reduce__(self) -> tuple[object, ...]:
        return _unpacked_builder, (packed(self.function),)


def register_encoder(
    name: str,
    *,
    dim: int,
    size: int | None = None,
    preprocessing: Preprocessing | None = None,
    version: int | None = None,
    replace: bool = False,
    registry: EncoderRegistry = ENCODERS,
    **facts: Unpack[CardFacts],
) -> Callable[[F], F]:
    """Make an encoder of the function below.

    The function takes uint8 images of shape (n, size, size, 3), red-green-blue, and returns an array of shape (n, dim)
    whose row i depends on image i alone. It runs in the worker processes that decode images.

    The fingerprint of its embeddings holds its source code (without comments, docstring and decorators), the values
    of its defaults and captured variables, and, from its own module, the functions and constants it uses by name and
    that exist when it is registered. What it uses beyond that is not seen: raise ``version`` when that changes.

    Parameters
    ----------
    name : str
        What it will be called.
    dim : int
        Length of the embedding.
    size : int, optional
        Images are scaled so that the shorter side has this many pixels (bicubic), and centre-cropped to a square.
    preprocessing : Preprocessing, optional
        Used instead of ``size`` for anything else. Its mean and std do not matter here: the function sees pixels.
    version : int, optional
        Raise it when the result changes in a way the code does not show; 1 by default. A function whose code cannot be
        told (a lambda, a callable object, one that captures a network) is taken where a version is stated: that alone
        then tells one from another.
    replace : bool, default False
        Whether to replace an encoder of that name whose code differs.
    registry : EncoderRegistry, optional
        Where to register; BioFuse's own by default.
    **facts
        Facts for the card (title, licence, modality, citation, ...); see :class:`biofuse.encoders.EncoderCard`.

    Returns
    -------
    callable
        A decorator that returns the function unchanged.

    Raises
    ------
    EncoderError
        If both or neither of ``size`` and ``preprocessing`` are given, the name is taken, or no version is stated and
        the function has no source code (a lambda) or captures something that cannot be written down, such as a loaded
        network.

    Examples
    --------
    >>> import biofuse
    >>> @biofuse.register_encoder("mean_of_channels", dim=3, size=32)
    ... def mean_of_channels(images):
    ...     return images.mean(axis=(1, 2)) / 255
    >>> biofuse.embed("images/", "mean_of_channels", progress=False).matrix.shape
    (40, 3)
    """
    if (size is None) == (preprocessing is None):
        raise EncoderError(f"{name}: give either size or preprocessing.")
    with card_errors(name):
        prepared = preprocessing or Preprocessing(resize="shortest", size=size or 0, crop=size, interpolation="bicubic")

    def decorate(function: F) -> F:
        code = _identity(function, name, version)
        defaults: CardFacts = {
            "title": name,
            "parameters": 0,
            "licence": "unknown",
            "modality": "none",
            "source": f"function {_called(function)}",
        }
        with card_errors(name):
            card = EncoderCard(
                name=name,
                loader="function",
                arguments={"code": code},
                preprocessing=prepared,
                output="descriptor",
                dim=dim,
                runtime="numpy",
                version=1 if version is None else version,
                **defaults | facts,
            )
        registry.register(card, FunctionBuilder(function), replace=replace)
        return function

    return decorate


def _called(function: object) -> str:
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _identity(function: object, name: str, version: int | None) -> str:
    """Return what tells a function from another: its code, or, where that cannot be told, the version stated for it."""
    if not callable(function):
        raise EncoderError(f"{name}: {type(function).__name__} is no function.", remedy="Give a function of images.")
    try:
        return code_identity(function, name)
    except EncoderError:
        if version is None:
            raise
    return f"stated:{_called(function)}"


def packed(function: object) -> bytes:
    """Pickle a function or another object for a worker process: by value where it could not import its module."""
    import cloudpickle  # type: ignore[import-untyped]

    module = sys.modules.get(function.__module__)
    if module is None or function.__module__ == "__main__" or _importable(module):
        return bytes(cloudpickle.dumps(function))
    cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(function))
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def _unpacked(card: EncoderCard, function: bytes) -> FunctionEncoder:
    return FunctionEncoder(card, pickle.loads(function))  # noqa: S301 (from this program's own parent process)


def _unpacked_builder(function: bytes) -> FunctionBuilder:
    return FunctionBuilder(pickle.loads(function))  # noqa: S301 (from this program's own parent process)


def _importable(module: ModuleType) -> bool:
    """Tell whether a fresh process with the same search path would find this very module."""
    folders: Any = None
    spec = None
    parts = module.__name__.split(".")
    for depth in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), folders)
        if spec is None:
            return False
        folders = spec.submodule_search_locations
    return spec is not None and spec.origin == getattr(module, "__file__", None)


def code_identity(function: object, name: str) -> str:
    """Hash what a function computes, as far as its code shows it.

    Parameters
    ----------
    function : function
        A plain Python function.
    name : str
        The encoder's name, for messages.

    Returns
    -------
    str
        ``source:<hash>``, the same on every Python version.

    Raises
    ------
    EncoderError
        If it is not a plain function, has no source code, or captures something that cannot be written down.
    """
    if not isinstance(function, FunctionType):
        raise EncoderError(f"{name}: expected a function, not {type(function).__name__}.", remedy=STATELESS)
    code = [_source(function, name), _captured(function, name), _named(function, name, {function})]
    return f"source:{digest_json(code)}"


def _source(function: FunctionType, name: str) -> str:
    """Return the code of a function without comments, docstring and decorators."""
    try:
        node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, SyntaxError, IndexError):
        node = None
    if not isinstance(node, ast.FunctionDef):
        raise EncoderError(
            f"{name}: the function {function.__name__!r} has no source code that could be part of the fingerprint.",
            remedy="Write it with def, in a file or a notebook: not as a lambda, nor where no source is kept; or state "
            "a version=, which alone then tells one function from another.",
        )
    node.decorator_list = []
    if ast.get_docstring(node, clean=False) is not None:
        node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(node)


def _captured(function: FunctionType, name: str) -> dict[str, Any]:
    """Return defaults and variables of enclosing functions; they travel with the function, so they must be small."""
    cells = dict(inspect.getclosurevars(function).nonlocals)
    defaults = {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is not parameter.empty
    }
    values: dict[str, Any] = {}
    for variable, value in {**cells, **defaults}.items():
        written = _written(value)
        if written is None:
            raise EncoderError(
                f"{name}: the function captures {variable!r}, a {type(value).__name__}, which would have to travel to "
                "every worker process and cannot be part of the fingerprint.",
                remedy=STATELESS,
            )
        values[variable] = written
    return values


def _named(function: FunctionType, name: str, seen: set[FunctionType]) -> dict[str, Any]:
    """Return the functions and constants of its module that a function uses by name."""
    values: dict[str, Any] = {}
    for variable, value in inspect.getclosurevars(function).globals.items():
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            if value not in seen:
                seen.add(value)
                values[variable] = [_source(value, name), _captured(value, name), _named(value, name, seen)]
        else:
            written = _written(value)
            values[variable] = written if written is not None else getattr(value, "__name__", type(value).__name__)
    return values


def _written(value: Any) -> str | None:
    """Return a JSON value or a small array as text, None for anything else."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        array = np.ascontiguousarray(value)
        return f"{array.dtype.str}{array.shape}:{digest(array.tobytes()).hex()}"
    try:
        return canonical_json(value).decode()
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Builders:
    """What loads the encoders that have a builder of their own, packed; a fresh process may not know them.

    Attributes
    ----------
    cards : tuple of EncoderCard
    builders : tuple of bytes
        One for each card.
    """

    cards: tuple[EncoderCard, ...]
    builders: tuple[bytes, ...]

    def register(self) -> None:
        """Register the encoders in this process."""
        for card, builder in zip(self.cards, self.builders, strict=True):
            # From this program's own parent process.
            ENCODERS.register(card, pickle.loads(builder), replace=True)  # noqa: S301


def pack_builders(cards: Iterable[EncoderCard]) -> Builders:
    """Pack what loads these encoders, as far as it is not BioFuse's own.

    Raises
    ------
    EncoderError
        If a builder cannot be sent to another process.
    """
    own = [(card, ENCODERS.own_builder(card.name)) for card in cards]
    known = [(card, _pack(card, builder)) for card, builder in own if builder is not None]
    return Builders(tuple(card for card, _ in known), tuple(builder for _, builder in known))


def _pack(card: EncoderCard, builder: object) -> bytes:
    try:
        return packed(builder)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise EncoderError(
            f"What loads {card.name} cannot be sent to another process: {error}",
            remedy="Register it from a package (an entry point of the group biofuse.encoders), or run on one device.",
        ) from error
