"""What a step by an unmasking rule asks of the network: which positions, of which rows, how
often."""

from __future__ import annotations

import pytest
import torch

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.processes import Absorbing
from hf_ddistill.samplers import Canvas, UnmaskingSampler, step_grid
from hf_ddistill.unmasking import Static, Unmasking

K, L, MASK = 5, 6, 4
RULES = [
    *(rule() for rule in Unmasking.registry.values()),
    *(Static(score) for score in ("margin", "entropy", "random", "left_to_right")),
]
#: As unwilling to decide as their settings allow.
UNWILLING = [
    {"type": "threshold", "threshold": 1.0},
    {"type": "klass", "threshold": 1.0, "bound": 1e-12},
    {"type": "entropy_threshold", "threshold": 0.0},
    {"type": "entropy_bounded", "gamma": 0.0},
    {"type": "factor", "factor": 1e-9},
    {"type": "prophet", "gaps": [1e9, 1e9, 1e9], "otherwise": {"type": "factor", "factor": 1e-9}},
]


class Counting:
    """A network that is the surer the greater a row's first token; it keeps what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, x_t, t, at=None, noise=None):
        where = torch.zeros(x_t.numel(), dtype=torch.bool)
        where[slice(None) if at is None else at] = True
        self.asked.append((x_t.clone(), where.view(x_t.shape)))
        phase = (x_t + 1).cumsum(-1)[..., None] * (torch.arange(K) + 1.3)
        logits = (1 + 9 * x_t[:, :1, None]) * torch.sin(phase + torch.arange(L)[:, None])
        shift = 0 if noise is None else noise.sum(-1, keepdim=True)
        output = (logits + shift * torch.arange(K)).double()
        return output if at is None else output.flatten(0, 1)[at]

    @property
    def row_calls(self):
        return sum(len(x) for x, _ in self.asked)


def made(latent=None):
    network = Counting()
    return network, NetworkDenoiser(network, Diffusion(Absorbing(K)), latent=latent)


def seeded(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def canvas(rows):
    """The first token is given: 0, 1, 0, 1, ..."""
    tokens = (torch.arange(rows) % 2)[:, None] * torch.ones(L, dtype=torch.int64)
    infill = torch.ones(rows, L, dtype=torch.bool)
    infill[:, 0] = False
    return Canvas(tokens, infill)


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_masked_positions_alone_are_asked_for_and_done_rows_leave(rule):
    network, denoiser = made()
    x = UnmaskingSampler(rule).sample(denoiser, canvas(4), 3, seeded(4))
    assert x.max() < MASK and 1 <= len(network.asked) <= 3
    for x_t, where in network.asked:
        assert (x_t[where] == MASK).all() and where.any(1).all(), "a row with nothing to be asked"
        assert not rule.reads_logits or torch.equal(where, x_t == MASK)
    if not rule.reads_logits:
        assert sum(int(where.sum()) for _, where in network.asked) == 4 * (L - 1)


@pytest.mark.parametrize("latent", [None, Latent(2)], ids=["", "noise"])
def test_a_row_that_is_sure_of_all_makes_no_more_calls(latent):
    network, denoiser = made(latent)
    rule = {"type": "entropy_threshold", "threshold": 0.9}
    x = UnmaskingSampler(rule).sample(denoiser, canvas(6), L, seeded(6))
    sure = [int((x_t[:, 0] == 1).sum()) for x_t, _ in network.asked]
    others = [int((x_t[:, 0] == 0).sum()) for x_t, _ in network.asked]
    assert x.max() < MASK and sure[0] == others[0] == 3
    assert sure[-1] == 0 < others[-1] or len(network.asked) < L
    assert network.row_calls < 6 * len(network.asked)
    alone = [
        UnmaskingSampler(rule).sample(
            denoiser,
            Canvas(*(part[row : row + 1] for part in (canvas(6).tokens, canvas(6).infill))),
            L,
            seeded(6)[row : row + 1],
        )  # fmt: skip
        for row in range(6)
    ]
    assert torch.equal(torch.cat(alone), x), "a row must not hang on those that leave"


def test_a_threshold_that_all_pass_takes_one_call():
    network, denoiser = made()
    UnmaskingSampler({"type": "threshold", "threshold": 0.0}).sample(denoiser, canvas(3), 5)
    assert len(network.asked) == 1


@pytest.mark.parametrize("settings", UNWILLING, ids=lambda settings: settings["type"])
@pytest.mark.parametrize("steps", [1, 3, 20])
def test_an_unreachable_threshold_ends_all_the_same(settings, steps):
    network, denoiser = made()
    x = UnmaskingSampler(settings).sample(denoiser, canvas(2), steps, seeded(2))
    assert x.max() < MASK and len(network.asked) <= min(steps, L - 1)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_p": 0.9}])
@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_step_from_a_prediction_is_that_of_the_denoiser(rule, settings):
    _, denoiser = made()
    states = []
    for way in ("step", "advance"):
        run, x = UnmaskingSampler(rule, **settings).begin(), torch.full((4, L), MASK)
        x[0] = 1
        generator = seeded(4)
        for t, s in zip(step_grid(4)[:-1], step_grid(4)[1:], strict=True):
            if way == "step":
                x = run.step(denoiser, x, s, t, generator)
            else:
                x = run.advance(denoiser(x, t), denoiser.diffusion, x, s, t, generator)
            states.append(x)
    assert torch.equal(torch.stack(states[:4]), torch.stack(states[4:]))
    assert states[3].max() < MASK
