"""Options of a service, and the token that its requests bring."""

import hmac
import os
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from biofuse.core.errors import BioFuseError, option
from biofuse.core.options import Option, Options

TOKEN_VARIABLE = "BIOFUSE_SERVE_TOKEN"  # noqa: S105 (its name)
"""Environment variable that the token is read from where no file is named."""

SHORTEST_TOKEN = 16
"""Characters of a token: 64 bits even of hexadecimal digits, which nobody guesses over a network."""


class ServeOptions(Options):
    """Options of a service.

    Examples
    --------
    >>> from biofuse.api.service.options import ServeOptions
    >>> ServeOptions(max_upload=8).most_bytes
    8000000
    """

    host: Annotated[str, Option(panel="Running", metavar="ADDRESS")] = Field(
        default="127.0.0.1", description="Address to listen at. Only this machine reaches the default."
    )
    port: Annotated[int, Option(panel="Running")] = Field(
        default=8000, ge=0, le=65535, description="Port to listen at; 0: one that is free."
    )
    token_file: Annotated[Path | None, Option(panel="Running", metavar="FILE")] = Field(
        default=None,
        description=f"File with the token that requests must bring; or give it in the variable {TOKEN_VARIABLE}. "
        "Without one, whoever reaches the port is answered.",
    )
    max_upload: Annotated[float, Option(panel="Running", metavar="MB")] = Field(
        default=64.0, gt=0, description="Megabytes that one request may send."
    )
    queue: Annotated[int, Option(panel="Running", metavar="N")] = Field(
        default=256, ge=1, description="Images that may wait; who comes then is told to come again."
    )

    @property
    def most_bytes(self) -> int:
        """Bytes that one request may send."""
        return round(self.max_upload * 1_000_000)


class Token:
    """What requests must bring; it is kept as a hash, and compared in a time that says nothing of it.

    Parameters
    ----------
    text : str

    Raises
    ------
    BioFuseError
        If it could be guessed, or could not be sent.

    Examples
    --------
    >>> from biofuse.api.service.options import Token
    >>> token = Token("correct horse battery staple")
    >>> token.is_right("correct horse battery staple"), token.is_right("please")
    (True, False)
    """

    def __init__(self, text: str) -> None:
        if len(text) < SHORTEST_TOKEN or not text.isascii() or not text.isprintable():
            raise BioFuseError(
                f"A token has at least {SHORTEST_TOKEN} characters, all of ASCII.",
                remedy="Make one: python -c 'import secrets; print(secrets.token_urlsafe())'.",
            )
        self._hash = sha256(text.encode()).digest()

    def is_right(self, given: str) -> bool:
        """Tell whether a text is the token."""
        return hmac.compare_digest(self._hash, sha256(given.encode("utf-8", "replace")).digest())

    @classmethod
    def read(cls, file: Path | None) -> Self | None:
        """Read the token of a file, or else that of the environment; None where there is neither.

        Raises
        ------
        BioFuseError
            If the file cannot be read, or holds no token.
        """
        if file is None:
            given = os.environ.get(TOKEN_VARIABLE)
            return None if given is None else cls(given.strip())
        try:
            return cls(file.read_text(encoding="utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise BioFuseError(
                f"The token cannot be read from {file}: {error}.", remedy=f"Correct {option('token_file')}."
            ) from error
