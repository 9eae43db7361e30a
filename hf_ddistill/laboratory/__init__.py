"""The exact laboratory: true conditionals, the law that a sampler or a block decoder ends in, the
limit of samplers and distances between laws, on spaces of up to 20,000 token sequences."""

from hf_ddistill.laboratory.calls import calls_of, steps_within
from hf_ddistill.laboratory.distances import chi_square, entropy, kl_divergence, total_variation
from hf_ddistill.laboratory.limit import Limit, LimitSearch, limit, read_limit
from hf_ddistill.laboratory.problem import ExactProblem
from hf_ddistill.laboratory.space import (
    MAX_STATES,
    all_sequences,
    check_space,
    clean_sequences,
    clean_tokens,
    sequence_numbers,
)
from hf_ddistill.laboratory.terminal_law import DRAWS, terminal_law

__all__ = [
    "DRAWS",
    "MAX_STATES",
    "ExactProblem",
    "Limit",
    "LimitSearch",
    "all_sequences",
    "calls_of",
    "check_space",
    "chi_square",
    "clean_sequences",
    "clean_tokens",
    "entropy",
    "kl_divergence",
    "limit",
    "read_limit",
    "sequence_numbers",
    "steps_within",
    "terminal_law",
    "total_variation",
]
