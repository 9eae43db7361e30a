"""What an objective needs decoded before it can look at it, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from hf_ddistill.kinds import check_most, of_their_kinds
from hf_ddistill.unmasking import Unmasking

DECODERS = ("student", "teacher")
_LEAST = {"tokens": 1, "min_tokens": 1, "ramp_steps": 0, "updates": 1, "group": 1}
_LEAST |= {"steps_per_block": 1, "block_size": 1}
_OPTIONAL = ("steps_per_block", "block_size")


@dataclass(frozen=True)
class Rollouts:
    """Sequences that a model of blocks decodes behind the prompts of a batch.

    Args:
        by: who decodes them: "student" or "teacher".
        tokens: new tokens of each, in whole blocks.
        min_tokens, ramp_steps: their number grows from the former to `tokens` over so many
            optimizer steps; 0 steps for none.
        updates: optimizer steps that use the same rollouts.
        group: rollouts behind each prompt, one after another in the batch.
        unmasking: the rule that decodes them: an `Unmasking`, its id or its configuration.
        steps_per_block: calls that a rule with a plan has for a block; None for one token a call.
        block_size: tokens that are decoded before those on their right, of a model with full
            attention (or a part of its blocks); None for all of them.
        temperature: of their draws; 0 takes the likeliest token.

    Raises:
        ValueError: for a setting that is out of range, or would not be acted on.
    """

    by: str = "student"
    tokens: int = 64
    min_tokens: int = 1
    ramp_steps: int = 0
    updates: int = 1
    group: int = 1
    unmasking: Unmasking | Mapping[str, Any] | str = "threshold"
    steps_per_block: int | None = None
    block_size: int | None = None
    temperature: float = 1.0

    @of_their_kinds
    def __post_init__(self) -> None:
        object.__setattr__(self, "unmasking", Unmasking.from_config(self.unmasking))
        if self.by not in DECODERS:
            raise ValueError(f"rollouts.by must be one of {', '.join(DECODERS)}, got {self.by!r}.")
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is None and name in _OPTIONAL:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"rollouts.{name} must be at least {least}, got {value!r}.")
        check_most(self, "group")
        if isinstance(self.temperature, bool) or not self.temperature >= 0:
            raise ValueError(f"rollouts.temperature must be at least 0, got {self.temperature!r}.")
        if self.min_tokens > self.tokens:
            raise ValueError(
                f"rollouts.min_tokens={self.min_tokens} is above rollouts.tokens={self.tokens}; "
                "the number of tokens grows."
            )
        if not self.ramp_steps and self.min_tokens not in (1, self.tokens):
            raise ValueError(
                f"rollouts.min_tokens={self.min_tokens} is where the number of tokens starts to "
                "grow, and rollouts.ramp_steps is 0: set it, or leave min_tokens out."
            )
        if self.steps_per_block is not None and not self.unmasking.planned:
            raise ValueError(
                f"rollouts.steps_per_block={self.steps_per_block} plans calls, and the rule "
                f"{self.unmasking.id!r} goes by no plan; leave it out, or take 'static'."
            )

    def changed(self, settings: Mapping[str, Any]) -> Rollouts:
        """The same with some settings changed, by name."""
        known = [field.name for field in fields(self)]
        for name in settings:
            if name not in known:
                raise ValueError(
                    f"Rollouts have no setting {name!r}; they have: {', '.join(known)}."
                )
        return replace(self, **settings)

    def tokens_at(self, step: int) -> int:
        """New tokens of a rollout at an optimizer step: the curriculum of OPDLM."""
        if not self.ramp_steps:
            return self.tokens
        grown = (self.tokens - self.min_tokens) * step // self.ramp_steps
        return min(self.tokens, self.min_tokens + grown)
