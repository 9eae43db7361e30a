"""Log-probabilities from logits, in one tensor beside them, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.shapes import LOG_ZERO, LogProbs

#: Entries from which on they are normalised a few rows at a time.
MANY = 2**20


def normalised(logits: Tensor, diffusion: Diffusion) -> LogProbs:
    """Log-probabilities from logits, with none for the tokens that the data never hold."""
    noise = None
    if diffusion.process.noise_tokens:
        noise = diffusion.process.noise_index(logits.device)
    if torch.compiler.is_compiling() or logits.numel() < MANY:
        return _filled(logits, noise, LOG_ZERO).log_softmax(-1)
    return _Normalised.apply(logits, noise)


class _Normalised(torch.autograd.Function):
    """`_filled` and `log_softmax`, in the place of the first."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, noise: Tensor | None) -> Tensor:  # noqa: ANN401
        out = logits.clone() if noise is None else _filled(logits, noise, LOG_ZERO)
        out = out.contiguous()
        for rows in out.view(-1, out.shape[-1]).split(max(1, MANY // out.shape[-1])):
            rows.copy_(rows.log_softmax(-1))
        ctx.save_for_backward(out)
        ctx.noise = noise
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (log_p,) = ctx.saved_tensors
        out = torch._log_softmax_backward_data(gradient, log_p, -1, log_p.dtype)
        return out if ctx.noise is None else out.index_fill_(-1, ctx.noise, 0.0), None


def _filled(logits: Tensor, noise: Tensor | None, value: float) -> Tensor:
    return logits if noise is None else logits.index_fill(-1, noise, value)
