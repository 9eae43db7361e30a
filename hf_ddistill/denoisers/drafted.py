"""A denoiser whose tokens another one drafts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.parameterizations import Prediction


@dataclass(frozen=True)
class Drafted(Composite):
    """What the teacher says, and a drafter beside it: `Speculative` draws tokens from the one and
    keeps those that the other lets stand.

    Every other sampler sees the teacher alone.

    Args:
        teacher: whose law is sampled.
        drafter: of the same tokens, such as a student of few steps; it may take noise.

    Raises:
        ValueError: if the two have other tokens.
    """

    teacher: Denoiser
    drafter: Denoiser

    def __post_init__(self) -> None:
        ours, theirs = self.teacher.diffusion, self.drafter.diffusion
        for name in ("vocab_size", "mask_token_id"):
            one, other = getattr(ours.process, name), getattr(theirs.process, name)
            if one != other:
                raise ValueError(
                    f"The teacher has {name}={one} and its drafter {other}: a draft can be "
                    "verified in the same tokens alone."
                )

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The teacher's."""
        return ask(self.teacher, condition)

    @property
    def draft(self) -> Denoiser:
        """The drafter."""
        return self.drafter
