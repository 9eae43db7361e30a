"""Rules with a number of tokens for each call that is fixed beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.shapes import Where
from hf_ddistill.unmasking.unmasking import Draft, Unmasking, any_positions, largest

SCORES = ("confidence", "margin", "entropy", "random", "left_to_right")


@dataclass(frozen=True)
class Static(Unmasking):
    """An even share of a block's masks at each of its planned calls, the surest first (LLaDA).

    What does not divide goes to the earliest calls.

    Args:
        score: "confidence" (of the drawn token), "margin" (of the two likeliest), "entropy" (the
            least), "random", or "left_to_right".
    """

    score: str = "confidence"
    even: ClassVar[bool] = True
    id: ClassVar[str] = "static"
    citation: ClassVar[str] = "Nie et al., Large Language Diffusion Models, 2025, arXiv:2502.09992"

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise ValueError(f"Unknown score {self.score!r}; there are: {', '.join(SCORES)}.")

    @property
    def reads_tokens(self) -> bool:
        """By the score "confidence" alone, which is that of the drawn token."""
        return self.score == "confidence"

    @property
    def draws(self) -> bool:
        """By the score "random"."""
        return self.score == "random"

    @property
    def reads_logits(self) -> bool:
        """By scores that are one."""
        return self.score not in ("random", "left_to_right")

    def pick(self, draft: Draft) -> Where:
        if self.score == "random":
            return any_positions(draft.masked, draft.due, draft.generator)
        return largest(scores(self.score, draft), draft.open, draft.due)


def scores(name: str, draft: Draft) -> Tensor:
    """(B, n), greater for the positions that are to be decided earlier."""
    if name == "confidence":
        return draft.confidence
    if name == "margin":
        return draft.margin
    if name == "entropy":
        return -draft.entropy
    where = torch.arange(draft.masked.shape[1], device=draft.masked.device)
    return -where.double().expand(draft.masked.shape)
