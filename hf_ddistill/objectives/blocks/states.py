"""States of block diffusion that an objective looks at: what is masked in them."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.couplings.trajectories import Trajectory
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.shapes import Generators, Tokens, Where


def masked(step: TrainingStep, where: Where) -> Tokens:
    """x_0 with masks at `where`.

    Raises:
        ValueError: if the process has no mask token.
    """
    token = step.diffusion.process.mask_token_id
    if token is None:
        raise ValueError(
            f"Block diffusion decodes masks, and the process {step.diffusion.process.id!r} has no "
            "mask token; use Absorbing."
        )
    return step.x_0.masked_fill(where, token)


def divided(step: TrainingStep, block_size: int) -> int:
    """The number of blocks of a row, or a ValueError where they do not divide its length."""
    length = step.x_0.shape[1]
    if block_size < 1 or length % block_size:
        raise ValueError(
            f"Blocks of block_size={block_size} tokens do not divide a length of {length}; pack or "
            "pad the rows to a multiple of it."
        )
    return length // block_size


def active_block(
    among: Where, block_size: int, generator: Generators = None
) -> tuple[Where, Where]:
    """A random block of each row as the one in work, as semi-autoregressive decoding has it: what
    is before is finished, what is after is open.

    Args:
        among: (B, L), the tokens that count; only a block with any of them is drawn.
        block_size: b, which divides L.
        generator: of the draw.

    Returns:
        The tokens of `among` in that block, and those in later ones, each (B, L).
    """
    busy = among.unflatten(1, (-1, block_size)).any(-1)
    noise = uniform_noise(busy.shape, generator, among.device)
    chosen = noise.masked_fill(~busy, -1.0).argmax(1, keepdim=True)
    block = torch.arange(among.shape[1], device=among.device) // block_size
    return among & (block == chosen), among & (block > chosen)


def busy_blocks(among: Where, block_size: int) -> Tensor:
    """(B,) int64, the blocks of each row that have any token of `among`: those that `active_block`
    draws from."""
    return among.unflatten(1, (-1, block_size)).any(-1).sum(1)


def mean_of_blocks(step: TrainingStep, values: Tensor) -> Tensor:
    """(B,), the mean over the blocks that `active_block` may draw of the sum over the decoded
    tokens of each of `values` (B, L)."""
    path = step.trajectory
    blocks = busy_blocks(path.drawn, path.block_size).clamp_min(1)
    return (values * path.drawn).sum(1) / blocks


def decoded(step: TrainingStep, name: str, block_size: int | None = None) -> Trajectory:
    """How x_0 came about, for an objective that cannot do without it.

    Args:
        step: with a trajectory.
        name: of the objective.
        block_size: of the student, where it is not that of the decoding: the order within each of
            its blocks is then kept, one token a call.

    Raises:
        ValueError: if there is no trajectory, or blocks do not divide its length.
    """
    if step.trajectory is None:
        raise ValueError(
            f"Objective {name!r} looks at how its tokens were decoded, and the step has no "
            "trajectory; train it through a trainer that decodes, or set TrainingStep.trajectory."
        )
    path = step.trajectory
    if block_size in (None, path.block_size):
        return path
    divided(step, block_size)
    # The order over all blocks, since a block of the student may reach over several.
    place = torch.arange(path.rounds.shape[1], device=path.rounds.device) // path.block_size
    when = path.rounds + place * path.block_size
    ranks = ranks_in_blocks(when.masked_fill(~path.drawn, -1), block_size)
    return Trajectory(ranks.masked_fill(~path.drawn, -1), block_size, path.log_prob)


def ranks_in_blocks(when: Tensor, block_size: int) -> Tensor:
    """(B, L) int64, the place of each token in its block by `when` (B, L); ties go to the left.

    Tokens with a negative `when` were given and come last.
    """
    blocks = when.unflatten(1, (-1, block_size)).double()
    late = blocks.masked_fill(blocks < 0, torch.inf)
    return late.argsort(dim=-1, stable=True).argsort(-1).flatten(1)
