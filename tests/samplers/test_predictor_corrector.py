"""Corrections leave the law at a time as it is, and take what a sampler draws nearer to it."""

from __future__ import annotations

import pytest
import torch
from exact_bayes import ExactBayes, total_variation

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import ExactProblem, terminal_law
from hf_ddistill.laboratory.branching import outcomes
from hf_ddistill.laboratory.space import all_sequences, sequence_numbers
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, General, Hybrid, Kronecker, Ordinal, Process, Uniform
from hf_ddistill.samplers import Canvas, PredictorCorrector, Sampler
from hf_ddistill.samplers.correctors import CORRECTORS
from hf_ddistill.schedules import Cosine

L = 3
PROCESSES = [Absorbing(3), Uniform(3), Hybrid(3, 0.3), Ordinal(3)]
each_corrector = pytest.mark.parametrize("corrector", CORRECTORS)
each_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.id)


def problem_of(process, length=L):
    """A random joint law, and the same as the laboratory's, whose denoiser can be asked."""
    own = ExactBayes.random(Diffusion(process, Cosine()), length)
    return own, ExactProblem(own.law, own.clean, own.diffusion)


def after(sampler, problem, law, s):
    """The law over all states behind one correction."""
    states = all_sequences(torch.arange(problem.diffusion.vocab_size), L)
    start = (law > 0).nonzero()[:, 0]
    found = torch.zeros_like(law)

    def run(rows, generator):
        return sampler.corrected(problem.denoiser(), states[start[rows]], s, generator)

    for weight, x in outcomes(run, law[start], 10_000):
        found.index_add_(0, sequence_numbers(x, problem.diffusion.vocab_size), weight)
    return found


@each_process
@each_corrector
def test_a_correction_leaves_the_law_of_its_time_and_moves_every_other(process, corrector):
    own, problem = problem_of(process)
    sampler = PredictorCorrector(corrector=corrector)
    for s in (0.1, 0.6)[process.id == "ordinal" :]:
        law = own.marginal(s)
        torch.testing.assert_close(after(sampler, problem, law, s), law, rtol=0, atol=1e-10)
        # Another law with the same masks: each position drawn by itself.
        one_by_one = [own.states == 0, own.states == 1, own.states == 2]
        own_marginals = [[law[at[:, i]].sum() for at in one_by_one] for i in range(L)]
        other = torch.tensor(own_marginals, dtype=torch.float64)[torch.arange(L), own.states].prod(
            1
        )
        if problem.diffusion.reveals:
            pattern = (own.states == 2).long() @ 2 ** torch.arange(L)
            shares = torch.zeros(8, dtype=torch.float64).index_add(0, pattern, law)
            others = torch.zeros(8, dtype=torch.float64).index_add(0, pattern, other)
            other = other * (shares / others)[pattern]
        moved = after(sampler, problem, other, s)
        assert total_variation(moved, law) < 0.97 * total_variation(other, law)


def test_several_positions_in_one_call_are_no_exact_correction():
    own, problem = problem_of(Absorbing(3))
    law = own.marginal(0.2)
    moved = after(PredictorCorrector(positions=2), problem, law, 0.2)
    assert 1e-4 < total_variation(moved, law) < 0.1


