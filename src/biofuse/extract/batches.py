"""How many images go through an encoder at once, found out where it has to be."""

import gc
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from biofuse.core.errors import EncoderError

Tell = Callable[[str], None]


class Sliceable(Protocol):
    """Images that some can be taken of: an array, or a tensor."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


Batch = TypeVar("Batch", bound=Sliceable)
Result = TypeVar("Result")

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "failed to allocate")
"""What is in the message of a ``RuntimeError`` (DefaultCPUAllocator, MPS, ONNX Runtime) that memory ran out."""


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error, or what caused it, says that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        named = type(seen).__name__ == "OutOfMemoryError"  # torch's own; torch may not be loaded
        if named or isinstance(seen, MemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(words in str(seen).lower() for words in OUT_OF_MEMORY):
            return True
        seen = seen.__cause__
    return False


class BatchSizes:
    """How many images each encoder takes at once; halved when memory runs out, and remembered.

    Parameters
    ----------
    sizes : mapping of str to int
        To begin with.
    tell : callable
        Is told when one is halved.
    free : callable, optional
        Gives memory back that the device's allocator keeps.
    """

    def __init__(
        self, sizes: Mapping[str, int], *, tell: Tell = lambda _: None, free: Callable[[], None] | None = None
    ) -> None:
        self._sizes = dict(sizes)
        self._tell = tell
        self._free = free or (lambda: None)
        self._lock = threading.Lock()

    def __getitem__(self, encoder: str) -> int:
        return self._sizes[encoder]

    def run(self, encoder: str, images: Batch, encode: Callable[[Batch], Result]) -> list[Result]:
        """Embed images, a few at a time, and again in smaller batches where memory runs out.

        Parameters
        ----------
        encoder : str
        images : ndarray or torch.Tensor, shape (n, ...)
        encode : callable
            Takes some of them.

        Returns
        -------
        list
            What ``encode`` gave, in the order of the images.

        Raises
        ------
        EncoderError
            If memory runs out for a single image.
        """
        parts: list[Result] = []
        done = 0
        while done < len(images):
            size = min(self._sizes[encoder], len(images) - done)
            try:
                parts.append(encode(images[done : done + size]))
            except (RuntimeError, MemoryError, EncoderError) as error:
                if not out_of_memory(error):
                    raise
                message = str(error)
            else:
                done += size
                continue
            # Only here: while the error is handled, its traceback holds on to the tensors of the failed pass.
            self._halve(encoder, size, message)
        return parts

    def _halve(self, encoder: str, tried: int, message: str) -> None:
        gc.collect()
        self._free()
        if tried == 1:
            raise EncoderError(
                f"{encoder} runs out of memory with a single image: {message.splitlines()[0]}",
                remedy="Use a device with more memory (--device cpu), or leave this encoder out.",
            )
        with self._lock:
            smaller = tried // 2
            if smaller < self._sizes[encoder]:  # another thread may have been quicker
                self._sizes[encoder] = smaller
                self._tell(f"Memory ran out: {encoder} goes on with batches of {smaller}.")
