"""One call of a denoiser for tokens at some positions of some rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.denoisers.denoiser import condition_of
from hf_ddistill.linalg import categorical_of_logs
from hf_ddistill.places import Places
from hf_ddistill.samplers.drawing import SOME, taking
from hf_ddistill.shapes import Index, Tokens


@dataclass(frozen=True)
class Asked:
    """What one call of a denoiser is asked: tokens at N positions of the rows that take part.

    Args:
        places: the positions, numbered among these rows.
        noise: (N,) in [0, 1), the number that draws each token.
        t: the time of all rows, or of each that takes part.
        rows: (R,), their numbers; None for all.
    """

    places: Places
    noise: Tensor
    t: Tensor | float
    rows: Index | None = None

    @classmethod
    def of(cls, where: Tensor, noise: Tensor, t: Tensor | float) -> Asked | None:
        """Tokens where Booleans (B, L) are True; rows without any take no part, and None is
        returned where no row has one. The device is waited for once.

        Args:
            where: (B, L).
            noise: (B, L).
            t: one number, or one for each row (B,).
        """
        found = taking(where)
        if found is None:
            return None
        rows, places = found
        if rows is None:
            return cls(places, places.take(noise), t)
        t = t.to(where.device)[rows] if isinstance(t, Tensor) and t.ndim else t
        return cls(places, places.take(noise.index_select(0, rows)), t, rows)

    def draw(self, denoiser: Denoiser, x: Tokens, condition: Mapping[str, Any]) -> Tensor:
        """The tokens (N,), from what the denoiser says of x (B, L); it is called once, for the rows
        that take part alone.

        Args:
            denoiser: any.
            x: all rows.
            condition: of all rows.
        """
        if self.rows is not None:
            condition = condition_of(condition, self.rows, x.shape[0])
            x = x.index_select(0, self.rows)
        size = max(
            1, (SOME if x.device.type == "cpu" else 16 * SOME) // denoiser.diffusion.vocab_size
        )
        pieces = denoiser.pieces(x, self.t, self.places, size, **condition)
        noise = self.noise.split(size)
        drawn = [
            categorical_of_logs(said.log_conditional[:, 0], noise=u)
            for said, u in zip(pieces, noise, strict=True)
        ]
        return torch.cat(drawn)

    def put(self, tokens: Tensor, into: Tokens) -> Tokens:
        """`into` (B, L) with the tokens in their places."""
        if self.rows is None:
            return self.places.put(tokens, into)
        part = self.places.put(tokens, into.index_select(0, self.rows))
        return into.index_copy(0, self.rows, part)