@each_corrector
def test_a_corrector_is_in_detailed_balance(corrector):
    pi = torch.rand(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    pi = torch.cat([pi / pi.sum(), torch.zeros(1)])
    step = CORRECTORS[corrector](pi.expand(5, 6), torch.arange(5))
    flow = pi[:5, None] * step[:, :5]
    torch.testing.assert_close(flow, flow.mT)
    torch.testing.assert_close(step.sum(-1), torch.ones(5, dtype=torch.float64))
    assert (step >= 0).all() and (step[:, 5] == 0).all()
    lost = CORRECTORS[corrector](pi[None], torch.tensor([5]))
    assert float(lost.sum()) == pytest.approx(1) and lost[0, 5] == 0, "it leaves what cannot be"


@each_corrector
@pytest.mark.parametrize("process", [Absorbing(3), Uniform(2)], ids=lambda process: process.id)
def test_corrections_take_the_law_nearer_to_the_data_s_at_equal_steps(process, corrector):
    _, problem = problem_of(process)
    diffusion, tv = problem.diffusion, []
    for corrections in (0, 1):
        sampler = PredictorCorrector(corrector=corrector, corrections=corrections)
        grid = sampler.grid(2, diffusion)
        law = terminal_law(problem.denoiser(), problem, L, grid, sampler)
        tv.append(total_variation(law, problem.law))
    plain = terminal_law(problem.denoiser(), problem, L, grid, "ancestral")
    assert tv[0] == pytest.approx(total_variation(plain, problem.law), abs=1e-10)
    assert tv[1] < 0.8 * tv[0]


@each_process
def test_calls_are_one_and_the_corrections_of_a_step_and_given_tokens_are_held(process):
    _, problem = problem_of(process)
    denoiser, seen = problem.denoiser(), []

    def network(x_t, t, at=None):
        seen.append(x_t)
        return denoiser.network(x_t, t, at=at)

    tokens = torch.tensor([[1, 0, 1]]).repeat(40, 1)
    canvas = Canvas(tokens, torch.tensor([[False, True, True]]).repeat(40, 1))
    counted = type(denoiser)(network, denoiser.diffusion, denoiser.parameterization)
    sampler = PredictorCorrector(corrections=2)
    x = sampler.sample(counted, canvas, 4, torch.Generator().manual_seed(0))
    assert len(seen) == (12 if problem.diffusion.reveals else 10)
    for state in [*seen, x]:
        assert (state[:, 0] == 1).all(), "a given token is neither moved nor hidden"
    assert not torch.isin(x, torch.tensor(problem.diffusion.process.noise_tokens)).any()


@pytest.mark.parametrize("process", PROCESSES[:2], ids=lambda process: process.id)
def test_a_row_hangs_on_no_other_where_the_network_takes_noise(process):
    """Of masks most rows have at first nothing to be corrected."""
    K = process.vocab_size

    def network(x_t, t, noise):
        return noise.sum(-1, keepdim=True) * torch.arange(K) + x_t.sum(-1)[:, None, None] * 0.1

    denoiser = NetworkDenoiser(network, Diffusion(process), Conditional(), latent=Latent(2))

    def drawn(seeds):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return PredictorCorrector().sample(denoiser, Canvas.empty((len(seeds), L)), 6, generators)

    together = drawn(range(4))
    assert torch.equal(torch.cat([drawn([seed]) for seed in range(4)]), together)


def test_nothing_is_asked_where_nothing_can_be_corrected():
    _, problem = problem_of(Absorbing(3))
    denoiser, x = problem.denoiser(), torch.full((2, L), 2)
    silent = type(denoiser)(lambda *_, **__: 1 / 0, denoiser.diffusion, denoiser.parameterization)
    assert torch.equal(PredictorCorrector().corrected(silent, x, 0.5), x)


REFUSALS = {
    "predictor": (
        {"predictor": "unmasking"},
        "predictor 'unmasking' are no product over positions",
    ),
    "corrector": ({"corrector": "mend"}, "Unknown corrector 'mend'; there are: gibbs, barker"),
    "corrections": ({"corrections": -1}, "0 corrections or more, .* got corrections=-1"),
    "positions": ({"positions": 0}, "1 position or more, .* positions=0"),
}


@pytest.mark.parametrize(("settings", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Sampler.from_config({"type": "predictor_corrector", **settings})


def test_a_process_under_which_a_token_cannot_come_from_every_other_is_refused():
    towards = torch.tensor([[-1.0, 0, 1], [0, -1, 1], [0, 0, 0]], dtype=torch.float64)
    for process in (General(towards), Kronecker((Absorbing(3), Absorbing(3)))):
        with pytest.raises(ValueError, match="cannot have come from every other"):
            PredictorCorrector().check(Diffusion(process))
    for cls in Process.registry.values():
        if cls not in (General, Kronecker):
            PredictorCorrector().check(Diffusion(cls.example(4)))
