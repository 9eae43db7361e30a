"""A student with a noise input as the mixture of products that it is.

q(x_0 | x_t) = E_noise prod_i q^i(x_0^i | x_t, noise),   estimated by N draws of the noise
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.linalg import categorical_of_logs
from hf_ddistill.places import Places
from hf_ddistill.shapes import Times, Tokens


@dataclass(frozen=True)
class Mixture:
    """N components of each row, of one call with B N rows; n positions of the batch are open.

    Args:
        step: whose rows are those of the batch, N times each.
        log_q: (N n, K), what the components say.
        places: of them among the B N rows.
        open: the n positions among the B rows.
        count: N.
    """

    step: TrainingStep
    log_q: Tensor
    places: Places
    open: Places
    count: int

    @classmethod
    def of(cls, step: TrainingStep, denoiser: Denoiser, x: Tokens, t: Times, count: int) -> Mixture:
        """N draws of a denoiser's noise at x (B, L), where x_0 is not certain."""
        rows = torch.arange(len(x), device=x.device).repeat_interleave(count)
        many, open_ = step.rows(rows), Places.of(step.open(x))
        places = Places.of(open_.where[rows], count * len(open_))
        local = many.look(denoiser, x[rows], t[rows], places)
        return cls(many, local.prediction.log_conditional.squeeze(1), places, open_, count)

    @cached_property
    def _rows(self) -> Tensor:
        """The row of the batch that each of the N n is of."""
        return self.places.rows // self.count

    def log_probs(self, x_0: Tensor) -> Tensor:
        """log q^i(x_0^i | noise_j) of M completions (B, L, M), 0 where x_0 is certain: (B, N, L,
        M)."""
        log_q = self.log_q.gather(-1, x_0[self._rows, self.places.positions])
        rows, length, many = x_0.shape
        into = log_q.new_zeros(rows * self.count * length, many)
        return into.index_copy(0, self.places.index, log_q).view(rows, -1, length, many)

    def marginals(self) -> Tensor:
        """(1 / N) sum_j q^i(. | noise_j) at the open positions, (n, K)."""
        number = self.open.where.flatten().cumsum(0) - 1
        number = number[self._rows * self.open.shape[1] + self.places.positions]
        none = self.log_q.new_zeros(len(self.open), self.log_q.shape[-1])
        return none.index_add(0, number, self.log_q.exp()) / self.count

    def draw(self, x: Tokens) -> Tensor:
        """One completion of x (B, L) by each component, (B, L, N)."""
        tokens = categorical_of_logs(self.log_q, noise=self.step.numbers(self.places))
        filled = self.places.put(tokens, x.repeat_interleave(self.count, 0))
        return filled.view(len(x), self.count, -1).mT

    def cross_entropy(
        self, x_0: Tensor, marginals: Tensor, control: bool = True
    ) -> tuple[Tensor, Tensor]:
        """-log q, the mean over M completions drawn from a law p, and log q less what the marginals
        of q make of it: (B,) each.

            -log q(x_0) + log prod_i q^i(x_0^i) + sum_i CE(p^i, q^i),   q^i = E_noise q^i(. | noise)

        is -log q(x_0) in the mean: the second term is a control variate, of which the third is the
        mean, negated. What is left to chance is how tokens hang together.

        Args:
            x_0: (B, L, M).
            marginals: p^i at the open positions, (n, K).
            control: without it the first term alone.
        """
        log_q, many = self.log_probs(x_0), math.log(self.count)
        joint = log_q.sum(2).logsumexp(1) - many
        alone = (log_q.logsumexp(1) - many).sum(1)
        gained = (joint - alone).mean(1)
        if not control:
            return -joint.mean(1), gained
        q = self.marginals().clamp_min(torch.finfo(self.log_q.dtype).tiny).log()
        apart = -(marginals.to(q) * q).sum(-1)
        return apart.new_zeros(len(x_0)).index_add(0, self.open.rows, apart) - gained, gained
