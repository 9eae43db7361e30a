"""A denoiser some of whose inputs are given once for all calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.latent import Latent
from hf_ddistill.parameterizations import Prediction


@dataclass(frozen=True, eq=False)
class Given(Composite):
    """(x_t, t, **condition) -> base(x_t, t, **condition, **given).

    Args:
        base: any.
        given: inputs by name, for the rows of its calls where they are by rows (a sampler that asks
            some rows alone takes them as a condition); with the noise among them none is drawn.
    """

    base: Denoiser
    given: Mapping[str, Any]

    @property
    def latent(self) -> Latent | None:
        """That of the base, or none where its noise is given."""
        return None if "noise" in self.given else self.base.latent

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """The base's, of both."""
        return ask(self.base, {**condition, **self.given})
