"""Draws at some places of a batch."""

from __future__ import annotations

from torch import Tensor

from hf_ddistill.linalg import categorical_at, categorical_of_logs, uniform_noise
from hf_ddistill.places import Places
from hf_ddistill.shapes import Chooser, Generators


def draw_at(log_p: Tensor, places: Places, generator: Generators = None) -> Tensor:
    """Tokens (N,) from log p (N, K) at some places, by the numbers of all (B, L): a row's tokens
    do not hang on where others are drawn."""
    if isinstance(generator, Chooser):
        return categorical_at(log_p.exp(), places.where, generator)
    noise = uniform_noise(places.shape, generator, log_p.device)
    return categorical_of_logs(log_p, noise=places.take(noise))
