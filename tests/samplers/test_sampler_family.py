"""What every sampler of the family keeps: its law, what is given, what it is told.

A new sampler is tried here by being registered.
"""

from __future__ import annotations

import pytest
import torch
from exact_bayes import ExactBayes, total_variation

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import terminal_law
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Canvas, Sampler, walk
from hf_ddistill.schedules import Linear, LogLinear

K, L, DRAWS, STEEP = 4, 2, 10_000, Linear(0.0, 9.0)
#: Where the default is no sampler of the data's law: the surest first is biased.
SETTINGS = {"unmasking": {"unmasking": {"type": "static", "score": "random"}}}
#: Whose steps follow the reverse process whatever the grid.
EXACT = {"uniformisation"}
#: Under masks its one correction of two positions mends what one step has done to them.
AT_ONCE = {"predictor_corrector", "speculative"}
#: What is left at 64 steps: at the last of them 7 % of the tokens are noise, taken out greedily.
LEFT = {"greedy_tail": 0.09}
FAMILY = [kind(**SETTINGS.get(name, {})) for name, kind in Sampler.registry.items()]
each_sampler = pytest.mark.parametrize("sampler", FAMILY, ids=lambda sampler: sampler.id)
each_process = pytest.mark.parametrize("cls", [Absorbing, Uniform], ids=lambda cls: cls.id)
#: All but those that draw times which the denoiser reads, so that no enumeration has an end.
ENUMERATED = [sampler for sampler in FAMILY if sampler.id not in EXACT]
#: Those that draw every token given all others: exact under masks.
SEQUENTIAL = sorted({"unmasking", "first_hitting", "speculative"} & Sampler.registry.keys())


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def of(cls, sampler, schedule=STEEP):
    """A small joint law under a process that the sampler accepts."""
    problem = ExactBayes.random(Diffusion(cls.example(K), schedule), L)
    try:
        sampler.check(problem.diffusion)
    except ValueError as error:
        pytest.skip(str(error))
    return problem


def drawn(problem, sampler, steps, denoiser=None, draws=DRAWS):
    """The law of what is drawn, as frequencies over all states."""
    denoiser = problem.denoiser() if denoiser is None else denoiser
    x = sampler.sample(denoiser, Canvas.empty((draws, L)), steps, seeded())
    return problem.index(x).bincount(minlength=len(problem.states)).double() / draws


@torch.no_grad()
def law_of(problem, sampler, steps):
    """The exact law over the clean sequences."""
    grid, denoiser = sampler.grid(steps, problem.diffusion), problem.denoiser()
    if problem.diffusion.reveals:  # p(x_0 | x_t) is the same at all times, and none is drawn
        known = denoiser.network
        denoiser = NetworkDenoiser(
            lambda x, t: known(x, torch.full((len(x),), 0.5, dtype=torch.float64)),
            problem.diffusion,
            denoiser.parameterization,
            reads_time=None,
        )
    return terminal_law(denoiser, problem.diffusion, L, grid, sampler)


@each_process
@pytest.mark.parametrize(
    ("sampler", "steps"),
    [
        # Without a rule every outcome of every draw is followed: 64 steps take seconds.
        *((sampler, 64 if sampler.is_product else 16) for sampler in FAMILY),
        *(pytest.param(s, 64, marks=pytest.mark.slow) for s in FAMILY if not s.is_product),
    ],
    ids=lambda value: getattr(value, "id", value),
)
def test_the_law_of_an_exact_denoiser_tends_to_the_data_s(cls, sampler, steps):
    problem = of(cls, sampler)
    if sampler.id in EXACT:  # each row of them is at a time of its own, which costs the oracle
        for n in (1, 4):
            assert total_variation(drawn(problem, sampler, n, draws=2000), problem.data) < 0.06
        return

    few, many = (total_variation(law_of(problem, sampler, n), problem.law) for n in (1, steps))
    assert few > 0.005 or sampler.id in AT_ONCE, "one step: is the test able to fail?"
    assert many < (LEFT.get(sampler.id, 0.035) if steps == 64 else 0.07)


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_a_sampler_that_is_exact_is_not(name):
    sampler = next(sampler for sampler in FAMILY if sampler.id == name)
    problem = of(Absorbing, sampler)
    assert total_variation(law_of(problem, sampler, L), problem.law) < 1e-8


@each_process
@pytest.mark.parametrize("sampler", ENUMERATED, ids=lambda sampler: sampler.id)
def test_what_is_drawn_has_the_sampler_s_terminal_law(cls, sampler):
    problem = of(cls, sampler, LogLinear())
    table = 2 * torch.randn(L, K, L, K, dtype=torch.float64)

    def network(x_t, t):
        return torch.einsum("blk,lkmv->bmv", torch.nn.functional.one_hot(x_t, K).double(), table)

    denoiser = NetworkDenoiser(network, problem.diffusion, Conditional(), reads_time=None)
    grid = sampler.grid(3, problem.diffusion)
    with torch.no_grad():
        law = terminal_law(denoiser, problem.diffusion, L, grid, sampler)
        other = terminal_law(denoiser, problem.diffusion, L, [1.0, 0.0])
    clean = [~torch.isin(problem.states, torch.tensor(problem.diffusion.process.noise_tokens))]
    found = drawn(problem, sampler, 3, denoiser)[clean[0].all(-1)]
    spread = (law * (1 - law) / DRAWS).sqrt()
    assert ((found - law).abs() <= 4.5 * spread + 1e-9).all()
    assert ((found - other).abs() > 4.5 * spread + 1e-9).any(), "the test sees no difference"


