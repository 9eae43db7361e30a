"""How blocks are decoded: what `decode` goes by, whoever asks for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from hf_ddistill.decoding.forbidden_sequences import ForbiddenSequences
from hf_ddistill.decoding.logit_settings import LogitSettings
from hf_ddistill.decoding.pipelined import Pipelining
from hf_ddistill.decoding.reading import CACHES
from hf_ddistill.parameterizations.sharpening import sharpened
from hf_ddistill.shapes import LOG_ZERO
from hf_ddistill.unmasking import Threshold, Unmasking

#: As transformers' stopping criteria: (ids (1, tokens so far), scores=None) -> Bool (1,).
Criterion = Callable[..., Tensor]


@dataclass(frozen=True)
class DecodingPlan:
    """How blocks are decoded.

    Args:
        block_size: tokens in a block of the attention.
        unmasking: which drawn tokens of a call stay.
        steps_per_block: calls that a rule with a plan has for a block; None for one token a call.
        temperature: of the draws; 0 takes the likeliest token.
        top_k: of the draws; None for all.
        top_p: of the draws.
        cache: of keys and values, see `BlockReader`.
        eos: tokens that end a row with their block.
        sub_block_size: tokens in a block that is decoded, where that is a part of one of the
            attention's; None for all of it.
        pipelining: blocks at the same time.
        warpers: transformers' logits processors, of log p (N, K), behind temperature, top-k and
            top-p.
        logits: what is done to the logits before.
        forbidden: sequences that are not decided.
        criteria: that end a row behind the first token at which one of them says so.
        max_time: seconds after which no further call is made.
        verify_with_base: whether drafts are verified, see `decode_verified`, in the place of
            unmasking and pipelining.
    """

    block_size: int
    unmasking: Unmasking = field(default_factory=Threshold)
    steps_per_block: int | None = None
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    cache: str = "finished"
    eos: tuple[int, ...] = ()
    sub_block_size: int | None = None
    pipelining: Pipelining = Pipelining()
    warpers: tuple[Callable[[Tensor, Tensor], Tensor], ...] = ()
    logits: LogitSettings = LogitSettings()
    forbidden: ForbiddenSequences = ForbiddenSequences()
    criteria: tuple[Criterion, ...] = ()
    max_time: float = math.inf
    verify_with_base: bool = False

    def __post_init__(self) -> None:
        least = {"block_size": 1, "sub_block_size": 1, "steps_per_block": 1, "temperature": 0}
        for name, smallest in least.items():
            value = getattr(self, name)
            if value is None:
                continue
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name} must be a finite number, got {value!r}.")
            if value < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {value}.")
        if self.cache not in CACHES:
            raise ValueError(f"Unknown cache {self.cache!r}; there are: {', '.join(CACHES)}.")

    @property
    def ahead(self) -> bool:
        """Whether it is known before a call how many tokens it decides."""
        return self.unmasking.even and self.pipelining.max_blocks == 1 and not self.forbidden

    @property
    def planned(self) -> int:
        """Calls for a block."""
        return self.steps_per_block or self.sub_block_size or self.block_size

    def law(self, log_p: Tensor) -> Tensor:
        """The law (..., K), as log p, that tokens are drawn from where a network says `log_p`."""
        if self.temperature == 1 and not self.warpers and not self.top_k and self.top_p == 1:
            return log_p
        log_p = sharpened(log_p, self.temperature, self.top_k, self.top_p)
        if self.warpers and self.temperature:
            flat = log_p.flatten(0, -2)
            for warp in self.warpers:
                # They look at the scores alone.
                flat = warp(flat.new_zeros((len(flat), 0), dtype=int), flat)
            log_p = flat.log_softmax(-1).clamp_min(LOG_ZERO).view_as(log_p)
        return log_p


def ends(eos: int | Sequence[int] | None) -> tuple[int, ...]:
    """The tokens that end a row, of a configuration's `eos_token_id`; a negative one is none."""
    listed = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
    return tuple(token for token in listed if token >= 0)


__all__ = ["Criterion", "DecodingPlan", "ends"]
