"""A function becomes an encoder, and a changed function becomes another one."""

import linecache
import pickle
import textwrap
from collections.abc import Callable
from itertools import count
from typing import Any

import cloudpickle
import numpy as np
import pytest

from biofuse.core.errors import EncoderError
from biofuse.encoders import EncoderRegistry, Preprocessing, register_encoder
from biofuse.encoders.function import FunctionEncoder, code_identity

NUMBERS = count()


def mean_colour(images):
    return images.mean(axis=(1, 2))


def function_from(source: str, name: str = "f", **names: Any) -> Callable[..., Any]:
    """Define a function from text, with its source known as if it stood in a file."""
    file = f"<test {next(NUMBERS)}>"
    text = textwrap.dedent(source)
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    space: dict[str, Any] = {"np": np, "__name__": "plugin", **names}
    exec(compile(text, file, "exec"), space)  # noqa: S102
    return space[name]


def identity(source: str, **names: Any) -> str:
    return code_identity(function_from(source, **names), "f")


def test_decorator_returns_the_function_and_registers_it(registry):
    decorated = register_encoder("mean", dim=3, size=16, licence="MIT", title="Mean", registry=registry)(mean_colour)
    assert decorated is mean_colour
    card = registry.get_card("mean")
    assert (card.dim, card.runtime, card.loader, card.licence, card.title) == (3, "numpy", "function", "MIT", "Mean")
    assert card.preprocessing == Preprocessing(size=16, crop=16)
    assert card.source.endswith("mean_colour")
    images = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
    embeddings = registry.load_encoder("mean").encode(images)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, images.mean(axis=(1, 2)), rtol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 3},
        {"dim": 3, "size": 8, "preprocessing": Preprocessing(size=8, crop=8)},
        {"dim": 3, "size": -1},
        {"dim": 0, "size": 8},
    ],
)
def test_impossible_options_are_refused(registry, options):
    with pytest.raises(EncoderError, match="mean"):
        register_encoder("mean", registry=registry, **options)(mean_colour)


def test_invalid_name_is_refused(registry):
    with pytest.raises(EncoderError, match="card of 'Mean colour' is not valid: name"):
        register_encoder("Mean colour", dim=3, size=8, registry=registry)(mean_colour)


def test_registering_the_same_code_again_is_harmless(registry):
    register_encoder("mean", dim=3, size=8, registry=registry)(mean_colour)
    register_encoder("mean", dim=3, size=8, registry=registry)(mean_colour)


BASE = "def f(images):\n    return images.mean(axis=(1, 2))\n"


@pytest.mark.parametrize(
    "same",
    [
        "def f(images):\n    # why\n    return images.mean(axis=(1,2))\n",
        'def f(images):\n    """Say what."""\n    return (images.mean(axis=(1, 2)))\n',
        "if True:\n    def f(images):\n        return images.mean(\n            axis=(1, 2))\n",
        "def keep(g):\n    return g\n\n@keep\ndef f(images):\n    return images.mean(axis=(1, 2))\n",
    ],
)
def test_comments_layout_and_decorators_do_not_count(same):
    assert identity(same) == identity(BASE)
    assert identity(BASE).startswith("source:")


@pytest.mark.parametrize(
    "other",
    [
        "def f(images):\n    return images.max(axis=(1, 2))\n",
        "def f(images):\n    return images.mean(axis=(2, 1)) * 1.0\n",
        "def f(images, gain=1):\n    return images.mean(axis=(1, 2))\n",
    ],
)
def test_changed_code_counts(other):
    assert identity(other) != identity(BASE)


def test_defaults_constants_and_helpers_of_the_module_count():
    with_constant = "GAIN = {}\ndef f(images):\n    return images.mean(axis=(1, 2)) * GAIN\n"
    assert identity(with_constant.format(1)) != identity(with_constant.format(2))
    with_array = "W = np.array({})\ndef f(images):\n    return images.mean(axis=(1, 2)) * W\n"
    assert identity(with_array.format([1, 2, 3])) != identity(with_array.format([1, 2, 4]))
    with_default = "def f(images, gain={}):\n    return images.mean(axis=(1, 2)) * gain\n"
    assert identity(with_default.format(1)) != identity(with_default.format(2))
    with_helper = "def g(x):\n    return x * {}\ndef f(images):\n    return g(images.mean(axis=(1, 2)))\n"
    assert identity(with_helper.format(1)) != identity(with_helper.format(2))
    indirect = "K = {}\ndef h(x):\n    return x * K\ndef g(x):\n    return h(x)\ndef f(images):\n    return g(images)\n"
    assert identity(indirect.format(1)) != identity(indirect.format(2))


