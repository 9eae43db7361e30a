"""One token a call, at the times at which the masks of a row are hit one after another."""

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_ddistill.linalg import categorical, uniform_noise
from hf_ddistill.samplers import Sampler, look
from hf_ddistill.unmasking import largest


@dataclass(frozen=True)
class FirstHitting(Sampler):
    """Of k masks at t the next is hit where 1 - alpha = u^(1 / k) (1 - alpha_t), u uniform; the
    last step decides all that is left."""

    id: ClassVar[str] = "first_hitting"
    citation: ClassVar[str] = "Zheng et al., Masked Diffusion Models, 2024, arXiv:2409.02908"

    def check(self, diffusion):
        """Masks alone are hit."""
        if not diffusion.reveals:
            raise ValueError("The sampler 'first_hitting' needs masks that reveal.")

    def begin(self):
        """A copy that remembers the times of the rows."""
        run = copy.copy(self)
        object.__setattr__(run, "reached", {})
        return run

    def step(self, denoiser, x_t, s, t, generator=None, **condition):
        """One token of each row, or all that are left."""
        masked = denoiser.diffusion.undetermined(x_t)
        start = torch.as_tensor(t, dtype=torch.float64, device=x_t.device)
        time = self.reached.get("t", start.expand(len(x_t)))
        share = -torch.expm1(-denoiser.diffusion.schedule.sigma(time))
        hit = uniform_noise((len(x_t), 1), generator, x_t.device)[:, 0].clamp_min(1e-9)
        share = share * hit ** (1 / masked.sum(1).clamp_min(1))
        time = denoiser.diffusion.schedule.inverse(-torch.log1p(-share)).clamp(1e-6, 1)
        self.reached["t"] = time
        said = look(denoiser, x_t, time, generator, **condition)
        tokens = categorical(said.log_conditional.exp(), generator)
        order = uniform_noise(x_t.shape, generator, x_t.device)
        return torch.where(
            largest(order, masked, 1) if torch.as_tensor(s).any() else masked, tokens, x_t
        )
