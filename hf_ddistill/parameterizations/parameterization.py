"""How a network's output is read as the one currency, log p(x_0 | x_t), and the way back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from hf_ddistill.configurable import Configurable
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.shapes import LOG_ZERO, LogProbs, Tokens, Where


class Parameterization(Configurable, ABC):
    """How a network's output (B, L, K) is read as log p(x_0 | x_t), and the way back.

    One that does not read the time takes None for it.
    """

    #: Whether the same output says something else at another time.
    reads_time: ClassVar[bool] = False

    @abstractmethod
    def to_log_conditional(
        self, output: Tensor, diffusion: Diffusion, x_t: Tokens, t: Tensor | None
    ) -> LogProbs:
        """log p(x_0 | x_t) from the network's output."""

    def from_log_conditional(
        self, log_p: LogProbs, diffusion: Diffusion, x_t: Tokens, t: Tensor | None
    ) -> Tensor:
        """An output that is read as `log_p`: itself, where the outputs are logits of it."""
        return log_p

    def source(self, positions: Tensor) -> Tensor:
        """The positions of the output that speak of the tokens at `positions`."""
        return positions


def carries(diffusion: Diffusion, x_t: Tokens) -> Where | None:
    """The positions (B, L) whose x_t is a mask, where others are carried over; None where there are
    no others, as far as is known without a wait.

    Raises:
        ValueError: for a process under which a token can have been another one.
    """
    if not diffusion.reveals:
        raise ValueError(
            "'subs' and 'shifted' carry unmasked tokens over, which only Absorbing allows; "
            f"{diffusion.process.id} takes 'conditional'."
        )
    open_ = diffusion.undetermined(x_t)
    waits = x_t.device.type != "cpu" or torch.compiler.is_compiling()
    return None if not waits and bool(open_.all()) else open_


def carried_over(log_p: LogProbs, diffusion: Diffusion, x_t: Tokens) -> LogProbs:
    """Where x_t is no mask, certainty of x_t (MDLM's substitution)."""
    open_ = carries(diffusion, x_t)
    if open_ is None:
        return log_p
    own = log_p.gather(-1, x_t[..., None]).masked_fill(~open_[..., None], 0.0)
    return log_p.masked_fill(~open_[..., None], LOG_ZERO).scatter_(-1, x_t[..., None], own)
