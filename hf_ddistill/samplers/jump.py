"""Jump steps: a whole x_0 is drawn and noised again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.parameterizations import Prediction, carried_over
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.samplers.interval import interval, to_data
from hf_ddistill.samplers.posterior import draw_clean, draw_posterior
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Probs, Tokens


@dataclass(frozen=True)
class Jump(Sampler):
    """x_s ~ sum_{x_0} p(x_0 | x_t) P_0s[x_0, x_s]: a clean sequence is drawn and noised again.

    What x_t has already revealed is kept no longer than anything else, so that a later call can
    mend an earlier one; positions share nothing of x_t but what the prediction has read in it.

    References: Song et al., Consistency Models, 2023, arXiv:2303.01469, Algorithm 1; with masks,
    Zhu et al., Di[M]O, 2025, arXiv:2503.15457.
    """

    id: ClassVar[str] = "jump"
    citation: ClassVar[str] = "Song et al., Consistency Models, 2023, arXiv:2303.01469"
    keeps_certain: ClassVar[bool] = False

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """p(x_0 | x_t) P_0s."""
        s, _ = interval(s, t, x_t)
        kernel, log_p = diffusion.kernel(torch.zeros_like(s), s), prediction.log_conditional
        if diffusion.reveals:  # whatever is said of a token that is no mask
            log_p = carried_over(log_p, diffusion, x_t)
        return kernel.vecmat(log_p.exp()).clamp_min(0)

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances:
        """alpha_s of all tokens, whatever they were, are left."""
        noise = diffusion.total_noise(times(s))
        return Chances(torch.exp(-noise), -torch.expm1(-noise))

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """x_0 from p(x_0 | x_t), and that noised."""
        if diffusion.reveals:
            return super().advance(prediction, diffusion, x_t, s, t, generator)
        if to_data(s):
            return draw_posterior(prediction, diffusion, x_t, s, t, generator)
        s, _ = interval(s, t, x_t)
        x_0 = draw_clean(prediction, x_t, generator)
        return diffusion.renoise(x_0, torch.zeros_like(s), s, generator)
