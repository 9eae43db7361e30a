"""Rows whose log-ratios are not finite: few of them are left out, more end the training."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.couplings import Memory, TrainingStep
from hf_ddistill.linalg import require
from hf_ddistill.objectives.log_ratio import LogRatio


def finite_rows(step: TrainingStep, ratios: list[LogRatio]) -> Tensor:
    """The rows (B,) whose log-ratios are finite everywhere; raises if too few are."""
    good = ~torch.stack([ratio.impossible.any(1) for ratio in ratios]).any(0)
    skipped = (~good).double()
    memory = step.memory.of("law_matching")
    total = kept(memory, "rows", torch.zeros(2, dtype=torch.float64), step)
    total += torch.stack([torch.ones_like(skipped), skipped]).sum(1)
    step.log("skipped", skipped.mean())
    require(
        total[1] <= (0.01 * total[0]).clamp_min(1.0),
        lambda *_: (
            f"The reward of {float(total[1] / total[0]):.1%} of the rollouts is not finite, "
            "and 1 % is allowed: the teacher gives no probability to what the student draws; "
            "smooth its law, start the student from the teacher, or take 'ecd', which needs no "
            "such ratio."
        ),
    )
    return good


def kept(memory: Memory, name: str, fresh: Tensor, step: TrainingStep) -> Tensor:
    """What is remembered, where the step is: a checkpoint brings it to the CPU."""
    found = memory.get(name, fresh).to(step.x_0.device)
    memory.put(name, found)
    return found
