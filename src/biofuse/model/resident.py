"""A model whose encoders stay loaded: for one image after another, in a program that goes on running."""

import contextlib
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from biofuse.blocks.blocks import Blocks
from biofuse.blocks.pooling import Bags, Pooling
from biofuse.core.errors import BioFuseError, BioFuseWarning, DataError
from biofuse.core.machine import keep_freed_memory
from biofuse.data.decoding import DecodePolicy, FileSource, decode, raw_image
from biofuse.data.objects import check_stack
from biofuse.data.samples import row_id
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.doctor import require_libraries
from biofuse.encoders.encoder import Encoder
from biofuse.encoders.plugins import naming_plugins
from biofuse.encoders.registry import Plugin
from biofuse.encoders.weights import pin
from biofuse.evaluation.operating import Threshold
from biofuse.extract.local import LocalEngine
from biofuse.extract.options import ExtractOptions
from biofuse.extract.plan import CPU_BATCH, DEVICE_BATCH, native
from biofuse.extract.prepare import encode

if TYPE_CHECKING:
    import pandas as pd

RGBImage = NDArray[np.uint8]


class Answering(Protocol):
    """What a resident predictor needs of a model: :class:`biofuse.BioFuseModel` has it."""

    @property
    def cards(self) -> tuple[EncoderCard, ...]:
        """The encoders."""
        ...

    @property
    def encoders(self) -> tuple[str, ...]:
        """Their names."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the probability columns."""
        ...

    @property
    def precisions(self) -> Mapping[str, Precision]:
        """What they compute in."""
        ...

    @property
    def pooling(self) -> Pooling:
        """How the embeddings of the images of one sample become one vector."""
        ...

    @property
    def decode(self) -> DecodePolicy:
        """How image files become pixels."""
        ...

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Files that registered encoders."""
        ...

    def probabilities(self, blocks: Blocks) -> NDArray[np.float64]:
        """Return the probabilities of embedded images."""
        ...

    def refuse_questions(
        self, *, threshold: Threshold | None, sensitivity: float | None, coverage: float | None
    ) -> None:
        """Refuse what cannot be asked, before an image is read."""
        ...

    def tabulate(
        self,
        blocks: Blocks,
        *,
        ids: Sequence[str] | None = None,
        threshold: Threshold | None = None,
        sensitivity: float | None = None,
        coverage: float | None = None,
        class_conditional: bool = False,
    ) -> "pd.DataFrame":
        """Return the table of embedded images."""
        ...


class ResidentPredictor:
    """Predicts with encoders that are loaded once; made by :meth:`biofuse.BioFuseModel.resident`.

    The answers are those of the model's own methods, to rounding. Nothing is written, and nothing is looked up in a
    store. Several threads may call it at once: each reads, decodes and resizes its own images, and they take turns with
    the encoders. A context manager.

    Parameters
    ----------
    model : BioFuseModel
    options : ExtractOptions
        Device, batch size and folder of weights; the rest has no say here.

    Raises
    ------
    DependencyError
        If a library that an encoder needs is not installed.
    EncoderError
        If an encoder cannot be loaded, or is not what its card says.

    Examples
    --------
    >>> from pathlib import Path
    >>> import biofuse
    >>> model = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", progress=False).model
    >>> with model.resident() as predictor:
    ...     predictor.predict([Path("new.png").read_bytes()])["prediction"].tolist()
    ['malignant']
    """

    def __init__(self, model: Answering, *, options: ExtractOptions) -> None:
        self._model = model
        self._lock = threading.Lock()
        engine = LocalEngine(options)
        with contextlib.ExitStack() as stack:
            for card in model.cards:
                require_libraries(card)
            networks = any(card.runtime == "torch" for card in model.cards)
            device = engine.device if networks else "cpu"
            if networks and device == "cpu":
                stack.enter_context(keep_freed_memory())
            self._encoders: dict[str, Encoder] = {}
            for card in map(pin, model.cards):
                precision = wanted = model.precisions.get(card.name, "fp32")
                if not native(wanted, device):
                    precision = "fp32"
                    warnings.warn(
                        f"{card.name} is run at fp32: this device has no {wanted}, which it was run at before.",
                        BioFuseWarning,
                        stacklevel=3,
                    )
                with naming_plugins(model.plugins):
                    self._encoders[card.name] = engine.load(card, precision)
            self._at_once = options.batch_size or (CPU_BATCH if device == "cpu" else DEVICE_BATCH)
            self._sizes = engine.sizes(self._encoders, self._at_once)
            self._release = weakref.finalize(self, stack.pop_all().close)

    @property
    def model(self) -> Answering:
        """The model."""
        return self._model

    def predict(
        self,
        images: Sequence[Any] | NDArray[Any],
        *,
        threshold: Threshold | None = None,
        sensitivity: float | None = None,
        coverage: float | None = None,
        class_conditional: bool = False,
    ) -> "pd.DataFrame":
        """Return the table of :meth:`BioFuseModel.predict_frame`: id, prediction, probabilities, novelty.

        The id of a path is that path, of any other image its number in the list (``000012``). Unlike there, no warning
        is given of images that are unlike the development data: the column ``novelty`` says it.

        Parameters
        ----------
        images : sequence, or ndarray of shape (n, height, width) or (n, height, width, channels)
            Paths, the bytes of files, arrays [height, width(, channels)], Pillow images, tensors; mixed as you like. A
            list or tuple of these is one sample, a bag of several images.
        threshold, sensitivity, coverage, class_conditional
            As of :meth:`BioFuseModel.predict_frame`.

        Raises
        ------
        UnreadableImageError
            If an image cannot be read; names its file, or its number in the list.
        DataError
            If there is no image, or ``images`` is a single one.
        BioFuseError
            If the predictor is closed.
        """
        model = self._model
        model.refuse_questions(threshold=threshold, sensitivity=sensitivity, coverage=coverage)
        return model.tabulate(
            self._blocks(images),
            ids=[_name(image, row) for row, image in enumerate(images)],
            threshold=threshold,
            sensitivity=sensitivity,
            coverage=coverage,
            class_conditional=class_conditional,
        )

    def predict_proba(self, images: Sequence[Any] | NDArray[Any]) -> NDArray[np.float64]:
        """Return probabilities as :meth:`BioFuseModel.predict_proba` does, shape (n, n_classes).

        Parameters and errors are those of :meth:`predict`.
        """
        return self._model.probabilities(self._blocks(images))

    def embed(self, images: Sequence[Any] | NDArray[Any]) -> NDArray[np.float32]:
        """Return embeddings as :meth:`BioFuseModel.embed` does, shape (n, dim).

        Parameters and errors are those of :meth:`predict`.
        """
        blocks = self._blocks(images)
        return np.concatenate([blocks[name] for name in self._model.encoders], axis=1)

    def close(self) -> None:
        """Let go of the encoders, as soon as the batch under way is through; may be called twice."""
        with self._lock:
            self._encoders = {}
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _blocks(self, images: Sequence[Any] | NDArray[Any]) -> Blocks:
        """Embed images, some at a time; ids are their numbers, since one file may come twice."""
        if isinstance(images, np.ndarray):
            check_stack(images)
        elif not isinstance(images, Sequence) or isinstance(images, str | bytes):
            raise DataError(
                f"{type(images).__name__} is not a list of images.", remedy="Put a single image into a list."
            )
        if not len(images):
            raise DataError("The list holds no image.", remedy="Give at least one image.")
        bags = [each if isinstance(each, list | tuple) else (each,) for each in images]
        sizes = np.array([len(bag) for bag in bags], dtype=np.int64)
        if not sizes.all():
            raise DataError(f"Sample {sizes.argmin()} of the list holds no image.", remedy="Leave it out.")
        flat = [
            (image, f"image {row} of the list" if len(bag) == 1 else f"image {place} of sample {row} of the list")
            for row, bag in enumerate(bags)
            for place, image in enumerate(bag)
        ]
        pieces: dict[str, list[NDArray[np.float32]]] = {name: [] for name in self._model.encoders}
        for start in range(0, len(flat), self._at_once):
            some = [self._decode(*each) for each in flat[start : start + self._at_once]]
            for name, embeddings in self._embed(some):
                pieces[name].append(embeddings)
        ids = np.array([row_id(row) for row in range(len(images))], dtype=object)
        of_images = {name: np.concatenate(found) for name, found in pieces.items()}
        found = Bags(matrices=of_images, starts=np.cumsum(sizes) - sizes, sizes=sizes, pooling=self._model.pooling)
        return Blocks(ids=ids, matrices=found.pooled(self._model.pooling), bags=found)

    def _decode(self, image: Any, called: str) -> RGBImage:
        named = isinstance(image, str | Path)
        description = FileSource(Path(image)).description if named else called
        return decode(raw_image(image, description=description), self._model.decode, description=description)

    def _embed(self, images: Sequence[RGBImage]) -> list[tuple[str, NDArray[np.float32]]]:
        kinds = {card.preprocessing.resize_key: card.preprocessing for card in self._model.cards}
        resized = {key: np.stack([each.apply(image) for image in images]) for key, each in kinds.items()}
        found = []
        with self._lock:
            if not self._encoders:
                raise BioFuseError("This predictor is closed.", remedy="Make another: model.resident().")
            for name, encoder in self._encoders.items():
                through: Callable[[RGBImage], NDArray[np.float32]] = _through(encoder)
                parts = self._sizes.run(name, resized[encoder.card.preprocessing.resize_key], through)
                found.append((name, np.concatenate(parts)))
        return found


def _through(encoder: Encoder) -> Callable[[RGBImage], NDArray[np.float32]]:
    return lambda images: encode(encoder, images)


def _name(image: Any, row: int) -> str:
    return Path(image).as_posix() if isinstance(image, str | Path) else row_id(row)
