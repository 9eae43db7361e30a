"""How likely a step is to change a position, where that hangs on no prediction.

Under a process that reveals, alpha_t of the tokens are left at t and the others are masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion, times


@dataclass(frozen=True)
class Chances:
    """How likely a step is to change a position, whatever is predicted there.

    With u uniform in [0, 1) at each position: a mask is revealed iff u < reveal, and its token is
    drawn from p(x_0 | x_t) by the number u / reveal; any other token is masked again iff
    u >= 1 - remask. So p(x_s | x_t) at a mask m is

    reveal p(x_0 | x_t) + (1 - reveal) 1[m],

    and a number draws the token that it draws from this law, where m is the last of all tokens.

    Args:
        reveal: of a mask, float64 () or one for each row (B,), or a number.
        remask: of any other token, the same.
    """

    reveal: Tensor | float
    remask: Tensor | float = 0.0

    def to_data(self, s: Tensor | float) -> Chances:
        """The same, but to s = 0 everything is revealed and nothing masked."""
        last = torch.as_tensor(s) == 0
        reveal, remask = (
            torch.as_tensor(each, dtype=torch.float64, device=last.device)
            for each in (self.reveal, self.remask)
        )
        return Chances(torch.where(last, 1.0, reveal), torch.where(last, 0.0, remask))


def posterior_chances(diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances:
    """Those of the exact posterior: (alpha_s - alpha_t) / (1 - alpha_t)."""
    before, now = diffusion.total_noise(times(s)), diffusion.total_noise(times(t))
    return Chances(torch.exp(-before) * torch.expm1(before - now) / torch.expm1(-now))


def jump_rate(diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Tensor:
    """The expected number of jumps of a mask in a step by the rate of its start, (t - s) sigma'(t)
    alpha_t / (1 - alpha_t)."""
    s, t = times(s), times(t)
    return (t - s) * diffusion.pace(t) / torch.expm1(diffusion.total_noise(t))


def integrated_jumps(diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Tensor:
    """The same by the integral of the rate over the step, log (1 - alpha_t) / (1 - alpha_s): a jump
    is then as likely as under `posterior_chances`. Finite, also where that is 1 to rounding."""
    return (-torch.log1p(-posterior_chances(diffusion, s, t).reveal)).clamp_max(700.0)
