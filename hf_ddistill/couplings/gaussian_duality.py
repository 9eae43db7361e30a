"""The duality of Gaussian and uniform noise: pairs that share their noise, and its clock.

w_t = a x + sqrt(1 - a^2) e with x one-hot, e normal (K,), a = alpha~_t, and gamma = -log SNR, so
that a / sqrt(1 - a^2) = exp(-gamma / 2). Then argmax w_t ~ alpha 1[x] + (1 - alpha) / K with alpha
= T(a).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.couplings.coupling import Coupling, Past
from hf_ddistill.couplings.step_times import StepTimes
from hf_ddistill.couplings.times import EARLIEST, TimeSampler, below
from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.shapes import Times, Tokens

CITATION = "Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892"
#: Of the integral: the trapezoid rule over 18 standard deviations, where it is exact to rounding.
NODES = 301
#: Where gamma is looked for: alpha is 1 and 1 / K to rounding at its ends.
SEARCHED = (-10.0, 80.0)


def uniform_alpha(gamma: Tensor, vocab_size: int) -> Tensor:
    """T: the share of the data that argmax w keeps, float64 (...).

    alpha = (K p - 1) / (K - 1),  p = E Phi(z)^(K - 1), z ~ N(exp(-gamma / 2), 1)

    References: Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892, Eq. 10.

    Args:
        gamma: -log SNR of the Gaussian, (...).
        vocab_size: K.
    """
    offset = torch.linspace(-9, 9, NODES, dtype=torch.float64, device=gamma.device)
    weight = torch.exp(-(offset**2) / 2)
    z = torch.exp(-gamma.double() / 2)[..., None] + offset
    others = torch.exp((vocab_size - 1) * torch.special.log_ndtr(z))
    p = (others * weight).sum(-1) / weight.sum()
    return (vocab_size * p - 1) / (vocab_size - 1)


def gaussian_gamma(alpha: float, vocab_size: int) -> float:
    """The gamma at which `uniform_alpha` is alpha, by bisection."""
    low, high = SEARCHED
    while (middle := (low + high) / 2) not in (low, high):
        kept = float(uniform_alpha(torch.tensor(middle, dtype=torch.float64), vocab_size))
        low, high = (middle, high) if kept > alpha else (low, middle)
    return middle


@dataclass(frozen=True)
class GaussianDuality(Coupling):
    """x_t = argmax w_t and x_s = argmax w_s of one Gaussian noise e, at the alpha of the student.

    No Gaussian is drawn: the largest of the other K - 1 entries of e is the same one, j, at all
    times, so x_t is x_0 while exp(-gamma_t / 2) is above one threshold and j behind it. With u the
    place of that threshold in its law: x_t = x_0 where u < alpha_t + (1 - alpha_t) / K, else j.

    So x_s differs from x_t with the probability (alpha_s - alpha_t) (K - 1) / K, the least that
    their laws allow; in the true process noise becomes other noise as well.

    References: Sahoo et al., The Diffusion Duality, 2025, arXiv:2506.10892, Section 4.2.

    Raises:
        ValueError: from `draw`, for noise that is not uniform.
    """

    citation: ClassVar[str] = CITATION

    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        process, x_0 = step.diffusion.process, step.x_0
        if not (process.redraws and process.is_flat):
            raise ValueError(
                "The Gaussian duality is of uniform noise, and the process is "
                f"{process.id!r}; with masks take the coupling 'masked_duality'."
            )
        size, (u, v) = process.vocab_size, uniform_pair(step)
        other = (x_0 + 1 + (v * (size - 1)).long()) % size
        x_t, x_s = (
            step.given(torch.where(u < (alpha + (1 - alpha) / size)[:, None], x_0, other))
            for alpha in (step.diffusion.schedule.alpha(t), step.diffusion.schedule.alpha(s))
        )
        return x_t, Past.known(step, x_t, x_s)


def uniform_pair(step: TrainingStep) -> tuple[Tensor, Tensor]:
    """Two uniform numbers for each token, (B, L) each."""
    shape = (*step.x_0.shape, 2)
    return uniform_noise(shape, step.generator, step.x_0.device).unbind(-1)


@dataclass(frozen=True)
class GaussianTimes(TimeSampler):
    """Steps of 1 / k, as of `StepTimes`, in the clock of the Gaussian: gamma linear in its time.

    Args:
        gamma: its values at time 0 and 1; None for those that the schedule of the student runs
            through. Duo's are (-4, -1), for 50,257 tokens; of few tokens these leave much of the
            data at time 1 (.76 of K = 2), so that the first call would never be trained.

    Raises:
        ValueError: unless gamma ascends.
    """

    gamma: Sequence[float | int] | None = None
    citation: ClassVar[str] = CITATION

    def __post_init__(self) -> None:
        if self.gamma is None:
            return
        gamma = tuple(map(float, self.gamma))
        if len(gamma) != 2 or not -math.inf < gamma[0] < gamma[1] < math.inf:
            raise ValueError(f"gamma is two ascending numbers or None, got {self.gamma!r}.")
        object.__setattr__(self, "gamma", gamma)

    def draw(self, step: TrainingStep) -> tuple[Times, Times, Times]:
        schedule, size = step.diffusion.schedule, step.diffusion.vocab_size
        s, t, weight = StepTimes().draw(step)
        low, high = self.gamma or self._whole(step)
        s, t = (
            schedule.inverse(-uniform_alpha(low + (high - low) * time, size).log())
            for time in (s, t)
        )
        t = t.clamp_min(EARLIEST)
        return below(t, t - s, torch.ones_like(t)), t, weight

    def _whole(self, step: TrainingStep) -> tuple[float, float]:
        """The ends that the schedule runs through; kept, since they take a search."""
        memory, size = step.memory.of(self.id), step.diffusion.vocab_size
        kept = memory.own().get("gamma")
        if kept is None:
            ends = step.diffusion.schedule.alpha(torch.tensor([EARLIEST, 1.0]).double())
            kept = torch.tensor([gaussian_gamma(float(end), size) for end in ends]).double()
            memory.put("gamma", kept)
        low, high = kept.tolist()
        return low, high
