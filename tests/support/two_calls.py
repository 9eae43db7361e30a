"""The law of samplers that call twice a step, as sums over the state between the calls.

A second derivation: of the package it uses the entries of kernels and rates, and the conditionals
of an exact problem.
"""

from __future__ import annotations

import torch
from exact_bayes import ExactBayes
from torch.nn.functional import one_hot

from hf_ddistill.samplers import step_grid


def rates(problem: ExactBayes, t):
    """sigma'(t) Q[y, x] p_t(y) / p_t(x) at every state and position, 0 at x; (N, L, K)."""
    diffusion, t = problem.diffusion, torch.as_tensor(t, dtype=torch.float64)
    columns = diffusion.process.rate(diffusion.schedule.sigma(t)).dense().mT[problem.states]
    here = one_hot(problem.states, diffusion.vocab_size).bool()
    return diffusion.schedule.rate(t) * (columns * problem.ratios(t)).masked_fill(here, 0)


def jumped_once(rate, width, x):
    """The law of the first jump at a rate in a width of time, (..., L, K)."""
    total = rate.sum(-1, keepdim=True)
    gone = torch.where(total > 0, rate * (1 - (-width * total).exp()) / total, 0 * rate)
    stays = one_hot(x, rate.shape[-1]) * (-width * total).exp()
    return gone + stays


def jumped_at_most_once(rate, width, x):
    """Tau-leaping's law: more than one jump is refused."""
    one = width * rate * (-width * rate.sum(-1, keepdim=True)).exp()
    return one + one_hot(x, rate.shape[-1]) * (1 - one.sum(-1, keepdim=True))


def product(problem, step):
    """(..., N, L, K) -> (..., N, N), each position drawn by itself."""
    return problem.product(step)


def trapezoidal(problem, s, t, theta, leap=jumped_once):
    """(x_t, x_s) for 0 < s < t."""
    r, states = t - theta * (t - s), problem.states
    early, late = rates(problem, t), rates(problem, r)
    first = product(problem, leap(early, t - r, states))
    a = 1 / (2 * theta * (1 - theta))
    still = states[:, None] == states[None]  # (x_t, x_r, L)
    mixed = a * late[None] - (a - 1) * early[:, None] * still[..., None]
    here = one_hot(states, problem.diffusion.vocab_size).bool()
    mixed = mixed.clamp_min(0).masked_fill(here[None], 0)
    second = product(problem, leap(mixed, r - s, states[None].expand(len(states), -1, -1)))
    return torch.einsum("xr,xry->xy", first, second)


def rk2(problem, s, t, theta):
    """(x_t, x_s) for 0 < s < t."""
    r, states = t - theta * (t - s), problem.states
    early, late = rates(problem, t), rates(problem, r)
    first = product(problem, jumped_once(early, t - r, states))
    still = (states[:, None] == states[None])[..., None]
    mixed = (1 - 1 / (2 * theta)) * early[:, None] + torch.where(
        still, late[None], early[:, None]
    ) / (2 * theta)
    here = one_hot(states, problem.diffusion.vocab_size).bool()[:, None]
    mixed = mixed.clamp_min(0).masked_fill(here, 0)
    second = product(
        problem, jumped_once(mixed, t - s, states[:, None].expand(-1, len(states), -1))
    )
    return torch.einsum("xr,xry->xy", first, second)


def terminal_law(problem, steps, transition, theta, tail):
    """From the prior by even steps; the last leaps to r = `tail` of it and draws x_0 there."""
    law = problem.diffusion.process.limit()[problem.states].prod(-1)
    grid = step_grid(steps)
    for t, s in zip(grid[:-2], grid[1:-1], strict=True):
        law = law @ transition(problem, s, t, theta)
    t = grid[-2]
    r = t * (1 - tail)
    if tail:
        law = law @ product(problem, jumped_once(rates(problem, t), t - r, problem.states))
    return law @ product(problem, problem.conditional(r))
