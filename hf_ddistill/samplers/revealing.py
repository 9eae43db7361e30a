"""A step whose positions are known before its tokens: only what is drawn is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.linalg import bernoulli, categorical_at, uniform_noise
from hf_ddistill.samplers.asking import Asked
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.shapes import Chooser, Generators, Tokens, Where


@dataclass(frozen=True)
class Throw:
    """What a step by `Chances` draws with.

    Args:
        chances: of the step.
        generator: of one number for each position.
        among: (B, L), the positions that may change; None for all.
    """

    chances: Chances
    generator: Generators = None
    among: Where | None = None


def reveal(
    denoiser: Denoiser, x_t: Tokens, t: Tensor | float, throw: Throw, condition: Mapping[str, Any]
) -> Tokens:
    """x_s by chances: the denoiser is asked where a mask is revealed, in rows that have such a one,
    and not at all where none has.

    A `Chooser` is asked first whether, then which. Numbers are drawn as for a step that looks
    everywhere: noise for the network first, if it takes some and none is given, then one number for
    each position.

    Args:
        denoiser: under a process that reveals.
        x_t: (B, L).
        t: one number, or one for each row (B,).
        throw: chances and numbers.
        condition: of the denoiser.
    """
    if "noise" not in condition:
        condition = {**condition, **denoiser.fresh_noise(x_t, throw.generator)}
    chance, again = (_by_rows(each, x_t) for each in (throw.chances.reveal, throw.chances.remask))
    masked, among = denoiser.diffusion.undetermined(x_t), throw.among
    mask = denoiser.diffusion.process.mask_token_id
    if isinstance(throw.generator, Chooser):
        changes = bernoulli(torch.where(masked, chance, again), throw.generator)
        changes = changes if among is None else changes & among
        where, x_s = changes & masked, x_t.masked_fill(changes, mask)
        said = denoiser.at(x_t, t, where, **condition).log_conditional[:, 0]
        return x_s.masked_scatter(where, categorical_at(said.exp(), where, throw.generator))
    u = uniform_noise(x_t.shape, throw.generator, x_t.device)
    changes = torch.where(masked, u < chance, u >= 1 - again)
    changes = changes if among is None else changes & among
    asked, x_s = Asked.of(changes & masked, u / chance, t), x_t.masked_fill(changes, mask)
    return x_s if asked is None else asked.put(asked.draw(denoiser, x_t, condition), x_s)


def _by_rows(chance: Tensor | float, x: Tokens) -> Tensor:
    """A chance, float64, that meets (B, L)."""
    chance = torch.as_tensor(chance, dtype=torch.float64)
    return chance.to(x.device)[:, None] if chance.ndim else chance
