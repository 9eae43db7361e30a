"""FS-DFM: what its targets are asked of, and where it stands still."""

from __future__ import annotations

import pytest
import torch
from batch_runs import trainer_of
from enumeration import Table, oracle, tabular, training_step
from exact_bayes import ExactBayes

from hf_ddistill import DiscreteDiffusionPipeline
from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.objectives import FSDFM
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, General, Uniform
from hf_ddistill.shapes import LOG_ZERO

#: Sizes 1, 1/2, 1/4.
J = 3


class SizedTable(torch.nn.Module):
    """A free logit for each size of a step, state, position and token; keeps what it is asked."""

    def __init__(self, problem, log_p=None):
        super().__init__()
        self.tables = torch.nn.ModuleList(Table(problem, log_p) for _ in range(J))
        self.asked = []

    def forward(self, x_t, t, noise, at=None):
        level = noise[:, 0].argmax(-1)
        self.asked.append((t, level))
        every = torch.stack([table(x_t, t) for table in self.tables])
        output = every[level, torch.arange(len(x_t))]
        return output if at is None else output.flatten(0, 1)[at]


def sized(problem, log_p=None):
    return NetworkDenoiser(SizedTable(problem, log_p), problem.diffusion, Conditional(), Latent(J))


def gradients(problem, student, objective, mean=None):
    """The largest of each table's."""
    step = training_step(problem, student, 256)
    step.peers["mean"] = student if mean is None else mean
    loss = objective(step)["student"]
    tables = [table.logits for table in student.network.tables]
    return [float(grad.abs().max()) for grad in torch.autograd.grad(loss, tables)]


def exact(problem):
    return problem.conditional(0.5).log().clamp_min(LOG_ZERO)


@pytest.mark.parametrize("chained", [False, True])
def test_a_teacher_of_independent_tokens_is_no_fixed_point(chained):
    """Where a state says nothing of what is left, steps of all sizes are one law."""
    problem = ExactBayes.independent(Diffusion(Absorbing(3)), 2)
    still = gradients(problem, sized(problem, exact(problem)), FSDFM(chained=chained))
    assert max(still) < 1e-12
    moved = gradients(problem, sized(problem), FSDFM(chained=chained))
    assert min(moved) > 1e-4


def test_only_the_smallest_step_learns_from_the_teacher():
    problem = ExactBayes.random(Diffusion(Absorbing(3)), 2, seed=1)
    still = gradients(problem, sized(problem, exact(problem)), FSDFM())
    assert still[-1] < 1e-12 and min(still[:-1]) > 1e-4


@pytest.mark.parametrize("process", [Absorbing(3), Uniform(3)], ids=lambda process: process.id)
def test_shortcut_is_asked_at_other_times_or_sizes_than_half_a_step(process):
    """k1 at t, k2 and k3 half a step on, k4 at its end; each at half the size."""
    problem = ExactBayes.random(Diffusion(process), 2, seed=1)
    student, mean = sized(problem), sized(problem)
    gradients(problem, student, FSDFM(), mean)
    ((t, level),) = student.network.asked
    size = 0.5**level
    times = [now for now, _ in mean.network.asked]
    assert len(times) == 4
    for now, share in zip(times, (0, 0.5, 0.5, 1), strict=True):
        torch.testing.assert_close(now, (t - share * size).clamp_min(5e-4))
    for _, told in mean.network.asked:
        assert torch.equal(told, (level + 1).clamp_max(J - 1))
    assert bool((t <= 1).all()) and bool((t >= size).all()) and len(level.unique()) == J
    torch.testing.assert_close(t * 2 ** (J - 1), (t * 2 ** (J - 1)).round())


def test_fs_dfm_takes_a_student_that_cannot_be_told_a_size_or_a_process_without_its_path():
    problem = ExactBayes.random(Diffusion(Uniform(3)), 2, seed=0)
    with pytest.raises(ValueError, match="is 0 wide: give it noise_dim=J"):
        FSDFM().for_student(tabular(problem))
    other = ExactBayes.random(Diffusion(General.example(3)), 2, seed=0)
    with pytest.raises(ValueError, match="has a path for processes that redraw"):
        FSDFM().for_student(oracle(other))


def test_a_saved_student_is_told_another_size_than_that_of_its_steps(tmp_path):
    trainer = trainer_of(tmp_path, "fs_dfm", student_steps=4)
    trainer.train()
    trainer.save_model()
    pipe, told = DiscreteDiffusionPipeline.from_pretrained(tmp_path), []

    def look(_, __, given):
        told.append(given["noise"])

    pipe.model.register_forward_pre_hook(look, with_kwargs=True)
    for calls, number in ((1, 0), (2, 1), (8, 2)):
        told.clear()
        pipe(batch_size=2, num_inference_steps=calls)
        assert told and all((code.argmax(-1) == number).all() for code in told)
