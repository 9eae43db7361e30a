"""The exact laboratory: its laws against enumeration, against draws, and against known figures."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import (
    MAX_STATES,
    ExactProblem,
    all_sequences,
    check_space,
    chi_square,
    clean_sequences,
    entropy,
    kl_divergence,
    sequence_numbers,
    terminal_law,
    total_variation,
)
from hf_ddistill.laboratory.problems import digits, levels, parity
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.processes import Absorbing, Ordinal, Process, Uniform
from hf_ddistill.samplers import Ancestral, Canvas, Euler, Sampler, step_grid
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import LOG_ZERO

each_process = pytest.mark.parametrize("cls", Process.registry.values(), ids=lambda cls: cls.id)
STRAIGHT = LogLinear(1e-9)  # alpha = 1 - t
NFE = (1, 2, 4, 8, 16, 32, 64)
TABLE = {  # total variation from the data after so many network calls
    "absorbing": [0.4465, 0.2216, 0.1121, 0.0568, 0.0287, 0.0144, 0.0072],
    "uniform": [0.4465, 0.2911, 0.1540, 0.0733, 0.0345, 0.0164, 0.0080],
}


def under(law, process, schedule=STRAIGHT):
    """An `ExactLaw` under a process."""
    return ExactProblem(law.law, law.sequences, Diffusion(process, schedule))


def both(cls, length=3, seed=0):
    """The same random law for the laboratory, in another order, and for enumeration."""
    reference = ExactBayes.random(Diffusion(cls.example(4)), length, seed)
    order = torch.randperm(len(reference.law))
    problem = ExactProblem(reference.law[order], reference.clean[order], reference.diffusion)
    return problem, reference


def network(vocab_size, length, scale=2.0):
    """A random network whose positions depend on each other, on their tokens and on the time."""
    torch.manual_seed(3)
    table = scale * torch.randn(length, vocab_size, length, vocab_size)

    def run(x_t, t):
        seen = torch.nn.functional.one_hot(x_t, vocab_size).float() * (1 + t.float())[:, None, None]
        return torch.einsum("blk,lkmv->bmv", seen, table)

    return run


@pytest.mark.parametrize("process", [Absorbing(3), Uniform(2)], ids=lambda process: process.id)
def test_standard_problem_has_the_published_distances(process):
    problem = under(digits(), process)
    found = [
        float(total_variation(problem.law, law))
        for nfe in NFE
        for law in [terminal_law(problem.denoiser(), problem, 6, step_grid(nfe))]
    ]
    assert found == pytest.approx(TABLE[process.id], abs=5e-5)


def test_standard_problem_has_the_published_entropy_and_total_correlation():
    problem = under(digits(), Uniform(2))
    assert problem.entropy == pytest.approx(3.4612, abs=5e-5)
    assert problem.total_correlation == pytest.approx(0.6187, abs=5e-5)


def test_levels_are_256_patches_of_four_ordered_tokens():
    problem = under(levels(), Ordinal(4))
    assert problem.sequences.shape == (256, 4) and problem.states.shape == (256, 4)
    assert torch.equal(problem.sequences.unique(), torch.arange(4))
    assert problem.law.argmax() == 0, "most of a digit's image is background"
    near = (problem.sequences.diff(dim=-1).abs() <= 1).all(-1)
    assert problem.law[near].sum() > 0.4 > near.double().mean(), "neighbours have like levels"
    assert terminal_law(problem.denoiser(), problem, 4, step_grid(3)).sum() == pytest.approx(1)


@pytest.mark.parametrize("length", [2, 6, 12])
def test_parity_is_independent_in_pairs_and_dependent_as_a_whole(length):
    problem = under(parity(length), Uniform(2))
    bits = problem.sequences.double()
    for some in combinations(range(length), length - 1):
        one = problem.law[bits[:, list(some)].bool().all(-1)].sum()
        assert one == pytest.approx(0.5 ** (length - 1)), f"positions {some} are dependent"
    assert problem.total_correlation == pytest.approx(math.log(2), abs=1e-3)
    assert problem.marginals == pytest.approx(torch.full((length, 2), 0.5).double())


def test_one_step_cannot_see_parity():
    problem = under(parity(6), Absorbing(3))
    law = terminal_law(problem.denoiser(), problem, 6, step_grid(1))
    assert law == pytest.approx(torch.full((64,), 1 / 64).double())
    assert total_variation(law, problem.law) == pytest.approx(0.5, abs=1e-3)


@each_process
def test_conditionals_are_those_of_enumeration(cls):
    problem, reference = both(cls)
    times = torch.tensor([0.02, 0.3, 0.97]).double()
    t, x_t = times.repeat_interleave(64), problem.states.repeat(3, 1)
    expected = reference.conditional(times).flatten(0, 1)
    assert problem.log_conditional(x_t, t).exp() == pytest.approx(expected, abs=1e-12)
    assert problem.denoiser()(x_t, t).log_conditional.exp() == pytest.approx(expected, abs=1e-12)
    where = torch.rand(x_t.shape) < 0.3
    some = problem.denoiser().at(x_t, t, where).log_conditional[:, 0]
    assert some.exp() == pytest.approx(expected[where], abs=1e-12)


def test_chunks_of_rows_do_not_change_the_conditionals(monkeypatch):
    problem, _ = both(Uniform)
    whole = problem.log_conditional(problem.states, 0.4)
    law = terminal_law(problem.denoiser(), problem, 3, step_grid(3))
    monkeypatch.setattr("hf_ddistill.laboratory.space.CHUNK", 7 * 16)
    assert problem.log_conditional(problem.states, 0.4) == pytest.approx(whole, abs=1e-12)
    assert terminal_law(problem.denoiser(), problem, 3, step_grid(3)) == pytest.approx(law)


def test_revealed_tokens_are_certain():
    problem = under(digits(), Absorbing(3))
    log_p = problem.log_conditional(problem.states, 0.4)
    revealed = problem.states != 2
    certain = torch.nn.functional.one_hot(problem.states, 3)[revealed]
    assert torch.equal(log_p[revealed].exp(), certain.double())
    assert (log_p[~revealed][:, :2] > -20).all() and (log_p[..., 2] == LOG_ZERO).all()


def test_products_of_small_kernel_entries_do_not_underflow():
    """Nine masks at once, each of probability 1e-40, say nothing of the data, and that exactly."""
    problem = under(parity(9), Absorbing(3))
    found = problem.log_conditional(torch.full((1, 9), 2), 1e-40).exp()
    assert found[0] == pytest.approx(problem.marginals)


@each_process
@pytest.mark.parametrize("sampler", ["ancestral", "analytic", "euler", "tau_leaping"])
def test_terminal_law_is_that_of_enumeration(cls, sampler):
    problem, reference = both(cls, length=2)
    output = network(4, 2)
    denoiser = NetworkDenoiser(lambda x, t: output(x, t).double(), problem.diffusion, Conditional())
    expected = reference.terminal_law(denoiser, 3, Sampler.from_config(sampler))
    law = terminal_law(denoiser, problem, 2, step_grid(3), sampler)
    assert law == pytest.approx(expected[reference.index(problem.sequences)], abs=1e-10)
    assert law.sum() == pytest.approx(1)


@pytest.mark.parametrize("process", [Absorbing(3), Uniform(3)], ids=lambda process: process.id)
@pytest.mark.parametrize("sampler", [Ancestral(), Euler()], ids=lambda sampler: sampler.id)
def test_samples_of_a_random_network_follow_its_terminal_law(process, sampler):
    diffusion, draws, steps = Diffusion(process), 20_000, 3
    denoiser = NetworkDenoiser(network(3, 4), diffusion, Conditional())
    law = terminal_law(denoiser, diffusion, 4, step_grid(steps), sampler)
    generator = torch.Generator().manual_seed(7)
    x_0 = sampler.sample(denoiser, Canvas.empty((draws, 4)), steps, generator)
    clean = clean_sequences(diffusion, 4)
    number = sequence_numbers(torch.searchsorted(clean.unique(), x_0), len(clean.unique()))
    counts = number.bincount(minlength=len(clean))

    def excess(expected):
        """How many standard deviations Pearson's statistic lies above its mean."""
        rare = expected * draws < 5  # these are pooled
        seen, due = (torch.cat([x[~rare], x[rare].sum()[None]]) for x in (counts, draws * expected))
        freedom = int((~rare).sum())
        return (float(((seen - due).square() / due).sum()) - freedom) / (2 * freedom) ** 0.5

    assert excess(law) < 4
    other = terminal_law(denoiser, diffusion, 4, step_grid(steps + 1), sampler)
    assert excess(other) > 10, "the test sees no difference"


