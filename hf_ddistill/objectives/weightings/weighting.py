"""The contract of a weighting, and a divergence under one.

D a divergence of the teacher's p from the student's q at a position of a row whose time is t:

    loss of a row = w(t) (mean over its tokens of (v(p, q) D(p, q) + r(q)))
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.couplings import TrainingStep
from hf_ddistill.divergences import Divergence
from hf_ddistill.shapes import Times


class Weighting(Configurable, ABC):
    """w(t) of rows, v(p, q) of tokens, and r(q) beside them: 1, 1 and 0 unless a member says more.

    Weights are constants to the gradient, and hang on no other row. Those of times leave an optimum
    where it is (as far as the student can tell times apart); those of tokens hang on the teacher's
    p at x_s, and move it to E[v p | x_t] / E[v | x_t]. An objective with a setting
    `weighting` takes its distances from `on(divergence)`, passes them through `regularised`, and
    the losses of its rows through `rows`.
    """

    def of_time(self, step: TrainingStep, t: Times) -> Times:
        """w (B,)."""
        return torch.ones_like(t)

    def of_tokens(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        """v (...) from the teacher's and the student's log-probabilities (..., K)."""
        return log_q.new_ones(log_q.shape[:-1])

    def of_certain(self, log_q: Tensor) -> Tensor:
        """v (...) against a teacher that is certain of its token: from log q of the token alone."""
        return torch.ones_like(log_q)

    def regularised(self, distance: Tensor, log_q: Tensor) -> Tensor:
        """v D + r (N, 1) from v D (N, 1) and log q (N, 1, K)."""
        return distance

    def learn(self, step: TrainingStep, t: Times, losses: Tensor) -> None:
        """Look at the losses (B,) of the times, before w (only a learned weighting does)."""

    def rows(self, step: TrainingStep, t: Times, losses: Tensor) -> Tensor:
        """w times the losses (B,), which are looked at."""
        weights = self.of_time(step, t).to(losses)
        self.learn(step, t, losses.detach())
        return weights * losses

    def on(self, divergence: Divergence, top_k: int | None = None) -> Weighed:
        """v D, where the divergence stands; `top_k` as in `Divergence.top_k`."""
        return Weighed(divergence, self, top_k)


@dataclass(frozen=True)
class Weighed:
    """v(p, q) D(p, q): called as a divergence is, of whole laws or against a certain teacher."""

    divergence: Divergence
    weighting: Weighting
    top_k: int | None = None

    def __call__(self, log_p: Tensor, log_q: Tensor) -> Tensor:
        weights = self.weighting.of_tokens(log_p, log_q.detach())
        if self.top_k is not None:
            return weights * self.divergence.top_k(log_p, log_q, self.top_k)
        return weights * self.divergence(log_p, log_q)

    @property
    def finite(self) -> bool:
        """That of the divergence."""
        return self.divergence.finite

    def certain(self, log_q: Tensor) -> Tensor:
        """Against a teacher that is certain of its token, see `Divergence.certain`."""
        return self.weighting.of_certain(log_q.detach()) * self.divergence.certain(log_q)
