"""Exact laws by following every branch of a sampler's own code, against rules and by hand."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from exact_bayes import ExactBayes

from hf_ddistill.denoisers import Drafted, Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import branching, terminal_law
from hf_ddistill.laboratory.branching_law import branching_law
from hf_ddistill.linalg import (
    bernoulli,
    categorical,
    categorical_at,
    generators_of,
    uniform_noise,
)
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Canvas, Sampler, Speculative, UnmaskingSampler
from hf_ddistill.schedules import LogLinear

K, L = 4, 3
MASKS = Diffusion(Absorbing(K), LogLinear(1e-9))
PRODUCTS = [kind for kind in Sampler.registry.values() if kind().is_product]


def denoiser_of(diffusion, seed=0, length=L):
    """Any table of logits, as uneven as a trained one: its conditionals are those of no law."""
    generator = torch.Generator().manual_seed(seed)
    size = diffusion.vocab_size
    table = 2 * torch.randn(length, size, length, size, dtype=torch.float64, generator=generator)

    def network(x_t, t):
        seen = torch.nn.functional.one_hot(x_t, size).double()
        return torch.einsum("blk,lkmv->bmv", seen, table)

    reading = {} if diffusion.reveals else {"parameterization": Conditional()}
    return NetworkDenoiser(network, diffusion, **reading)


@pytest.fixture(autouse=True)
def the_family_stays_as_it_is():
    known = dict(Sampler.registry)
    yield
    Sampler.registry.clear()
    Sampler.registry.update(known)


@pytest.mark.parametrize("cls", [Absorbing, Uniform], ids=lambda cls: cls.id)
@pytest.mark.parametrize("kind", PRODUCTS, ids=lambda kind: kind.id)
def test_branches_of_a_product_sampler_have_the_law_of_its_rule(cls, kind):
    class Drawn(kind):
        def step(self, denoiser, x_t, s, t, generator=None, **condition):
            probs = self.probs(denoiser(x_t, t), denoiser.diffusion, x_t, s, t)
            return categorical(probs, generator)

    denoiser = denoiser_of(Diffusion(cls(K), LogLinear(1e-9)))
    try:
        kind().check(denoiser.diffusion)
    except ValueError as error:
        pytest.skip(str(error))
    grid = [1.0, 0.7, 0.2, 0.0]
    with torch.no_grad():
        expected = terminal_law(denoiser, denoiser.diffusion, L, grid, kind())
    law = branching_law(denoiser, Drawn(), L, grid)
    law = law[law > 0] if cls is Absorbing else law
    torch.testing.assert_close(law, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("drafts", "lookahead", "steps"),
    [
        ("itself", 1, 1),
        ("another", 1, 2),
        pytest.param("itself", 2, 1, marks=pytest.mark.slow),
        pytest.param("another", 4, 1, marks=pytest.mark.slow),
    ],
)
def test_rounds_of_a_step_are_not_joined_and_six_positions_take_for_ever(drafts, lookahead, steps):
    masks = Diffusion(Absorbing(3), LogLinear(1e-9))
    teacher = denoiser_of(masks, length=6)
    random = UnmaskingSampler({"type": "static", "score": "random"})
    expected = terminal_law(teacher, masks, 6, random.grid(6, masks), random)
    few = terminal_law(teacher, masks, 6, random.grid(2, masks), random)
    assert (few - expected).abs().sum() > 0.1
    pair = teacher if drafts == "itself" else Drafted(teacher, denoiser_of(masks, 1, 6))
    sampler = Speculative(lookahead)
    law = terminal_law(pair, masks, 6, sampler.grid(steps, masks), sampler)
    torch.testing.assert_close(law, expected, rtol=0, atol=1e-8)


def by_hand(denoiser, steps, rule):
    """The law of drafts of which `rule(confidence, masked, share)` keeps some, by recursion."""
    total = {}

    @functools.cache
    def said(x, step):
        return denoiser(torch.tensor([x]), 1 - step / steps).log_conditional[0].exp().tolist()

    def go(x, step, weight):
        masked = [i for i in range(L) if x[i] == K - 1]
        if step == steps or not masked:
            total[x] = total.get(x, 0.0) + weight
            return
        p = said(x, step)
        share = len(masked) if step == steps - 1 else -(-len(masked) // (steps - step))
        for tokens in itertools.product(range(K - 1), repeat=len(masked)):
            drawn = dict(zip(masked, tokens, strict=True))
            chance = 1.0
            for i, token in drawn.items():
                chance *= p[i][token]
            sure = {i: p[i][token] for i, token in drawn.items()}
            for kept, how_often in rule(sure, masked, share):
                y = tuple(drawn[i] if i in kept else x[i] for i in range(L))
                go(y, step + 1, weight * chance * how_often)

    go((K - 1,) * L, 0, 1.0)
    clean = itertools.product(range(K - 1), repeat=L)
    return torch.tensor([total.get(x, 0.0) for x in clean], dtype=torch.float64)


def surest(sure, masked, share):
    return [(sorted(masked, key=lambda i: -sure[i])[:share], 1.0)]


def any_set(sure, masked, share):
    sets = list(itertools.combinations(masked, share))
    return [(kept, 1 / len(sets)) for kept in sets]


@pytest.mark.parametrize(("score", "rule"), [("confidence", surest), ("random", any_set)])
def test_law_of_an_unmasking_rule_is_that_of_a_recursion_by_hand(score, rule):
    denoiser = denoiser_of(MASKS)
    sampler = UnmaskingSampler({"type": "static", "score": score})
    for steps in (2, 3):
        law = terminal_law(denoiser, MASKS, L, sampler.grid(steps, MASKS), sampler)
        torch.testing.assert_close(law, by_hand(denoiser, steps, rule), rtol=0, atol=1e-12)


def test_one_token_a_call_in_random_order_is_exact_and_the_surest_first_is_not():
    problem = ExactBayes.random(MASKS, L)
    for score, exact in (("random", True), ("margin", True), ("confidence", False)):
        sampler = UnmaskingSampler({"type": "static", "score": score})
        law = terminal_law(problem.denoiser(), MASKS, L, sampler.grid(L, MASKS), sampler)
        far = float((law - problem.law).abs().sum() / 2)
        assert (far < 1e-12) == exact, score


@pytest.mark.parametrize("rule", ["klass", {"type": "prophet", "otherwise": "klass"}])
def test_what_a_sampler_remembers_of_a_row_goes_with_its_branch(rule):
    if rule == "klass":
        rule = {"type": "klass", "threshold": 0.3, "bound": 3.0}
    denoiser, sampler, draws = denoiser_of(MASKS), UnmaskingSampler(rule), 20_000
    law = terminal_law(denoiser, MASKS, L, sampler.grid(3, MASKS), sampler)
    generator = torch.Generator().manual_seed(0)
    x = sampler.sample(denoiser, Canvas.empty((draws, L)), 3, generator)
    number = (x * (K - 1) ** torch.arange(L - 1, -1, -1)).sum(-1)
    found = number.bincount(minlength=(K - 1) ** L) / draws
    assert ((found - law).abs() <= 4.5 * (law * (1 - law) / draws).sqrt() + 1e-9).all()


def in_parts(own_loop):
    """A sampler that draws for each row by itself and at its masks alone: a token a call, anywhere.

    Rows that have none left leave the batch. With a loop of its own it goes on until none is left.
    """

    class InParts(UnmaskingSampler):
        def step(self, denoiser, x_t, s, t, generator=None, **condition):
            rows = denoiser.diffusion.undetermined(x_t).any(1).nonzero()[:, 0]
            x, own = x_t[rows], generators_of(generator, rows)
            assert bernoulli(torch.ones(len(x_t), 1), generator).all()
            masked = denoiser.diffusion.undetermined(x)
            where = torch.nn.functional.one_hot(categorical(masked.double(), own), L).bool()
            p = denoiser(x, t).log_conditional.exp()
            x[where] = categorical_at(p[where], where, own)
            return x_t.index_copy(0, rows, x)

    class OwnLoop(InParts):
        def sample(self, denoiser, canvas, n, generator=None, on_step=None, **condition):
            x = denoiser.diffusion.prior(canvas.tokens.shape, generator)
            while (x == K - 1).any():
                x = self.step(denoiser, x, 0.0, 1.0, generator)
            return x

    return OwnLoop() if own_loop else InParts()


@pytest.mark.parametrize("own_loop", [False, True])
def test_draws_of_some_rows_and_loops_of_their_own_are_followed(own_loop):
    denoiser, random = denoiser_of(MASKS), UnmaskingSampler({"type": "static", "score": "random"})
    grid = random.grid(L + 1, MASKS)
    expected = terminal_law(denoiser, MASKS, L, random.grid(L, MASKS), random)
    law = terminal_law(denoiser, MASKS, L, grid, in_parts(own_loop))
    torch.testing.assert_close(law, expected, rtol=0, atol=1e-12)


def test_a_coin_branches_by_its_probability():
    prob = torch.tensor([[0.25, 1.0], [0.0, 0.5]])
    found = branching.outcomes(lambda rows, g: bernoulli(prob[rows], g), torch.ones(2).double(), 2)
    heads = [
        (w, tuple(row))
        for weight, x in found
        for w, row in zip(weight.tolist(), x.tolist(), strict=True)
    ]
    expected = [(0.25, (True, True)), (0.75, (False, True))]
    assert sorted(heads) == sorted([*expected, (0.5, (False, True)), (0.5, (False, False))])


def test_what_has_no_exact_law_says_why(monkeypatch):
    denoiser, grid = denoiser_of(MASKS), [1.0, 0.5, 0.0]

    def law(step, denoiser=denoiser):
        kind = type("Broken", (UnmaskingSampler,), {"step": step, "is_product": False})
        return terminal_law(denoiser, MASKS, L, grid, kind())

    def by_numbers(self, denoiser, x_t, s, t, generator=None):
        return (uniform_noise(x_t.shape, generator) < 0.5).long()

    def of_no_row(self, denoiser, x_t, s, t, generator=None):
        return categorical(torch.ones(len(x_t) + 1, K), generator)

    def remembers(self, denoiser, x_t, s, t, generator=None):
        object.__setattr__(self, "mean", torch.zeros(len(x_t) + 1))
        return x_t

    with pytest.raises(ValueError, match="cannot be enumerated: .* `categorical` or `bernoulli`"):
        law(by_numbers)
    with pytest.raises(ValueError, match="Got 2 distributions for 1 rows"):
        law(of_no_row)
    with pytest.raises(ValueError, match="what it remembers must be of one row each"):
        law(remembers)
    with pytest.raises(ValueError, match="no step rule, and draws with a noise input cannot"):
        law(by_numbers, NetworkDenoiser(denoiser.network, MASKS, latent=Latent(1)))
    monkeypatch.setattr("hf_ddistill.laboratory.branching.MOST", 20)
    with pytest.raises(ValueError, match="follows at most 20 branches .* one draw makes 27"):
        terminal_law(denoiser, MASKS, L, grid, UnmaskingSampler())
