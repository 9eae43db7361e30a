"""A sampler's steps, and behind each some that mend what it has drawn."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.linalg import generators_of
from hf_ddistill.samplers.correctors import CORRECTORS
from hf_ddistill.samplers.drawing import ask, draw_at, taking, with_noise
from hf_ddistill.samplers.holding import Holding
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Tokens
from hf_ddistill.unmasking import any_positions


@dataclass(frozen=True)
class PredictorCorrector(Holding, Sampler):
    """Behind each step of a predictor, `corrections` calls that redraw positions from what all
    others say of them.

    A step draws positions independently of each other, so that what it reaches has not the law
    p_s. A corrector leaves p_s as it is and takes any other law nearer to it: it redraws position i
    given x_s^{-i}, the other positions, from

        masks:  p(x_0^i | x_s^{-i}), which a denoiser says where i is masked again
        else:   p_s(y | x_s^{-i}) = score(y) / sum score, the ratios p_s(y, x_s^{-i}) / p_s(x_s)

    What is masked stays masked. With masks x_0 is corrected too, at the time of the last step; for
    other noise nothing is known of p(x_0^i | x_0^{-i}). A step takes 1 + corrections calls.

    Args:
        predictor: a sampler whose steps are a product over positions, by name, settings or as it
            is.
        corrector: "gibbs" or "barker", see `correctors`.
        corrections: calls behind each step, 0 or more.
        positions: how many are redrawn in a call, any as likely as another. Only with 1 is p_s
            invariant: more are drawn independently of each other.

    Raises:
        ValueError: for others; from `check`, for a process under which some token cannot have come
            from every other, unless it reveals.
    """

    predictor: Sampler | Mapping[str, Any] | str = "ancestral"
    corrector: str = "gibbs"
    corrections: int = 1
    positions: int = 1
    id: ClassVar[str] = "predictor_corrector"
    citation: ClassVar[str] = (
        "Zhao et al., Informed Correctors for Discrete Diffusion Models, 2024, arXiv:2407.21243"
    )
    keeps_certain: ClassVar[bool] = False

    def __post_init__(self) -> None:
        predictor = Sampler.from_config(self.predictor)
        object.__setattr__(self, "predictor", predictor)
        if not predictor.is_product:
            raise ValueError(
                f"The steps of the predictor {predictor.id!r} are no product over positions; take "
                "one with a step rule, such as 'ancestral'."
            )
        if self.corrector not in CORRECTORS:
            raise ValueError(
                f"Unknown corrector {self.corrector!r}; there are: {', '.join(CORRECTORS)}."
            )
        if self.corrections < 0 or self.positions < 1:
            raise ValueError(
                "A step takes 0 corrections or more, each of 1 position or more, got corrections="
                f"{self.corrections} and positions={self.positions}."
            )

    def check(self, diffusion: Diffusion) -> None:
        """Raise unless the predictor steps under it, and each position can be redrawn."""
        self.predictor.check(diffusion)
        if diffusion.reveals or diffusion.process.is_flat:
            return
        every = torch.arange(diffusion.vocab_size)
        clean = ~torch.isin(every, torch.tensor(diffusion.process.noise_tokens))
        # At the most noise; what rounding has made of 0 is not more.
        if not bool((diffusion.kernel(0.0, 1.0).columns(every[None])[..., clean] > 1e-12).all()):
            raise ValueError(
                "Under this process some token cannot have come from every other, and what x_t "
                "says of a position is then not known without the position: 'predictor_corrector' "
                f"is for Absorbing, Uniform and the like, not for {diffusion.process!r}."
            )

    def grid(self, n: int, diffusion: Diffusion) -> Sequence[float]:
        """That of the predictor."""
        return self.predictor.grid(n, diffusion)

    def begin(self) -> PredictorCorrector:
        """With a predictor that begins."""
        run = copy.copy(self)
        object.__setattr__(run, "predictor", self.predictor.begin())
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
        """A step of the predictor and the corrections."""
        x = self.hold(self.predictor.step(denoiser, x_t, s, t, generator, **condition))
        last = not bool(torch.as_tensor(s).any())
        if last and not denoiser.diffusion.reveals:
            return x
        for _ in range(self.corrections):
            x = self.corrected(denoiser, x, t if last else s, generator, **condition)
        return x

    def corrected(
        self,
        denoiser: Denoiser,
        x: Tokens,
        s: Tensor | float,
        generator: Generators = None,
        **condition: Any,
    ) -> Tokens:
        """`x` at time s, with some positions redrawn in one call; none, where none can be."""
        diffusion = denoiser.diffusion
        free = torch.ones_like(x, dtype=torch.bool) if self._canvas is None else self._canvas.infill
        if diffusion.reveals:
            free = free & ~diffusion.undetermined(x)
        # Both before it is known which rows take part: a row's numbers hang on no other row.
        chosen = any_positions(free, self.positions, generator)
        given = with_noise(denoiser, x, generator, condition)
        found = taking(chosen)
        if found is None:
            return x
        rows, places = found
        own, time = generator, times(s).to(x.device)
        shown = x.masked_fill(chosen, diffusion.process.mask_token_id) if diffusion.reveals else x
        said, part = ask(denoiser, shown, s, found, given), x
        if rows is not None:
            part, own = x.index_select(0, rows), generators_of(generator, rows)
            time = time[rows] if time.ndim else time
        now, pi = places.take(part), said.log_conditional.double().exp()
        if not diffusion.reveals:
            pi = said.score(diffusion, now[:, None], time[places.rows] if time.ndim else time)
        pi = pi[:, 0] / pi[:, 0].sum(-1, keepdim=True)
        law = CORRECTORS[self.corrector](pi, now)
        redrawn = places.put(draw_at(law.log(), places, own), part)
        return redrawn if rows is None else x.index_copy(0, rows, redrawn)
