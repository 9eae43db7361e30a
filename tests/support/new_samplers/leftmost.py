"""The leftmost masks first, whatever their number: a step is no product over positions."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hf_ddistill.linalg import categorical
from hf_ddistill.samplers import Sampler, look
from hf_ddistill.unmasking import largest


@dataclass(frozen=True)
class Leftmost(Sampler):
    """An even share of the masks that are left, from the left; with as many calls as positions
    that is the chain rule."""

    id: ClassVar[str] = "leftmost"
    citation: ClassVar[str] = "tests/support/new_samplers/leftmost.py"

    def check(self, diffusion):
        """Masks alone have an order."""
        if not diffusion.reveals:
            raise ValueError("The sampler 'leftmost' needs masks that reveal.")

    def step(self, denoiser, x_t, s, t, generator=None, **condition):
        """As many positions as make this and the steps behind it even."""
        steps = max(1, round(float(torch.as_tensor(t / (t - s)).max())))
        masked = denoiser.diffusion.undetermined(x_t)
        count = (masked.sum(1) / steps).ceil().long()
        said = look(denoiser, x_t, t, generator, **condition)
        tokens = categorical(said.log_conditional.exp(), generator)
        places = -torch.arange(x_t.shape[1], device=x_t.device).expand_as(x_t).double()
        return torch.where(largest(places, masked, count), tokens, x_t)
