"""d3LLM: the order in which a teacher decodes, as the order in which a student learns to.

T_j the state after the teacher has decided j tokens; a window of k tokens from position s on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.blocks.dparallel import entropy_where_right
from hf_ddistill.objectives.blocks.states import decoded, masked
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.shapes import Scalar, Where


@dataclass(frozen=True)
class PseudoTrajectory(Objective):
    """The cross entropy of a window's masks, -log p_S(y^i | y~), in the teacher's order.

    The state is

        y~ = y before the window, T_(s + k - ceil(k t)) in it, masks behind it

    and masked is the share t of the window that the teacher decided last. Over the training t and k
    grow. (The authors call t the mask ratio and write T_(s + ceil(k t)), which would be the share
    that is decided; their code is as here.) Of a row it is the mean over the masks of its window;
    rows count by their tokens.

    Args:
        rollouts: what the teacher decodes, see `Rollouts`.
        noise: t at the start and at the end; at least one token is masked.
        window: k at the start and at the end; windows start at multiples of k.
        draw: t is uniform between its value and the last, as in the released code; in the paper it
            is that value.
        certainty: weight of the entropy where the student is right, as of `DParallel`. The released
            code has 2, the paper's formulas none.
        temperature: of that entropy.
    """

    rollouts: Rollouts | Mapping[str, Any] = Rollouts(by="teacher")
    noise: Sequence[float] = (0.0, 0.8)
    window: Sequence[int] = (16, 32)
    draw: bool = False
    certainty: float = 0.0
    temperature: float = 0.5
    id: ClassVar[str] = "pseudo_trajectory"
    over: ClassVar[str] = "blocks"
    citation: ClassVar[str] = (
        "Qian et al., d3LLM: Ultra-Fast Diffusion LLM using Pseudo-Trajectory Distillation, 2026, "
        "arXiv:2601.07568"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("noise", "window"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            if len(getattr(self, name)) != 2:
                raise ValueError(
                    f"{name} must be two values, of the start and of the end of the training, got "
                    f"{getattr(self, name)}."
                )
        if not 0 <= min(self.noise) <= max(self.noise) <= 1:
            raise ValueError(f"noise must lie in [0, 1], got {self.noise}.")
        if min(self.window) < 1:
            raise ValueError(f"window must be at least 1 token, got {self.window}.")
        if not (self.certainty >= 0 and self.temperature > 0):
            raise ValueError(
                "certainty must be at least 0 and temperature above 0, got "
                f"{self.certainty} and {self.temperature}."
            )

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        window, later = self._window(step)
        ratio = self._now(self.noise, step)
        if self.draw:
            shape = (len(step.x_0), 1)
            noise = uniform_noise(shape, step.generator, step.x_0.device)
            ratio = ratio + (max(self.noise) - ratio) * noise
        count = torch.as_tensor(window.sum(1, keepdim=True) * ratio).ceil().clamp_min(1)
        where = window & (self._from_the_end(step, window) < count)
        y = masked(step, where | later)
        local = step.look(step.student, y, None, where)
        log_q, tokens = local.prediction.log_conditional, local.places.take(step.x_0)
        said = local.per_token(local.log_prob_of(step.x_0)).sum(1)
        loss = -step.row_mean(said / where.sum(1).clamp_min(1))
        step.log("cross_entropy", loss)
        step.log("masked", where.sum() / window.sum().clamp_min(1))
        if self.certainty:
            of_rows = (local.rows, len(said))
            entropy, _ = entropy_where_right(log_q, tokens, self.temperature, *of_rows)
            loss = loss + self.certainty * step.row_mean(entropy)
        return {"student": loss}

    def _now(self, ends: Sequence[float | int], step: TrainingStep) -> float:
        return ends[0] + (ends[1] - ends[0]) * step.progress

    def _window(self, step: TrainingStep) -> tuple[Where, Where]:
        """The tokens of a random window of each row, and those behind it, each (B, L)."""
        drawn = decoded(step, self.id).drawn
        size = math.floor(self._now(self.window, step))
        windows = -(-drawn.sum(1) // size)
        noise = uniform_noise(windows.shape, step.generator, drawn.device)
        start = ((noise * windows).long() * size)[:, None]
        place = drawn.long().cumsum(1) - 1
        return drawn & (place >= start) & (place < start + size), drawn & (place >= start + size)

    @staticmethod
    def _from_the_end(step: TrainingStep, window: Where) -> Tensor:
        """(B, L), how many tokens of the window the teacher decided after each; of tokens of one
        call the rightmost counts as the last."""
        trajectory = step.trajectory
        place = torch.arange(window.shape[1], device=window.device)
        block = place // trajectory.block_size
        when = (block * trajectory.block_size + trajectory.rounds) * window.shape[1] + place
        order = when.masked_fill(~window, -1).argsort(1, descending=True)
        return order.argsort(1)
