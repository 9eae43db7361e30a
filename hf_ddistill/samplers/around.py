"""What samplers share that are another one but for a part."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.canvas import Canvas
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Probs, Tokens


class Around:
    """Mixed into a `Sampler`, before it: all that it is asked, its field `base` answers.

    Args:
        base: a sampler, by name, settings or as it is.
    """

    base: Sampler

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", Sampler.from_config(self.base))

    @property
    def is_product(self) -> bool:
        """As the base."""
        return self.base.is_product

    @property
    def calls_once(self) -> bool:
        """As the base."""
        return self.base.calls_once

    @property
    def keeps_certain(self) -> bool:
        """As the base."""
        return self.base.keeps_certain

    @property
    def drafts(self) -> bool:
        """As the base."""
        return self.base.drafts

    def check(self, diffusion: Diffusion) -> None:
        """As the base."""
        self.base.check(diffusion)

    def grid(self, n: int, diffusion: Diffusion) -> Any:  # noqa: ANN401 (times)
        """That of the base."""
        return self.base.grid(n, diffusion)

    def sharpened(self, temperature: float, top_k: int | None, top_p: float) -> Sampler | None:
        """Around the base with these settings, where it applies them itself."""
        base = self.base.sharpened(temperature, top_k, top_p)
        return None if base is None else replace(self, base=base)

    def begin(self) -> Sampler:
        """Around a base that begins."""
        return self._with(self.base.begin())

    def holding(self, canvas: Canvas) -> Sampler:
        """Around a base that holds what is given."""
        return self._with(self.base.holding(canvas))

    def _with(self, base: Sampler) -> Sampler:
        run = copy.copy(self)
        object.__setattr__(run, "base", base)
        return run

    def toward(self, s: Tensor | float) -> Sampler:
        """Whose step goes to s: the base's."""
        return self.base

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances | None:
        """Those of the base, if they are what its rule says."""
        return self.base.known_chances(diffusion, s, t)

    def known_chances(
        self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float
    ) -> Chances | None:
        """See `toward`."""
        return self.toward(s).known_chances(diffusion, s, t)

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """That of the base."""
        return self.base.rule(prediction, diffusion, x_t, s, t)

    def probs(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """See `toward`."""
        return self.toward(s).probs(prediction, diffusion, x_t, s, t)

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """See `toward`."""
        return self.toward(s).advance(prediction, diffusion, x_t, s, t, generator)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """See `toward`."""
        return self.toward(s).step(denoiser, x_t, s, t, generator, **condition)
