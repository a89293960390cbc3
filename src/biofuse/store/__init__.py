"""Embeddings on disk: parts of memory-mapped rows, found by encoder fingerprint and content hash."""

from biofuse.store.location import home
from biofuse.store.parts import Contents, as_contents
from biofuse.store.reading import Memory
from biofuse.store.store import EmbeddingStore, EncoderFolder
from biofuse.store.upkeep import clean_store, list_store, verify_store

__all__ = [
    "Contents",
    "EmbeddingStore",
    "EncoderFolder",
    "Memory",
    "as_contents",
    "clean_store",
    "home",
    "list_store",
    "verify_store",
]
