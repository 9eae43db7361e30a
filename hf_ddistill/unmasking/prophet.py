"""Stop early: decide all that is open once the network knows the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.shapes import Where
from hf_ddistill.unmasking.unmasking import Draft, Unmasking


@dataclass(frozen=True)
class Prophet(Unmasking):
    """All open tokens of a block as soon as the two likeliest tokens are far enough apart.

        mean over the open positions of (l_1 - l_2) >= gaps[phase]

    l_1 and l_2 are the two greatest logits of a position, and the phase is how far decoding has
    come: the longer it has lasted, the less it takes. Until then another rule decides.

    Args:
        gaps: thresholds, one for each phase.
        phases: shares of all tokens, ascending, at which the next phase begins.
        otherwise: the rule until then, by name, settings or as it is.
    """

    gaps: tuple[float, ...] = (7.5, 5.0, 2.5)
    phases: tuple[float, ...] = (0.33, 0.67)
    otherwise: Any = "static"
    reads_progress: ClassVar[bool] = True
    id: ClassVar[str] = "prophet"
    citation: ClassVar[str] = (
        "Li et al., Diffusion Language Models Know the Answer Before Decoding, 2025, "
        "arXiv:2508.19982"
    )

    def __post_init__(self) -> None:
        for name in ("gaps", "phases"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "otherwise", Unmasking.from_config(self.otherwise))
        if len(self.gaps) != len(self.phases) + 1:
            raise ValueError(
                f"There is a gap for each phase: {len(self.phases)} bounds make "
                f"{len(self.phases) + 1} phases, got {len(self.gaps)} gaps."
            )
        if list(self.phases) != sorted(self.phases):
            raise ValueError(f"phases must ascend, got {list(self.phases)}.")

    @property
    def planned(self) -> bool:
        """As the rule until then."""
        return self.otherwise.planned

    @property
    def reads_tokens(self) -> bool:
        """As the rule until then."""
        return self.otherwise.reads_tokens

    @property
    def draws(self) -> bool:
        """As the rule until then."""
        return self.otherwise.draws

    @property
    def compares(self) -> bool:
        """As the rule until then."""
        return self.otherwise.compares

    def pick(self, draft: Draft) -> Where:
        mean = draft.gap.sum(1) / draft.masked.sum(1).clamp_min(1)
        known = (mean >= self.threshold(draft.progress, mean))[:, None]
        return (known & draft.masked) | (~known & self.otherwise.pick(draft))

    def threshold(self, progress: float | Tensor, like: Tensor) -> Tensor:
        """The gap that is enough at each progress, of the shape and kind of `like`."""
        now = torch.as_tensor(progress).to(like).expand(like.shape).contiguous()
        phase = torch.bucketize(now, now.new_tensor(self.phases), right=True)
        return now.new_tensor(self.gaps)[phase]
