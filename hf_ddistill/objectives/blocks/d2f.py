"""D2F: a block-causal student from a teacher with full attention, for pipelined decoding.

N blocks of b tokens with shares of masks t_1 <= ... <= t_N; x_t^(<=j) the noisy blocks up to j.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import settings_of
from hf_ddistill.couplings import TrainingStep
from hf_ddistill.divergences import Divergence
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.blocks.distance import distance_of
from hf_ddistill.objectives.blocks.hints import Hints, informed_teacher, share_asked
from hf_ddistill.objectives.blocks.states import divided, masked
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.shapes import Scalar


@dataclass(frozen=True)
class D2F(Objective):
    """Discrete diffusion forcing: the student sees its own block and the noisy ones before it, the
    teacher all of the same x_t.

        E sum_j sum_(i masked in block j) w_j D(p_T(x_0^i | x_t), p_S(x_0^i | x_t^(<=j)))

    The paper (Eq. 3) has D = KL(p_S || p_T), "reverse_kl", and w = 1; the released code the cross
    entropy of the teacher (gradient of "forward_kl") with w_j = 1 / t_j. The code is the default.
    It is the sum over the masks over the mean of their number, so that no row weighs by the draws
    of others. Under the forward divergence the optimum is the teacher's mean over what the student
    cannot see. Decode with block_size=b.

    Args:
        block_size: b, of the student; it must divide the length.
        divergence: D: "forward_kl", "reverse_kl", ...
        masks: least and greatest share of masks; the shares of the blocks are sorted uniform draws
            between them (in the code: increments from a uniform start, to much the same effect).
        weighted: w_j = 1 / t_j, so that each block's tokens count alike.
        hints: what the teacher alone is shown, see `Hints`; None for nothing.
    """

    block_size: int = 16
    divergence: Divergence | Mapping[str, Any] | str = "forward_kl"
    masks: Sequence[float] = (0.3, 0.7)
    weighted: bool = True
    hints: Hints | Mapping[str, Any] | None = None
    id: ClassVar[str] = "d2f"
    over: ClassVar[str] = "blocks"
    citation: ClassVar[str] = (
        "Wang et al., Diffusion LLMs Can Do Faster-Than-AR Inference via Discrete Diffusion "
        "Forcing, 2025, arXiv:2508.09192"
    )

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}.")
        object.__setattr__(self, "divergence", Divergence.from_config(self.divergence))
        object.__setattr__(self, "masks", tuple(self.masks))
        if len(self.masks) != 2 or not 0 < self.masks[0] <= self.masks[1] <= 1:
            raise ValueError(
                f"masks must be two shares in (0, 1], the lesser first, got {self.masks}."
            )
        object.__setattr__(self, "hints", settings_of(Hints, self.hints, "hints"))

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        shares = self._shares(step).repeat_interleave(self.block_size, 1)
        noise = uniform_noise(step.x_0.shape, step.generator, step.x_0.device)
        x_t = masked(step, step.trained & torch.as_tensor(noise < shares))
        whole = x_t.shape[1]
        teacher = informed_teacher(step, x_t, x_t != step.x_0, self.hints, block_size=whole)
        student = step.look(step.student, x_t, None, teacher.places, block_size=self.block_size)
        distance = distance_of(self.divergence, teacher, student)
        step.log("divergence", distance.detach().sum() / max(distance.numel(), 1))
        if self.weighted:
            distance = distance / teacher.places.take(shares).to(distance.dtype)
        mean_share = sum(self.masks) / 2 * share_asked(self.hints)
        return {"student": step.token_mean(distance) / mean_share}

    def _shares(self, step: TrainingStep) -> Tensor:
        """t_1 <= ... <= t_N, (B, N), of each row's own blocks."""
        blocks = divided(step, self.block_size)
        shape = (step.x_0.shape[0], blocks)
        drawn = uniform_noise(shape, step.generator, step.x_0.device)
        own = torch.ones_like(drawn, dtype=torch.bool)
        if step.attend is not None:
            own = step.attend.unflatten(1, (blocks, -1)).any(-1)
        place = (own.long().cumsum(1) - 1).clamp_min(0)
        drawn = drawn.masked_fill(~own, 1.0).sort(1).values.gather(1, place)
        low, high = self.masks
        return low + (high - low) * drawn