@each_process
@each_sampler
def test_given_tokens_are_held_and_shown_to_every_call(cls, sampler):
    problem, seen = of(cls, sampler), []

    def network(x_t, t, at=None):
        seen.append(x_t)
        return torch.zeros(*(x_t.shape if at is None else at.shape), K)

    tokens = torch.tensor([[2, 0], [1, 0]])
    canvas = Canvas(tokens, torch.tensor([[False, True], [False, True]]))
    denoiser = NetworkDenoiser(network, problem.diffusion, Conditional())
    x = sampler.sample(denoiser, canvas, 3, seeded())
    assert seen and problem.data[problem.index(x)].min() > 0
    assert torch.equal(x[:, 0], tokens[:, 0])
    for state in seen:  # of both rows, of one whose turn it is, or of one several times
        assert set(state[:, 0].tolist()) <= {1, 2}


@each_sampler
def test_conditions_and_fresh_noise_reach_every_call(sampler):
    problem, seen = of(Absorbing, sampler), []

    def network(x_t, t, noise, class_labels, at=None):
        seen.append(noise)
        assert len(class_labels) == len(x_t) and torch.isin(class_labels, labels).all()
        return torch.zeros(*(x_t.shape if at is None else at.shape), K)

    denoiser = NetworkDenoiser(network, problem.diffusion, latent=Latent(2))
    labels = torch.tensor([3, 4])
    sampler.sample(denoiser, Canvas.empty((2, 6)), 24, seeded(), class_labels=labels)
    # The noise of a step that is told its size is that size.
    own = type(sampler).asked is not Sampler.asked
    assert len(seen) >= 2 and torch.equal(seen[0][-1], seen[1][-1]) == own


@each_sampler
def test_who_is_told_of_a_step_can_replace_its_state_and_end_it(sampler):
    problem, told = of(Absorbing, sampler), []
    other = torch.tensor([[0, K - 1]])

    def on_step(reached):
        told.append((reached.number, reached.t, reached.s))
        if reached.number == 1:
            reached.state, reached.stop = other, True

    x = sampler.sample(problem.denoiser(), Canvas.empty((1, L)), 4, seeded(), on_step)
    assert torch.equal(x, other)
    times = list(sampler.grid(4, problem.diffusion))
    assert told == [(0, times[0], times[1]), (1, times[1], times[2])]


@each_process
@each_sampler
def test_a_row_hangs_on_its_batch_or_two_samples_of_one_seed_differ(cls, sampler):
    """Rows differ in their seeds and in how much is given, so that some are done before others."""
    problem = of(cls, sampler, LogLinear())
    tokens = torch.tensor([[0, 1], [0, 2], [0, 1], [2, 0], [1, 2], [0, 0]])
    infill = torch.tensor([[1, 1], [0, 1], [1, 1], [1, 0], [0, 0], [1, 1]]).bool()

    def draw(rows):
        canvas = Canvas(tokens[rows], infill[rows])
        return sampler.sample(problem.denoiser(), canvas, 3, [seeded(5 + row) for row in rows])

    together = draw(list(range(6)))
    assert len(together[[0, 2, 5]].unique(dim=0)) > 1, "no row shows whose numbers it drew"
    for rows in ([5, 0, 3], *([row] for row in range(6))):
        assert torch.equal(draw(rows), together[rows]), rows


@each_sampler
def test_a_sampler_comes_back_from_its_configuration(sampler):
    assert Sampler.from_config(sampler.to_config()) == sampler
    told = type(sampler).asked is not Sampler.asked
    assert sampler.citation and sampler.calls_once >= (sampler.is_product and not told)


def test_a_walk_goes_through_all_intervals_in_order():
    moves = []

    def move(state, s, t):
        moves.append((t, s))
        return state + 1

    assert walk([1.0, 0.7, 0.1, 0.0], 10, move) == 13
    assert moves == [(1.0, 0.7), (0.7, 0.1), (0.1, 0.0)]


@pytest.mark.parametrize("n", [0, -1, True])
def test_a_number_of_steps_that_is_none_is_no_sentence(n):
    problem = ExactBayes.random(Diffusion(Absorbing.example(K), STEEP), L)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got"):
        Sampler.from_config("ancestral").sample(problem.denoiser(), Canvas.empty((1, L)), n)


def test_a_canvas_that_does_not_fit_is_found_out_by_torch():
    tokens, infill = torch.zeros(2, L, dtype=torch.int64), torch.ones(2, L, dtype=torch.bool)
    for wrong in ((tokens, infill[:, 1:]), (tokens, infill.long())):
        with pytest.raises(ValueError, match="infill must be Boolean and of the shape"):
            Canvas(*wrong)
    for wrong in (tokens.double(), tokens[0]):
        with pytest.raises(ValueError, match="Tokens are int64 of shape"):
            Canvas(wrong, infill)
    problem = ExactBayes.random(Diffusion(Absorbing.example(K), STEEP), L)
    sampler = Sampler.from_config("ancestral")
    with pytest.raises(ValueError, match="Tokens must lie in"):
        sampler.sample(problem.denoiser(), Canvas(tokens + 99, ~infill), 1)
    sampler.sample(problem.denoiser(), Canvas(tokens - 100, infill), 1)  # none of them is given
