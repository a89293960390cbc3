"""Embeddings on disk, found by encoder fingerprint and content hash."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from biofuse.core.errors import StoreError, UnknownEncoderError
from biofuse.core.files import disk_errors, write_text
from biofuse.encoders.card import EncoderCard, Precision
from biofuse.encoders.imported import LOADER
from biofuse.store.folder import BROKEN_SUFFIX, EncoderFolder
from biofuse.store.location import home
from biofuse.store.parts import CONTENT_BYTES, PART_SUFFIX, Part


class EmbeddingStore:
    """A folder of embeddings shared by all runs of a user.

    Parameters
    ----------
    root : Path, optional
        The store's folder; by default ``embeddings`` in :func:`biofuse.store.home`.
    """

    def __init__(self, root: Path | str | None = None) -> None:
        self.root = home() / "embeddings" if root is None else Path(root)
        # Shared by the folders opened here: parts never change, and are looked at and hashed once per process.
        self._checked: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, dict[str, Part]] = {}

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.root)!r})"

    def __reduce__(self) -> tuple[object, ...]:
        return EmbeddingStore, (self.root,)  # not what this process knows of the parts

    def open(self, card: EncoderCard, *, precision: Precision = "fp32") -> "EncoderFolder":
        """Return the folder of one encoder at one precision; nothing is created until rows are written."""
        path = self.root / card.fingerprint(precision=precision)
        parts = self._parts.setdefault(path.name, {})
        return EncoderFolder(path, card=card, precision=precision, _parts=parts, _checked=self._checked)

    def folders(self) -> Iterator["EncoderFolder"]:
        """Iterate over all encoders that have embeddings here, in the order of their names.

        Folders whose ``card.json`` cannot be read are passed over; see :meth:`unreadable`.
        """
        for path in self._paths():
            with contextlib.suppress(StoreError):
                yield EncoderFolder.from_disk(path)

    def unreadable(self) -> list[Path]:
        """Return the folders that hold no readable ``card.json``: nobody can tell whose embeddings theirs are."""
        return [path for path in self._paths() if _has_something(path) and not _has_card(path)]

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.root.glob("*") if path.is_dir())

    def find_imported(self, name: str) -> EncoderCard | None:
        """Return the card of an encoder whose embeddings were imported into this store, if there is one.

        Parameters
        ----------
        name : str
            ``NAME`` or ``imported:NAME``.

        Raises
        ------
        UnknownEncoderError
            If the name begins with ``imported:`` and there is none.
        StoreError
            If there are several.
        """
        prefix, _, wanted = name.rpartition(":")
        found = [each for each in self.folders() if each.card.loader == LOADER and each.card.name == wanted]
        if prefix not in {"", LOADER} or (not found and not prefix):
            return None
        if not found:
            raise UnknownEncoderError(
                f"No embeddings of an encoder {wanted!r} were imported into {self.root}.",
                remedy=f"Import them: `biofuse store import FILE --encoder {wanted} --data DATA`.",
            )
        if len(found) > 1:
            raise StoreError(
                f"{self.root} has {len(found)} imported encoders called {wanted}: "
                f"{', '.join(folder.path.name for folder in found)}.",
                remedy="Remove the folders that are not meant.",
            )
        return found[0].card

    def check_writable(self) -> None:
        """Find out before long work whether results can be kept.

        Raises
        ------
        DiskError
            If the store cannot be written to.
        """
        probe = self.root / ".writable"
        write_text(probe, "")
        with disk_errors(probe):
            probe.unlink(missing_ok=True)


def _has_something(path: Path) -> bool:
    return (path / "card.json").exists() or any(path.glob(f"*{PART_SUFFIX}"))


def _has_card(path: Path) -> bool:
    try:
        EncoderFolder.from_disk(path)
    except StoreError:
        return False
    return True


__all__ = ["BROKEN_SUFFIX", "CONTENT_BYTES", "EmbeddingStore", "EncoderFolder"]