def test_recursive_helpers_end():
    mutual = "def g(x, n=3):\n    return x if n == 0 else h(x, n - 1)\ndef h(x, n):\n    return g(x, n)\n"
    assert identity(mutual + "def f(images):\n    return g(images.mean(axis=(1, 2)))\n")


def test_captured_values_count():
    def power(exponent: int) -> Callable[..., Any]:
        def f(images):
            return images.mean(axis=(1, 2)) ** exponent

        return f

    assert code_identity(power(2), "f") != code_identity(power(3), "f")


def test_a_function_without_source_code_is_refused():
    space: dict[str, Any] = {"shade": lambda x: x / 255}
    exec(BASE, space)  # noqa: S102
    for function in (lambda images: images.mean(axis=(1, 2)), space["f"]):
        with pytest.raises(EncoderError, match="no source code") as caught:
            code_identity(function, "f")
        assert "def" in caught.value.remedy
    shade = eval("lambda x: x / 255", {"__name__": "plugin"})  # noqa: S307
    with pytest.raises(EncoderError, match="no source code"):
        identity("def f(images):\n    return shade(images.mean(axis=(1, 2)))\n", shade=shade)


def test_loaded_state_may_not_be_captured(registry):
    import torch

    network = torch.nn.Linear(3, 3)

    def encode(images):
        return network(torch.from_numpy(images.mean(axis=(1, 2))).float()).detach()

    with pytest.raises(EncoderError, match="captures 'network', a Linear") as caught:
        register_encoder("net", dim=3, size=8, registry=registry)(encode)
    assert "register_torch" in caught.value.remedy


@pytest.mark.parametrize("thing", [len, np.mean, np.vectorize(abs), 3])
def test_only_plain_functions_can_be_encoders(registry, thing):
    with pytest.raises(EncoderError, match=r"expected a function|no function"):
        register_encoder("x", dim=3, size=8, registry=registry)(thing)


def test_changed_function_never_reuses_old_embeddings():
    first, second = EncoderRegistry(plugins=False), EncoderRegistry(plugins=False)
    register_encoder("f", dim=3, size=8, registry=first)(function_from(BASE))
    register_encoder("f", dim=3, size=8, registry=second)(function_from(BASE.replace("mean", "max")))
    assert first.get_card("f").fingerprint() != second.get_card("f").fingerprint()
    register_encoder("f", dim=3, size=8, version=2, registry=first, replace=True)(function_from(BASE))
    assert first.get_card("f").version == 2
    with pytest.raises(EncoderError, match="already an encoder"):
        register_encoder("f", dim=3, size=8, registry=second)(function_from(BASE))


def test_version_changes_the_fingerprint(registry):
    prints = []
    for version in (1, 2):
        register_encoder("f", dim=3, size=8, version=version, registry=registry, replace=True)(mean_colour)
        prints.append(registry.get_card("f").fingerprint())
    assert prints[0] != prints[1]


def test_two_names_never_share_a_fingerprint(registry):
    for name in ("first", "second"):
        register_encoder(name, dim=3, size=8, registry=registry)(mean_colour)
    assert registry.get_card("first").fingerprint()[6:] != registry.get_card("second").fingerprint()[7:]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("images.mean(axis=(1, 2))[:, :2]", r"shape \(4, 2\) for 4 images; its card says \(4, 3\)"),
        ("images.mean(axis=(1, 2))[:-1]", r"shape \(3, 3\) for 4 images"),
        ("images.mean(axis=(1, 2)).ravel()", r"shape \(12,\)"),
        ("images.mean(axis=(1, 2)) / 0 * 0", "NaN or infinite values for 4 of 4"),
        ("np.full((len(images), 3), 'x')", "not numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_bug_11_dim_is_never_guessed(registry, images, result, message):
    # The original fell back to 512 for every model it did not know, so UNI's 1024 columns were mislabelled.
    function = function_from(f"def f(images):\n    return {result}\n")
    register_encoder("f", dim=3, size=32, registry=registry)(function)
    with pytest.raises(EncoderError, match=message):
        FunctionEncoder(registry.get_card("f"), function).encode(images)
    with pytest.raises(EncoderError, match="f gave"):
        registry.load_encoder("f")


def test_travels_to_workers(registry, images):
    gain = 2

    def encode(images):
        return images.mean(axis=(1, 2)) * gain

    register_encoder("f", dim=3, size=32, registry=registry)(encode)
    encoder = registry.load_encoder("f")
    again = pickle.loads(cloudpickle.dumps(encoder))  # noqa: S301
    assert np.array_equal(again.encode(images), encoder.encode(images))
