"""Id-joined matrices per encoder."""

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.blocks.reader import read_blocks

__all__ = ["Blocks", "Matrix", "read_blocks"]
