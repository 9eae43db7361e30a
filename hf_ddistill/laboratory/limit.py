"""How good a factorised sampler of k steps can be: the best that optimisation of its terminal law
finds.

A student that predicts positions independently still has free randomness: which positions an
ancestral step reveals first, and the noise that it starts from. What can be carried by that shows
when every conditional of every step is free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser, NetworkDenoiser
from hf_ddistill.laboratory.distances import kl_divergence
from hf_ddistill.laboratory.problem import ExactProblem
from hf_ddistill.laboratory.space import clean_tokens, sequence_numbers
from hf_ddistill.laboratory.terminal_law import terminal_law
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.samplers import step_grid
from hf_ddistill.shapes import LOG_ZERO, Tokens

#: Logits of the teacher below this are raised to it: further down nothing has a gradient.
LEAST = -12.0
#: A divergence (nats) at which the search stops; less than 0.0001 in total variation.
ENOUGH = 1e-9
#: Steps of L-BFGS between looks at whether that is reached.
BLOCK = 20


@dataclass(frozen=True)
class LimitSearch:
    """How the limit is looked for: Adam, then L-BFGS, from the exact teacher with noise on its
    logits.

    Args:
        scales: standard deviation of that noise, one for each restart. Where the teacher is a
            saddle point (parity) only large ones leave it.
        adam_steps: at a rate of 0.1 that goes down to 0.
        lbfgs_steps: at most, in blocks of 20; they keep 20 tables of the size of all logits.
        seed: of the noise.
    """

    scales: tuple[float, ...] = (0.1, 1.0, 3.0)
    adam_steps: int = 300
    lbfgs_steps: int = 300
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 0:
            raise ValueError(f"scales are one or more numbers of at least 0, got {self.scales}.")
        if min(self.adam_steps, self.lbfgs_steps) < 0:
            raise ValueError(
                f"Numbers of steps are at least 0, got adam_steps={self.adam_steps} and "
                f"lbfgs_steps={self.lbfgs_steps}."
            )


@dataclass(frozen=True, eq=False)
class Limit:
    """What the search has found: a bound by optimisation, not a proof.

    The best sampler is at least as good as this one; that none is better is not shown.

    Args:
        logits: of each step, state that it can meet, position and clean token, (N, L, C).
        denoiser: reads them, at the times of the grid.
        law: that the sampler ends in, in the order of the problem's sequences, (M,).
    """

    logits: Tensor
    denoiser: Denoiser
    law: Tensor


@dataclass(frozen=True, eq=False)
class StepTables:
    """The network that is a table of free logits for each step of `step_grid(nfe)`.

    Args:
        problem: whose states are met.
        nfe: the number of steps.
        logits: (N, L, C) over the states that step 1, 2, ... can meet (from the prior at the first,
            all at later ones), in product order; C clean tokens.
    """

    problem: ExactProblem
    nfe: int
    logits: Tensor

    @staticmethod
    def exact(problem: ExactProblem, nfe: int) -> Tensor:
        """The logits of the exact teacher, none under `LEAST`."""
        tokens = clean_tokens(problem.diffusion)
        met = _first(problem), torch.arange(len(problem.states))
        tables = [
            problem.log_conditional(problem.states[met[i > 0]], t)[..., tokens]
            for i, t in enumerate(step_grid(nfe)[:-1])
        ]
        return torch.cat(tables).clamp_min(LEAST)

    def denoiser(self) -> Denoiser:
        """These tables as a denoiser."""
        reading = Subs() if self.problem.diffusion.reveals else Conditional()
        return NetworkDenoiser(self, self.problem.diffusion, reading)

    def __call__(self, x_t: Tokens, t: Tensor, at: Tensor | None = None) -> Tensor:
        vocab_size, first = self.problem.diffusion.vocab_size, _first(self.problem)
        grid = torch.tensor(step_grid(self.nfe)[:-1], dtype=torch.float64)
        step = (t[:, None] - grid).abs().argmin(-1)
        state = sequence_numbers(x_t, vocab_size)
        later = len(first) + (step - 1) * len(self.problem.states) + state
        place = torch.where(step == 0, torch.searchsorted(first, state), later)
        rows = self.logits[place]
        out = rows.new_full((*x_t.shape, vocab_size), LOG_ZERO)
        out = out.index_copy(-1, clean_tokens(self.problem.diffusion), rows)
        return out if at is None else out.flatten(0, 1)[at]


def limit(
    problem: ExactProblem,
    nfe: int,
    search: LimitSearch | None = None,
    notify: Callable[[], object] | None = None,
) -> Limit:
    """The sampler of `nfe` ancestral steps with the least KL(data || its terminal law) that was
    found.

    min over p(x_0^i | x_t) of KL(p_data || terminal law),  free for each step, state and position

    It takes no noise input: a student that has one may do better. A bound found by optimisation,
    not a proof: the landscape has local optima (two of parity's are 0.05 apart in total variation),
    and the least of the restarts is returned, which is never above the teacher's own.

    Args:
        problem: the data's law, process and schedule.
        nfe: steps of `step_grid`.
        search: how hard to look; the default takes seconds for hundreds of states and about a
            quarter of an hour for each step on 20,000.
        notify: called at each evaluation, for a progress bar.

    Raises:
        ValueError: if there is less than one step.
    """
    search = LimitSearch() if search is None else search
    generator = torch.Generator().manual_seed(search.seed)
    start = StepTables.exact(problem, nfe)
    best = read_limit(problem, nfe, start)
    for scale in search.scales:
        noise = torch.randn(start.shape, generator=generator, dtype=start.dtype)
        found = _descended(problem, nfe, start + scale * noise, search, notify)
        best = min(best, found, key=lambda some: float(kl_divergence(problem.law, some.law)))
        if float(kl_divergence(problem.law, best.law)) < ENOUGH:
            break
    return best


@torch.no_grad()
def read_limit(problem: ExactProblem, nfe: int, logits: Tensor) -> Limit:
    """The limit whose logits were kept."""
    denoiser = StepTables(problem, nfe, logits).denoiser()
    return Limit(logits, denoiser, terminal_law(denoiser, problem, problem.length, step_grid(nfe)))


def _descended(
    problem: ExactProblem,
    nfe: int,
    start: Tensor,
    search: LimitSearch,
    notify: Callable[[], object] | None,
) -> Limit:
    tables = StepTables(problem, nfe, start.requires_grad_())
    adam = torch.optim.Adam([start], lr=0.1, betas=(0.9, 0.99))
    quasi_newton = torch.optim.LBFGS(
        [start],
        max_iter=BLOCK,
        history_size=10,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
    )

    def loss() -> Tensor:
        start.grad = None
        law = terminal_law(tables.denoiser(), problem, problem.length, step_grid(nfe))
        value = kl_divergence(problem.law, law)
        value.backward()
        if notify is not None:
            notify()
        return value.detach()

    for step in range(search.adam_steps):
        for group in adam.param_groups:
            group["lr"] = 0.1 * (1 - step / search.adam_steps) + 1e-4
        if float(loss()) < ENOUGH:
            return read_limit(problem, nfe, start.detach())
        adam.step()
    value = float("inf")
    for _ in range(0, search.lbfgs_steps, BLOCK):
        before, value = value, float(quasi_newton.step(loss))
        if value < ENOUGH or value >= before:
            break
    return read_limit(problem, nfe, start.detach())


def _first(problem: ExactProblem) -> Tensor:
    """The numbers of the states that the prior can draw."""
    prior = problem.diffusion.process.limit()[problem.states].prod(-1)
    return (prior > 0).nonzero()[:, 0]
