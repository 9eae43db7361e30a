"""Integrated jumps, and a denoiser that is told how long a step is."""

from __future__ import annotations

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.denoisers import Given, Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import terminal_law
from hf_ddistill.parameterizations import Subs
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Ancestral, Canvas, FlowMatching, StepSized
from hf_ddistill.schedules import Cosine

S, T = 0.2, 0.9
INTEGRATED = FlowMatching(integrated=True)


def stepped(problem, sampler):
    """The law at S of one token that has its true law at T."""
    denoiser = problem.denoiser()
    step = sampler.rule(denoiser(problem.states, T), problem.diffusion, problem.states, S, T)
    return problem.marginal(T) @ step[:, 0]


def test_a_long_step_of_integrated_jumps_leaves_the_law_of_the_path():
    """One token, for which nothing but the size of the step can be wrong."""
    problem = ExactBayes.random(Diffusion(Uniform(3), Cosine()), 1, seed=1)
    torch.testing.assert_close(stepped(problem, INTEGRATED), problem.marginal(S))
    assert (stepped(problem, FlowMatching()) - problem.marginal(S)).abs().max() > 0.01


def test_integrated_jumps_of_masks_are_no_ancestral_steps():
    problem = ExactBayes.random(Diffusion(Absorbing(3)), 2, seed=1)
    prediction = problem.denoiser()(problem.states, T)
    laws = [
        sampler.rule(prediction, problem.diffusion, problem.states, S, T)
        for sampler in (INTEGRATED, Ancestral())
    ]
    torch.testing.assert_close(*laws, atol=1e-12, rtol=0)
    ours, theirs = (x.chances(problem.diffusion, S, T) for x in (INTEGRATED, Ancestral()))
    assert float(ours.reveal) == pytest.approx(float(theirs.reveal), abs=1e-12)


def test_a_corrector_of_an_integrated_rate_is_left_out_in_silence():
    with pytest.raises(ValueError, match="An integrated rate has no corrector"):
        FlowMatching(corrector=0.1, integrated=True)


class Told:
    """A network that puts out one token, the number of the step size that it was told."""

    def __init__(self, size):
        self.size, self.codes = size, []

    def __call__(self, x_t, t, noise, at=None):
        self.codes.append(noise)
        output = 30.0 * torch.nn.functional.one_hot(noise.argmax(-1), self.size).double()
        return output if at is None else output.flatten(0, 1)[at]


@pytest.mark.parametrize(("steps", "number"), [(1, 0), (2, 1), (4, 2), (64, 3)])
@pytest.mark.parametrize("base", ["ancestral", INTEGRATED])
def test_a_network_is_told_the_size_of_another_step(steps, number, base):
    """By the loop of the sampler, and in the exact law."""
    network = Told(5)
    denoiser = NetworkDenoiser(network, Diffusion(Absorbing(5)), Subs(), Latent(4))
    sampler, generator = StepSized(base), torch.Generator().manual_seed(0)
    drawn = sampler.sample(denoiser, Canvas.empty((3, 2)), steps, generator)
    assert (drawn == number).all()
    assert all((code.sum(-1) == 1).all() for code in network.codes)
    if steps <= 4:
        grid = [1 - i / steps for i in range(steps + 1)]
        law = terminal_law(denoiser, denoiser.diffusion, 2, grid, sampler)
        assert float(law[number * 5]) == pytest.approx(1, abs=1e-6)


def test_noise_is_drawn_where_it_is_given():
    denoiser = NetworkDenoiser(Told(5), Diffusion(Absorbing(5)), Subs(), Latent(4))
    code = torch.nn.functional.one_hot(torch.full((3, 2), 2), 4).float()
    given = Given(denoiser, {"noise": code})
    x_t = torch.full((3, 2), 4)
    assert given.latent is None and given.fresh_noise(x_t) == {}
    assert (given(x_t, 0.5).log_conditional.argmax(-1) == 2).all()
    assert not StepSized().calls_once, "a scheduler would not tell the network"
