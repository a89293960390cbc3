"""Encoders that are ONNX files of the user's own."""

from pathlib import Path
from typing import Any

import numpy as np

from biofuse.core.errors import DependencyError, EncoderError, WeightsError, option
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.encoder import Embeddings, UInt8Images, as_tensor, require_embeddings, require_images
from biofuse.encoders.weights import locate, verify

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Devices, and what ONNX Runtime calls them."""


class OnnxEncoder:
    """An ONNX graph in a session of ONNX Runtime.

    Parameters
    ----------
    card : EncoderCard
        The record it was built from.
    session : onnxruntime.InferenceSession
        Has one input: normalised images of shape (n, 3, height, width), float32.
    output : str
        Name of the output that is the embedding.
    """

    def __init__(self, card: EncoderCard, session: Any, *, output: str) -> None:
        self._card = card
        self._session = session
        self._output = output
        entry = session.get_inputs()[0]
        self._input: str = entry.name
        self._batch: int | None = entry.shape[0] if isinstance(entry.shape[0], int) else None

    @property
    def card(self) -> EncoderCard:
        """The record it was built from."""
        return self._card

    def encode(self, images: UInt8Images) -> Embeddings:
        """Embed a batch that ``card.preprocessing.apply`` has prepared.

        A graph made for a fixed number of images is run on that many at a time.

        Parameters
        ----------
        images : ndarray of uint8, shape (n, height, width, 3)

        Returns
        -------
        ndarray of float32, shape (n, card.dim)

        Raises
        ------
        EncoderError
            If the images are not of the card's size, or the embeddings not of its dimension or not finite.
        """
        require_images(self._card, images)
        if len(images) == 0:
            return np.zeros((0, self._card.dim), dtype=np.float32)
        pixels = self._card.preprocessing.normalise(as_tensor(images)).contiguous().numpy()
        size = self._batch or len(pixels)
        rows = [self._run(pixels[start : start + size], size) for start in range(0, len(pixels), size)]
        return require_embeddings(self._card, np.concatenate(rows), rows=len(images))

    def _run(self, pixels: Any, size: int) -> Any:
        missing = size - len(pixels)
        full = pixels if missing == 0 else np.concatenate([pixels, np.repeat(pixels[:1], missing, axis=0)])
        result = np.asarray(self._session.run([self._output], {self._input: full})[0], dtype=np.float32)
        if result.ndim != 2:
            raise EncoderError(
                f"The output {self._output!r} of {self._card.name} has the shape {result.shape}: no row per image.",
                remedy="Name another output: register_onnx(..., output_name=...).",
            )
        return result[: len(pixels)]


def build(
    card: EncoderCard, *, device: str = "cpu", precision: Precision = "fp32", weights_path: Path | None = None
) -> OnnxEncoder:
    """Build the encoder that a card of the ``onnx`` family describes.

    Raises
    ------
    DependencyError
        If ONNX Runtime is not installed.
    EncoderError
        If the device or precision cannot be had, or the graph's input or output is not what the card says.
    WeightsError
        If the file is missing, damaged, or not the one on the card.
    """
    if card.weights is None:
        raise WeightsError(f"{card.name} names no ONNX file.")
    if precision != "fp32":
        raise EncoderError(
            f"{card.name} is an ONNX file, whose precision is fixed: {precision} cannot be had.",
            remedy="Use fp32, and convert the file if a lower precision is wanted.",
        )
    path = locate(card, weights_path)
    sha256 = verify(card.name, card.weights, path)
    session = _session(card, path, device)
    card = card.model_copy(update={"weights": card.weights.model_copy(update={"sha256": sha256})})
    return OnnxEncoder(card, session, output=_agreed_output(card, session))


def _session(card: EncoderCard, path: Path, device: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise DependencyError(
            f"{card.name} is an ONNX file, and ONNX Runtime is not installed.",
            remedy="pip install 'biofuse-embed[onnx]'",
        ) from error
    kind = device.partition(":")[0]
    provider = PROVIDERS.get(kind)
    if provider is None or provider not in onnxruntime.get_available_providers():
        raise EncoderError(
            f"This installation of ONNX Runtime cannot run {card.name} on {device!r}.",
            remedy=f"Use {option('device', 'cpu')}, or install onnxruntime-gpu for cuda.",
        )
    number = int(device.partition(":")[2] or 0)
    providers: list[Any] = [provider] if kind == "cpu" else [(provider, {"device_id": number}), PROVIDERS["cpu"]]
    try:
        # From bytes, not from the path: a graph that keeps weights in other files would escape the hash, and fails so.
        return onnxruntime.InferenceSession(path.read_bytes(), providers=providers)
    except Exception as error:  # its errors share no class of their own
        raise WeightsError(
            f"{path} is not an ONNX file that ONNX Runtime {onnxruntime.__version__} can load: {error}",
            remedy="Export it again with all weights in one file, without operators of its own.",
        ) from error


def _agreed_output(card: EncoderCard, session: Any) -> str:
    inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
    side = card.preprocessing.output_size
    shape = inputs[0].shape
    fits = len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(shape) == 4
    if not fits or any(
        isinstance(has, int) and has != must for has, must in zip(shape[1:], (3, side, side), strict=True)
    ):
        raise EncoderError(
            f"{card.name} must take one input of float32 images (n, 3, {side}, {side}); its graph takes "
            f"{', '.join(f'{entry.name}: {entry.type} {entry.shape}' for entry in inputs)}.",
            remedy="Correct its preprocessing, or export the graph with one image input, channels first.",
        )
    wanted: str = card.arguments.get("output") or (outputs[0] if len(outputs) == 1 else "")
    if wanted not in outputs:
        raise EncoderError(
            f"{card.name} has the outputs {', '.join(outputs)}"
            + (f", and none called {wanted!r}." if wanted else "; its card does not say which is the embedding."),
            remedy="Name it: register_onnx(..., output_name=...).",
        )
    return wanted
