"""A teacher that its student replaces from round to round, held by the first one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.nn import Module

from hf_ddistill.denoisers.composite import Ask, Composite
from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.log_linear import check_agree, log_linear
from hf_ddistill.parameterizations import Prediction


@dataclass(frozen=True)
class Recursive(Composite):
    """log p = share log p_anchor + (1 - share) log p_latest + const, where `latest` takes on the
    student's weights at the end of each round of a training (`rounds`).

    Students that teach students repeat their errors: where each round multiplies the logarithms by
    g (the reverse KL sharpens so), n rounds without an anchor multiply them by g^n, and with one by
    less than g share / (1 - g (1 - share)), as long as g (1 - share) < 1.

    References: Deschenaux, Gulcehre, Self-Distillation Through Time, 2024, arXiv:2410.21035, for
    the rounds; Gerstgrasser et al., Is Model Collapse Inevitable?, 2024, arXiv:2404.01413, for what
    holds them.

    Args:
        anchor: stays as it is.
        latest: of one network, of the student's architecture; `of` makes it.
        share: of the anchor, in [0, 1].

    Raises:
        ValueError: if they differ in vocabulary or diffusion, one takes noise, or for a share
            beyond [0, 1].
    """

    anchor: Denoiser
    latest: Denoiser
    share: float = 0.3

    def __post_init__(self) -> None:
        check_agree("a recursive teacher", self.parts)
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie in [0, 1], got {self.share}.")

    @classmethod
    def of(cls, anchor: Denoiser, share: float = 0.3) -> Recursive:
        """With a copy of the anchor as the first `latest`."""
        return cls(anchor, anchor.trainable_copy(), share)

    def combine(self, ask: Ask, condition: Mapping[str, Any]) -> Prediction:
        """Anchor and latest, of two calls."""
        said = [ask(part, condition) for part in self.parts]
        return log_linear(said, (self.share, 1 - self.share))

    @property
    def renewed(self) -> Module | None:
        """The network of `latest`."""
        (network,) = self.latest.networks()
        return network
