"""Embeddings on disk: parts of memory-mapped rows, found by encoder fingerprint and content hash."""
