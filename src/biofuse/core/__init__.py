"""Typed errors, hashing, atomic files, task types and seeds."""
