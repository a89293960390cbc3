"""The fitted artefact."""

from biofuse.model.model import BioFuseModel

__all__ = ["BioFuseModel"]
