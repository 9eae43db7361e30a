"""A network with what is needed to read its output."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.latent import Latent
from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.parameterizations.parameterization import Parameterization
from hf_ddistill.parameterizations.prediction import Prediction
from hf_ddistill.parameterizations.subs import Subs
from hf_ddistill.shapes import Tokens


@dataclass(frozen=True)
class NetworkDenoiser(Denoiser):
    """A network with the diffusion that it was trained for: (x_t, t, **condition) -> Prediction.

    Args:
        network: (x_t (B, L), t (B,), **condition) -> (B, L, K): a module, or what calls one: this
            is then its `model`, and `trainable_copy()` gives the same around a copy of it.
        diffusion: process and schedule.
        parameterization: how the output is read.
        latent: the noise that the network takes as the condition `noise`; None for none.
    """

    network: Callable[..., Tensor]
    diffusion: Diffusion
    parameterization: Parameterization = Subs()
    latent: Latent | None = None

    def __call__(self, x_t: Tokens, t: Tensor | float, **condition: Any) -> Prediction:
        t = times(t).to(x_t.device).expand(x_t.shape[0])
        output = self.network(x_t, t, **condition)
        if output.shape != (*x_t.shape, self.diffusion.vocab_size):
            raise ValueError(
                f"The network gives {tuple(output.shape)}, but the process has "
                f"vocab_size={self.diffusion.vocab_size}: "
                f"{(*x_t.shape, self.diffusion.vocab_size)} is needed."
            )
        return self._read(output, x_t, t)

    def at(self, x_t: Tokens, t: Tensor | float, where: Tensor, **condition: Any) -> Prediction:
        """The prediction at the N positions of `where` alone, as N rows of length 1: (N, 1, K).

        Only those go through the network's output head, where it has one that can be asked (`at=`).
        """
        t = times(t).to(x_t.device).expand(x_t.shape[0])
        rows, positions = where.nonzero(as_tuple=True)
        source = self.parameterization.source(positions)
        if source is positions:
            output = self.network(x_t, t, at=where, **condition)
        else:
            asked = torch.zeros_like(where)
            asked[rows, source] = True
            number = (asked.flatten().cumsum(0) - 1).view_as(where)
            output = self.network(x_t, t, at=asked, **condition)[number[rows, source]]
        return self._read(output[:, None], x_t[where][:, None], t[rows])

    @property
    def _module(self) -> Module | None:
        known = (self.network, getattr(self.network, "model", None))
        return next((each for each in known if isinstance(each, Module)), None)

    def networks(self) -> tuple[Module, ...]:
        """The one; none where the network is a function."""
        return () if self._module is None else (self._module,)

    def with_networks(self, networks: Sequence[Module]) -> NetworkDenoiser:
        """The same around another module."""
        if self._module is None:
            return self
        (module,) = networks
        if self._module is self.network:
            return replace(self, network=module)
        return replace(self, network=replace(self.network, model=module))

    def trainable_copy(self) -> NetworkDenoiser:
        """The same around a copy of its module."""
        if self._module is None:
            raise ValueError(
                "Only a model can be copied, or a denoiser of one (as_denoiser); got "
                f"{self.description}."
            )
        if self._module is self.network:
            copied = copy.deepcopy(self.network).requires_grad_(True).float()
            return replace(self, network=copied)
        return replace(self, network=self.network.trainable_copy())

    @property
    def description(self) -> str:
        """The kind of its network."""
        kind = type(self.network)
        return getattr(self.network, "description", kind.__name__)

    def _read(self, output: Tensor, x_t: Tokens, t: Tensor) -> Prediction:
        output = output if output.dtype == torch.float64 else output.float()
        log_p = self.parameterization.to_log_conditional(output, self.diffusion, x_t, t)
        return Prediction(log_p)