def test_uneven_grid_has_its_own_law():
    """Of two steps under Absorbing, one at a late time reveals nothing: as a single step."""
    problem = under(digits(), Absorbing(3))
    grids = ([1.0, 0.0], [1.0, 1 - 1e-9, 0.0], [1.0, 0.5, 0.0], [1.0, 0.2, 0.0])
    laws = [terminal_law(problem.denoiser(), problem, 6, grid) for grid in grids]
    assert laws[1] == pytest.approx(laws[0], abs=1e-8)
    assert total_variation(laws[2], laws[3]) > 0.01


def test_only_reached_states_are_shown_to_the_network():
    output, shown = network(3, 4), []

    def counting(x_t, t):
        shown.append(len(x_t))
        return output(x_t, t)

    diffusion = Diffusion(Absorbing(3))
    terminal_law(NetworkDenoiser(counting, diffusion, Subs()), diffusion, 4, step_grid(3))
    assert shown == [1, 81, 81]


def test_terminal_law_has_the_gradient_of_its_distances():
    problem = under(digits(), Uniform(2))
    table = torch.zeros(6, 2, dtype=torch.float64, requires_grad=True)
    read = (problem.diffusion, Conditional())
    student = NetworkDenoiser(lambda x, t: table.expand(len(x), 6, 2), *read)
    law = terminal_law(student, problem, 6, step_grid(1))
    kl_divergence(problem.law, law).backward()
    assert table.grad == pytest.approx(0.5 - problem.marginals, abs=1e-8)


