"""The exact laboratory of block diffusion: the law that a block decoder ends in, tables of true
conditionals, and students on a scoreboard."""

from hf_ddistill.laboratory.blocks.block_law import BlockDecoder, BlockLaw, block_law, draw_blocks
from hf_ddistill.laboratory.blocks.tables import BlockTable, CausalTable, block_table

__all__ = [
    "BlockDecoder",
    "BlockLaw",
    "BlockTable",
    "CausalTable",
    "block_law",
    "block_table",
    "draw_blocks",
]
