"""The exact laboratory: true conditionals, the law that a sampler or a block decoder ends in, the
limit of samplers and distances between laws, on spaces of up to 20,000 token sequences."""

from hf_ddistill.exact.block_law import BlockDecoder, BlockLaw, block_law, draw_blocks
from hf_ddistill.exact.block_tables import (
    BlockTable,
    CausalTable,
    block_table,
    causal_law,
    table_bias,
)
from hf_ddistill.exact.distances import chi_square, entropy, kl_divergence, total_variation
from hf_ddistill.exact.limit import Limit, LimitSearch, limit, read_limit
from hf_ddistill.exact.on_policy import of_prefix, on_policy_table, re_scored
from hf_ddistill.exact.problem import ExactProblem
from hf_ddistill.exact.space import (
    MAX_STATES,
    all_sequences,
    check_space,
    clean_sequences,
    clean_tokens,
    sequence_numbers,
)
from hf_ddistill.exact.terminal_law import DRAWS, terminal_law

__all__ = [
    "DRAWS",
    "MAX_STATES",
    "BlockDecoder",
    "BlockLaw",
    "BlockTable",
    "CausalTable",
    "ExactProblem",
    "Limit",
    "LimitSearch",
    "all_sequences",
    "block_law",
    "block_table",
    "causal_law",
    "check_space",
    "chi_square",
    "clean_sequences",
    "clean_tokens",
    "draw_blocks",
    "entropy",
    "kl_divergence",
    "limit",
    "of_prefix",
    "on_policy_table",
    "re_scored",
    "read_limit",
    "sequence_numbers",
    "table_bias",
    "terminal_law",
    "total_variation",
]
