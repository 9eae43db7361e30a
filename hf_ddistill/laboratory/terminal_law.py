"""The law of what a sampler draws, without drawing: by its step rule, whose transition is a product
over positions, or by all branches of its code."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.branching_law import branching_law
from hf_ddistill.laboratory.problem import ExactProblem
from hf_ddistill.laboratory.space import (
    all_sequences,
    check_space,
    clean_sequences,
    halves,
    rows_per_chunk,
    sequence_numbers,
)
from hf_ddistill.samplers import Sampler, walk

#: Draws of the noise input at one step of a grid, over all states.
DRAWS = 2**17


def terminal_law(
    denoiser: Denoiser,
    space: ExactProblem | Diffusion,
    length: int,
    grid: Sequence[float],
    sampler: Sampler | str = "ancestral",
    *,
    draws: int = DRAWS,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The exact law of what a sampler draws over clean sequences of a length.

    p_s(x_s) = sum over x_t of p_t(x_t) prod_i p(x_s^i | x_t),  from the prior at grid[0] down to 0

    Only states that have been reached are shown to the denoiser (under Absorbing one at the first
    step), in chunks of 32 MiB; nowhere does a K^L x K^L matrix exist. It can be differentiated with
    respect to the denoiser's parameters; wrap it in `torch.no_grad` where that is not wanted.

    A sampler that has no rule is run with every outcome of every draw (`Branches`), step by step,
    those that come to the same being joined; it must draw through `categorical` or `bernoulli`.
    Nothing can be differentiated there.

    Of a denoiser with a noise input the transition is E_noise prod_i p(x_s^i | x_t, noise), and its
    mean over random draws stands for it: unbiased, a state of probability p gets ceil(draws * p) of
    them at each step. A sequence of probability q is then off by no more than sqrt(steps * q /
    draws) (one standard deviation), and the total variation from a law that is hit exactly comes
    out at up to 0.4 sqrt(steps * M / draws) instead of 0: 0.009 for 64 sequences, one step and the
    2^17 draws of the default. Two laws of different generators show how far it is in fact.

    Args:
        denoiser: any; its network, on the CPU, is called with a batch of states at one time.
        space: a problem, whose `sequences` give the order of what is returned, or a diffusion: then
            it is that of `clean_sequences(diffusion, length)`.
        length: L; with a problem, the problem's own.
        grid: times from noise to 0, descending, such as `sampler.grid(n, diffusion)`.
        sampler: any; the last step of one with a rule draws x_0 itself, as in `Sampler.sample`.
        draws: of the noise at each step, over all states; without a noise input there are none.
        generator: of those.

    Returns:
        float64 (M,).

    Raises:
        ValueError: if the grid does not descend to 0, the length is not the problem's, the denoiser
            was made for another diffusion, the space is too large, a step is not finite, there are
            no draws, or the sampler has no rule and its draws cannot be enumerated.
    """
    if draws < 1:
        raise ValueError(f"The mean over the noise takes at least one draw, got draws={draws}.")
    diffusion = space.diffusion if isinstance(space, ExactProblem) else space
    check_space(diffusion.vocab_size, length)
    _check(denoiser, diffusion, grid)
    if isinstance(space, ExactProblem):
        if length != space.length:
            raise ValueError(f"The problem's sequences have length {space.length}, got {length}.")
        clean = space.sequences
    else:
        clean = clean_sequences(diffusion, length)
    numbers = sequence_numbers(clean, diffusion.vocab_size)
    sampler = Sampler.from_config(sampler)
    sampler.check(diffusion)
    if not sampler.is_product:
        return branching_law(denoiser, sampler, length, grid)[numbers]
    states = all_sequences(torch.arange(diffusion.vocab_size), length)
    law = diffusion.process.limit()[states].prod(-1)

    def move(law: Tensor, s: float, t: float) -> Tensor:
        return _step(denoiser, sampler, states, law, (t, s), (draws, generator))

    return walk(grid, law, move)[numbers]


def _step(
    denoiser: Denoiser,
    sampler: Sampler,
    states: Tensor,
    law: Tensor,
    interval: tuple[float, float],
    noise: tuple[int, torch.Generator | None],
) -> Tensor:
    """The law over all states at s from that at t, (K^L,)."""
    (t, s), (draws, generator) = interval, noise
    one = sampler.asked(denoiser, states[:1], s, t)
    draws = 0 if one.latent is None else draws
    reached = (law.detach() > 0).nonzero()[:, 0]
    copies = (law.detach()[reached] * draws).ceil().clamp_min(1).long()
    weights = (law[reached] / copies).repeat_interleave(copies)
    reached = reached.repeat_interleave(copies)
    size = rows_per_chunk(denoiser.diffusion.vocab_size, states.shape[1])
    total = 0.0
    for rows, weight in zip(reached.split(size), weights.split(size), strict=True):
        x_t = states[rows]
        here = sampler.asked(denoiser, x_t, s, t)
        prediction = here(x_t, t, **here.fresh_noise(x_t, generator))
        step = sampler.probs(prediction, denoiser.diffusion, x_t, s, t).double().clamp_min(0)
        mass = step.sum(-1, keepdim=True)
        if not bool(((mass > 0) & mass.isfinite()).all()):
            row = int(((mass > 0) & mass.isfinite()).logical_not().flatten(1).any(1).nonzero()[0])
            raise ValueError(
                f"The step from t = {t:.4g} at x_t = {x_t[row].tolist()} is no distribution: it "
                "holds NaN, infinity or no mass."
            )
        first, last = halves(step / mass)
        # sum over rows of weight * (first (x) last): a matrix product of the halves
        total = total + ((weight[:, None] * first).mT @ last).flatten()
    return total


def _check(denoiser: Denoiser, diffusion: Diffusion, grid: Sequence[float]) -> None:
    descends = all(t > s for t, s in pairwise(grid))
    if len(grid) < 2 or not descends or grid[-1] != 0 or grid[0] > 1:
        raise ValueError(
            f"A grid has two times or more, from at most 1 down to exactly 0, got {list(grid)}."
        )
    own = denoiser.diffusion
    if own is not diffusion and own.to_config() != diffusion.to_config():
        raise ValueError(
            f"The denoiser was made for {own.to_config()}, and the law is asked under "
            f"{diffusion.to_config()}; times mean different noise there."
        )
