"""The high-level objects."""
