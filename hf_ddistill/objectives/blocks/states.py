"""States of block diffusion that an objective looks at: what is masked in them, and what the
teacher alone is shown of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_ddistill.couplings.training_step import Local, TrainingStep
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


def informed_teacher(
    step: TrainingStep, x_t: Tokens, where: Where, sees: float, limit: float | None, **more: Any
) -> Local:
    """The teacher's prediction at `where`, without gradients, where it alone is shown a share of
    the tokens that are masked in x_t.

    A token that it is shown is no target: `where` of what comes back lacks it. A student that
    matches such a teacher is asked for what it cannot know. Under the forward KL it learns the mean
    over what was hidden, which is what the same teacher says without the hint. Under the reverse KL
    it learns the geometric mean, and is surer than it is right: more tokens a call, at a cost that
    is greatest on other data than in training (`examples/results/hints.json` has it exactly).
    `limit` keeps the target near what the teacher says without the hint:

        (1 - w) p + w p_hinted with the greatest w in [0, 1] for which w KL(p_hinted || p) <= limit

    so that KL(target || p) <= limit (convexity). It takes most from the hints that are the greatest
    surprise, so that it makes even a student under the forward KL a little surer.

    Args:
        x_t: (B, L), what the student is given.
        where: (B, L), its masks that are asked for.
        sees: share of the masks that are filled in for the teacher, in [0, 1).
        limit: in nats per token; None for none. It costs a second call of the teacher.
        **more: inputs of the teacher's call.
    """
    teacher = step.peers["teacher"]
    with torch.no_grad():
        if not sees:
            return step.look(teacher, x_t, None, where, **more)
        hidden = (x_t != step.x_0) & step.trained
        noise = uniform_noise(x_t.shape, step.generator, x_t.device)
        shown = hidden & (noise < sees)
        asked = where & ~shown
        hinted = step.look(teacher, step.x_0.where(shown, x_t), None, asked, **more)
        if limit is None:
            return hinted
        log_h = hinted.prediction.log_conditional
        plain = step.look(teacher, x_t, None, asked, **more).prediction
        gained = (log_h.exp() * (log_h - plain.log_conditional)).sum(-1, keepdim=True)
        share = (limit / gained.clamp_min(1e-12)).clamp(1e-12, 1 - 1e-7)
        mixture = torch.logaddexp(log_h + share.log(), plain.log_conditional + (-share).log1p())
        return Local(type(hinted.prediction)(mixture), asked, None)


def check_hints(sees: float, limit: float | None) -> None:
    """A ValueError for settings of `informed_teacher` that mean nothing."""
    if not 0 <= sees < 1:
        raise ValueError(
            f"teacher_sees must lie in [0, 1), got {sees}: a teacher that is shown all has no "
            "token left to predict."
        )
    if limit is not None and not limit >= 0:
        raise ValueError(f"teacher_limit must be at least 0 nats (or None), got {limit}.")
    if limit is not None and not sees:
        raise ValueError(
            f"teacher_limit={limit} limits what a hint moves, and teacher_sees is 0, so that there "
            "are no hints: set teacher_sees, or leave teacher_limit out."
        )


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
