"""All calls of a sample in advance, where no prediction decides what is revealed when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hf_ddistill.linalg import uniform_noise
from hf_ddistill.places import Places
from hf_ddistill.samplers.asking import Asked
from hf_ddistill.samplers.canvas import Canvas
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.shapes import Generators


def only_reveal(chances: Sequence[Chances | None]) -> bool:
    """Whether steps are by chances, all of them, and mask nothing again."""
    return all(
        each is not None and not bool(torch.as_tensor(each.remask).any()) for each in chances
    )


def planned(
    grid: Sequence[float], chances: Sequence[Chances], canvas: Canvas, generator: Generators
) -> Iterator[tuple[Asked, float]]:
    """The calls that draw a canvas, from masks at all positions that are to be generated.

    A step that reveals nothing of a row needs no call, whatever the network: what it said would not
    be used. So each row has a clock of its own: in call j it makes the j-th step that reveals
    something of it, at the time of that step. The numbers are those of one step after another, in
    that order, and so are the tokens.

    The device is waited for once, before the first call.

    Args:
        grid: the times of n steps, and 0.
        chances: of each step, which only reveal; at the last one everything.
        canvas: what is given is never asked for.
        generator: of the numbers.

    Yields:
        What each call is asked, of at most n, and the share of all positions that is done with it.
    """
    device = canvas.infill.device
    where = canvas.infill.to(_home(generator, device))
    when, share = _revealed([float(each.reveal) for each in chances], where, generator)
    when, where = when.cpu(), where.cpu()
    rows, length = where.shape
    taking = torch.zeros(rows, len(chances) + 1, dtype=torch.bool).scatter(1, when, True)[:, :-1]
    # The call in which a row makes a step, and the step that it makes in a call.
    call = (taking.cumsum(1) - 1).gather(1, when.clamp_max(len(chances) - 1)).flatten()
    step = (~taking).long().argsort(dim=1, stable=True)
    index = where.flatten().nonzero()[:, 0]
    index = index[call[index].argsort(stable=True)]
    call, row = call[index], index // max(length, 1)
    number = int(call.max()) + 1 if len(index) else 0
    counts = (call * rows + row).bincount(minlength=number * rows).view(number, rows)
    in_call = counts > 0
    called, whose = in_call.nonzero(as_tuple=True)
    start = torch.tensor(grid, dtype=torch.float64)[step[whose, called]].to(device)
    among = (in_call.cumsum(1) - 1)[call, row] * length + index % max(length, 1)
    noise = share.to(device).flatten().index_select(0, index.to(device))
    sizes, parts = counts.sum(1).tolist(), in_call.sum(1).tolist()
    pieces = (among.to(device).split(sizes), noise.split(sizes))
    pieces += (start.split(parts), whose.to(device).split(parts))
    done = 0
    for places, u, t, some in zip(*pieces, strict=True):
        done += len(places)
        asked = Asked(Places(places, (len(some), length)), u, t, some if len(some) < rows else None)
        yield asked, done / len(index)


def _revealed(
    reveal: Sequence[float], where: Tensor, generator: Generators
) -> tuple[Tensor, Tensor]:
    """The step (B, L) that reveals each position of `where`, n elsewhere, and the number in [0, 1)
    that decides its token."""
    when = torch.full(where.shape, len(reveal), device=where.device)
    share, masked = torch.zeros_like(when, dtype=torch.float64), where
    for number, chance in enumerate(reveal):
        u = uniform_noise(where.shape, generator, where.device)
        now = masked & (u < chance)
        when.masked_fill_(now, number)
        share = torch.where(now, u / chance, share)
        masked = masked & ~now
    return when, share


def _home(generator: Generators, device: torch.device) -> torch.device:
    """Where the numbers are drawn."""
    if isinstance(generator, torch.Generator):
        return generator.device
    return generator[0].device if generator else device
