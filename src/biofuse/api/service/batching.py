"""Images of many requests, predicted together: a queue with an end, a short wait, and threads that take turns."""

import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from biofuse.core.errors import BioFuseError
from biofuse.data.decoding import RGBImage, decode
from biofuse.model.resident import ResidentPredictor
from biofuse.model.tables import NOVELTY

AT_ONCE = 32
"""Most images that are predicted together: twice what a processor takes in one forward pass, half of what an
accelerator does."""

WAIT = 0.005
"""Seconds that the first image of a batch waits for others. Under load none does: while a batch is computed, the next
one gathers."""

THREADS = 2
"""Threads that take batches: one decodes and resizes while the other has the encoders."""

PIXELS = 1 << 26
"""Decoded pixels that one thread holds before it predicts what it has: 200 MB."""

LONGEST_PATIENCE = 60
"""Most seconds after which somebody is told to come again."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageScores:
    """What the model says of one image.

    Attributes
    ----------
    probabilities : ndarray of float64, shape (n_classes,)
        Calibrated.
    novelty : float or None
        Percentile of the development data's own distances; None where the model does not know it.
    """

    probabilities: NDArray[np.float64]
    novelty: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Upload:
    """A file that somebody has sent.

    Attributes
    ----------
    name : str
        What it is called in answers.
    content : bytes
    """

    name: str
    content: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Waiting:
    uploads: tuple[Upload, ...]
    future: "Future[ImageScores]"
    since: float


class QueueFullError(BioFuseError):
    """More images wait than may wait."""


class Watcher(Protocol):
    """Is told of every batch."""

    def __call__(self, images: int, seconds: float) -> None:
        """Hear how many images were predicted together, and how long that took."""


def _unwatched(images: int, seconds: float) -> None:
    """Hear it, and do nothing."""


class Batcher:
    """Predicts images in the order in which they come, as many together as there are.

    Parameters
    ----------
    predictor : ResidentPredictor
        Its encoders stay loaded; whoever made it closes it.
    capacity : int
        Images that may wait.
    at_once : int
        Most images that are predicted together.
    wait : float
        Seconds that the first of a batch waits for others.
    watch : callable, optional
        Is told of every batch: images, and seconds.
    """

    def __init__(
        self,
        predictor: ResidentPredictor,
        *,
        capacity: int,
        at_once: int = AT_ONCE,
        wait: float = WAIT,
        watch: Watcher = _unwatched,
    ) -> None:
        self.capacity = capacity
        self._predictor, self._model = predictor, predictor.model
        self._at_once, self._wait, self._watch = at_once, wait, watch
        self._queue: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._pace = 0.0  # seconds per image, lately
        self._threads = [threading.Thread(target=self._work, name=f"predict-{n}", daemon=True) for n in range(THREADS)]
        for thread in self._threads:
            thread.start()

    @property
    def depth(self) -> int:
        """Images that wait."""
        return sum(len(each.uploads) for each in self._queue)

    @property
    def patience(self) -> int:
        """Seconds after which those that wait now will probably be done."""
        return min(max(math.ceil(self.depth * self._pace), 1), LONGEST_PATIENCE)

    def submit(self, uploads: Sequence[Upload], *, bag: bool = False) -> "list[Future[ImageScores]]":
        """Put the images of one request into the queue: all of them, or none.

        Parameters
        ----------
        uploads : sequence of Upload
        bag : bool, default False
            Whether they are the images of one sample.

        Returns
        -------
        list of Future
            Of each image, in order, or of the one sample: what is found, or the error that says why it cannot be. One
            that is cancelled while it waits is taken out again.

        Raises
        ------
        QueueFullError
            If there is no room for them, or no more are taken.
        """
        samples = [tuple(uploads)] if bag else [(each,) for each in uploads]
        entered = [_Waiting(uploads=each, future=Future(), since=time.monotonic()) for each in samples]
        with self._changed:
            if self._closing:
                raise QueueFullError("The service is stopping.", remedy="Send the images again once it has started.")
            if self.depth + len(uploads) > self.capacity:
                raise QueueFullError(
                    f"{self.depth} images wait already, and {self.capacity} may.", remedy="Try again later."
                )
            self._queue.extend(entered)
            self._changed.notify_all()
        for each in entered:
            each.future.add_done_callback(self._forget)
        return [each.future for each in entered]

    def close(self) -> None:
        """Take no more images, predict those that wait, and return when that is done."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _forget(self, future: "Future[ImageScores]") -> None:
        """Take an image out of the queue that nobody waits for any more."""
        if future.cancelled():
            with self._changed:
                self._queue = deque(each for each in self._queue if each.future is not future)

    def _work(self) -> None:
        while batch := self._next():
            start = time.monotonic()
            self._run(batch)
            seconds = time.monotonic() - start
            # The mean of the last ten batches or so.
            images = sum(len(each.uploads) for each in batch)
            self._pace += (seconds / images - self._pace) * (0.1 if self._pace else 1.0)
            self._watch(images, seconds)

    def _next(self) -> list[_Waiting]:
        """Wait for images; return none when there will be no more."""
        while True:
            with self._changed:
                while not self._queue and not self._closing:
                    self._changed.wait()
                if not self._queue:
                    return []
                until = self._queue[0].since + self._wait
                while self.depth < self._at_once and not self._closing and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                taken, images = list[_Waiting](), 0
                while self._queue and (not taken or images + len(self._queue[0].uploads) <= self._at_once):
                    taken.append(self._queue.popleft())
                    images += len(taken[-1].uploads)
            # Outside of the lock: it calls back.
            if batch := [each for each in taken if each.future.set_running_or_notify_cancel()]:
                return batch

    def _run(self, batch: list[_Waiting]) -> None:
        decoded: list[tuple[_Waiting, RGBImage | list[bytes]]] = []
        pixels = 0
        for each in batch:
            if len(each.uploads) > 1:  # decoded some at a time, where they are embedded
                self._predict([(each, [one.content for one in each.uploads])])
                continue
            try:
                image = decode(each.uploads[0].content, self._model.decode, description=each.uploads[0].name)
            except Exception as error:  # whatever it is, it is this image's, and must not stop the thread
                each.future.set_exception(error)
                continue
            decoded.append((each, image))
            pixels += image.shape[0] * image.shape[1]
            if pixels >= PIXELS:
                self._predict(decoded)
                decoded, pixels = [], 0
        if decoded:
            self._predict(decoded)

    def _predict(self, decoded: "list[tuple[_Waiting, RGBImage | list[bytes]]]") -> None:
        try:
            found = self._found([image for _, image in decoded])
        except Exception as error:
            if len(decoded) == 1:
                decoded[0][0].future.set_exception(error)
                return
            for single in decoded:  # one of them must not fail the others
                self._predict([single])
            return
        for (each, _), said in zip(decoded, found, strict=True):
            each.future.set_result(said)

    def _found(self, images: list[RGBImage | list[bytes]]) -> list[ImageScores]:
        frame = self._predictor.predict(images)
        probabilities = frame[[f"p_{name}" for name in self._model.classes]].to_numpy(dtype=np.float64)
        novelty: Sequence[float | None] = frame[NOVELTY].tolist() if NOVELTY in frame else [None] * len(images)
        return [ImageScores(probabilities=row, novelty=said) for row, said in zip(probabilities, novelty, strict=True)]
