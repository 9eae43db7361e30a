"""A law that is another one changed, which need not be made of all positions at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from hf_ddistill.parameterizations.prediction import Prediction
from hf_ddistill.shapes import LogProbs, PerToken, Tokens


class Changed(Prediction):
    """`change` of what another prediction says, made when it is asked for.

    Who takes a few positions at a time (`each`, `log_prob_of`) never holds all of it; who takes
    `log_conditional` does.

    Args:
        said: log p(x_0 | x_t), (B, L, K).
        change: (..., K) -> (..., K), of each position by itself.
    """

    def __init__(self, said: LogProbs, change: Callable[[Tensor], Tensor]) -> None:
        self.__dict__.update(_said=said, _change=change)

    @cached_property
    def log_conditional(self) -> LogProbs:
        """The changed law of all positions."""
        return self._change(self._said)

    def log_prob_of(self, x_0: Tokens) -> PerToken:
        """As of any prediction."""
        if torch.is_grad_enabled() or "log_conditional" in self.__dict__:
            return super().log_prob_of(x_0)
        return self.each(lambda log_p, x: (log_p.gather(-1, x[:, None])[:, 0],), x_0)[0]

    def _rows(self) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        if "log_conditional" in self.__dict__:
            return super()._rows()
        return self._said, self._change
