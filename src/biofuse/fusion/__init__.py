"""How the blocks of a subset become one matrix."""
