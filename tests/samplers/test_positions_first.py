"""Positions first: the tokens are those of a loop that looks everywhere, and nothing else is asked.

The mask is the last token, where both draw by the same numbers; elsewhere the law is the same, see
`test_chances.py` and `test_sampler_family.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from slow_cases import mostly_slow

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.couplings.step_back import step_back
from hf_ddistill.denoisers import Guided, Latent, NetworkDenoiser, Sharpened
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import categorical
from hf_ddistill.processes import Absorbing
from hf_ddistill.samplers import (
    Ancestral,
    Canvas,
    Euler,
    GivenTimes,
    Jump,
    Sampler,
    TauLeaping,
    UnmaskingSampler,
    look,
)
from hf_ddistill.samplers.posterior import posterior

SAMPLERS = [Ancestral(), Euler(), TauLeaping(), Jump()]
each_sampler = pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.id)
SHARPENED = {"plain": (), "warm, top-p": (0.7, None, 0.9), "top-k": (1.0, 5, 1.0), "cold": (0.0,)}


class Network:
    """Looks at tokens, time, noise and class; remembers what it was shown and asked."""

    def __init__(self, vocab_size):
        self.tokens, self.shown, self.asked = torch.arange(vocab_size) + 1.3, [], []

    def __call__(self, x_t, t, at=None, noise=None, class_labels=None):
        self.shown.append((x_t, t))
        self.asked.append(at)
        phase = (x_t + 1).cumsum(-1) + 7 * t[:, None]
        phase = phase if noise is None else phase + noise.sum(-1)
        phase = phase if class_labels is None else phase + class_labels[:, None]
        logits = 3 * torch.sin(phase[..., None] * self.tokens).float()
        return logits if at is None else logits.flatten(0, 1)[at]


def made(vocab_size, latent=None, settings=()):
    network = Network(vocab_size)
    denoiser = NetworkDenoiser(network, Diffusion(Absorbing(vocab_size)), latent=latent)
    return network, Sharpened(denoiser, *settings) if settings else denoiser


def plain(sampler, denoiser, canvas, n, generator, **condition):
    """The loop that looks everywhere at each step, and draws everywhere by the rule."""
    diffusion, x = denoiser.diffusion, canvas.tokens
    x = canvas.hold(diffusion.prior(x.shape, generator))
    for t, s in pairwise(sampler.grid(n, diffusion)):
        said = look(denoiser, x, t, generator, **condition)
        x = canvas.hold(categorical(sampler.probs(said, diffusion, x, s, t), generator))
    return x


def given(rows, length, vocab_size, share=0.8):
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(vocab_size - 1, (rows, length), generator=generator)
    return Canvas(tokens, torch.rand(rows, length, generator=generator) < share)


def seeded(rows=None, seed=3):
    if rows is None:
        return torch.Generator().manual_seed(seed)
    return [torch.Generator().manual_seed(seed + row) for row in range(rows)]


SIZES = [(28, 5, 16, 16), (513, 3, 12, 7), (28, 4, 6, 24), (5, 1, 3, 1)]
CASES = [(sampler, sizes) for sampler in SAMPLERS for sizes in SIZES]
CASES = [case for case in CASES if case[0].id in ("ancestral", "jump") or case[1] in SIZES[::2]]


@pytest.mark.parametrize(
    ("sampler", "sizes"),
    mostly_slow(CASES, lambda sampler, sizes: sampler.id == "ancestral" or sizes == SIZES[2]),
    ids=lambda case: str(case),
)
def test_tokens_are_those_of_the_plain_loop(sampler, sizes):
    vocab_size, rows, length, n = sizes
    settings = [(name, None, how) for name, how in SHARPENED.items()] + [("noise", Latent(2), ())]
    for number, (name, latent, how) in enumerate(settings):
        canvas = given(rows, length, vocab_size) if number % 2 else Canvas.empty((rows, length))
        many, (_, denoiser) = rows if number % 3 else None, made(vocab_size, latent, how)
        expected = plain(sampler, denoiser, canvas, n, seeded(many))
        found = sampler.sample(denoiser, canvas, n, seeded(many))
        assert torch.equal(found, expected), name
        watched = sampler.sample(denoiser, canvas, n, seeded(many), lambda reached: None)
        assert torch.equal(watched, expected), name


def test_generator_is_left_where_the_plain_loop_leaves_it():
    _, denoiser = made(28)
    one, other = seeded(), seeded()
    plain(Ancestral(), denoiser, given(4, 8, 28), 5, one)
    Ancestral().sample(denoiser, given(4, 8, 28), 5, other)
    assert torch.equal(torch.rand(3, generator=one), torch.rand(3, generator=other))


def test_conditions_go_with_their_rows():
    labels, noise = torch.arange(6), torch.randn(6, 16, 2, generator=seeded())
    for latent, more in ((None, {}), (Latent(2), {"noise": noise})):
        _, denoiser = made(28, latent)
        arguments = (Ancestral(), Guided(denoiser, 0.5), given(6, 16, 28), 40)
        expected = plain(*arguments, seeded(), class_labels=labels, **more)
        found = Ancestral().sample(*arguments[1:], seeded(), class_labels=labels, **more)
        assert torch.equal(found, expected)


@each_sampler
@pytest.mark.parametrize("watched", [False, True])
def test_only_what_is_drawn_is_asked_for_and_each_position_once(sampler, watched):
    network, denoiser = made(28)
    canvas, asked = given(6, 16, 28), torch.zeros(6 * 16, dtype=torch.int64)
    on_step = (lambda reached: None) if watched else None
    sampler.sample(denoiser, canvas, 64, seeded(), on_step)
    for (x_t, _), at in zip(network.shown, network.asked, strict=True):
        assert at is not None and len(at) and (x_t.flatten()[at] == 27).all()
        assert x_t.shape[0] == len((at // 16).unique()), "a row took part for nothing"
        if x_t.shape[0] == 6:
            asked += at.bincount(minlength=6 * 16)
    assert not asked[~canvas.infill.flatten()].any(), "what is given was asked for"
    if sampler.id != "jump":
        assert sum(map(len, network.asked)) == int(canvas.infill.sum())


def test_rows_with_clocks_of_their_own_fill_the_batch():
    """16 tokens of a row take at most 16 calls, at rising steps and falling times."""
    network, denoiser = made(28)
    Ancestral().sample(denoiser, Canvas.empty((8, 16)), 64, seeded())
    assert len(network.shown) <= 16
    sizes = [len(t) for _, t in network.shown]
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == 8 and sizes[-1] < 8
    assert all(len(t.unique()) > 1 for _, t in network.shown[:4]), "all rows are at one step"
    watched, other = made(28)
    Ancestral().sample(other, Canvas.empty((8, 16)), 64, seeded(), lambda reached: None)
    assert len(watched.shown) > 16


def test_a_held_mask_is_never_asked_for():
    network, denoiser = made(28)
    canvas = Canvas(torch.tensor([[27, 3, 0, 0]]), torch.tensor([[False, False, True, True]]))
    for on_step in (None, lambda reached: None):
        x = Ancestral().sample(denoiser, canvas, 3, seeded(), on_step)
        assert x[0, :2].tolist() == [27, 3] and x[0, 2:].max() < 27
    assert all((at >= 2).all() for at in network.asked)


@pytest.mark.parametrize("name", ["ancestral", "jump", "unmasking", "theta_trapezoidal"])
def test_where_all_is_given_no_network_is_called(name):
    network, denoiser = made(28)
    tokens = torch.tensor([[3, 4], [5, 6]])
    canvas = Canvas(tokens, torch.zeros(2, 2, dtype=torch.bool))
    assert torch.equal(Sampler.named(name)().sample(denoiser, canvas, 4, seeded()), tokens)
    assert not network.shown


def test_no_rows_and_no_positions_are_no_calls():
    network, denoiser = made(28)
    for shape in ((0, 3), (2, 0), (0, 0)):
        assert Ancestral().sample(denoiser, Canvas.empty(shape), 4, seeded()).shape == shape
    assert not network.shown


@dataclass(frozen=True)
class _Lazy(Ancestral):
    """Stays at every mask until the last step."""

    def rule(self, prediction, diffusion, x_t, s, t):
        return torch.nn.functional.one_hot(x_t, diffusion.vocab_size).double()


@dataclass(frozen=True)
class _Late(Sampler):
    """Its times do not come to data."""

    def grid(self, n, diffusion):
        return [1.0, 0.5, 0.5]

    def rule(self, *arguments):
        return posterior(*arguments)


def test_a_rule_that_was_changed_is_not_passed_over_for_inherited_chances():
    for lazy in (_Lazy(), GivenTimes(_Lazy(), [1.0, 0.7, 0.2, 0.0])):
        seen, diffusion = [], Diffusion(Absorbing(28))

        def told(reached, seen=seen):
            seen.append(reached.state)

        lazy.sample(made(28)[1], Canvas.empty((1, 8)), 3, seeded(), told)
        assert (seen[0] == 27).all() and (seen[1] == 27).all() and (seen[2] < 27).all()
        assert lazy.known_chances(diffusion, 0.2, 0.5) is None
    assert lazy.chances(diffusion, 0.2, 0.5) is None, "such as the base's rule has not"
    x_t, t = torch.full((1, 8), 27), torch.tensor([0.5])
    step = TrainingStep(x_t, diffusion, made(28)[1], generator=seeded())
    here = step.look(step.student, x_t, t, step.open(x_t))
    for each in (lazy, lazy.base):
        assert (step_back(step, x_t, here, torch.tensor([0.2]), each)[0] == 27).all()


def test_a_grid_that_does_not_descend_is_refused():
    with pytest.raises(ValueError, match=r"down to exactly 0, got \[1.0, 0.5, 0.5\]"):
        _Late().sample(made(28)[1], Canvas.empty((1, 8)), 2)


def test_a_network_that_says_nan_is_refused():
    denoiser = NetworkDenoiser(
        lambda x, t, at: torch.full((len(at), 28), torch.nan), Diffusion(Absorbing(28))
    )
    for on_step in (None, lambda reached: None):
        with pytest.raises(ValueError, match="NaN, infinity or no mass"):
            Ancestral().sample(denoiser, Canvas.empty((1, 8)), 2, seeded(), on_step)


@pytest.mark.parametrize(
    "settings", [(-0.5,), (float("nan"),), (1.0, -1), (1.0, None, 0.0)], ids=str
)
def test_a_sharpening_out_of_its_range_is_refused(settings):
    with pytest.raises(ValueError, match="`(temperature|top_k|top_p)` must"):
        made(28, settings=settings)
    names = ("temperature", "top_k", "top_p")
    with pytest.raises(ValueError, match="`(temperature|top_k|top_p)` must"):
        UnmaskingSampler(**dict(zip(names, settings, strict=False)))


def test_a_law_of_many_tokens_is_made_of_a_few_positions_at_a_time(monkeypatch):
    _, denoiser = made(28, settings=(0.7, None, 0.9))
    whole = Ancestral().sample(denoiser, given(4, 8, 28), 2, seeded())
    sizes, pieces = [], type(denoiser).pieces

    def watched(self, *arguments, **condition):
        for said in pieces(self, *arguments, **condition):
            sizes.append(len(said.log_conditional))
            yield said

    monkeypatch.setattr(type(denoiser), "pieces", watched)
    monkeypatch.setattr("hf_ddistill.samplers.asking.SOME", 3 * 28)
    assert torch.equal(Ancestral().sample(denoiser, given(4, 8, 28), 2, seeded()), whole)
    assert max(sizes) == 3 and len(sizes) > 4
