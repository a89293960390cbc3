"""The command line."""

from biofuse.cli.app import main

__all__ = ["main"]
