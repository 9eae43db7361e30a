"""The exact laboratory: true conditionals, the law that a sampler ends in, and distances between
laws, on spaces of up to 20,000 token sequences."""

from hf_ddistill.exact.distances import chi_square, entropy, kl_divergence, total_variation
from hf_ddistill.exact.problem import ExactProblem
from hf_ddistill.exact.space import (
    MAX_STATES,
    all_sequences,
    check_space,
    clean_sequences,
    clean_tokens,
    sequence_numbers,
)
from hf_ddistill.exact.terminal_law import terminal_law

__all__ = [
    "MAX_STATES",
    "ExactProblem",
    "all_sequences",
    "check_space",
    "chi_square",
    "clean_sequences",
    "clean_tokens",
    "entropy",
    "kl_divergence",
    "sequence_numbers",
    "terminal_law",
    "total_variation",
]
