"""Two calls a step: each half of it by a step of another sampler."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from hf_ddistill.samplers import Sampler


@dataclass(frozen=True)
class Halves(Sampler):
    """From t to (s + t) / 2, and from there to s."""

    half: Sampler | Mapping[str, Any] | str = "ancestral"
    id: ClassVar[str] = "halves"
    citation: ClassVar[str] = "tests/support/new_samplers/halves.py"

    def __post_init__(self):
        object.__setattr__(self, "half", Sampler.from_config(self.half))

    def check(self, diffusion):
        """As for its half."""
        self.half.check(diffusion)

    def step(self, denoiser, x_t, s, t, generator=None, **condition):
        """Both halves."""
        middle = (s + t) / 2
        x = self.half.step(denoiser, x_t, middle, t, generator, **condition)
        return self.half.step(denoiser, x, s, middle, generator, **condition)
