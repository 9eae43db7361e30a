"""Randomness that depends on where training stands and on nothing else.

A generator is made afresh for each micro step from (seed, global step, micro step, rank), so a run
that is stopped anywhere and resumed draws what an uninterrupted one draws.
"""

from __future__ import annotations

import hashlib

import torch


def keyed_generator(
    seed: int, *key: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator whose stream is a hash of the seed and the key.

    Args:
        seed: of the run.
        key: such as (global step, micro step, rank); order counts.
        device: of the generator.
    """
    digest = hashlib.blake2b("/".join(map(str, (seed, *key))).encode(), digest_size=8).digest()
    # manual_seed takes int64.
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "big") >> 1)
