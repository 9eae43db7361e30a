"""Remasking of what was revealed with little confidence."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import bernoulli, generators_of
from hf_ddistill.parameterizations import log_prob_of
from hf_ddistill.places import Places
from hf_ddistill.samplers.chances import posterior_chances
from hf_ddistill.samplers.choosing import Choosing, Say
from hf_ddistill.samplers.drawing import draw_at, taking
from hf_ddistill.samplers.remasking import check_masks, check_strategy, sigma
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Tokens


@dataclass(frozen=True)
class ReMDMConfidence(Choosing, Sampler):
    """`ReMDM` that masks those tokens again which were the least likely when they were revealed.

        sigma_i = sigma softmax(-p)_i

    over the revealed positions of a row, p_i the probability that its token had when it was drawn:
    in a step about sigma tokens of a row are masked again, and no given one is. Masks are revealed
    as in an ancestral step, so that more masks are left at s than without it; the last step
    reveals them. What is masked hangs on what was drawn, and with many steps the law comes to the
    denoiser's more slowly than that of `ReMDM`.

    Args:
        strategy: of sigma, see `ReMDM`.
        eta: that of `ReMDM`, in [0, 1].

    Raises:
        ValueError: for others; from `check`, for a process without a mask that reveals.
    """

    strategy: str = "rescale"
    eta: float = 1.0
    id: ClassVar[str] = "remdm_confidence"
    citation: ClassVar[str] = (
        "Wang et al., Remasking Discrete Diffusion Models with Inference-Time Scaling, 2025, "
        "arXiv:2503.00307"
    )
    keeps_certain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_strategy(self.strategy, self.eta)
        object.__setattr__(self, "_known", {})

    def check(self, diffusion: Diffusion) -> None:
        """Raise unless the process has masks that reveal."""
        check_masks(self.id, diffusion)

    def begin(self) -> ReMDMConfidence:
        """A copy that remembers how likely each token was that it has drawn."""
        run = copy.copy(self)
        object.__setattr__(run, "_known", {})
        return run

    def again(
        self, diffusion: Diffusion, x_t: Tokens, s: Tensor | float, t: Tensor | float
    ) -> Tensor:
        """The chance (B, L) of each token to be masked again: 0 for masks, and for tokens that this
        run has not drawn."""
        known = self._known.get("p")
        if known is None:
            return torch.zeros(x_t.shape, dtype=torch.float64, device=x_t.device)
        share = (-known.masked_fill(diffusion.undetermined(x_t), torch.inf)).softmax(1)
        level = sigma(self.strategy, self.eta, diffusion, s, t).to(x_t.device)
        # A row of which nothing is known has no softmax.
        return share.nan_to_num(0.0) * (level[:, None] if level.ndim else level)

    def choose(
        self,
        say: Say,
        diffusion: Diffusion,
        x_t: Tokens,
        interval: tuple[Tensor | float, Tensor | float],
        generator: Generators,
    ) -> Tokens:
        """x_s: what is masked again hangs on what this run has drawn."""
        chances = posterior_chances(diffusion, *interval).to_data(interval[0])
        masked, reveal = diffusion.undetermined(x_t), chances.reveal.to(x_t.device)
        again = self.again(diffusion, x_t, *interval)
        prob = torch.where(masked, reveal[:, None] if reveal.ndim else reveal, again)
        changed = bernoulli(prob, generator)
        x_s = x_t.masked_fill(changed & ~masked, diffusion.process.mask_token_id)
        if "p" not in self._known:
            self._known["p"] = torch.full_like(prob, torch.inf)
        found = taking(changed & masked)
        if found is None:
            return x_s
        rows, places = found
        log_p = say(places, rows)
        tokens = draw_at(
            log_p, places, generator if rows is None else generators_of(generator, rows)
        )
        index, length = places.index, x_t.shape[1]
        if rows is not None:
            index = rows[places.rows] * length + places.positions
        everywhere, drawn = Places(index, (x_t.shape[0], length)), log_prob_of(log_p, tokens)
        self._known["p"] = everywhere.put(drawn.exp(), self._known["p"])
        return everywhere.put(tokens, x_s)
