"""A block-diffusion network that is a table, in every reading of `BlockDiffusionLM`; and decodings.

What a position sees, the *view*, is a state with masks for all that it does not: the table of exact
conditionals is at once the teacher with full attention and Bayes' answer of every block size.
"""

from __future__ import annotations

import torch
from enumeration import digits

from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import categorical
from hf_ddistill.parameterizations import Subs
from hf_ddistill.places import Places
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import LOG_ZERO
from hf_ddistill.unmasking import Draft

MASKS = Diffusion(Absorbing(3), LogLinear(1e-9))


class Views(torch.nn.Module):
    """Free logits (K ** L, L, K) of each view; remembers the readings that it was called in."""

    def __init__(self, logits, block_size):
        super().__init__()
        self.logits = torch.nn.Parameter(logits.clone())
        self.block_size, self.calls = block_size, []

    def forward(self, x, t, *, at=None, clean_ids=None, block_size=None):
        size, length = block_size or self.block_size, x.shape[1]
        asked = None if at is None else Places(at, x.shape).where
        self.calls.append({"x": x, "at": asked, "clean": clean_ids, "block_size": size})
        powers = 3 ** torch.arange(length - 1, -1, -1)
        parts = []
        for start in range(0, length, size):
            view = x.clone() if clean_ids is None else clean_ids.clone()
            view[:, start : start + size] = x[:, start : start + size]
            view[:, start + size :] = 2
            rows = self.logits[(view * powers).sum(1), start : start + size]
            parts.append(rows)
        out = torch.cat(parts, 1)
        return out if at is None else out.flatten(0, 1)[at]

    def denoiser(self):
        return NetworkDenoiser(self, MASKS, Subs(), reads_time=None)


def exact_views(block_size):
    """The table of the standard problem's conditionals, and the problem."""
    problem = digits(MASKS)
    return Views(problem.conditional(0.5).log().clamp_min(LOG_ZERO), block_size), problem


def random_views(length, block_size, seed=0):
    logits = torch.randn(3**length, length, 3, generator=torch.Generator().manual_seed(seed))
    return Views(logits.double(), block_size)


def drawn_from(problem, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return problem.clean[torch.multinomial(problem.law, rows, True, generator=generator)]


def random_order(shape, block_size, seed, given=0):
    """One token a call, in a random order of each block; the first `given` tokens were given."""
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(2000 + seed))
    rounds = noise.unflatten(1, (-1, block_size)).argsort(-1).argsort(-1).flatten(1)
    rounds[:, :given] = -1
    return Trajectory(rounds, block_size)


def step_of(x_0, student, teacher, seed=0, **more):
    # Not the numbers that x_0 was drawn with.
    generator = torch.Generator().manual_seed(1000 + seed)
    peers = {"teacher": teacher.denoiser()}
    return TrainingStep(x_0, MASKS, student.denoiser(), peers, generator=generator, **more)


def steps_of(problem, student, teacher, rows=512, count=40, decoded=False):
    """Steps on draws of the law; `decoded` in blocks of three, in random orders."""
    for seed in range(count):
        x_0 = drawn_from(problem, rows, seed)
        more = {"trajectory": random_order(x_0.shape, 3, seed)} if decoded else {}
        yield step_of(x_0, student, teacher, seed, **more)


def deviations(objective, student, steps):
    """The largest |mean| / standard error over steps of the gradient along 64 random directions.

    Single entries would not do: those of rare tokens are far from normal.
    """
    signs = torch.randint(2, (student.logits.numel(), 64)).double() * 2 - 1
    found = []
    for step in steps:
        loss = objective(step)["student"]
        (grad,) = torch.autograd.grad(loss, student.logits)
        found.append(grad.flatten() @ signs)
    found = torch.stack(found)
    error = found.std(0) / len(found) ** 0.5
    return float((found.mean(0).abs() / error).max())


@torch.no_grad()
def decode(network, rule, rows, length, calls=None, seed=0, greedy=False, start=None):
    """Sequences, their trajectory, and the calls of each row."""
    generator = torch.Generator().manual_seed(seed)
    size = network.block_size
    x = torch.full((rows, length), 2)
    x[:, : 0 if start is None else start.shape[1]] = 0 if start is None else start
    rounds, total = torch.full_like(x, -1), torch.zeros(rows)
    log_prob = torch.zeros(x.shape, dtype=torch.float64)
    for first in range(0, length, size):
        block = slice(first, first + size)
        number = 0
        while bool((x[:, block] == 2).any()):
            log_p = network.denoiser()(x, 1.0).log_conditional[:, block]
            open_ = x[:, block] == 2
            tokens = log_p.argmax(-1) if greedy else categorical(log_p.exp(), generator)
            draft = Draft(log_p, log_p, tokens, open_, number, calls or size, None, 0.0, generator)
            stays = rule(draft)
            total += open_.any(1)
            x[:, block] = torch.where(stays, tokens, x[:, block])
            rounds[:, block] = rounds[:, block].masked_fill(stays, number)
            said = log_p.gather(-1, tokens[..., None])[..., 0]
            log_prob[:, block] = torch.where(stays, said, log_prob[:, block])
            number += 1
    return x, Trajectory(rounds, size, log_prob), total
