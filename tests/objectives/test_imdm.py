"""IMDM: its pairs have the law of the teacher and nothing left to chance; one call draws them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from enumeration import oracle, tabular, training_step
from exact_bayes import ExactBayes
from small_laws import MASKS, clean_sequences, step_of

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import ExactProblem, kl_divergence, terminal_law
from hf_ddistill.laboratory.network import ExactNetwork, exact_teacher, network_denoiser
from hf_ddistill.objectives import IMDM
from hf_ddistill.processes import Absorbing, Uniform

L = 3


def problem():
    """Three bits that like to be equal."""
    clean = clean_sequences(MASKS, L)
    law = torch.full((8,), 0.02, dtype=torch.float64)
    law[0], law[7] = 0.5, 0.38
    return ExactProblem(law, clean, MASKS)


def bayes():
    made = problem()
    return ExactBayes(MASKS, made.sequences, made.law)


def test_pairs_have_another_law_than_the_teacher_or_are_left_to_chance():
    truth, rows = bayes(), 20_000
    step = training_step(truth, tabular(truth), rows=rows)
    for start in ([2, 2, 2], [2, 1, 2]):
        x_t = torch.tensor(start).expand(rows, L)
        t = torch.full((rows,), (x_t[0] == 2).double().mean().item()).double()
        noise = torch.randn(rows, L, 2, generator=torch.Generator().manual_seed(1))
        drawn = IMDM(teacher_steps=L).completed(step, x_t, t, noise)
        assert torch.equal(drawn, IMDM(teacher_steps=L).completed(step, x_t, t, noise))
        fits = ((truth.clean == x_t[0]) | (x_t[0] == 2)).all(-1)
        expected = truth.law * fits / (truth.law * fits).sum()
        number = (drawn * torch.tensor([4, 2, 1])).sum(-1)
        found = torch.bincount(number, minlength=8) / rows
        # Three standard deviations of the total variation of so many draws.
        assert float((found - expected).abs().sum()) / 2 < 0.015
    # In fewer calls it is the teacher of these: independent tokens in one.
    drawn = IMDM(teacher_steps=1).completed(step, x_t, t, noise)
    first, last = (drawn[:, i].double() for i in (0, 2))
    assert abs(float(((first - first.mean()) * (last - last.mean())).mean())) < 0.01


def test_one_call_of_the_student_keeps_the_bound_of_a_mask_of_one_state():
    exact = problem()
    torch.manual_seed(0)
    student = network_denoiser(ExactNetwork(3, L, 64, noise_dim=2), exact, 2)
    optimizer = torch.optim.Adam(student.networks()[0].parameters(), 3e-3)
    objective = IMDM(teacher_steps=L).for_student(student)
    for seed in range(200):
        step = step_of(MASKS, student, exact_teacher(exact), rows=128)
        step = replace(step, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        objective(step)["student"].backward()
        optimizer.step()
    generator = torch.Generator().manual_seed(0)
    law = terminal_law(student, MASKS, L, [1.0, 0.0], draws=2**13, generator=generator).detach()
    assert exact.total_correlation > 0.8
    assert float(kl_divergence(exact.law, law)) < 0.3 * exact.total_correlation


def test_student_that_its_pairs_are_a_function_of_meets_a_gradient():
    """The least loss is 0, at the student that computes what the noise decides."""
    truth = bayes()
    step = training_step(truth, tabular(truth), rows=64)
    objective = IMDM(teacher_steps=L)

    def network(x_t, t, noise, at=None):
        x_0 = objective.completed(step, x_t, t, noise)
        output = 60.0 * torch.nn.functional.one_hot(x_0, 3).double()
        output = output.requires_grad_()
        outputs.append(output)
        return output if at is None else output.flatten(0, 1)[at]

    outputs = []
    reading = tabular(truth).parameterization
    student = NetworkDenoiser(network, MASKS, reading, Latent(2))
    step = training_step(truth, student, rows=64)
    loss = objective(step)["student"]
    (gradient,) = torch.autograd.grad(loss, outputs[-1])
    assert float(loss.detach()) < 1e-12 and float(gradient.abs().max()) < 1e-12


def test_student_without_noise_of_its_own_masks_is_taken():
    flips = ExactBayes.random(Diffusion(Uniform(3)), 2, seed=0)
    with pytest.raises(ValueError, match="is of masked tokens, and the process 'uniform'"):
        IMDM().for_student(oracle(flips))
    masks = oracle(ExactBayes.random(Diffusion(Absorbing(3)), 2, seed=0))
    with pytest.raises(ValueError, match=r"at least 2 numbers per position.*got none"):
        IMDM().for_student(masks)
    shared = NetworkDenoiser(
        masks.network, masks.diffusion, masks.parameterization, Latent(4, "sequence")
    )
    with pytest.raises(ValueError, match="got 4 per sequence"):
        IMDM().for_student(shared)
    with pytest.raises(ValueError, match="teacher_steps must be at least 1"):
        IMDM(0)
