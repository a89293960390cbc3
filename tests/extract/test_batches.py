import threading

import numpy as np
import pytest

from biofuse.blocks.reader import read_blocks
from biofuse.core.errors import EncoderError
from biofuse.extract.engine import extract
from biofuse.extract.forward import BatchSizes, out_of_memory
from biofuse.extract.options import ExtractOptions


def limited(room, seen, error=RuntimeError):
    def encode(images):
        seen.append(len(images))
        if len(images) > room:
            raise error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return images * 2

    return encode


def test_a_batch_is_halved_until_it_fits_and_that_is_remembered_and_said_once():
    said, seen, freed = [], [], []
    sizes = BatchSizes({"a": 16}, tell=said.append, free=lambda: freed.append(True))
    images = np.arange(20)
    np.testing.assert_array_equal(np.concatenate(sizes.run("a", images, limited(5, seen))), images * 2)
    assert seen == [16, 8, 4, 4, 4, 4, 4]
    assert said == [
        "Memory ran out: a goes on with batches of 8.",
        "Memory ran out: a goes on with batches of 4.",
    ]
    assert len(freed) == 2
    seen.clear()
    sizes.run("a", images, limited(5, seen))
    assert seen == [4] * 5
    assert len(said) == 2


def test_one_image_too_many_is_an_error_that_says_what_to_do():
    sizes = BatchSizes({"a": 4})
    with pytest.raises(EncoderError, match="a runs out of memory with a single image") as caught:
        sizes.run("a", np.arange(4), limited(0, []))
    assert "--device cpu" in caught.value.remedy


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def broken(images):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        BatchSizes({"a": 4}).run("a", np.arange(4), broken)


def chained(inner):
    try:
        try:
            raise inner
        except BaseException as error:
            raise EncoderError("Encoder a failed on a batch") from error
    except EncoderError as error:
        return error


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (OutOfMemoryError("?"), True),
        (chained(OutOfMemoryError("?")), True),
        (chained(ValueError("out of memory of last year")), False),
        (ValueError("out of memory"), False),
        (RuntimeError("shape"), False),
    ],
)
def test_what_counts_as_a_lack_of_memory(error, expected):
    assert out_of_memory(error) is expected


def test_torchs_own_error_counts():
    import torch

    assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory"))


def test_threads_that_run_out_together_halve_once():
    said, barrier = [], threading.Barrier(2)
    sizes = BatchSizes({"a": 8}, tell=said.append)

    def encode(images):
        if len(images) == 8:
            barrier.wait(timeout=10)
            raise MemoryError
        return images

    threads = [threading.Thread(target=sizes.run, args=("a", np.arange(8), encode)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == ["Memory ran out: a goes on with batches of 4."]
    assert sizes["a"] == 4


def test_an_extraction_survives_a_lack_of_memory_with_every_row(network, pictures, store):
    # Three images are what an encoder is checked with when it is loaded.
    tight, roomy, said = network("b_tight", room=3), network("b_roomy"), []
    options = ExtractOptions(workers=0, batch_size=16)
    done = extract(pictures(21), [tight, roomy], store=store, options=options, tell=said.append)
    assert [work.computed for work in done.work] == [21, 21]
    blocks = read_blocks(store, [tight, roomy], ids=done.samples.ids, contents=done.contents)
    np.testing.assert_allclose(blocks["b_tight"], blocks["b_roomy"], atol=1e-6)
    assert "Memory ran out: b_tight goes on with batches of 2." in said
    assert max(entry.images for entry in network.log if entry.encoder == "b_roomy") == 16
