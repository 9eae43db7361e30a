"""Masked language modelling by blocks: what block-diffusion models are trained with on data, and
the plain fine-tuning that conversions are compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hf_ddistill.couplings import TrainingStep, random_masks
from hf_ddistill.objectives.blocks.states import decoded, masked
from hf_ddistill.objectives.needs import Networks
from hf_ddistill.objectives.objective import Objective
from hf_ddistill.shapes import Scalar

WEIGHTINGS = ("likelihood", "uniform")


@dataclass(frozen=True)
class BD3LM(Objective):
    """E_t sum_b w(t) sum_(i masked in x_t^b) -log p^i(x_0 | x_0^(<b), x_t^b), per token of x_0.

    n of a block's N tokens are masked, n uniform in 1 .. N: with w = N / n it is the bound on the
    log-likelihood that the continuous-time integral of 1 / t gives (Arriola et al., Eq. 8), with
    less variance; with w = 1 the sum over the masked tokens over the mean of their number, n being
    drawn: the mean cross entropy of the masked tokens.

    Args:
        weighting: "likelihood" (w = N / n) or "uniform" (w = 1).
    """

    weighting: str = "likelihood"
    id: ClassVar[str] = "bd3lm"
    over: ClassVar[str] = "blocks"
    networks: ClassVar[Networks] = {}
    citation: ClassVar[str] = (
        "Arriola et al., Block Diffusion: Interpolating Between Autoregressive and Diffusion "
        "Language Models, 2025, arXiv:2503.09573"
    )

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"Unknown weighting {self.weighting!r}; there are: {', '.join(WEIGHTINGS)}."
            )

    @property
    def is_bound(self) -> bool:
        """With the weights of the likelihood."""
        return self.weighting == "likelihood"

    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        path = decoded(step, self.id)
        blocks = path.drawn.unflatten(1, (-1, path.block_size)).sum(-1)
        where = random_masks(step.x_0, path.drawn, path.block_size, step.generator)
        x_t = masked(step, where)
        local = step.look(step.student, x_t, None, where, clean_ids=step.x_0)
        log_p = local.log_prob_of(step.x_0)
        step.log("cross_entropy", -log_p.detach().mean())
        losses = -local.per_token(log_p)
        if self.weighting == "likelihood":
            return {"student": step.token_mean(losses * path.spread(self._weights(blocks, where)))}
        # n uniform in 1 .. N, where there is any token.
        expected = ((blocks.double() + 1) / 2 * (blocks > 0)).sum(1)
        return {"student": step.row_mean(losses.sum(1) / expected.clamp_min(1))}

    def _weights(self, blocks: Tensor, where: Tensor) -> Tensor:
        masked = where.unflatten(1, (blocks.shape[1], -1)).sum(-1)
        return blocks / masked.clamp_min(1)
