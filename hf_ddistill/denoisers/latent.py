"""The noise that a denoiser takes as an input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import normal_noise
from hf_ddistill.shapes import Generators, Tokens


@dataclass(frozen=True)
class Latent:
    """Standard normal noise, the condition `noise` of a call: what correlates the tokens that one
    call draws.

    p(x_s | x_t) = E_noise prod_i p(x_s^i | x_t, noise)

    It is drawn anew for each call of the network, also within one sample: each step of a sampler is
    a mixture of its own. One that is to be the same at all steps is drawn once with `draw` and
    given as `noise` with each call.

    References: Hayakawa et al., Distillation of Discrete Diffusion through Dimensional
    Correlations, 2024, arXiv:2410.08709.

    Args:
        dim: numbers in all, of each position or of each sequence.
        per: "position", noise of shape (B, L, dim), 0 where x_0 is already certain: noise plans
            what is still to be drawn; "sequence", noise of shape (B, dim).

    Raises:
        ValueError: for a `dim` below 1, or another `per`.
    """

    dim: int
    per: str = "position"

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"A latent has at least one number, got dim={self.dim}.")
        if self.per not in ("position", "sequence"):
            raise ValueError(f"A latent is per 'position' or per 'sequence', got {self.per!r}.")

    def draw(self, x_t: Tokens, diffusion: Diffusion, generator: Generators = None) -> Tensor:
        """The noise of one call at x_t, (B, L, dim) or (B, dim); with a list of generators, one for
        each row, a row's noise does not depend on its batch."""
        if self.per == "sequence":
            return normal_noise((x_t.shape[0], self.dim), generator, x_t.device).float()
        noise = normal_noise((*x_t.shape, self.dim), generator, x_t.device).float()
        return noise * diffusion.undetermined(x_t)[..., None]
