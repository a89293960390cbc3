"""Python files of a user, run on purpose because they were named, that register encoders, heads or fusions."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from biofuse.core.errors import EncoderError, SearchError, UnknownEncoderError
from biofuse.core.hashing import digest_file
from biofuse.encoders.registry import ENCODERS, EncoderRegistry, Plugin


def load_plugin(path: Path | str, *, registry: EncoderRegistry = ENCODERS) -> Plugin:
    r"""Run a Python file that registers encoders, heads or fusions; its folder is added to the end of the search path.

    A function ``register`` in it, if there is one, is called with the registry, as an entry point's would be.

    Parameters
    ----------
    path : path
    registry : EncoderRegistry, optional
        Remembers that the file was run; a run and a model that are made afterwards name it.

    Raises
    ------
    EncoderError
        If the file cannot be read, or fails.

    Examples
    --------
    >>> from pathlib import Path
    >>> from biofuse.encoders import get_card, load_plugin
    >>> text = "import biofuse, numpy\n@biofuse.register_encoder('brightness', dim=1, size=32)\n"
    >>> text += "def brightness(images):\n    return images.reshape(len(images), -1).mean(axis=1, keepdims=True)\n"
    >>> _ = Path("my_encoders.py").write_text(text)
    >>> _ = load_plugin("my_encoders.py")
    >>> get_card("brightness").dim
    1
    """
    file = Path(path).absolute()
    if not file.is_file() or file.suffix != ".py":
        raise EncoderError(
            f"The plugin {path} {'is no Python file' if file.exists() else 'does not exist'}.",
            remedy="Name the .py file that registers your encoders.",
        )
    loaded = Plugin(path=str(file), sha256=digest_file(file, algorithm="sha256"))
    spec = importlib.util.spec_from_file_location(f"biofuse_plugin_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise EncoderError(f"The plugin {path} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
        register = getattr(module, "register", None)
        if callable(register):
            register(registry)
    except Exception as error:  # a user's file may raise anything
        raise EncoderError(
            f"The plugin {path} failed: {type(error).__name__}: {error}", remedy=f"Try it by itself: python {path}"
        ) from error
    registry.plugins = (*(each for each in registry.plugins if each.path != loaded.path), loaded)
    return loaded


@contextlib.contextmanager
def naming_plugins(fitted_with: Iterable[Plugin]) -> Iterator[None]:
    """Name, in the error for an encoder, head or fusion that is not known here, the plugins of the fit.

    Raises
    ------
    UnknownEncoderError, SearchError
        In place of those raised inside, where a plugin is missing.
    """
    try:
        yield
    except (UnknownEncoderError, SearchError) as error:
        known = {each.sha256 for each in ENCODERS.plugins}
        missing = [each for each in fitted_with if each.sha256 not in known]
        if not missing:
            raise
        files = ", ".join(f"{each.path} (SHA-256 {each.sha256[:12]}...)" for each in missing)
        given = " ".join(f"--plugin {Path(each.path).name}" for each in missing)
        raise type(error)(
            f"{error.message} The model was fitted with the plugin {files}, which is not loaded here.",
            remedy=f"Give {given}; in Python, call biofuse.encoders.load_plugin.",
        ) from error
