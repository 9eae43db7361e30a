"""The networks of the exact laboratory: small ones to train, the exact teacher, and a counter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, one_hot

from hf_ddistill.denoisers import Denoiser, Latent, NetworkDenoiser
from hf_ddistill.laboratory import ExactProblem, sequence_numbers
from hf_ddistill.objectives.discriminator import Discriminator
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.shapes import Tokens, Where


class ExactNetwork(nn.Module):
    """Two hidden layers on one-hot tokens, the time, and noise where there is any.

    Args:
        vocab_size: K.
        length: L.
        width: of the hidden layers.
        noise_dim: numbers of standard normal noise at each position; 0 for none.
        noise_per: "position", or "sequence" for one vector of `noise_dim` for all positions.
        noise_std: standard deviation of what the noise adds to each unit of the first layer at
            first. Not 0: where the noise does nothing, no gradient tells what it could do.
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        width: int = 192,
        noise_dim: int = 0,
        noise_std: float = 1.0,
        noise_per: str = "position",
    ) -> None:
        super().__init__()
        self.vocab_size, self.length, self.width = vocab_size, length, width
        self.first = nn.Linear(length * vocab_size + 1, width)
        self.middle = nn.Linear(width, width)
        self.last = nn.Linear(width, length * vocab_size)
        self.noise = None
        if noise_dim:
            numbers = noise_dim if noise_per == "sequence" else length * noise_dim
            self.noise = nn.Linear(numbers, width, bias=False)
            nn.init.normal_(self.noise.weight, std=noise_std / numbers**0.5)

    def forward(
        self, x_t: Tensor, t: Tensor, noise: Tensor | None = None, at: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L, K), or (N, K) at the positions of `at` alone."""
        output = self.last(self._hidden(x_t, t, noise)).view(-1, self.length, self.vocab_size)
        return output if at is None else output.flatten(0, 1)[at]

    def features(self, x_t: Tensor, t: Tensor, layer: int | None = None) -> Tensor:
        """What its last layer reads, (B, 1, width): it has one hidden state for a sequence, and no
        choice of layers."""
        if layer is not None:
            raise ValueError(f"An ExactNetwork has one layer to look at: layer=None, got {layer}.")
        noise = None if self.noise is None else x_t.new_zeros(len(x_t), self.noise.in_features)
        return self._hidden(x_t, t, noise)[:, None]

    def _hidden(self, x_t: Tensor, t: Tensor, noise: Tensor | None) -> Tensor:
        tokens = one_hot(x_t, self.vocab_size).flatten(1).float()
        hidden = self.first(torch.cat([tokens, t[:, None].float()], 1))
        if self.noise is not None:
            hidden = hidden + self.noise(noise.flatten(1).float())
        return gelu(self.middle(gelu(hidden)))

    def with_noise(
        self, noise_dim: int, noise_std: float, seed: int, noise_per: str = "position"
    ) -> ExactNetwork:
        """A copy, with a fresh noise input if `noise_dim` is above 0."""
        size = (self.vocab_size, self.length, self.width)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = ExactNetwork(*size, noise_dim, noise_std, noise_per)
        made.load_state_dict(self.state_dict(), strict=False)
        return made


@dataclass
class Counted:
    """A network that counts the sequences that it is shown."""

    model: Callable[..., Tensor]
    sequences: int = field(default=0, init=False)

    def __call__(self, x_t: Tensor, t: Tensor | None, **condition: Any) -> Tensor:
        self.sequences += len(x_t)
        return self.model(x_t, t, **condition)

    def features(
        self, x_t: Tensor, t: Tensor, layer: int | None = None, **condition: Any
    ) -> Tensor:
        """The model's, counted likewise."""
        self.sequences += len(x_t)
        return self.model.features(x_t, t, layer, **condition)

    def trainable_copy(self) -> Counted:
        """Around a copy of the network; its count starts at 0."""
        return Counted(copy.deepcopy(self.model).requires_grad_(True))


class CountedDiscriminator(nn.Module):
    """A discriminator that counts the sequences that it is shown.

    Args:
        judge: gives the log-odds.
    """

    def __init__(self, judge: Discriminator) -> None:
        super().__init__()
        self.judge, self.sequences = judge, 0

    def forward(self, z: Tokens, times: Tensor, attend: Where | None = None) -> Tensor:
        """The log-odds (B,) of z (B, L)."""
        self.sequences += len(z)
        return self.judge(z, times, attend)


@dataclass(frozen=True)
class Seen:
    """What is known exactly has no hidden states: those of a network stand in for them.

    Args:
        model: gives the logits.
        network: gives the hidden states.
    """

    model: Callable[..., Tensor]
    network: ExactNetwork

    def __call__(self, x_t: Tensor, t: Tensor, at: Tensor | None = None) -> Tensor:
        output = self.model(x_t, t)
        return output if at is None else output.flatten(0, 1)[at]

    @torch.no_grad()
    def features(self, x_t: Tensor, t: Tensor, layer: int | None = None) -> Tensor:
        """The network's."""
        return self.network.features(x_t, t, layer)


def network_denoiser(
    network: Callable[..., Tensor],
    problem: ExactProblem,
    noise_dim: int = 0,
    noise_per: str = "position",
) -> Denoiser:
    """A network read as its process allows, its calls counted."""
    reading = Subs() if problem.diffusion.reveals else Conditional()
    latent = Latent(noise_dim, noise_per) if noise_dim else None
    return NetworkDenoiser(Counted(network), problem.diffusion, reading, latent)


def exact_teacher(problem: ExactProblem, seen: ExactNetwork | None = None) -> Denoiser:
    """The exact teacher, its calls counted; a table where its conditionals do not depend on t.

    Args:
        problem: whose conditionals it knows.
        seen: the network whose hidden states stand in for its own, if any.
    """
    network = problem.denoiser().network
    if problem.diffusion.reveals:
        table = problem.log_conditional(problem.states, 0.5)

        def network(x_t: Tensor, t: Tensor, at: Tensor | None = None) -> Tensor:
            log_p = table[sequence_numbers(x_t, problem.diffusion.vocab_size)]
            return log_p if at is None else log_p.flatten(0, 1)[at]

    return network_denoiser(network if seen is None else Seen(network, seen), problem)
