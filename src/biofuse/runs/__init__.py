"""The run directory."""

from biofuse.runs.environment import describe_environment
from biofuse.runs.run import Run, RunRecord

__all__ = ["Run", "RunRecord", "describe_environment"]
