"""The likelihood bound in continuous time, for any process: what teachers are trained with.

With the score s(y) of the prediction and the true one given x_0, r(y) = P_0t[x_0, y] / P_0t[x_0,
x_t]:
    -log p(x_0) <= E_t sigma'(t) sum_{y != x_t} Q[y, x_t] (s(y) - r(y) log s(y) + r(y) (log r(y) -
    1))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.couplings.times import EARLIEST, stratified
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.needs import Networks
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import PerToken, Scalar, Times, Tokens


def nelbo_density(
    prediction: Prediction, diffusion: Diffusion, x_0: Tokens, x_t: Tokens, t: Times
) -> PerToken:
    """The integrand of the bound at t for each token, (B, L), in nats.

    It is MDLM's weighted cross entropy under Absorbing, UDLM's and Duo's bound under Uniform, and
    SEDD's score entropy (times sigma') for a score network.

    References: Campbell et al., 2022, arXiv:2205.14987, Proposition 2; Lou et al., 2024,
    arXiv:2310.16834, Theorem 3.6; Sahoo et al., 2024, arXiv:2406.07524, Eq. 10.

    Args:
        prediction: of x_0 at x_t, (B, L, K).
        x_0: clean tokens, (B, L).
        x_t: noised tokens, (B, L).
        t: (B,), above 0.
    """
    dtype = prediction.log_conditional.dtype
    sigma = diffusion.schedule.sigma(t)
    true = diffusion.kernel(torch.zeros_like(t), t).rows(x_0, dtype)
    true = true / true.gather(-1, x_t[..., None])
    score = prediction.score(diffusion, x_t, t)
    rates = diffusion.process.rate(sigma).columns(x_t, dtype).scatter(-1, x_t[..., None], 0.0)
    tiny = torch.finfo(dtype).tiny
    # r log r and r log s are 0 where r is 0.
    log_ratio = (true.clamp_min(tiny).log() - score.clamp_min(tiny).log()) * true
    term = score - true + torch.where(true > 0, log_ratio, torch.zeros_like(true))
    return (rates * term).sum(-1) * diffusion.schedule.rate(t).to(dtype)[:, None]


@dataclass(frozen=True)
class NELBO(Objective):
    """Maximum likelihood by the continuous-time bound, t uniform (stratified) in (0, 1].

    Args:
        label_dropout: share of class labels replaced by the null class, for guidance.
    """

    label_dropout: float = 0.1
    id: ClassVar[str] = "nelbo"
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
        where = step.open(x_t)
        condition = {key: self._dropped(key, value, step) for key, value in step.condition.items()}
        prediction = step.student.at(x_t, t, where, **condition)
        rows = where.nonzero()[:, 0]
        local = nelbo_density(
            prediction, step.diffusion, step.x_0[where][:, None], x_t[where][:, None], t[rows]
        )
        loss = step.token_mean(local)
        log_p = prediction.log_prob_of(step.x_0[where][:, None])
        # A mean that is 0 and not NaN where a small batch has no position open.
        step.log("cross_entropy", -log_p.detach().sum() / max(log_p.numel(), 1))
        return {"student": loss}

    def _dropped(self, key: str, value: Tensor, step: TrainingStep) -> Tensor:
        if key != "class_labels" or not self.label_dropout:
            return value
        drop = uniform_noise(value.shape, step.generator, value.device) < self.label_dropout
        return torch.where(drop, torch.full_like(value, -1), value)
