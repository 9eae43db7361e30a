"""How likely a token that was revealed is to be masked again, sigma, and the step that follows.

alpha_t of the tokens are left at t. For every sigma up to sigma_max = min(1, (1 - alpha_s) /
alpha_t) there is a step rule under which alpha_s of them are left at s: what is masked again is
made up for by revealing more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.chances import Chances, posterior_chances
from hf_ddistill.samplers.interval import interval
from hf_ddistill.shapes import Probs, Tokens

STRATEGIES = ("cap", "rescale", "forward_backward")


def check_strategy(strategy: str, eta: float) -> None:
    """Raise for a strategy that there is not, or a strength that is no share."""
    if strategy not in STRATEGIES:
        raise ValueError(f"Unknown strategy {strategy!r}; there are: {', '.join(STRATEGIES)}.")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta, how strongly tokens are masked again, is in [0, 1], got {eta}.")


def check_masks(name: str, diffusion: Diffusion) -> None:
    """Raise unless the process has masks that reveal."""
    if not diffusion.reveals:
        raise ValueError(
            f"The sampler {name!r} masks revealed tokens again, as Absorbing allows, not "
            f"{type(diffusion.process).__name__}; 'psi' is for every process."
        )


def sigma(
    strategy: str, eta: float, diffusion: Diffusion, s: Tensor | float, t: Tensor | float
) -> Tensor:
    """The chance of a revealed token to be masked again, never above sigma_max.

    cap: min(eta, sigma_max);  rescale: eta sigma_max;  forward_backward: eta (alpha_s - alpha_t) /
    alpha_t, as much as the step reveals, or sigma_max if that is less.
    """
    before, now = diffusion.total_noise(times(s)), diffusion.total_noise(times(t))
    left = torch.exp(-now)
    most = (-torch.expm1(-before) / left).clamp_max(1.0)
    if strategy == "cap":
        return most.clamp_max(eta)
    if strategy == "rescale":
        return eta * most
    return torch.minimum(eta * torch.expm1(now - before), most)


def remasking_chances(
    again: Tensor, diffusion: Diffusion, s: Tensor | float, t: Tensor | float
) -> Chances:
    """Those of the step with a chance `again` of masking: a mask is revealed with (alpha_s - (1 -
    again) alpha_t) / (1 - alpha_t)."""
    more = again / torch.expm1(diffusion.total_noise(times(t)))
    return Chances(posterior_chances(diffusion, s, t).reveal + more, again)


def law_of(chances: Chances, prediction: Prediction, diffusion: Diffusion, x_t: Tokens) -> Probs:
    """p(x_s | x_t) of each position, (B, L, K), with these chances under masks."""
    p = prediction.log_conditional.exp()
    mask, masked = diffusion.process.mask_token_id, diffusion.undetermined(x_t)
    reveal, remask = (
        torch.as_tensor(chance, device=p.device).to(p.dtype)
        for chance in (chances.reveal, chances.remask)
    )
    reveal, remask = (each[:, None] if each.ndim == 1 else each for each in (reveal, remask))
    drawn = torch.where(masked, reveal, 1 - remask)[..., None]
    law = drawn * torch.where(masked[..., None], p, one_hot(x_t, p.shape[-1]).to(p.dtype))
    to_mask = torch.where(masked, 1 - reveal, remask).expand(x_t.shape)
    index = torch.full_like(x_t, mask)[..., None]
    return law.scatter(-1, index, to_mask[..., None].contiguous())


class Remasking(ABC):
    """Mixed into a `Sampler`, before it: the step in which a revealed token is masked again with
    chance `sigma`, which the class says."""

    id: ClassVar[str]
    citation: ClassVar[str] = (
        "Wang et al., Remasking Discrete Diffusion Models with Inference-Time Scaling, 2025, "
        "arXiv:2503.00307"
    )
    keeps_certain: ClassVar[bool] = False

    @abstractmethod
    def sigma(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Tensor:
        """The chance of a revealed token to be masked again, () or (B,)."""

    def check(self, diffusion: Diffusion) -> None:
        """Raise unless the process has masks that reveal."""
        check_masks(self.id, diffusion)

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances:
        """See `remasking_chances`."""
        return remasking_chances(self.sigma(diffusion, s, t), diffusion, s, t)

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """See `law_of`."""
        s, t = interval(s, t, x_t)
        return law_of(self.chances(diffusion, s, t), prediction, diffusion, x_t)
