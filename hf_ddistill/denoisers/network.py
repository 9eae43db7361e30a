"""A network with what is needed to read its output."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from hf_ddistill.denoisers.denoiser import Denoiser
from hf_ddistill.denoisers.latent import Latent
from hf_ddistill.diffusion import Diffusion, times
from hf_ddistill.parameterizations.normalised import MANY, SOME, give_up
from hf_ddistill.parameterizations.parameterization import Parameterization
from hf_ddistill.parameterizations.prediction import Prediction
from hf_ddistill.parameterizations.subs import Subs
from hf_ddistill.places import Places
from hf_ddistill.shapes import Tokens, Where


@dataclass(frozen=True)
class NetworkDenoiser(Denoiser):
    """A network with the diffusion that it was trained for: (x_t, t, **condition) -> Prediction.

    Args:
        network: (x_t (B, L), time (B,) or None, **condition) -> (B, L, K), or (N, K) at the
            positions row * L + position of `at` (N,), if it takes that: a module, or what calls
            one: this is then its `model`, and `trainable_copy()` gives the same around a copy of
            it.
        diffusion: process and schedule.
        parameterization: how the output is read.
        latent: the noise that the network takes as the condition `noise`; None for none.
        reads_time: what it is given as the time: "t", "sigma" (the total noise), or None.

    Raises:
        ValueError: for another `reads_time`; when it is called, without a time that is needed, and
            for an output of another shape.
    """

    network: Callable[..., Tensor]
    diffusion: Diffusion
    parameterization: Parameterization = Subs()
    latent: Latent | None = None
    reads_time: str | None = "t"

    def __post_init__(self) -> None:
        if self.reads_time not in ("t", "sigma", None):
            raise ValueError(f"A network reads 't', 'sigma' or None, got {self.reads_time!r}.")

    def __call__(
        self, x_t: Tokens, t: Tensor | float | None = None, **condition: Any
    ) -> Prediction:
        t = self._times(x_t, t)
        output = self.network(x_t, self._read_by_network(t), **condition)
        if output.shape != (*x_t.shape, self.diffusion.vocab_size):
            raise ValueError(
                f"The network gives {tuple(output.shape)}, but the process has "
                f"vocab_size={self.diffusion.vocab_size}: "
                f"{(*x_t.shape, self.diffusion.vocab_size)} is needed."
            )
        return self._read(output, x_t, t)

    def at(
        self, x_t: Tokens, t: Tensor | float | None, where: Where | Places, **condition: Any
    ) -> Prediction:
        """The prediction at the N positions of `where` alone, as N rows of length 1: (N, 1, K).

        Only those go through the network's output head, where it has one that can be asked (`at=`).
        """
        places = Places.of(where)
        (said,) = self.pieces(x_t, t, places, max(len(places), 1), **condition)
        return said

    def pieces(
        self,
        x_t: Tokens,
        t: Tensor | float | None,
        where: Where | Places,
        size: int,
        **condition: Any,
    ) -> Iterator[Prediction]:
        """What `at` gives, `size` positions at a time, of one call."""
        t, places = self._times(x_t, t), Places.of(where)
        source = self.parameterization.source(places.positions)
        at = places.index
        if source is not places.positions:
            at = at + source - places.positions
        if self._answers_at:
            output = self.network(x_t, self._read_by_network(t), at=at, **condition)
        else:
            output = self.network(x_t, self._read_by_network(t), **condition)
            output = output.flatten(0, 1).index_select(0, at)
        outputs = output[:, None].split(size)
        local = places.take(x_t)[:, None].split(size)
        if t is None:
            times = (None,) * len(outputs)
        else:
            times = t.index_select(0, places.rows).split(size)
        yield from map(self._read, outputs, local, times)

    def features(
        self, x: Tokens, t: Tensor | float | None = None, layer: int | None = None, **condition: Any
    ) -> Tensor:
        """What `network.features` gives, if it has that."""
        if not hasattr(self.network, "features"):
            return super().features(x, t, layer, **condition)
        time = self._read_by_network(self._times(x, t))
        return self.network.features(x, time, layer, **condition)

    @property
    def layers(self) -> int | None:
        """What `network.layers` says, if it has that."""
        return getattr(self.network, "layers", None)

    @cached_property
    def _answers_at(self) -> bool:
        network = self.network
        called = network.forward if isinstance(network, Module) else network
        inputs = inspect.signature(called).parameters.values()
        return any(each.name == "at" or each.kind is each.VAR_KEYWORD for each in inputs)

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

    def read_as(self, parameterization: Parameterization) -> NetworkDenoiser:
        """The same with another parameterization."""
        return replace(self, parameterization=parameterization)

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

    def adapted_copy(self) -> NetworkDenoiser:
        """The same around what its network makes of adapters, if it knows any."""
        if not hasattr(self.network, "adapted_copy"):
            return self.trainable_copy()
        return replace(self, network=self.network.adapted_copy())

    @property
    def description(self) -> str:
        """The kind of its network."""
        kind = type(self.network)
        return getattr(self.network, "description", kind.__name__)

    @property
    def needs_time(self) -> bool:
        """Whether the network reads one, or its output cannot be read without."""
        return self.reads_time is not None or self.parameterization.reads_time

    def _times(self, x_t: Tokens, t: Tensor | float | None) -> Tensor | None:
        if t is not None:
            return times(t).to(x_t.device).expand(x_t.shape[0])
        if self.needs_time:
            reader = self.parameterization.id if self.reads_time is None else self.description
            raise ValueError(
                f"{reader!r} reads the time, and none is given: call it with t in [0, 1]."
            )
        return None

    def _read_by_network(self, t: Tensor | None) -> Tensor | None:
        if self.reads_time is None:
            return None
        return self.diffusion.schedule.sigma(t) if self.reads_time == "sigma" else t

    def _read(self, output: Tensor, x_t: Tokens, t: Tensor | None) -> Prediction:
        """A prediction; a large one takes the place of the output, with gradients where it can."""
        if output.dtype != torch.float64:
            output = output.float()
        positions = torch.arange(x_t.shape[1], device=x_t.device)
        alone = x_t.shape[1] == 1 or self.parameterization.source(positions) is positions
        small = output.numel() < MANY or torch.compiler.is_compiling()
        if small or not (alone and self._made(output)):
            return Prediction(self._log_conditional(output, x_t, t))
        if output.requires_grad:
            give_up(output)
            return Prediction(self._log_conditional(output, x_t, t))
        rows, size = output.view(-1, 1, output.shape[-1]), max(1, SOME // output.shape[-1])
        t = None if t is None else t.repeat_interleave(x_t.shape[1])
        for start in range(0, len(rows), size):
            some = slice(start, start + size)
            now = None if t is None else t[some]
            rows[some] = self._log_conditional(rows[some], x_t.reshape(-1, 1)[some], now)
        return Prediction(output)

    def _log_conditional(self, output: Tensor, x_t: Tokens, t: Tensor | None) -> Tensor:
        return self.parameterization.to_log_conditional(output, self.diffusion, x_t, t)

    def _made(self, output: Tensor) -> bool:
        """Whether the output was made in the call, and is none of its module's own tensors."""
        plain, module = (Tensor, Parameter), self._module
        if module is None or type(output) is not Tensor or not output.is_contiguous():
            return False
        weights = chain(module.parameters(), module.buffers())
        own = (w.untyped_storage().data_ptr() for w in weights if type(w) in plain)
        return output.untyped_storage().data_ptr() not in own
