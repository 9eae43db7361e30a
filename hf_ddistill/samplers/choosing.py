"""What the samplers share that choose where they draw, and ask a denoiser there alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.places import Places
from hf_ddistill.samplers.drawing import ask, with_noise
from hf_ddistill.shapes import Generators, Tokens

#: log p(x_0 | x_t) (N, K) at places of some rows, of all where these are None: see `taking`.
Say = Callable[[Places, Tensor | None], Tensor]


class Choosing(ABC):
    """Mixed into a `Sampler`, before it: `choose` is its step, from a prediction for all positions
    or by one call about those that it asks for."""

    @property
    def calls_once(self) -> bool:
        """A step is known from one prediction."""
        return True

    @abstractmethod
    def choose(
        self,
        say: Say,
        diffusion: Diffusion,
        x_t: Tokens,
        interval: tuple[Tensor | float, Tensor | float],
        generator: Generators,
    ) -> Tokens:
        """x_s, asking once at the most; `interval` is (s, t)."""

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """x_s, drawn from what a denoiser says at x_t."""

        def say(places: Places, rows: Tensor | None) -> Tensor:
            whole = prediction.log_conditional
            return places.take(whole if rows is None else whole.index_select(0, rows))

        return self.choose(say, diffusion, x_t, (s, t), generator)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """x_s, from one call about the places that are chosen, of the rows that have any."""
        given = with_noise(denoiser, x_t, generator, condition)

        def say(places: Places, rows: Tensor | None) -> Tensor:
            return ask(denoiser, x_t, t, (rows, places), given).log_conditional[:, 0]

        return self.choose(say, denoiser.diffusion, x_t, (s, t), generator)
