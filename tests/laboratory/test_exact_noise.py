"""Terminal laws of students with a noise input: means over draws against enumeration."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import ExactProblem, entropy, terminal_law, total_variation
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Ancestral, Canvas, Jump, step_grid

LENGTH = 2
each_case = pytest.mark.parametrize(
    ("process", "sampler"),
    [
        (Absorbing(3), Ancestral()),
        (Uniform(3), Ancestral()),
        (Absorbing(3), Jump()),
        (Uniform(3), Jump()),
    ],
    ids=lambda value: value.id,
)


def coin_student(diffusion):
    """A student whose positions all follow the sign of all noise together: two laws."""
    torch.manual_seed(5)
    tables = 2 * torch.randn(2, LENGTH, 3, LENGTH, 3, dtype=torch.float64)

    def network(x_t, t, noise):
        seen = torch.nn.functional.one_hot(x_t, 3).double()
        side = (noise[..., 0].sum(1) > 0).long()
        return torch.einsum("blk,blkmv->bmv", seen, tables[side])

    reading = Subs() if diffusion.reveals else Conditional()
    return NetworkDenoiser(network, diffusion, reading, latent=Latent(2))


def enumerated(denoiser, reference, steps, sampler):
    """Its law with the two halves of the noise taken one by one."""
    sides = []
    for sign in (-1.0, 1.0):
        network = partial(_with_sign, denoiser.network, sign)
        sides.append(replace(denoiser, network=network, latent=None))
    grid = torch.tensor(step_grid(steps)).double()
    law = reference.diffusion.process.limit()[reference.states].prod(-1)
    for i in range(steps):
        used = sampler if i < steps - 1 else Ancestral()
        ways = [reference.transitions(s, grid[i : i + 1], grid[i + 1 : i + 2], used) for s in sides]
        law = law @ torch.stack(ways).mean(0)[0]
    return law


def _with_sign(network, sign, x_t, t):
    return network(x_t, t, noise=torch.full((*x_t.shape, 2), sign))


@each_case
def test_the_mean_over_draws_converges_to_the_enumerated_law(process, sampler):
    reference = ExactBayes.random(Diffusion(process), LENGTH)
    problem = ExactProblem(reference.law, reference.clean, reference.diffusion)
    student = coin_student(problem.diffusion)
    expected = enumerated(student, reference, 2, sampler)[reference.index(problem.sequences)]
    assert expected.sum() == pytest.approx(1)

    def error(draws):
        laws = [
            terminal_law(
                student,
                problem,
                LENGTH,
                step_grid(2),
                sampler,
                draws=draws,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in range(8)
        ]
        return sum(float(total_variation(law, expected)) for law in laws) / 8

    few, many = error(200), error(20_000)
    # ten times as near for a hundred times the draws, and within the bound that is stated
    assert many < few / 4 and many < 0.4 * (2 * len(expected) / 20_000) ** 0.5


@each_case
def test_samples_of_a_noise_student_follow_its_law(process, sampler):
    student, draws = coin_student(Diffusion(process)), 20_000
    generator = torch.Generator().manual_seed(3)
    law = terminal_law(
        student, student.diffusion, LENGTH, step_grid(2), sampler, generator=generator
    )
    x_0 = sampler.sample(student, Canvas.empty((draws, LENGTH)), 2, generator)
    size = round(len(law) ** 0.5)
    counts = (x_0[:, 0] * size + x_0[:, 1]).bincount(minlength=len(law))
    pearson = ((counts - draws * law).square() / (draws * law)).sum()
    assert pearson < len(law) + 5 * (2 * len(law)) ** 0.5


def test_one_call_with_noise_can_hold_what_no_product_law_can():
    """Both positions follow one coin: entropy log 2, where a product of the same marginals has
    twice that."""
    diffusion = Diffusion(Absorbing(3))

    def network(x_t, t, noise):
        side = (noise[:, :1, 0] > 0).double()[..., None].expand(*x_t.shape, 1)
        return 40 * torch.cat([side, 1 - side, torch.zeros_like(side)], -1)

    student = NetworkDenoiser(network, diffusion, Conditional(), latent=Latent(1))
    law = terminal_law(student, diffusion, LENGTH, [1.0, 0.0], generator=torch.Generator())
    assert entropy(law) == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-3)


def test_a_seeded_generator_repeats_the_law_and_another_changes_it():
    student = coin_student(Diffusion(Uniform(3)))

    def law(seed):
        generator = torch.Generator().manual_seed(seed)
        grid = step_grid(2)
        return terminal_law(student, student.diffusion, 2, grid, draws=100, generator=generator)

    assert torch.equal(law(0), law(0)) and not torch.equal(law(0), law(1))


def test_a_likely_state_gets_more_draws_than_a_rare_one():
    student, shown = coin_student(Diffusion(Absorbing(3))), []

    def counting(x_t, t, noise):
        shown.append(x_t)
        return student.network(x_t, t, noise)

    counted = replace(student, network=counting)
    terminal_law(counted, student.diffusion, LENGTH, [1.0, 0.9, 0.0], draws=1000)
    first, then = shown
    assert len(first) == 1000 and 1000 <= len(then) <= 1000 + 9
    masks = (then == 2).all(-1).double().mean()
    assert masks == pytest.approx(0.81, abs=0.02)


def test_no_draws_are_refused():
    student = coin_student(Diffusion(Uniform(3)))
    with pytest.raises(ValueError, match="at least one draw, got draws=0"):
        terminal_law(student, student.diffusion, LENGTH, [1.0, 0.0], draws=0)
