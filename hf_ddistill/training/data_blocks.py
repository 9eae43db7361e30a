"""Rows of data as blocks: what a model of blocks, or an objective with blocks, makes of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hf_ddistill.couplings import Trajectory
from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.objectives import Objective


def of_data(
    model: nn.Module, x_0: Tensor, attend: Tensor | None, given: int | Tensor | None
) -> Trajectory | None:
    """Data in the blocks of a model: every token counts as decided at call 0, but padding and what
    is given, the first ones or those of (B, L); None for a model without blocks.

    Raises:
        ValueError: if blocks do not divide the length, or nothing is left to be trained on.
    """
    inner = unwrapped(model)
    if not isinstance(inner, BlockDiffusionLM):
        return None
    rounds = torch.zeros_like(x_0)
    if attend is not None:
        rounds = rounds.masked_fill(~attend, -1)
    if isinstance(given, int):
        given = torch.arange(x_0.shape[1], device=x_0.device) < given
    if given is not None:
        rounds = rounds.masked_fill(given, -1)
    return Trajectory(rounds, tokens_in_block(inner, rounds))


def whole_blocks(model: nn.Module, objective: Objective) -> int:
    """What the number of tokens in a row of data must be a multiple of: blocks of the model's
    attention, if it is not full, and of the objective."""
    if objective.rollouts is not None:
        return 1
    sizes, inner = [objective.block_size or 1], unwrapped(model)
    if isinstance(inner, BlockDiffusionLM) and not inner.is_full(inner.config.block_size):
        sizes.append(inner.config.block_size)
    return math.lcm(*sizes)


def tokens_in_block(model: BlockDiffusionLM, rows: Tensor) -> int:
    """Tokens in a block of a model's attention: all of a row where it is full."""
    size = model.config.block_size
    return rows.shape[1] if model.is_full(size) else size
