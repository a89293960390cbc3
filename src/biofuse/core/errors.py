"""Typed errors: what went wrong, with which file, and what to do about it, in the words of who reads it."""

import ast
import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import PurePath
from typing import Any, ClassVar

OPTION = re.compile(r"`([a-z_]+)=([^`]*)`")
"""An option in a message, as :func:`option` writes it."""


FLAGS = {"labelled": "labels", "id_column": "id"}
"""Options that go by another name on the command line."""


def option(name: str, *value: object) -> str:
    """Name an option in a message, with the value to give it where there is one.

    Messages say options as Python does; the command line, and nothing before it, puts them into its own words.

    Parameters
    ----------
    name : str
        Of the option in Python; that of the command line follows from it.
    *value
        What to give it: text, a number, a truth value, None, or a list of text.

    Examples
    --------
    >>> option("label"), option("root", "train"), option("use_splits", False)
    ('`label=`', "`root='train'`", '`use_splits=False`')
    """
    shown = str(value[0]) if value and isinstance(value[0], PurePath) else value[0] if value else None
    written = repr(shown).replace("`", r"\x60") if value else ""
    return f"`{name}={written}`"


def in_command_words(text: str) -> str:
    """Put the options of a message into the words of the command line.

    Examples
    --------
    >>> in_command_words("Give `root='my images'`, or `use_splits=False`.")
    "Give --root 'my images', or --no-splits."
    """
    return OPTION.sub(_flag, text)


def advised(texts: Iterable[str]) -> dict[str, Any]:
    """Return the options that messages tell to give, with their values; of alternatives the first.

    Examples
    --------
    >>> advised(["Give `root='train'` `extension='.png'`, or `path='file'`.", "Name it with `label=`."])
    {'root': 'train', 'extension': '.png'}
    """
    found: dict[str, Any] = {}
    for text in texts:
        end = None
        for match in OPTION.finditer(text):
            if end is not None and re.search(r"\b(or|not)\b", text[end : match.start()]):
                break
            end = match.end()
            name, written = match.groups()
            with suppress(SyntaxError, ValueError):  # a name of a file, say, may look like an option
                if written:
                    found.setdefault(name, ast.literal_eval(written))
    return found


def _flag(found: "re.Match[str]") -> str:
    name, written = found.groups()
    flag = "--" + FLAGS.get(name, name).replace("_", "-")
    if not written:
        return flag
    try:
        value = ast.literal_eval(written)
    except (SyntaxError, ValueError):
        return f"{flag} {written}"
    if value is False or value is None:
        return "--no-" + flag[2:].removeprefix("use-")
    if value is True:
        return flag
    values = value if isinstance(value, list | tuple) else [value]
    return " ".join(f"{flag} {shlex.quote(str(each))}" for each in values)


UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal would obey or could not write: control characters but tab and line feed, marks of direction, and
the bytes of file names that are not UTF-8, which Python holds as lone surrogates."""


def printable(text: str) -> str:
    r"""Write out what a terminal would obey instead of showing; names of files may hold anything.

    Examples
    --------
    >>> print(printable("scan\x1b[2J.png, caf\udce9.png"))
    scan\x1b[2J.png, caf\xe9.png
    """
    return UNPRINTABLE.sub(_written_out, text)


SURROGATES = re.compile("[\ud800-\udfff]")


def in_utf8(text: str) -> str:
    r"""Write out the bytes of a name that is not UTF-8, which no file, table or archive could hold.

    Examples
    --------
    >>> print(in_utf8("caf\udce9.png"))
    caf\xe9.png
    """
    return SURROGATES.sub(_written_out, text)


def _written_out(found: "re.Match[str]") -> str:
    code = ord(found[0])
    code -= 0xDC00 if 0xDC80 <= code <= 0xDCFF else 0
    return f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}"


def squashed(name: str) -> str:
    """Return a name without what people write differently: case, spaces, hyphens, underscores and other marks.

    Examples
    --------
    >>> squashed("RAD-DINO"), squashed("rad_dino"), squashed("Ark+")
    ('raddino', 'raddino', 'arkplus')
    """
    return re.sub(r"[\W_]", "", name.replace("+", "plus")).casefold()


def spelled_alike(name: str, known: Iterable[str] | Mapping[str, Iterable[str]], *, most: int = 5) -> list[str]:
    """Return the names that may have been meant by one that does not exist, the likeliest first.

    Parameters
    ----------
    name : str
    known : iterable of str, or mapping of str to iterable of str
        The names there are; or each with others that it goes by, of which the first is suggested.
    most : int, default 5

    Examples
    --------
    >>> spelled_alike("GigaPath", ["prov_gigapath", "uni"]), spelled_alike("diagnos", ["diagnosis", "age"])
    (['prov_gigapath'], ['diagnosis'])
    """
    others = known if isinstance(known, Mapping) else dict.fromkeys(known, ())
    written = {each: {squashed(each), *map(squashed, others[each])} - {""} for each in others}
    wanted = squashed(name)
    if not wanted:
        return []
    inside = [(part.index(wanted), each) for each, parts in written.items() for part in parts if wanted in part]
    if inside and len(wanted) > 2:
        return list(dict.fromkeys(each for _, each in sorted(inside, key=lambda found: found[0] > 0)))[:most]
    shown = {part: each for each, parts in reversed(written.items()) for part in parts}
    near = difflib.get_close_matches(wanted, shown, n=most, cutoff=0.7)
    return list(dict.fromkeys(shown[part] for part in near))


def did_you_mean(name: str, known: Iterable[str] | Mapping[str, Iterable[str]]) -> str:
    """Return a question that names what is spelled alike, with a space after it; empty where nothing is.

    Examples
    --------
    >>> did_you_mean("xgbost", ["ridge", "xgboost"]), did_you_mean("forest", ["ridge"])
    ("Did you mean 'xgboost'? ", '')
    """
    near = [repr(each) for each in spelled_alike(name, known)]
    return f"Did you mean {', '.join(near[:-1]) + ' or ' if near[1:] else ''}{near[-1]}? " if near else ""


class BioFuseError(Exception):
    """Base of every error a user can cause or cure.

    Parameters
    ----------
    message : str
        What is wrong; names the file, row or encoder it concerns.
    remedy : str, optional
        What to do next: a command, an option or a change to the data.
    """

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(printable(message))
        self.message = printable(message)
        self.remedy = printable(remedy)

    def __str__(self) -> str:
        return f"{self.message}\n{self.remedy}" if self.remedy else self.message

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive the trip from a worker process otherwise.
        return (_rebuild, (type(self), self.message, self.remedy))


def _rebuild(kind: type[BioFuseError], message: str, remedy: str) -> BioFuseError:
    return kind(message, remedy=remedy)


class BioFuseWarning(UserWarning):
    """Something a careful user would want to know, but that does not stop the work."""


class DataError(BioFuseError):
    """The data set cannot be used as it is: layout, labels, ids, splits or groups."""


class UnsettledTaskError(DataError):
    """The numbers of a label may be read in several ways, and nobody has said in which."""

    ways: ClassVar[dict[str, str]] = {
        "value": "predict the number",
        "ordinal": "they are grades",
        "multiclass": "every number is a class of its own",
    }
    """What ``task`` may be, and what that means."""


class UnreadableImageError(DataError):
    """One image cannot be read or decoded."""


class UnknownFormatError(UnreadableImageError):
    """A file is no image, or one of a format that is not read."""


class LeakageError(DataError):
    """Development and test data, or a feature and the label, are not independent."""


class EncoderError(BioFuseError):
    """An encoder cannot be built, or does not behave as its card says."""


class UnknownEncoderError(EncoderError):
    """No encoder or alias of that name is registered."""


class WeightsError(EncoderError):
    """Weights are missing, unsafe, or not the ones the card names."""


class UnavailableWeightsError(WeightsError):
    """Weights cannot be had here and now; with others there is nothing wrong."""


class AccessDeniedError(UnavailableWeightsError):
    """The model hub refuses the file: the model is gated or private, or the token is not valid."""


class NotOnHubError(UnavailableWeightsError):
    """The model hub does not have the repository, the revision or the file."""


class HubUnreachableError(UnavailableWeightsError):
    """The file is not on this machine, and the model hub is offline or cannot be reached."""


class ChecksumError(WeightsError):
    """A weight file is another one than the card or the hub says."""


class DamagedWeightsError(WeightsError):
    """A weight file cannot be read to its end."""


class UnsafeWeightsError(WeightsError):
    """A weight file holds objects that could run code."""


class WrongWeightsError(WeightsError):
    """A weight file is whole, but does not fit the network that the card describes."""


class DependencyError(BioFuseError):
    """An optional library is not installed."""


class StoreError(BioFuseError):
    """Embeddings cannot be read from or written to disk."""


class CorruptPartError(StoreError):
    """A part's content does not match the checksum in its name."""


class DiskError(StoreError):
    """The disk is full, read-only or not permitted."""


class LockedError(BioFuseError):
    """Another process is writing the folder."""


class AlignmentError(BioFuseError):
    """Rows of different encoders or tables cannot be joined one to one on their ids."""


class SearchError(BioFuseError):
    """A search cannot be run as asked."""


class TrackingError(BioFuseError):
    """A tracker of experiments could not be told of a run; the run is whole."""


class FirstVersionError(BioFuseError, TypeError):
    """Arguments of BioFuse v0.1, which are called otherwise now."""


class UndefinedMetricError(BioFuseError):
    """A metric has no value on these data, for instance AUROC with one class."""


class ArtifactError(BioFuseError):
    """A saved model or run is incomplete, tampered with, or of a newer format."""
