"""A diffusion is a process run at the pace of a schedule: P_st = kernel from total noise sigma(s)
to sigma(t)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.linalg import LinearOperator, beside, categorical, require, uniform_noise
from hf_ddistill.processes import Process
from hf_ddistill.schedules import LogLinear, Schedule
from hf_ddistill.shapes import Chooser, Generators, Probs, Tokens, Where


@dataclass(frozen=True)
class Diffusion:
    """A forward process together with its schedule.

    Args:
        process: where tokens go.
        schedule: how fast.

    Raises:
        ValueError: from every method that takes times, for `s` not before `t` or a time outside
        [0, 1]; from `corrupt`, for
            tokens outside [0, K).
    """

    process: Process
    schedule: Schedule = LogLinear()

    @property
    def vocab_size(self) -> int:
        """K, the mask included."""
        return self.process.vocab_size

    def kernel(self, s: Tensor | float, t: Tensor | float) -> LinearOperator:
        """P_st; rows are distributions of x_t given x_s. `s` and `t` are () or (B,)."""
        s, t = times(s), times(t)
        looks = s.device.type == t.device.type == "cpu" and not torch.compiler.is_compiling()
        if looks and bool((s > t).any()):
            late = (s > t).broadcast_to(torch.broadcast_shapes(s.shape, t.shape))
            s, t = s.broadcast_to(late.shape)[late], t.broadcast_to(late.shape)[late]
            raise ValueError(
                f"s={s.flatten()[0]:.4g} must precede t={t.flatten()[0]:.4g}: time runs "
                "from data to noise."
            )
        return self.process.kernel(self.total_noise(s), self.total_noise(t))

    def total_noise(self, t: Tensor) -> Tensor:
        """The total noise at t, 0 at t = 0."""
        # Data are clean by definition, also under a schedule (geometric) that leaves a little
        # noise at t = 0.
        return torch.where(t == 0, torch.zeros_like(t), self.schedule.sigma(t))

    def pace(self, t: Tensor) -> Tensor:
        """sigma'(t).

        Raises:
            ValueError: where it is infinite (`Polynomial` with a power below 1, at t = 1).
        """
        pace = self.schedule.rate(t)

        def told(*_: int) -> str:
            if torch.compiler.is_compiling():  # a graph has no numbers to tell
                return "Noise comes infinitely fast, so there is no rate."
            at = float(t.flatten()[(~pace.isfinite()).flatten().nonzero()[0, 0]])
            return (
                f"Noise comes infinitely fast at t = {at:.4g} under {self.schedule!r}, so there is "
                "no rate: 'ancestral' and 'jump' steps take none."
            )

        require(pace.isfinite(), told)
        return pace

    def reverse_rate(self, score: Probs, x_t: Tokens, t: Tensor | float) -> Probs:
        """The rate of x_t -> y backwards in time, sigma'(t) Q[y, x_t] score[y], with a diagonal
        that makes rows sum to 0.

        References: Lou et al., 2024, arXiv:2310.16834, Eq. 4.

        Raises:
            ValueError: where the rate is infinite: under Hybrid at t = 0, and where `pace` is.
        """
        t = times_at(t, x_t)
        pace = self.pace(t).to(score.dtype)
        columns = self.process.rate(self.total_noise(t)).columns(x_t, score.dtype)
        rate = columns * score * (pace[:, None, None] if pace.ndim else pace)
        rate = rate.scatter(-1, x_t[..., None], 0.0)
        return rate.scatter(-1, x_t[..., None], -rate.sum(-1, keepdim=True))

    def corrupt(self, x_0: Tokens, t: Tensor | float, generator: Generators = None) -> Tokens:
        """x_t ~ P_0t[x_0]; `t` is () or (B,)."""
        if x_0.device.type == "cpu":  # elsewhere the lookup itself stops at a token out of range
            self.check_tokens(x_0)
        t = times_at(t, x_0)
        return self.kernel(torch.zeros_like(t), t).draw(x_0, generator)

    def renoise(
        self, x_s: Tokens, s: Tensor | float, t: Tensor | float, generator: Generators = None
    ) -> Tokens:
        """x_t ~ P_st[x_s]."""
        return self.kernel(times_at(s, x_s), times_at(t, x_s)).draw(x_s, generator)

    def prior(
        self,
        shape: Sequence[int],
        generator: Generators = None,
        device: torch.device | str | None = None,
    ) -> Tokens:
        """x_1 of shape (B, L), from the limit law of the process."""
        law = self.process.limit()
        # By its support, which no rounding changes, and not by a probability of 1: whether numbers
        # are drawn from the generator must not hang on a last digit.
        support = law.nonzero()[:, 0]
        if len(support) == 1:
            return torch.full(tuple(shape), int(support[0]), dtype=torch.int64, device=device)
        if isinstance(generator, Chooser):
            return categorical(law.to(device).expand(*shape, -1), generator)
        cumulative = law.to(device).cumsum(0)
        noise = uniform_noise(shape, generator, device)
        # One law for all positions: no (B, L, K) is made.
        return torch.searchsorted(cumulative, noise * cumulative[-1], right=True).clamp_max(
            self.vocab_size - 1
        )

    def undetermined(self, x_t: Tokens) -> Where:
        """The positions whose x_0 is not certain from x_t alone: under a process that reveals
        the masked ones, else all."""
        if self.reveals:
            return x_t == self.process.mask_token_id
        return torch.ones_like(x_t, dtype=torch.bool)

    @property
    def reveals(self) -> bool:
        """Whether a token other than the mask can only have come from itself, see `Process`."""
        return self.process.reveals

    def check_tokens(self, x: Tensor) -> None:
        """Raise if a token lies outside the vocabulary."""
        if not x.numel():
            return
        low, high = torch.stack(x.aminmax()).tolist()
        if low < 0 or high >= self.vocab_size:
            raise ValueError(
                f"Tokens must lie in [0, {self.vocab_size}), got values from {low} to {high}."
            )

    def to_config(self) -> dict[str, Any]:
        """`{"process": {...}, "schedule": {...}}`."""
        return {"process": self.process.to_config(), "schedule": self.schedule.to_config()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Diffusion:
        """The inverse of `to_config`; other keys are left to their owners."""
        if "process" not in config:
            raise ValueError(f"A diffusion needs a 'process', got the keys {sorted(config)}.")
        return cls(
            Process.from_config(config["process"]),
            Schedule.from_config(config.get("schedule", "log_linear")),
        )


def times(t: Tensor | float) -> Tensor:
    """A time as float64; raises if it lies outside [0, 1].

    On a device it is not looked at, since the host would have to wait for it: who takes times from
    outside passes them here before they go there.
    """
    t = torch.as_tensor(t, dtype=torch.float64)
    if t.numel() and t.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (float(end) for end in t.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"Times run from 0 (data) to 1 (noise), got values from {low} to {high}."
            )
    return t


def times_at(t: Tensor | float, x: Tensor) -> Tensor:
    """The same where it can meet tokens `x`: one number stays on the CPU, one for each row goes to
    their device."""
    return beside(times(t), x)
