"""Di4C: a mixture student learns how tokens hang together from its own later predictions.

q the student, a mixture over its noise input; p the teacher, a product over positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hf_ddistill.couplings import Local, TrainingStep, step_back
from hf_ddistill.couplings.times import EARLIEST, stratified
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.kinds import check_most
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.objectives.mixture import Mixture
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.samplers import Ancestral
from hf_ddistill.shapes import Scalar, Times


@dataclass(frozen=True)
class Di4C(Objective):
    """Near the data KL(p(. | x_t) || q(. | x_t)); elsewhere, with x_u one short step of the teacher
    from x_t, KL(E_(x_u) q(. | x_u) || q(. | x_t)); and a little of -log q(x_0 | x_t) of the data.

    What the teacher puts together in many short steps, each almost a product, a mixture can say in
    one call: a step of a mixture removes what total correlation a product leaves, by up to L - 1
    nats for each nat of the noise that tokens share. The student needs a noise input, at best one
    of the sequence (`noise_per="sequence"`). N components cost N rows in each of its two calls, one
    without gradients; log q from N of them is too low, the more so the more they differ.

    References: Hayakawa et al., Distillation of Discrete Diffusion through Dimensional
    Correlations, 2024, arXiv:2410.08709.

    Args:
        components: N, the paper's. With few of them log q is so low where they differ that the
            student does better to ignore its noise (on exact patches of digits 4 and 8 learn little
            of what 16 do: `docs/methods.md`).
        width: of the teacher's step t - u. The paper's 1 / 1024 needs long trainings: what is known
            at u reaches t step by step.
        near: t below which the teacher itself is the target.
        share: of the rows that look there.
        data: weight of the data's part, times sigmoid(20 (t - 1/2)); 0 leaves it out.
        control: whether the marginals are compared exactly (`Mixture.cross_entropy`), which takes
            away variance and no more.
    """

    components: int = 16
    width: float = 1 / 32
    near: float = 0.02
    share: float = 0.3
    data: float = 0.1
    control: bool = True
    id: ClassVar[str] = "di4c"
    over: ClassVar[str] = "rows"
    reads_noise: ClassVar[bool] = True
    citation: ClassVar[str] = "Hayakawa et al., Di4C, 2024, arXiv:2410.08709"
    measured: ClassVar[str] = (
        "exact digits under masks after 25,000 passes, TV .2905 / .1652 / .0998 at 1 / 2 / 4 calls"
    )

    def __post_init__(self) -> None:
        if self.components < 2:
            raise ValueError(
                f"A mixture has at least 2 components, got components={self.components}."
            )
        for name, least in (("width", EARLIEST), ("near", EARLIEST), ("share", 0), ("data", 0)):
            if not least <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in [{least:g}, 1], got {getattr(self, name)}.")
        check_most(self, "components")

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        t, near = self._times(step)
        x_t = step.noised(t)
        student = Mixture.of(step, step.student, x_t, t, self.components)
        with torch.no_grad():
            teacher = step.look(step.peers["teacher"], x_t, t, student.open)
            drawn, target = self._targets(step, student, teacher, (x_t, t, near))
        losses, gained = student.cross_entropy(drawn, target, self.control)
        if self.data:
            of_data = teacher.prediction.log_conditional.squeeze(1).exp()
            more, _ = student.cross_entropy(step.x_0[..., None], of_data, self.control)
            losses = losses + self.data * (20 * (t - 0.5)).sigmoid().to(more) * more
        length = step.lengths.clamp_min(1)
        step.log("dependence", step.row_mean(gained.detach() / length))
        step.log("mean_t", t.mean())
        return {"student": step.row_mean(losses / length)}

    def _times(self, step: TrainingStep) -> tuple[Times, Tensor]:
        """t (B,), and which rows are near the data."""
        u = stratified(step.x_0.shape[0], step.generator, step.x_0.device)
        near = uniform_noise(u.shape, step.generator, u.device) < self.share
        t = torch.where(near, self.near * u, self.near + (1 - self.near) * u)
        return t.clamp_min(EARLIEST), near

    def _targets(
        self, step: TrainingStep, student: Mixture, teacher: Local, at: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor]:
        """Completions (B, L, N) of the target, and its marginals (n, K) at the open positions."""
        x_t, t, near = at
        open_, of_teacher = student.open, teacher.prediction.log_conditional.squeeze(1).exp()
        u = (t - self.width).clamp_min(EARLIEST / 2).minimum(t)
        x_u = step_back(step, x_t, teacher, u, Ancestral())[0]
        later = Mixture.of(step, step.student, x_u, u, self.components)
        marginals = one_hot(open_.take(x_u), of_teacher.shape[-1]).to(of_teacher)
        number = (open_.where.flatten().cumsum(0) - 1).view(x_u.shape)
        still = later.open.take(number)
        marginals = marginals.index_copy(0, still, later.marginals().to(marginals))
        own = [open_.put(step.draw(of_teacher, open_), x_t) for _ in range(self.components)]
        drawn = torch.where(near[:, None, None], torch.stack(own, -1), later.draw(x_u))
        rows = near.index_select(0, open_.rows)[:, None]
        return drawn, torch.where(rows, of_teacher, marginals)

    def for_student(self, student: Denoiser) -> Di4C:
        if student.latent is None:
            raise ValueError(
                "Objective 'di4c' trains a mixture, and the student takes no noise that it could "
                "be one over: give it a noise input (noise_dim), or take 'ecd' without one."
            )
        return self
