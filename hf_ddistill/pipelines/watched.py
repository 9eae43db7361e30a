"""A denoiser that remembers what it said within a step, for those who ask how sure it was.

B rows, L positions, K vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers import Composite, Denoiser
from hf_ddistill.denoisers.composite import Ask
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.pipelines.network import ROW
from hf_ddistill.places import Places
from hf_ddistill.shapes import Tokens, Where


@dataclass
class Said:
    """What was said since the last step.

    Args:
        calls: (number of row (N,), position (N,), log p there (N, K)) of each call.
    """

    calls: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def confidence(self, x_t: Tokens, x_s: Tokens) -> Tensor:
        """(B, L) float64, the last p(x_0 | x_t) of each token of x_s that is not x_t's; NaN at all
        others, and where nothing was said. Forgets it all."""
        sure = torch.full(x_s.shape, torch.nan, dtype=torch.float64, device=x_s.device)
        for rows, positions, log_p in self.calls:
            tokens = x_s[rows, positions]
            sure[rows, positions] = log_p.gather(-1, tokens[:, None])[:, 0].double().exp()
        self.calls = []
        return sure.masked_fill(x_s == x_t, torch.nan)


@dataclass(frozen=True)
class Watched(Composite):
    """What another denoiser says, kept in `said`.

    Args:
        denoiser: any.
        said: gets it.
    """

    denoiser: Denoiser
    said: Said

    def __call__(
        self, x_t: Tokens, t: Tensor | float | None = None, **condition: Any
    ) -> Prediction:
        rows, length = condition[ROW], x_t.shape[1]
        prediction = self.denoiser(x_t, t, **condition)
        positions = torch.arange(length, device=x_t.device).repeat(len(rows))
        log_p = prediction.log_conditional.flatten(0, 1)
        self.said.calls.append((rows.repeat_interleave(length), positions, log_p))
        return prediction

    def at(
        self, x_t: Tokens, t: Tensor | float | None, where: Where | Places, **condition: Any
    ) -> Prediction:
        rows, places = condition[ROW], Places.of(where)
        prediction = self.denoiser.at(x_t, t, places, **condition)
        log_p = prediction.log_conditional[:, 0]
        self.said.calls.append((rows[places.rows], places.positions, log_p))
        return prediction

    def pieces(
        self,
        x_t: Tokens,
        t: Tensor | float | None,
        where: Where | Places,
        size: int,
        **condition: Any,
    ) -> Iterator[Prediction]:
        rows, places = condition[ROW], Places.of(where)
        pieces = self.denoiser.pieces(x_t, t, places, size, **condition)
        parts = rows[places.rows].split(size), places.positions.split(size)
        for prediction, *of_piece in zip(pieces, *parts, strict=True):
            self.said.calls.append((*of_piece, prediction.log_conditional[:, 0]))
            yield prediction

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """What the denoiser says."""
        return ask(self.denoiser, condition)
