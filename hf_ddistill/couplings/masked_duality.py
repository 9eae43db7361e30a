"""The duality of Gaussian noise and masks: trajectories that one noise determines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hf_ddistill.couplings.coupling import Coupling, Past
from hf_ddistill.couplings.training_step import TrainingStep
from hf_ddistill.linalg import uniform_noise
from hf_ddistill.shapes import Times, Tokens


@dataclass(frozen=True)
class MaskedDuality(Coupling):
    """x_t = x_0 where the entry of x_0 is the largest of w_t = a_t x + sqrt(1 - a_t^2) e, else the
    mask; x_s of the same Gaussian noise e.

    Whether it is the largest hangs on one threshold, whose law knows nothing of x_0. With u its
    place in that law: x_t = x_0 where u < alpha_t, else the mask. A chain that masks tokens for
    good is told by the time at which it does it, too: as pairs (and longer) these trajectories have
    the law of the true process, that of the coupling "forward".

    References: Latent Shadows: The Gaussian-Discrete Duality in Masked Diffusion, 2026,
    arXiv:2602.00792 (its abstract).

    Raises:
        ValueError: from `draw`, for a process without masks.
    """

    citation: ClassVar[str] = (
        "Latent Shadows: The Gaussian-Discrete Duality in Masked Diffusion, 2026, arXiv:2602.00792"
    )

    def draw(self, step: TrainingStep, s: Times, t: Times) -> tuple[Tokens, Past]:
        diffusion, x_0 = step.diffusion, step.x_0
        if not diffusion.reveals:
            raise ValueError(
                "The masked duality is of masked tokens, and the process "
                f"{diffusion.process.id!r} has none; take the coupling 'gaussian_duality'."
            )
        u = uniform_noise(x_0.shape, step.generator, x_0.device)
        x_t, x_s = (
            step.given(x_0.masked_fill(u >= diffusion.schedule.alpha(time)[:, None], mask))
            for mask in (diffusion.process.mask_token_id,)
            for time in (t, s)
        )
        return x_t, Past.known(step, x_t, x_s)
