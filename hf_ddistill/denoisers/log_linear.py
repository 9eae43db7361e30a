"""What denoisers that are made of others share: weighted sums of their logarithms, and one
process."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.shapes import LOG_ZERO


def log_linear(
    predictions: Sequence[Prediction],
    weights: Sequence[float | Tensor],
    decided_by: slice = slice(None),
) -> Prediction:
    """log p = sum_m weight_m log p_m + const.

    Args:
        predictions: of the same positions.
        weights: as many.
        decided_by: which of them decide what is possible: a token without a probability in one of
            these has none.
    """
    logs = [each.log_conditional for each in predictions]
    mixed = sum(weight * log_p for weight, log_p in zip(weights, logs, strict=True))
    for log_p in logs[decided_by]:
        mixed = mixed.masked_fill(log_p <= LOG_ZERO / 2, LOG_ZERO)
    return Prediction(mixed.log_softmax(-1))


def check_agree(what: str, parts: Sequence[Denoiser], noise: bool = False) -> None:
    """Raise unless all have one diffusion and none takes noise.

    Args:
        what: they make up, such as "an ensemble".
        parts: at least one.
        noise: whether they may take it, all the same.
    """
    first = parts[0].diffusion
    for each in parts:
        if each.diffusion.vocab_size != first.vocab_size:
            raise ValueError(
                f"Denoisers of {what} must share one vocabulary, got vocab_size="
                f"{first.vocab_size} and {each.diffusion.vocab_size}."
            )
        if each.diffusion != first:
            raise ValueError(
                f"Denoisers of {what} must share one diffusion, got {first.to_config()} and "
                f"{each.diffusion.to_config()}."
            )
        if noise and each.latent != parts[0].latent:
            raise ValueError(
                f"Denoisers of {what} must take the same noise, got {parts[0].latent} and "
                f"{each.latent}."
            )
        if each.latent is not None and not noise:
            raise ValueError(
                f"A member of {what} takes noise, {each.latent.dim} numbers per "
                f"{each.latent.per}; none is accepted: the mean of what two draws of the noise "
                "plan is no plan."
            )
