"""Training by ECD for real: what a free student learns, and how far it can get."""

from __future__ import annotations

import torch
from enumeration import digits, predicted, tabular, training_step
from exact_bayes import total_variation

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import ECD
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import LOG_ZERO


def test_student_learns_the_teacher_and_no_more():
    """From random: the conditionals are learned, and the terminal law is on the teacher's curve."""
    problem = digits(Diffusion(Absorbing(3), LogLinear(eps=1e-9)))
    student, teacher = tabular(problem), problem.conditional(0.5)
    exact, open_ = problem.marginal(0.5), problem.diffusion.undetermined(problem.states)

    def distance():
        q = predicted(problem, student, 0.5)
        kl = (teacher * (teacher.clamp_min(1e-30) / q.clamp_min(1e-30)).log()).sum(-1) * open_
        return float(exact @ kl.mean(-1).detach())

    start, steps = distance(), 150
    optimizer = torch.optim.Adam(student.network.parameters(), lr=0.1)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 - i / steps)
    peers = {"teacher": tabular(problem, teacher.log().clamp_min(LOG_ZERO))}
    for seed in range(steps):
        step = training_step(problem, student, 512, seed)
        step = TrainingStep(step.x_0, step.diffusion, student, peers, generator=step.generator)
        optimizer.zero_grad()
        ECD(divergence="forward_kl", coupling="forward")(step)["student"].backward()
        optimizer.step()
        decay.step()
    assert distance() < start / 20
    for calls, tv in ((1, 0.4465), (2, 0.2216), (4, 0.1121)):
        law = problem.terminal_law(student, calls).detach()
        assert tv - 0.005 < total_variation(law, problem.data) < tv + 0.02
