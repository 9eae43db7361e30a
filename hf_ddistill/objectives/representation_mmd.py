"""Representation-space MMD: draws whose features are like those of the data, by a policy gradient.

x_t data noised up to t; q the student's law of each token there; a candidate is B draws x_0^b from
it, the rest of each as x_t has it; phi_i(x) the hidden states of a frozen teacher at position i;
k a Gaussian kernel. A candidate of one row earns

    R = 2 mean over b, i, j of k(phi_i(data), phi_j(x_0^b))
        - mean over b != b', i, j of k(phi_i(x_0^b), phi_j(x_0^b'))

over the positions i, j that were hidden, and

    dL = - mean over G candidates of (R - mean of the others) d log q(candidate) / B

which is 1 / B of the gradient of the squared maximum mean discrepancy between the student's draws
at x_t and the data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import layer_norm

from hf_ddistill.couplings import TrainingStep, log_variety
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.kinds import check_most
from hf_ddistill.objectives.generated import drawn, grid_times, uniform_times
from hf_ddistill.objectives.groups import check_group, less_the_others_of
from hf_ddistill.objectives.needs import Frozen, Networks
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.shapes import Scalar, Tokens, Where

TIMES = ("uniform", "grid")


@dataclass(frozen=True)
class RepresentationMMD(Objective):
    """What a candidate's tokens look like to the teacher's middle, and no second network.

    Each row has its own data to be compared with, so that what is matched is the law given x_t, as
    far as a product (or with a noise input a mixture of them) can. Nothing but a pass of the
    student has gradients.

    References: Representation-Space MMD for diffusion language models, 2026, arXiv:2610.06648.

    Args:
        times: t, "uniform" in (0, 1) (the paper's) or "grid": 1/k, ..., 1, those of the student's
            calls.
        group: G candidates.
        draws: B, of each candidate; two at least.
        layer: of the teacher, whose output the features are; None for the one a third of the way
            (the paper's: the fourth of twelve).
        alpha: k = exp(-alpha |a - b|^2); the paper's 2e-5 is for the features of its MDLM. None for
            features of mean 0 and spread 1 each, and 1 / (their number).
        same_position: whether k(phi_i(x_0^b), phi_i(x_0^b')) counts. The paper's code leaves it
            out, and its gradient is then not 0 at the law of the data, by a share of
            1 / (number of hidden positions).
    """

    times: str = "uniform"
    group: int = 4
    draws: int = 2
    layer: int | None = None
    alpha: float | None = None
    same_position: bool = True
    id: ClassVar[str] = "representation_mmd"
    over: ClassVar[str] = "rows"
    networks: ClassVar[Networks] = {"teacher": Frozen()}
    citation: ClassVar[str] = "Representation-Space MMD, 2026, arXiv:2610.06648"
    measured: ClassVar[str] = (
        "exact digits under masks after 15,000 passes, TV .4644 / .2451 / .1438 at 1 / 2 / 4 calls"
    )

    def __post_init__(self) -> None:
        if self.times not in TIMES:
            raise ValueError(f"Unknown times {self.times!r}; there are: {', '.join(TIMES)}.")
        check_group(self.group, self.id)
        if self.draws < 2:
            raise ValueError(
                f"draws must be at least 2, got {self.draws}: one draw has no other to be unlike."
            )
        if self.layer is not None and self.layer < 0:
            raise ValueError(f"layer is counted from 0, got {self.layer}.")
        if self.alpha is not None and not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha must be above 0, got {self.alpha}.")
        check_most(self, "draws")

    def check(self, student: Denoiser, teacher: Denoiser | None, calls: Sequence[int]) -> None:
        layers = teacher.layers
        if self.layer is not None and layers is not None and self.layer >= layers:
            raise ValueError(
                f"{teacher.description} gives the hidden states of {layers} layers, counted from "
                f"0; layer={self.layer} is none of them."
            )

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        t = uniform_times(step) if self.times == "uniform" else grid_times(step)
        x_t = step.noised(t)
        student = step.look(step.student, x_t, t)
        made = [drawn(step, student, x_t) for _ in range(self.group * self.draws)]
        log_variety(step, made[0])
        reward = self._rewards(step, made, student.where)
        step.log("reward", reward.mean())
        log_q = [student.per_token(student.log_prob_of(x_0).double()).sum(1) for x_0 in made]
        of_candidates = torch.stack(log_q, 1).unflatten(1, (self.group, self.draws)).mean(2)
        loss = -(less_the_others_of(reward) * of_candidates).mean(1)
        return {"student": step.token_mean(loss)}

    @torch.no_grad()
    def _rewards(self, step: TrainingStep, made: list[Tokens], where: Where) -> Tensor:
        """(B, G)."""
        real, *fakes = (self._features(step, x) for x in (step.x_0, *made))
        if real.shape[1] != where.shape[1]:  # of whole sequences
            where = where.any(1, keepdim=True)
        weight = where.to(real)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(1)
        earned = []
        for start in range(0, len(fakes), self.draws):
            some = fakes[start : start + self.draws]
            like = sum(self._mean_kernel(real, fake, weight) for fake in some) / self.draws
            pairs = [
                self._mean_kernel(a, b, weight, self.same_position)
                for i, a in enumerate(some)
                for b in some[:i]
            ]
            earned.append(2 * like - sum(pairs) / len(pairs))
        return torch.stack(earned, 1).double()

    def _features(self, step: TrainingStep, x: Tokens) -> Tensor:
        """(B, P, h)."""
        t = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
        found = step.peers["teacher"].features(x, t, self.layer, **step.condition).float()
        return layer_norm(found, found.shape[-1:]) if self.alpha is None else found

    def _mean_kernel(self, a: Tensor, b: Tensor, weight: Tensor, same: bool = True) -> Tensor:
        """The mean of k over pairs of positions, (B,); without those of one position the weights of
        the others add up to one all the same."""
        alpha = 1 / a.shape[-1] if self.alpha is None else self.alpha
        gram = torch.baddbmm(
            (a.square().sum(-1)[:, :, None] + b.square().sum(-1)[:, None]), a, b.mT, alpha=-2
        )
        kernel = gram.clamp_min_(0).mul_(-alpha).exp_()
        pairs = weight[:, :, None] * weight[:, None]
        if not same:
            pairs = pairs - torch.diag_embed(pairs.diagonal(dim1=1, dim2=2))
            pairs = pairs / pairs.sum((1, 2), keepdim=True).clamp_min(1e-12)
        return (kernel * pairs).sum((1, 2))
