"""LSD: learnable sampler distillation; the network stays, and the numbers of its sampler learn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_ddistill.couplings import Local, TrainingStep
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import categorical_of_logs, uniform_noise
from hf_ddistill.objectives.defined_on import require_masks
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.samplers import Euler, Sampler, ScaledEuler, step_grid
from hf_ddistill.shapes import Scalar, Times

#: Calls that there are numbers for.
MOST = 64


class Coefficients(nn.Module):
    """The numbers of a sampler of up to 64 calls: logarithms of factors, and of step sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(MOST))
        self.log_size = nn.Parameter(torch.zeros(MOST))

    def scales(self, calls: int) -> Tensor:
        """Factors (n,), 1 at first."""
        return self.log_scale[:calls].double().exp()

    def sizes(self, calls: int) -> Tensor:
        """Step sizes (n,) that sum to 1, alike at first."""
        return self.log_size[:calls].double().softmax(0)

    def times(self, calls: int) -> list[float]:
        """From 1 down to 0, the sizes apart."""
        ends = 1 - self.sizes(calls).detach().cumsum(0)[:-1]
        return [1.0, *ends.tolist(), 0.0]


def _coefficients(student: nn.Module, diffusion: Diffusion) -> Coefficients:
    return Coefficients()


@dataclass(frozen=True)
class LSD(Objective):
    """E sum_k |s*_k - c_k s_k|^2, s_k and s*_k the scores of one network along its student's few
    steps and its teacher's many.

    Both start alike, and are compared at t_k = 1 - k / n, n the student's calls. The numbers c_k
    are the factors of the student's rates (LSD), or, with the times tau_k at which it makes its
    calls, n (tau_k - tau_(k + 1)) times the ratio of the noise's rates at tau_k and t_k (LSD+): its
    sampler is then Euler's with these numbers, "scaled_euler", which is saved with the student.
    Nothing else is trained, and the loss goes through no network.

    Both trajectories show a token by one number, as soon as it is below the share that is shown,
    and draw it by another, so that they differ in what a long step gets wrong and not by chance
    (the paper pairs them by their start alone). A factor of the last call has nothing to do.

    The authors' code multiplies log-scores by its numbers, a temperature; this is the paper's.

    References: Fu, Guo, Liu, Learnable Sampler Distillation for Discrete Diffusion Models, 2025,
    arXiv:2509.19962.

    Args:
        teacher_steps: calls of the teacher, rounded up to a multiple of n.
        learned: "scales" (LSD) or "times" (LSD+).

    Raises:
        ValueError: for other settings; for a process without masks, or more than 64 calls.
    """

    teacher_steps: int = 64
    learned: str = "scales"
    id: ClassVar[str] = "lsd"
    over: ClassVar[str] = "rows"
    networks: ClassVar[Networks] = {
        "teacher": Frozen(),
        "coefficients": Trained(factory=_coefficients),
    }
    sampler: ClassVar[Sampler] = ScaledEuler()
    citation: ClassVar[str] = "Fu, Guo, Liu, Learnable Sampler Distillation, 2025, arXiv:2509.19962"

    def __post_init__(self) -> None:
        if self.teacher_steps < 1 or self.learned not in ("scales", "times"):
            raise ValueError(
                "teacher_steps must be at least 1 and learned 'scales' or 'times', got "
                f"teacher_steps={self.teacher_steps} and learned={self.learned!r}."
            )

    def for_student(self, student: Denoiser) -> LSD:
        require_masks(self.id, student.diffusion, "'ecd'")
        return self

    def learned_sampler(self, networks: Mapping[str, Any], calls: int) -> Sampler:
        numbers = networks["coefficients"]
        if self.learned == "times":
            return ScaledEuler((1.0,) * calls, numbers.times(calls))
        return ScaledEuler(numbers.scales(calls).tolist(), step_grid(calls))

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        calls, numbers = step.student_steps, step.peers["coefficients"]
        if calls > MOST:
            raise ValueError(f"Objective 'lsd' has numbers for {MOST} calls, got {calls}.")
        sampler = self.learned_sampler(step.peers, calls)
        share = uniform_noise((*step.x_0.shape, 2), step.generator, step.x_0.device).unbind(-1)
        even, finer = step_grid(calls), -(-self.teacher_steps // calls)
        with torch.no_grad():
            ours = list(self._trajectory(step, "student", sampler.times, sampler, share))
            fine = self._trajectory(step, "teacher", step_grid(calls * finer), Euler(), share)
            theirs = [here for number, here in enumerate(fine) if number % finer == 0]
        factors = self._factors(numbers, calls, step.diffusion, (sampler.times, even))
        losses = [
            (their - factor * our).square().sum(-1)
            for factor, our, their in zip(factors, ours, theirs, strict=True)
        ][: max(calls - 1, 1)]
        return {"coefficients": step.token_mean(torch.stack(losses).mean(0))}

    def _factors(
        self,
        numbers: Coefficients,
        calls: int,
        diffusion: Diffusion,
        times: tuple[Sequence[float], Sequence[float]],
    ) -> Tensor:
        """c_k (n,), with gradients to the numbers."""
        if self.learned == "scales":
            return numbers.scales(calls)
        own, even = (torch.tensor(each[:-1], dtype=torch.float64) for each in times)
        rates = [diffusion.pace(t) / torch.expm1(diffusion.total_noise(t)) for t in (own, even)]
        return calls * numbers.sizes(calls) * (rates[0] / rates[1]).to(numbers.log_size.device)

    @staticmethod
    def _trajectory(
        step: TrainingStep,
        name: str,
        times: Sequence[float],
        sampler: Sampler,
        share: tuple[Tensor, Tensor],
    ) -> Iterator[Tensor]:
        """p(x_0 | x_t) (B, L, K) at each time but 0, and 0 where x_0 is known already."""
        denoiser = step.student if name == "student" else step.peers[name]
        x = step.given(step.diffusion.prior(step.x_0.shape, step.generator, step.x_0.device))
        shown, left = share[0], 1.0
        for t, s in zip(times[:-1], times[1:], strict=True):
            now: Times = torch.full((len(x),), t, dtype=torch.float64, device=x.device)
            here: Local = step.look(denoiser, x, now)
            log_p = here.prediction.log_conditional
            none = torch.zeros(*x.shape, log_p.shape[-1], dtype=torch.float64, device=x.device)
            yield (
                none.flatten(0, 1)
                .index_copy(0, here.places.index, log_p[:, 0].double().exp())
                .view_as(none)
            )
            if s:
                left = left * (1 - float(sampler.chances(step.diffusion, s, t).reveal))
                noise = here.places.take(share[1])[:, None]
                drawn = here.place(categorical_of_logs(log_p, noise=noise), x)
                x = torch.where(step.open(x) & (shown < 1 - left), drawn, x)
