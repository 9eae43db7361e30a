"""Log-probabilities from logits, in one tensor beside them, forward and backward.

What takes the gradient of log p (N, K) holds log p, that gradient and the logits' at one time. Who
knows how its own hangs on each position (`log_prob_of`, `objectives.by_position`) gives it to the
logits at once, through their `stand_in`: a third of that is left out.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations.parameterization import carried_over, carries
from hf_ddistill.shapes import LOG_ZERO, LogProbs, Tokens

#: Entries from which on they are normalised a few rows at a time, and how many these have.
MANY, SOME = 2**20, 2**18
#: What makes logits and does not look at them on the way back, and what only shows them otherwise.
MAKES = {"AddmmBackward0", "MmBackward0", "BmmBackward0", "ToCopyBackward0"}
SHOWS = {"SplitBackward0", "UnsqueezeBackward0", "ViewBackward0", "UnsafeViewBackward0"}


def normalised(logits: Tensor, diffusion: Diffusion, x_t: Tokens | None = None) -> LogProbs:
    """Log-probabilities from logits, with none for the tokens that the data never hold.

    Args:
        logits: (B, L, K).
        diffusion: says which tokens these are.
        x_t: (B, L), tokens that are certain where they are no masks, see `carried_over`.
    """
    noise = None
    if diffusion.process.noise_tokens:
        noise = diffusion.process.noise_index(logits.device)
    if torch.compiler.is_compiling() or logits.numel() < MANY:
        log_p = _filled(logits, noise, LOG_ZERO).log_softmax(-1)
        return log_p if x_t is None else carried_over(log_p, diffusion, x_t)
    open_ = None if x_t is None else carries(diffusion, x_t)
    # Before the logits change.
    straight = _StandIn.apply(logits, noise, open_)
    log_p = _Normalised.apply(logits, noise, (x_t, open_), getattr(logits, "given_up", False))
    if log_p.requires_grad:
        log_p.stand_in = straight
    return log_p


def give_up(logits: Tensor) -> None:
    """Let log p take the place of logits that have gradients, if nothing keeps them for the way
    back, as the last layer of most networks does not.

    Who has kept them all the same gets torch's error on the way back, and no wrong gradient.

    Args:
        logits: contiguous; nobody else looks at them behind this.
    """
    node = logits.grad_fn
    while node is not None and node.name() in SHOWS:
        node = node.next_functions[0][0]
    logits.given_up = node is not None and node.name() in MAKES


def stand_in(log_p: Tensor) -> Tensor | None:
    """Of log p just as `normalised` gave it, a tensor of its shape that holds no numbers: its
    gradient is that of the logits."""
    return getattr(log_p, "stand_in", None)


def log_prob_of(log_p: Tensor, tokens: Tensor) -> Tensor:
    """The log-probabilities (...) that laws (..., K) give to tokens (...)."""
    logits = stand_in(log_p)
    if logits is None or not torch.is_grad_enabled():
        return log_p.gather(-1, tokens[..., None])[..., 0]
    return _LogProbOf.apply(logits, log_p.detach(), tokens[..., None])[..., 0]


class _Normalised(torch.autograd.Function):
    """`_filled`, `log_softmax` and `carried_over`, in the place of the first."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 (torch's own)
        logits: Tensor,
        noise: Tensor | None,
        at: tuple[Tensor | None, Tensor | None],
        given_up: bool,
    ) -> Tensor:
        x_t, open_ = at
        # Detached tensors share the count of their changes, which torch looks at on the way back.
        out = logits.detach() if given_up else logits.clone().contiguous()
        if noise is not None:
            out.index_fill_(-1, noise, LOG_ZERO)
        for rows in out.view(-1, out.shape[-1]).split(max(1, SOME // out.shape[-1])):
            rows.copy_(rows.log_softmax(-1))
        if open_ is not None:
            own = out.gather(-1, x_t[..., None]).masked_fill_(~open_[..., None], 0.0)
            out.masked_fill_(~open_[..., None], LOG_ZERO).scatter_(-1, x_t[..., None], own)
        ctx.save_for_backward(out)
        ctx.zero = noise, open_
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (log_p,) = ctx.saved_tensors
        out = torch._log_softmax_backward_data(gradient, log_p, -1, log_p.dtype)
        return _zero(out, *ctx.zero), None, None, None


class _StandIn(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        logits: Tensor,
        noise: Tensor | None,
        open_: Tensor | None,
    ) -> Tensor:
        ctx.zero = noise, open_
        return logits.new_zeros(1).expand(logits.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        # Nobody else holds it: only functions that made it themselves give it to a stand-in.
        return _zero(gradient, *ctx.zero), None, None


class _LogProbOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, log_p: Tensor, tokens: Tensor) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(log_p, tokens)
        return log_p.gather(-1, tokens)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        log_p, tokens = ctx.saved_tensors
        return log_p.exp().mul_(-gradient).scatter_add_(-1, tokens, gradient), None, None


def _filled(logits: Tensor, noise: Tensor | None, value: float) -> Tensor:
    return logits if noise is None else logits.index_fill(-1, noise, value)


def _zero(gradient: Tensor, noise: Tensor | None, open_: Tensor | None) -> Tensor:
    """Without what no logit has any part in."""
    if noise is not None:
        gradient.index_fill_(-1, noise, 0.0)
    return gradient if open_ is None else gradient.masked_fill_(~open_[..., None], 0.0)
