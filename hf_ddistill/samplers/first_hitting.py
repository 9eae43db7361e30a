"""Masks revealed one after the other, at the times at which the reverse process reveals them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.denoisers.denoiser import condition_of
from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.linalg import categorical_at, uniform_noise
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Tokens
from hf_ddistill.unmasking import any_positions

#: The earliest time that a network is asked at: some read the logarithm of what is there.
EARLIEST = 1e-6


@dataclass(frozen=True)
class FirstHitting(Sampler):
    """One position a call, any of the masked ones, each token drawn given all before it: exact
    whatever the schedule, with as many calls as there are masks.

    Of k masks, the next is hit where 1 - alpha = u^(1 / k) (1 - alpha_t), u uniform (Eq. 9): that
    is the time at which a denoiser is asked which reads one; for any other no time is drawn.

    With n steps for more than n masks a call decides several, as evenly as n steps allow, at the
    time of the first of them: no longer exact, since it draws them independently. Steps beyond
    the number of masks call nothing: asking for more calls than positions makes one a position.
    A row with fewer masks than another is done before it, and leaves the batch.

    Raises:
        ValueError: from `check`, for a process without masks that reveal.
    """

    id: ClassVar[str] = "first_hitting"
    citation: ClassVar[str] = (
        "Zheng et al., Masked Diffusion Models are Secretly Time-Agnostic, 2024, arXiv:2409.02908"
    )

    def check(self, diffusion: Diffusion) -> None:
        """Raise unless the process has masks that reveal."""
        if not diffusion.reveals:
            raise ValueError(
                "The sampler 'first_hitting' reveals masks one by one, as under Absorbing, not "
                f"under {type(diffusion.process).__name__}."
            )

    def begin(self) -> FirstHitting:
        """A copy that remembers how far each row has got."""
        run = copy.copy(self)
        object.__setattr__(run, "_reached", {})
        return run

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """The share of each row's masks that this step has, by one call for the rows with any."""
        masked = denoiser.diffusion.undetermined(x_t)
        start, end = (times(each).to(x_t.device).expand(len(x_t)) for each in (t, s))
        left = (start / (start - end)).round().clamp_min(1)  # steps, this one included
        count = (masked.sum(1) / left).ceil().long()
        where = any_positions(masked, count, generator)
        if denoiser.needs_time:
            start = self._hit(denoiser.diffusion, start, masked, count, generator)
        given = {**denoiser.fresh_noise(x_t, generator), **condition}
        rows = where.any(1).nonzero()[:, 0]
        if not len(rows):
            return x_t
        given = condition_of(given, rows, len(x_t))
        said = denoiser.at(x_t[rows], start[rows], where[rows], **given)
        probs = said.log_conditional[:, 0].exp()
        return x_t.masked_scatter(where, categorical_at(probs, where, generator))

    def _hit(
        self,
        diffusion: Diffusion,
        start: Tensor,
        masked: Tensor,
        count: Tensor,
        generator: Generators,
    ) -> Tensor:
        """The time (B,) at which the first of this step's positions is hit; that of the last is
        remembered. Rows start at `start`."""
        share = getattr(self, "_reached", {}).get("share")
        share = -torch.expm1(-diffusion.total_noise(start)) if share is None else share
        number = torch.arange(masked.shape[1], device=masked.device)
        others = (masked.sum(1, keepdim=True) - number).clamp_min(1)
        falls = torch.log1p(-uniform_noise(masked.shape, generator, masked.device)) / others
        first = share * torch.exp(falls[:, :1].sum(1))
        if hasattr(self, "_reached"):
            made = number < count[:, None]
            self._reached["share"] = share * torch.exp((falls * made).sum(1))
        return diffusion.schedule.inverse(-torch.log1p(-first)).clamp_min(EARLIEST)