def test_distances_are_the_textbook_ones():
    p, q = torch.tensor([0.5, 0.5, 0.0]).double(), torch.tensor([0.25, 0.5, 0.25]).double()
    assert total_variation(p, q) == total_variation(q, p) == pytest.approx(0.25)
    assert kl_divergence(p, q) == pytest.approx(0.5 * math.log(2))
    assert kl_divergence(q, p) == chi_square(q, p) == math.inf
    assert chi_square(p, q) == pytest.approx(0.5)
    assert entropy(p) == pytest.approx(math.log(2))
    assert chi_square(p, p) == kl_divergence(p, p) == total_variation(p, p) == 0


def test_smoothing_reaches_every_sequence_and_keeps_the_rest():
    rows = torch.tensor([[1, 1], [0, 1]])
    diffusion = Diffusion(Uniform(2))
    problem = ExactProblem.smoothed(torch.tensor([30, 10]), rows, diffusion, amount=0.1)
    assert problem.sequences.tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    expected = torch.tensor([0.1, 0.35, 0.1, 0.85]).double() / 1.4
    assert problem.law == pytest.approx(expected)
    assert sequence_numbers(problem.states, 2).tolist() == [0, 1, 2, 3]


PAIRS, BITS = all_sequences(torch.arange(2), 2), Diffusion(Uniform(2))
QUARTER = torch.full((4,), 0.25)
BAD = {
    "zeros": (
        (torch.tensor([0.5, 0.5, 0.0, 0.0]), PAIRS, BITS),
        "2 of 4 .* `ExactProblem.smoothed`",
    ),
    "missing": ((torch.tensor([0.5, 0.5]), PAIRS[:2], BITS), "2 of 4 clean sequences have no"),
    "not normalised": ((QUARTER * 2, PAIRS, BITS), "sums to 2, not to 1"),
    "negative": ((torch.tensor([0.6, 0.6, -0.3, 0.1]), PAIRS, BITS), "at least 0, got -0.3"),
    "noise": ((QUARTER, PAIRS, Diffusion(Absorbing(3, 0))), "token 0, which under absorbing"),
    "twice": ((QUARTER, PAIRS[[0, 1, 2, 2]], BITS), "1 of 4 sequences are repeated"),
    "vocabulary": ((QUARTER, PAIRS * 2, BITS), r"must lie in \[0, 2\)"),
    "shapes": ((QUARTER, PAIRS[:3], BITS), r"\(M,\) and int64 \(M, L\) are needed"),
    "floats": ((QUARTER, PAIRS.double(), BITS), "float64 sequences"),
}


