"""A fitted model as a service: the application, and the server that runs it."""

import importlib.util
import ipaddress
import signal
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from biofuse.api.service.options import ServeOptions, Token
from biofuse.api.service.served import Served
from biofuse.core.errors import BioFuseError, BioFuseWarning, DependencyError, option
from biofuse.core.progress import Tell, tell_user
from biofuse.extract.options import ExtractOptions
from biofuse.model.model import BioFuseModel
from biofuse.search.rules import CHOSEN

if TYPE_CHECKING:
    from fastapi import FastAPI

GRACE = 60
"""Seconds that requests under way are given when the server is stopped."""

LIBRARIES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
"""What the extra ``serve`` installs."""


def create_app(
    served: Served | BioFuseModel | Path | str,
    *,
    token: Token | None = None,
    options: ServeOptions | None = None,
    extraction: ExtractOptions | None = None,
) -> "FastAPI":
    """Return the service as an ASGI application: for a server of your own, or to be tried without one.

    It starts at once and loads the encoders beside; until they are loaded ``/health`` and ``/predict`` answer 503.

    Parameters
    ----------
    served : Served, BioFuseModel or path
        What is served: a run, a saved model, or one in memory.
    token : Token, optional
        What every request but those to ``/health`` must bring.
    options : ServeOptions, optional
        Limits of requests and of the queue; host, port and file of the token have no say here.
    extraction : ExtractOptions, optional
        Device, batch size and folder of weights.

    Raises
    ------
    DependencyError
        If the libraries of the extra are not installed.
    ArtifactError
        If there is no such model.

    Examples
    --------
    >>> import biofuse
    >>> from biofuse.api.serve import create_app
    >>> model = biofuse.fit("images/", encoders=["colour", "lbp"], head="ridge", progress=False).model
    >>> sorted(create_app(model).openapi()["paths"])
    ['/health', '/metrics', '/model', '/predict']
    """
    refuse_missing_libraries()
    from biofuse.api.service.app import build_app

    if not isinstance(served, Served):
        served = Served.in_memory(served) if isinstance(served, BioFuseModel) else Served.load(served)
    return build_app(served, token=token, options=options or ServeOptions(), extraction=extraction or ExtractOptions())


def refuse_missing_libraries() -> None:
    """Refuse to serve without the libraries of the extra.

    Raises
    ------
    DependencyError
        If one is not installed.
    """
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"A service needs {', '.join(missing)}, which is not installed.",
            remedy="pip install 'biofuse-embed[serve]'",
        )


def serve(
    run: Path | str,
    *,
    variant: str = CHOSEN,
    options: ServeOptions | None = None,
    extraction: ExtractOptions | None = None,
    tell: Tell = tell_user,
) -> None:
    """Serve a model until the process is told to stop; then finish what is under way.

    Parameters
    ----------
    run : path
        A run directory, or a saved model.
    variant : str
        Which of a run's models.
    options : ServeOptions, optional
    extraction : ExtractOptions, optional
        Device, batch size and folder of weights.
    tell : callable
        Receives where it listens, and what to beware of.

    Raises
    ------
    DependencyError
        If the libraries of the extra are not installed.
    ArtifactError
        If there is no such model.
    EncoderError
        If an encoder cannot be loaded.
    BioFuseError
        If it cannot listen there.
    """
    refuse_missing_libraries()
    import uvicorn

    from biofuse.api.service.app import failure_of, tell_news

    options = options or ServeOptions()
    token, served = Token.read(options.token_file), Served.load(run, variant=variant)
    app = create_app(served, token=token, options=options, extraction=extraction)
    with _listen(options.host, options.port) as listener:
        address = _address(listener)
        tell(f"Serving {' + '.join(served.model.encoders)} ({served.version[:12]}) at {address}; loading its encoders.")
        if token is None and not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            warnings.warn(
                f"Whoever reaches {address} may send images and is answered. Give a token ({option('token_file')}), "
                "and let a server with TLS stand before this one.",
                BioFuseWarning,
                stacklevel=2,
            )
        config = uvicorn.Config(
            app, log_config=None, server_header=False, lifespan="on", timeout_graceful_shutdown=GRACE
        )
        server = uvicorn.Server(config)

        def stop(said: str) -> None:
            tell(said)
            server.should_exit = server.should_exit or failure_of(app) is not None

        tell_news(app, stop)
        with _ending_quietly():
            server.run(sockets=[listener])
    failure = failure_of(app)
    if failure is not None:
        raise failure
    tell("Stopped.")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(place[:2], family=family, backlog=2048)
    except OSError as error:
        why = str(error.strerror or error).partition(" (while")[0]
        raise BioFuseError(
            f"Cannot listen at {host}, port {port}: {why}.",
            remedy=f"Choose another {option('port')}, such as 0 for one that is free, or another {option('host')}.",
        ) from error


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


@contextmanager
def _ending_quietly() -> Iterator[None]:
    """Let the signals that stop the server do nothing more once it has stopped: it raises them again."""
    wanted = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.signal(each, lambda *_: None) for each in wanted}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
