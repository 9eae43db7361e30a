"""The likelihood bound in continuous time, for any process: what teachers are trained with.

-log p(x_0) <= E_t `nelbo_density` at t, the sum over tokens
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.couplings.times import EARLIEST, stratified
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.likelihood_bound import nelbo_density
from hf_ddistill.objectives.needs import Networks
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.places import Places
from hf_ddistill.shapes import Scalar


@dataclass(frozen=True)
class NELBO(Objective):
    """Maximum likelihood by the continuous-time bound, t uniform (stratified) in (0, 1].

    Args:
        label_dropout: share of class labels replaced by the null class, for guidance.
    """

    label_dropout: float = 0.1
    id: ClassVar[str] = "nelbo"
    over: ClassVar[str] = "rows"
    is_bound: ClassVar[bool] = True
    networks: ClassVar[Networks] = {}
    citation: ClassVar[str] = (
        "Campbell et al., A Continuous Time Framework for Discrete Denoising, 2022, "
        "arXiv:2205.14987"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout must lie in [0, 1], got {self.label_dropout}.")

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        t = stratified(step.x_0.shape[0], step.generator, step.x_0.device).clamp_min(EARLIEST)
        x_t = step.noised(t)
        places = Places.of(step.open(x_t))
        condition = {key: self._dropped(key, value, step) for key, value in step.condition.items()}
        prediction = step.student.at(x_t, t, places, **condition)
        x_0, x_t = (places.take(x)[:, None] for x in (step.x_0, x_t))
        now = t.index_select(0, places.rows)
        local = nelbo_density(prediction, step.diffusion, x_0, x_t, now)
        loss = step.token_mean(local)
        log_p = prediction.log_prob_of(x_0)
        # A mean that is 0 and not NaN where a small batch has no position open.
        step.log("cross_entropy", -log_p.detach().sum() / max(log_p.numel(), 1))
        return {"student": loss}

    def _dropped(self, key: str, value: Tensor, step: TrainingStep) -> Tensor:
        if key != "class_labels" or not self.label_dropout:
            return value
        drop = uniform_noise(value.shape, step.generator, value.device) < self.label_dropout
        return torch.where(drop, torch.full_like(value, -1), value)
