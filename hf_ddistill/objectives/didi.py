"""DiDi-Instruct: integral KL by a policy gradient, with a discriminator for the log-ratio.

x_0 drawn by the student in two calls, from noise to z_tau and from there, tau uniform; z_t = x_0
noised anew up to a uniform t; D a discriminator's log-odds of noised data against these, which is
-R for R = log q_t - log p_t at its optimum.

    dL = E[(R - mean R) / (spread of R) d (log q(z_tau | x_1) + log q(x_0 | z_tau))]

with mean and spread of G draws; without the division it is the gradient of the integral over t of
KL(q_t || p_t).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings import Local, TrainingStep, log_variety, step_back
from hf_ddistill.objectives.anchor import check_weights, divergence_from_teacher, entropy_of
from hf_ddistill.objectives.discriminator import discriminator_of, of_one_time, told_apart
from hf_ddistill.objectives.generated import drawn, uniform_times
from hf_ddistill.objectives.groups import check_group, in_groups, less_the_others_of, standardised
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.samplers import Ancestral
from hf_ddistill.shapes import Scalar, Tokens


@dataclass(frozen=True)
class DiDi(Objective):
    """The student's draws as a policy, whose reward is what a discriminator takes for data.

    Its gradient goes through both calls of a draw ("score decomposition"): a student that is
    trained on its first call alone never learns what to do with what it has revealed (perplexity
    33,584 in the paper). Not here: spectral norms in the discriminator, and the paper's sampler,
    which asks the discriminator at inference.

    References: Zheng et al., Ultra-Fast Language Generation via Discrete Diffusion Divergence
    Instruct, 2025, arXiv:2509.25035.

    Args:
        group: G, draws of each row.
        standardise: divide rewards by their spread in the group (the paper's), or leave them.
        decomposed: through z_tau; False draws x_0 in one call.
        anchor: weight of KL(student || teacher) of each token at both calls; the paper's weight is
            not known.
        entropy: weight of the entropy of each token there, as a bonus; the same.
    """

    group: int = 4
    standardise: bool = True
    decomposed: bool = True
    anchor: float = 0.1
    entropy: float = 0.0
    id: ClassVar[str] = "didi"
    over: ClassVar[str] = "rows"
    networks: ClassVar[Networks] = {
        "teacher": Frozen(),
        "discriminator": Trained(factory=of_one_time),
    }
    citation: ClassVar[str] = "Zheng et al., DiDi-Instruct, 2025, arXiv:2509.25035"
    measured: ClassVar[str] = (
        "exact digits under masks after 3,900 passes, TV .4354 / .3053 / .2444 at 1 / 2 / 4 calls"
    )

    def __post_init__(self) -> None:
        check_group(self.group, self.id)
        check_weights(self.id, anchor=self.anchor, entropy=self.entropy)

    @property
    def one_call(self) -> bool:
        """Whether the student only ever sees noise."""
        return not self.decomposed

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        judge, learns = discriminator_of(step, self.id), "student" in step.train
        group = in_groups(step, self.group)
        with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
            x_0, log_prob, tied = self._rolled_out(group, learns)
        log_variety(group, x_0)
        t = uniform_times(group)
        tells = "discriminator" in step.train and torch.is_grad_enabled()
        with torch.set_grad_enabled(tells):
            z = group.given(group.diffusion.corrupt(x_0, t, group.generator))
            fake = judge(z, t[:, None], group.attend).unflatten(0, (-1, self.group))
            now = uniform_times(step)
            real = judge(step.noised(now), now[:, None], step.attend)
        losses = {}
        if "discriminator" in step.train:
            losses["discriminator"] = told_apart(step, real, fake)
        if learns:
            losses["student"] = self._student_loss(group, fake.detach(), log_prob, tied)
        return losses

    def _rolled_out(self, step: TrainingStep, learns: bool) -> tuple[Tokens, Tensor, list[Tensor]]:
        """x_0, the log-probability of how it came about (B,), and of each call how it is tied.

        A call is tied before the next is made, and behind all else that looks at its law, so that
        on the way back no more than one teacher's law is there with few others.
        """
        shape, device = step.x_0.shape, step.x_0.device
        x = step.given(step.diffusion.prior(shape, step.generator, device))
        t, tied = torch.ones(shape[0], dtype=torch.float64, device=device), []
        log_prob = torch.zeros_like(t)
        if self.decomposed:
            first, tau = step.look(step.student, x, t), uniform_times(step) * (1 - 1e-6)
            later, log_prob = step_back(step, x, first, tau, Ancestral())
            tied += [self._tie(step, first, x)] if learns else []
            x, t = later, tau
        last = step.look(step.student, x, t)
        x_0 = drawn(step, last, x)
        of_last = last.per_token(last.log_prob_of(x_0).double()).sum(1)
        tied += [self._tie(step, last, x)] if learns else []
        return x_0, log_prob + of_last, tied

    def _tie(self, step: TrainingStep, local: Local, x_t: Tokens) -> Tensor:
        """What the student pays at a call for its distance and its lack of entropy, (B,)."""
        paid = torch.zeros(len(x_t), dtype=torch.float64, device=x_t.device)
        if self.anchor:
            paid = paid + self.anchor * divergence_from_teacher(step, local, x_t)
        if self.entropy:
            paid = paid - self.entropy * entropy_of(local, len(x_t))
        return paid

    def _student_loss(
        self, step: TrainingStep, taken: Tensor, log_prob: Tensor, tied: list[Tensor]
    ) -> Scalar:
        reward = taken.double()
        step.log("reward", reward.mean())
        gained = standardised(reward) if self.standardise else less_the_others_of(reward)
        return step.token_mean(torch.stack(tied).mean(0) - gained.flatten() * log_prob)
