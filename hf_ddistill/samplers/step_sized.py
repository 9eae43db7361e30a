"""Another sampler, of a denoiser that is told how long each step is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from hf_ddistill.denoisers import Denoiser, Given
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.samplers.around import Around
from hf_ddistill.samplers.chances import Chances
from hf_ddistill.samplers.flow_matching import FlowMatching
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Tokens


def size_code(denoiser: Denoiser, x_t: Tokens, size: Tensor | float) -> dict[str, Tensor]:
    """The noise input of a denoiser that reads the size of a step there, as a condition.

    The input of J numbers is 1 at number -log2(size), rounded and at most J - 1, and 0 elsewhere: a
    linear layer makes of it an embedding of the sizes 1, 1/2, ..., 2^-(J - 1). Empty for a denoiser
    without such an input.

    Args:
        denoiser: with a `latent`, or none.
        x_t: (B, L).
        size: t - s, in (0, 1]; one, or one for each row (B,).
    """
    latent = denoiser.latent
    if latent is None:
        return {}
    size = torch.as_tensor(size, dtype=torch.float64, device=x_t.device).expand(len(x_t))
    number = (-size.log2()).round().long().clamp(0, latent.dim - 1)
    code = one_hot(number, latent.dim).float()
    if latent.per == "sequence":
        return {"noise": code}
    return {"noise": code[:, None].expand(*x_t.shape, latent.dim)}


@dataclass(frozen=True)
class StepSized(Around, Sampler):
    """The steps of a sampler, of a denoiser whose noise input is told t - s, see `size_code`; one
    without such an input is told nothing.

    A student of `fs_dfm` is one network for all numbers of calls: half the calls are steps of twice
    the size, which it knows.

    Args:
        base: the sampler, by name, settings or as it is.
    """

    base: Sampler | Mapping[str, Any] | str = FlowMatching(integrated=True)
    id: ClassVar[str] = "step_sized"
    citation: ClassVar[str] = "Monsefi et al., FS-DFM, 2025, arXiv:2509.20624"

    @property
    def calls_once(self) -> bool:
        """No: a scheduler, which sees no model, could not tell it."""
        return False

    def asked(
        self, denoiser: Denoiser, x_t: Tokens, s: Tensor | float, t: Tensor | float
    ) -> Denoiser:
        """The denoiser with the size of the step in the place of its noise."""
        told = size_code(denoiser, x_t, t - s)
        return Given(denoiser, told) if told else denoiser

    def known_chances(
        self, diffusion: Diffusion, s: Tensor | float, t: Tensor | float
    ) -> Chances | None:
        """None, so that it is `step` that makes each step."""
        return None

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """That of the base, with the size of the step beside the condition."""
        told = size_code(denoiser, x_t, t - s)
        return self.base.step(denoiser, x_t, s, t, generator, **{**condition, **told})
