"""States of the data in the place of rollouts, in the experiment of the text scoreboard."""

import pytest
import torch
from law_matching_of_data import LawMatchingOfData
from small_laws import MASKS, L, mixture, problem, step_of, table

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import (
    clean_sequences,
    sequence_numbers,
    terminal_law,
    total_variation,
)
from hf_ddistill.parameterizations import Subs
from hf_ddistill.samplers import step_grid
from hf_ddistill.schedules import LogLinear

pytestmark = pytest.mark.usefixtures("registries_of_their_own")


def test_rows_of_data_are_their_own_tokens_noised_to_the_call_and_make_no_earlier_one():
    student, asked = table(MASKS), []
    student.network.register_forward_hook(lambda *_: asked.append(1))
    step = step_of(MASKS, student, rows=4_000, student_steps=4)
    rollout = LawMatchingOfData(steps="only")._rollout(step)
    assert len(asked) == 1
    shown = ~rollout.last.where
    assert torch.equal(rollout.x_0[shown], step.x_0[shown])
    hidden = rollout.last.where.double().mean(1)
    found = [float(hidden[rollout.stop == call].mean()) for call in range(4)]
    assert found == pytest.approx([1, 0.75, 0.5, 0.25], abs=0.05)


def test_first_call_is_at_noise_where_the_schedule_leaves_some_of_the_data():
    leaves = Diffusion(MASKS.process, LogLinear(0.3))
    step = step_of(leaves, table(leaves), rows=64)
    assert LawMatchingOfData()._rollout(step).last.where.all()


def test_rows_that_are_not_of_data_have_the_law_of_the_sampler():
    student = table(MASKS)
    step = step_of(MASKS, student, rows=80_000, student_steps=2)
    with torch.no_grad():
        rollout = LawMatchingOfData(data=0.0, steps="only")._rollout(step)
    numbers = sequence_numbers(clean_sequences(MASKS, L), MASKS.vocab_size)
    for calls in (1, 2):
        x_0 = sequence_numbers(rollout.x_0[rollout.stop == calls - 1], MASKS.vocab_size)
        found = (x_0[:, None] == numbers).double().mean(0)
        # One that stops at the first of two calls draws all of x_0 there.
        true = terminal_law(student, MASKS, L, step_grid(calls))
        assert total_variation(found, true) < 0.02


class OneSequence(torch.nn.Module):
    """All tokens of one sequence of a problem's law, given what is shown, chosen by the noise."""

    def __init__(self, known):
        super().__init__()
        self.known = known

    def forward(self, x_t, t, noise, at=None):
        law, sequences, masked = self.known.law, self.known.sequences, x_t == MASKS.vocab_size - 1
        fits = ((x_t[:, None] == sequences) | masked[:, None]).all(-1) * law
        number = (noise[..., 0] * masked).double().sum(1) / masked.sum(1).clamp_min(1).sqrt()
        share = torch.special.ndtr(number) * fits.sum(1)
        chosen = (fits.cumsum(1) < share[:, None]).sum(1).clamp_max(len(sequences) - 1)
        output = 40.0 * torch.nn.functional.one_hot(sequences[chosen], 3).double()
        return output if at is None else output.flatten(0, 1)[at]


@pytest.mark.parametrize("horizon", ["call", "step"])
def test_auxiliary_of_the_teacher_s_laws_is_the_teacher_whatever_the_data_are(horizon):
    """Here all sequences alike."""
    teacher, auxiliary = problem(MASKS, 1), table(MASKS)
    student = NetworkDenoiser(OneSequence(teacher), MASKS, Subs(), latent=Latent(1))

    def gradient(log_p):
        auxiliary.network.logits.data.copy_(log_p)
        step = step_of(MASKS, student, teacher.denoiser(), auxiliary, 40_000, student_steps=4)
        loss = LawMatchingOfData(horizon=horizon)(step)["auxiliary"]
        (found,) = torch.autograd.grad(loss, auxiliary.network.logits)
        return float(found.norm())

    known = teacher.log_conditional(teacher.states, 0.5).clamp_min(-60)
    assert gradient(known) < 0.12 * gradient(torch.zeros_like(known))


def test_student_is_pulled_nowhere_where_auxiliary_and_teacher_agree():
    teacher, (student, _) = problem(MASKS, 1), mixture()
    step = step_of(MASKS, student, *(teacher.denoiser(),) * 2, rows=64, student_steps=4)
    (found,) = torch.autograd.grad(
        LawMatchingOfData(data=0.5)(step)["student"], student.network.logits
    )
    assert found.abs().max() < 1e-9