@pytest.mark.parametrize(("arguments", "words"), BAD.values(), ids=BAD.keys())
def test_a_law_that_is_none_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ExactProblem(*arguments)


def test_a_space_that_is_too_large_says_what_would_fit():
    with pytest.raises(ValueError, match="59,049 .* length=9 and length=10 up to vocab_size=2 "):
        ExactProblem(torch.ones(1), torch.zeros(1, 10, dtype=torch.int64), Diffusion(Absorbing(3)))
    with pytest.raises(ValueError, match="20,001 sequences, .*; length=1 up to vocab_size=20000 "):
        check_space(MAX_STATES + 1, 1)
    with pytest.raises(ValueError, match="; vocab_size=2 up to length=14 would fit"):
        terminal_law(under(parity(3), Uniform(2)).denoiser(), BITS, 15, [1.0, 0.0])
    with pytest.raises(ValueError, match=r"about 10\^451545 sequences"):
        check_space(32_768, 100_000)
    check_space(3, 9)


def test_what_has_no_answer_is_refused():
    problem = under(parity(3), Absorbing(3))
    denoiser, grid = problem.denoiser(), [1.0, 0.0]
    with pytest.raises(ValueError, match=r"become x_t = \[0, 2, 1\] by t = 0"):
        problem.log_conditional(torch.tensor([[0, 1, 1], [0, 2, 1]]), 0.0)
    with pytest.raises(ValueError, match=r"shape \(1, 2\); \(B, 3\) is needed"):
        problem.log_conditional(torch.tensor([[0, 1]]), 0.5)
    for bad in ([1.0], [0.0, 1.0], [1.0, 0.5], [1.2, 0.0], [1.0, 0.5, 0.5, 0.0]):
        with pytest.raises(ValueError, match="down to exactly 0"):
            terminal_law(denoiser, problem, 3, bad)
    with pytest.raises(ValueError, match="length 3, got 4"):
        terminal_law(denoiser, problem, 4, grid)
    with pytest.raises(ValueError, match="made for .*absorbing.* asked under .*uniform"):
        terminal_law(denoiser, Diffusion(Uniform(3)), 3, grid)
    broken = NetworkDenoiser(lambda x, t: torch.full((*x.shape, 3), math.nan), problem.diffusion)
    with pytest.raises(ValueError, match=r"from t = 1 at x_t = \[2, 2, 2\] is no distribution"):
        terminal_law(broken, problem, 3, grid)
    with pytest.raises(ValueError, match=r"one shape, got \(2,\) and \(3,\)"):
        total_variation(torch.ones(2) / 2, torch.ones(3) / 3)
    with pytest.raises(ValueError, match="sums from 2 to 2"):
        entropy(torch.ones(2))
    with pytest.raises(ValueError, match="above 0, got 0"):
        ExactProblem.smoothed(QUARTER, PAIRS, BITS, amount=0.0)
    with pytest.raises(ValueError, match="all zero"):
        ExactProblem.smoothed(QUARTER * 0, PAIRS, BITS)
    with pytest.raises(ValueError, match="two positions or more"):
        parity(1)
