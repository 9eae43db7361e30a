"""Euler steps with a factor for each, at given times: numbers that are learned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import frozen
from hf_ddistill.diffusion import Diffusion, times_at
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.samplers.euler import Euler
from hf_ddistill.samplers.given_times import GivenTimes
from hf_ddistill.samplers.interval import to_data
from hf_ddistill.samplers.jumps import cut_at_one, expected_jumps
from hf_ddistill.samplers.posterior import posterior
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Probs, Tokens

#: Of t is left at least, however large the factor of a step: no rate goes beyond data.
LEFT = 1e-6


@dataclass(frozen=True)
class ScaledEuler(Sampler):
    """I + scale_k (t - s) R: the step from times[k] has the rate of the reverse process times
    scale_k, up to that of a step to data. The last step draws x_0, as that of every sampler does.
    With powers the scores in R are those of the denoiser to the power of the step, a temperature
    and a factor at once, and in the last step what it says of x_0 is, normalised.

    References: Fu, Guo, Liu, Learnable Sampler Distillation for Discrete Diffusion Models, 2025,
    arXiv:2509.19962.

    Args:
        scales: n factors above 0; the objective `lsd` learns them.
        times: n + 1, from 1 down to 0. For another number of steps their curve is cut (see
            `GivenTimes`), and a step has the factor of the nearest time.
        powers: n above 0, or none at all; those that the authors' code learns.

    Raises:
        ValueError: for other numbers.
    """

    scales: Sequence[float | int] = (1.0,)
    times: Sequence[float | int] = (1.0, 0.0)
    powers: Sequence[float | int] = ()
    citation: ClassVar[str] = "Fu, Guo, Liu, Learnable Sampler Distillation, 2025, arXiv:2509.19962"

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", _numbers("scales", self.scales))
        object.__setattr__(self, "times", GivenTimes(times=self.times).times)
        if len(self.times) != len(self.scales) + 1 or not _above_zero(self.scales):
            raise ValueError(
                "scales are one number above 0 for each step between two times, got "
                f"{list(self.scales)} and the times {list(self.times)}."
            )
        object.__setattr__(self, "powers", _numbers("powers", self.powers))
        given = len(self.powers) == len(self.scales) and _above_zero(self.powers)
        if self.powers and not given:
            raise ValueError(
                f"powers are one number above 0 for each of {len(self.scales)} steps, or none, got "
                f"{list(self.powers)}."
            )

    def check(self, diffusion: Diffusion) -> None:
        """As Euler's steps."""
        Euler().check(diffusion)

    def grid(self, n: int, diffusion: Diffusion) -> list[float]:
        """The given times, or the points of their curve."""
        return GivenTimes(times=self.times).grid(n, diffusion)

    def rule(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """Euler's, of a step that is as much longer."""
        t = times_at(t, x_t)
        s = self._reached(times_at(s, x_t), t)
        if not self.powers:
            return Euler().rule(prediction, diffusion, x_t, s, t)
        power = self._nearest(self.powers, t)[..., None, None]
        return cut_at_one(expected_jumps(prediction, diffusion, x_t, s, t, power), x_t)

    def probs(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
    ) -> Probs:
        """By the rule; to s = 0 p(x_0 | x_t), to the power of the last step."""
        if self.powers and to_data(s):
            power = self._nearest(self.powers, times_at(t, x_t))[..., None, None]
            log_p = (power * prediction.log_conditional).log_softmax(-1)
            return posterior(Prediction(log_p), diffusion, x_t, s, t)
        return super().probs(prediction, diffusion, x_t, s, t)

    def chances(self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float) -> Chances | None:
        """Likewise; with powers they hang on the prediction."""
        if self.powers:
            return None
        s, t = (torch.as_tensor(time, dtype=torch.float64) for time in (s, t))
        return Euler().chances(diffusion, self._reached(s, t), t)

    def _reached(self, s: Tensor, t: Tensor) -> Tensor:
        """Where Euler's step has to go to from t to have this rate."""
        return torch.maximum(t - self._nearest(self.scales, t) * (t - s), LEFT * t)

    def _nearest(self, numbers: Sequence[float | int], t: Tensor) -> Tensor:
        """Of numbers of the steps that of the step whose time is the nearest to t."""
        starts = torch.tensor(self.times[:-1], dtype=torch.float64, device=t.device)
        numbers = torch.tensor(numbers, dtype=torch.float64, device=t.device)
        return numbers[(t[..., None] - starts).abs().argmin(-1)]


def _numbers(name: str, given: Any) -> tuple[float, ...]:
    try:
        if not isinstance(given, str):  # "12" is no list of its letters
            return tuple(map(float, frozen(given)))
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name} are a list of numbers, one a step, got {given!r}.")


def _above_zero(numbers: Sequence[float]) -> bool:
    return all(0 < number < math.inf for number in numbers)
