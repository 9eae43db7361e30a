"""What the samplers share whose positions jump once in a step or not at all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.flat_jumps import (
    draw_flat_jump,
    draw_other,
    draws_flat_jumps,
    flat_jumps,
)
from hf_ddistill.samplers.interval import to_data
from hf_ddistill.samplers.jumps import check_pace
from hf_ddistill.samplers.posterior import draw_posterior
from hf_ddistill.shapes import Generators, Tokens


class OneJump(ABC):
    """Mixed into a `Sampler`, before it: how its steps are drawn where that is cheaper than by its
    rule."""

    id: ClassVar[str]

    @abstractmethod
    def leaving(self, jumps: Tensor) -> Tensor:
        """The chance of a jump, from the expected number of jumps at the rate of the start."""

    def check(self, diffusion: Diffusion) -> None:
        """Raise where noise comes infinitely fast at t = 1."""
        check_pace(self.id, diffusion)

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """Where noise is flat the token of a jump is drawn without the rates, see `flat_jumps`."""
        if not draws_flat_jumps(diffusion, generator):
            return super().advance(prediction, diffusion, x_t, s, t, generator)
        if to_data(s):
            return draw_posterior(prediction, diffusion, x_t, s, t, generator)
        which, clean, fresh = (uniform_noise(x_t.shape, generator, x_t.device) for _ in range(3))
        here, other = draw_other(prediction, x_t, clean)
        jumps = flat_jumps(here, diffusion, x_t, s, t)
        return draw_flat_jump(jumps, self.leaving, x_t, other, (which, fresh))
