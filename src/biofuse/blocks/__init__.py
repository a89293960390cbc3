"""Id-joined matrices per encoder, and what adds up over them."""

from biofuse.blocks.blocks import Blocks, Matrix
from biofuse.blocks.gram import ColumnBlocks, GramBlocks, column_blocks, gram_blocks
from biofuse.blocks.reader import BlockReader, read_blocks

__all__ = [
    "BlockReader",
    "Blocks",
    "ColumnBlocks",
    "GramBlocks",
    "Matrix",
    "column_blocks",
    "gram_blocks",
    "read_blocks",
]
