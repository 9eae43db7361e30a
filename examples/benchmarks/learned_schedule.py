"""Law matching whose student also learns how many tokens each of its calls reveals."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill import Diffusion, PiecewiseLinear
from hf_ddistill.couplings import TrainingStep
from hf_ddistill.couplings.rollouts import Rollout
from hf_ddistill.laboratory.scoreboard import Bench
from hf_ddistill.laboratory.students import train_student
from hf_ddistill.objectives.law_matching import LawMatching

LEFT = 1e-9  # of the data at t = 1


@dataclass(frozen=True)
class LearnedSchedule(LawMatching):
    """The shares are softmax(theta), theta a number for each call, under a piecewise linear alpha.

    What a call reveals is drawn, so that its probability is part of that of the rollout: the policy
    gradient that trains the student trains theta, too, and nothing else is needed.

    Args:
        learning_rate: of theta (Adam).
        first: share of the first call at the start, the others alike.
    """

    gradient: str = "policy"
    horizon: str = "rollout"
    learning_rate: float = 0.02
    first: float | None = None
    thetas: dict[int, tuple[Tensor, torch.optim.Optimizer]] = field(
        default_factory=dict, compare=False
    )
    id: ClassVar[str] = "law_matching_learned_schedule"

    def alphas(self, calls: int) -> Tensor:
        """alpha at t = 0, 1 / calls, ..., 1."""
        shares = self.thetas[calls][0].softmax(0)
        left = LEFT + (1 - LEFT) * shares[:-1].cumsum(0)
        ends = left.new_tensor([1.0, LEFT])
        return torch.cat([ends[:1], left.flip(0), ends[1:]])

    def _rollout(self, step: TrainingStep) -> Rollout:
        calls = step.student_steps
        if calls not in self.thetas:
            first = self.first or 1 / calls
            shares = torch.full((calls,), (1 - first) / (calls - 1), dtype=torch.float64)
            shares[0] = first
            theta = shares.log().requires_grad_()
            self.thetas[calls] = (theta, torch.optim.Adam([theta], self.learning_rate))
        theta, optimizer = self.thetas[calls]
        if theta.grad is not None:  # of the loss of the step before
            optimizer.step()
            optimizer.zero_grad()
        schedule = PiecewiseLinear(self.alphas(calls))
        diffusion = Diffusion(step.diffusion.process, schedule)
        return super()._rollout(replace(step, diffusion=diffusion))


def learned_rows(bench: Bench, objective: LearnedSchedule, start, nfe, seed):  # noqa: ANN001, ANN201
    """Rows of the scoreboard, each student under the schedule that it learned."""
    objective = replace(objective, steps="only")
    for calls in nfe:
        trained = train_student(bench.problem, objective, calls, start, bench.settings, seed=seed)
        schedule = PiecewiseLinear(objective.alphas(calls).tolist())
        diffusion = Diffusion(bench.problem.diffusion.process, schedule)
        under = replace(bench, problem=replace(bench.problem, diffusion=diffusion))
        law, error = under.law(replace(trained.denoiser, diffusion=diffusion), calls)
        reveals = torch.tensor(schedule.alphas).diff().neg().flip(0)
        yield under.row(
            objective.id,
            calls,
            seed,
            law,
            tv_error=error,
            shares=reveals.tolist(),
            student_calls=round(trained.student_calls, 1),
            seconds=round(trained.seconds, 1),
        )
