"""Draws at some places of a batch, and the rows that they are in."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_ddistill.linalg import categorical_at, categorical_of_logs, uniform_noise
from hf_ddistill.places import Places
from hf_ddistill.shapes import Chooser, Generators, Where


def draw_at(log_p: Tensor, places: Places, generator: Generators = None) -> Tensor:
    """Tokens (N,) from log p (N, K) at some places, by the numbers of all (B, L): a row's tokens
    do not hang on where others are drawn."""
    if isinstance(generator, Chooser):
        return categorical_at(log_p.exp(), places.where, generator)
    noise = uniform_noise(places.shape, generator, log_p.device)
    return categorical_of_logs(log_p, noise=places.take(noise))


def taking(where: Where) -> tuple[Tensor | None, Places] | None:
    """The rows (R,) in which `where` (B, L) is True anywhere, None for all of them, and the places
    among these rows; None if there are none. The device is waited for once."""
    counts = where.sum(1).tolist()
    some = [row for row, count in enumerate(counts) if count]
    if not some:
        return None
    rows, length = None, where.shape[1]
    if len(some) < len(counts):
        rows = torch.tensor(some).to(where.device, non_blocking=True)
        where = where.index_select(0, rows)
    index = where.flatten().nonzero_static(size=sum(counts))[:, 0]
    return rows, Places(index, (len(some), length))
