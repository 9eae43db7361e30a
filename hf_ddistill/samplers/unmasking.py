"""Steps of masked diffusion whose positions an unmasking rule chooses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import categorical
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.parameterizations.sharpening import sharpened
from hf_ddistill.samplers.sampler import Sampler
from hf_ddistill.shapes import Generators, Tokens
from hf_ddistill.unmasking import Draft, Unmasking


@dataclass(frozen=True)
class UnmaskingSampler(Sampler):
    """Draw a token at every masked position, and keep those that an unmasking rule picks.

    Any rule for any masked denoiser; the positions of a row are one block. Which are picked may
    hang on all that was drawn, so that a step is no product over positions. The last step keeps
    all that is left.

    Args:
        unmasking: the rule, by name, settings or as it is. Rules that plan share what is masked
            out evenly over the steps.
        temperature: of the draws; confidence is read from what the denoiser says without it.
        top_k: keep this many tokens; None or 0 keeps all.
        top_p: keep the fewest tokens that hold this much probability.

    Raises:
        ValueError: from `check`, for a process without a mask that reveals.
    """

    unmasking: Unmasking | Mapping[str, Any] | str = "static"
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    id: ClassVar[str] = "unmasking"
    citation: ClassVar[str] = "Nie et al., Large Language Diffusion Models, 2025, arXiv:2502.09992"

    def __post_init__(self) -> None:
        object.__setattr__(self, "unmasking", Unmasking.from_config(self.unmasking))
        object.__setattr__(self, "_before", None)

    def check(self, diffusion: Diffusion) -> None:
        """Raise unless the process has masks that reveal."""
        if not diffusion.reveals:
            raise ValueError(
                "The sampler 'unmasking' decides masked positions for good, as under Absorbing, "
                f"not under {type(diffusion.process).__name__}."
            )

    def sharpened(self, temperature: float, top_k: int | None, top_p: float) -> UnmaskingSampler:
        """With these as its own, since confidence is read without them."""
        return replace(self, temperature=temperature, top_k=top_k, top_p=top_p)

    def begin(self) -> UnmaskingSampler:
        """For a rule that compares, a copy that remembers the prediction of the step before."""
        if not self.unmasking.compares:
            return self
        run = copy.copy(self)
        object.__setattr__(run, "_before", {})
        return run

    def advance(
        self,
        prediction: Prediction,
        diffusion: Diffusion,
        x_t: Tokens,
        s: Tensor | float,
        t: Tensor | float,
        generator: Generators = None,
    ) -> Tokens:
        """x_s, with the tokens that the rule picks."""
        raw = prediction.log_conditional
        log_p = sharpened(raw, self.temperature, self.top_k, self.top_p)
        tokens = categorical(log_p.exp(), generator)
        masked = diffusion.undetermined(x_t)
        end, start = _one(s), _one(t)
        if end > 0:
            steps = round(1 / (start - end))
            draft = Draft(
                log_p,
                raw,
                tokens,
                masked,
                call=round((1 - start) * steps),
                calls=steps,
                before=self._remembered(raw),
                progress=1 - masked.double().mean(1),
                generator=generator,
            )
            masked = self.unmasking(draft)
        return torch.where(masked, tokens, x_t)

    def _remembered(self, raw: Tensor) -> Tensor | None:
        """`raw` of the step before, where there was one of this run."""
        if self._before is None:
            return None
        before = self._before.get("raw")
        self._before["raw"] = raw
        return before


def _one(time: Tensor | float) -> float:
    """The time of all rows."""
    low, high = (float(end) for end in torch.as_tensor(time, dtype=torch.float64).aminmax())
    if low != high:
        raise ValueError(
            f"The sampler 'unmasking' steps all rows at one time, got {low:.4g} to {high:.4g}."
        )
    return high
