"""Temperature, top-k and top-p on what another denoiser says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.parameterizations import Changed, Prediction
from hf_ddistill.parameterizations.sharpening import check_sharpening, sharpened


@dataclass(frozen=True)
class Sharpened(Composite):
    """p^(1 / temperature), of that the `top_k` likeliest tokens, of those the fewest with `top_p`,
    normalised, at every position.

    Args:
        denoiser: what is sharpened.
        temperature: 0 leaves the likeliest token alone.
        top_k: None or 0 keeps all.
        top_p: in (0, 1].

    Raises:
        ValueError: for one out of its range.
    """

    denoiser: Denoiser
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_sharpening(self.temperature, self.top_k, self.top_p)

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """What the denoiser says, sharpened in float64 where it is looked at."""
        settings = self.temperature, self.top_k, self.top_p
        said = ask(self.denoiser, condition).log_conditional
        return Changed(said, lambda log_p: sharpened(log_p.double(), *settings))
