"""As many tokens as their joint dependence, bounded by their entropies, allows.

H_i the entropy in nats of p(x_0^i | x_t).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_ddistill.shapes import Where
from hf_ddistill.unmasking.unmasking import Draft, Unmasking, largest


@dataclass(frozen=True)
class EntropyBounded(Unmasking):
    """The positions of least entropy, as many as a bound on what they lose together allows.

    The largest such set U with

        sum_(i in U) H_i - max_(i in U) H_i <= gamma

    The left side bounds the total correlation of the positions of U, that is what is lost by
    drawing them independently of each other. One position is always within the bound.

    Args:
        gamma: in nats, 0 or more.
    """

    gamma: float = 0.1
    id: ClassVar[str] = "entropy_bounded"
    planned: ClassVar[bool] = False
    reads_tokens: ClassVar[bool] = False
    citation: ClassVar[str] = (
        "Ben-Hamu et al., Accelerated Sampling from Masked Diffusion Models via Entropy Bounded "
        "Unmasking, 2025, arXiv:2505.24857"
    )

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise ValueError(f"gamma must not be negative, got {self.gamma}.")

    def pick(self, draft: Draft) -> Where:
        entropy = draft.entropy
        ordered = entropy.sort(dim=1).values
        # Sorted, the greatest entropy of a set is that of its last member.
        others = ordered.cumsum(1) - ordered
        count = ((others <= self.gamma) & ordered.isfinite()).sum(1)
        return largest(-entropy, draft.masked, count)
