"""A denoiser between two others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.log_linear import check_agree, log_linear
from hf_ddistill.parameterizations import Prediction


@dataclass(frozen=True)
class Blended(Composite):
    """log p = share log p_teacher + (1 - share) log p_student + const (Eq. 3).

    A target that a weak student can reach; `Moving` goes from there to the teacher. What is
    impossible for the teacher is impossible.

    References: Shing et al., TAID: Temporally Adaptive Interpolated Distillation for Efficient
    Knowledge Transfer in Language Models, 2025, arXiv:2501.16937.

    Args:
        teacher: of one diffusion with
        student: which gets no gradient from here; both without a noise input.
        share: in [0, 1]; 1 is the teacher. Of one that moves a tensor.
        seen: is told of each prediction the mean KL(p || p_student) over its positions.

    Raises:
        ValueError: if they differ in vocabulary or diffusion, one takes noise, or for a share
            beyond [0, 1].
    """

    teacher: Denoiser
    student: Denoiser
    share: float | Tensor = 0.5
    seen: Callable[[Tensor], None] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_agree("a blend", self.parts)
        if not isinstance(self.share, Tensor) and not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {self.share}.")

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The blend, of two calls."""
        teacher = ask(self.teacher, condition)
        with torch.no_grad():
            student = ask(self.student, condition)
        share = self.share
        if isinstance(share, Tensor):
            share = share.to(teacher.log_conditional, non_blocking=True)
        blend = log_linear((teacher, student), (share, 1 - share), slice(1))
        if self.seen is not None:
            log_p = blend.log_conditional.detach()
            apart = (log_p.exp() * (log_p - student.log_conditional)).sum(-1)
            self.seen(apart.double().sum() / max(apart.numel(), 1))
        return blend

    @property
    def description(self) -> str:
        """The two and the share."""
        return f"{self.share} of {self.teacher.description}, else {self.student.description}"
