"""A teacher that starts near the student and moves to itself as training goes on."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers.blended import Blended
from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.parameterizations import Prediction

#: Of its name in what a training remembers.
NAME = "moving_teacher."
#: What is kept of the share, its momentum, the last loss, the sum and the number of losses since.
KEPT = ("share", "momentum", "last", "total", "count")
DECAY = 0.99


@dataclass(frozen=True)
class Moving(Composite):
    """At each step of a training a `Blended` of the teacher and the student as it is then, whose
    share goes from `start` to 1 as the training does (Algorithm 1 of the paper).

    n the step, J the mean KL of the blend from the student, delta = (J_(n-1) - J_n) / J_(n-1):

        m_n = .99 m_(n-1) + .01 delta,   share <- max(start + (1 - start) progress,
                                                      share + pace sigmoid(m_n) (1 - share))

    Each prediction of a training costs one more call of the student, without gradients. Outside of
    one (held-out data, sampling) it is the teacher.

    References: Shing et al., TAID: Temporally Adaptive Interpolated Distillation for Efficient
    Knowledge Transfer in Language Models, 2025, arXiv:2501.16937.

    Args:
        teacher: of the diffusion of the student, which has no noise input.
        start: the teacher's share at the start, in [0, 1].
        pace: of the adaptive part, at least 0; 0 leaves the straight line.

    Raises:
        ValueError: for a start or pace beyond these; in training, for a student that takes noise.
    """

    teacher: Denoiser
    start: float = 0.4
    pace: float = 5e-4

    def __post_init__(self) -> None:
        if not 0 <= self.start <= 1 or not self.pace >= 0:
            raise ValueError(
                f"start must lie in [0, 1] and pace be at least 0, got start={self.start}, "
                f"pace={self.pace}."
            )

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The teacher's."""
        return ask(self.teacher, condition)

    def at_step(
        self, student: Denoiser, progress: float, memory: MutableMapping[str, Tensor]
    ) -> Denoiser:
        """The blend of this step; of all its micro batches the same."""
        zero = torch.zeros((), dtype=torch.float64)
        for name in KEPT:
            memory.setdefault(NAME + name, zero + self.start if name == "share" else zero.clone())
        moment = memory.setdefault(NAME + "progress", zero - 1)
        if float(moment) != progress:
            memory[NAME + "progress"] = zero + progress
            self._move(memory, progress)

        def seen(apart: Tensor) -> None:
            for name, more in (("total", apart), ("count", torch.ones_like(apart))):
                memory[NAME + name] = memory[NAME + name].to(more.device) + more

        teacher = self.teacher.at_step(student, progress, memory)
        return Blended(teacher, student, memory[NAME + "share"], seen)

    def _move(self, memory: MutableMapping[str, Tensor], progress: float) -> None:
        """The share of the next step, from the losses since the last; nothing waits."""
        device = memory[NAME + "total"].device
        share, momentum, last, total, count = (memory[NAME + name].to(device) for name in KEPT)
        now = total / count.clamp_min(1)
        gained = torch.where(last > 0, (last - now) / last.clamp_min(1e-12), 0.0)
        momentum = torch.where(count > 0, DECAY * momentum + (1 - DECAY) * gained, momentum)
        step = torch.where(count > 0, self.pace * momentum.sigmoid() * (1 - share), 0.0)
        line = self.start + (1 - self.start) * progress
        share = (share + step).clamp_min(line).clamp_max(1)
        last = torch.where(count > 0, now, last)
        fresh = (share, momentum, last, torch.zeros_like(total), torch.zeros_like(count))
        memory.update({NAME + name: value for name, value in zip(KEPT, fresh, strict=True)})
