"""The contract of what predicts x_0."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import Module

from hf_ddistill.denoisers.latent import Latent
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Parameterization, Prediction
from hf_ddistill.places import Places
from hf_ddistill.shapes import Generators, Tokens, Where


class Denoiser(ABC):
    """(x_t, t, **condition) -> Prediction of x_0: a network, or what is made of several.

    Samplers, couplings and objectives take any of them, and a trainer places, freezes and copies
    what it says by itself: nobody asks which kind it is. One that is made of others is a
    `Composite`.

    Attributes:
        diffusion: that it predicts for.
        latent: the noise that it takes with each call, if it takes any.
        reads_time: the time that its network reads: "t" in [0, 1], "sigma", the total noise at t,
            or None.
    """

    diffusion: Diffusion
    latent: Latent | None = None
    reads_time: str | None = None

    @abstractmethod
    def __call__(
        self, x_t: Tokens, t: Tensor | float | None = None, **condition: Any
    ) -> Prediction:
        """log p(x_0 | x_t) at every position, (B, L, K).

        Raises:
            ValueError: without a time, if it is needed (`needs_time`).
        """

    @abstractmethod
    def at(
        self, x_t: Tokens, t: Tensor | float | None, where: Where | Places, **condition: Any
    ) -> Prediction:
        """The prediction at the N positions of `where` alone, as N rows of length 1: (N, 1, K).

        Args:
            x_t: (B, L).
            t: as in a call.
            where: the positions; Booleans (B, L) are turned into `Places`, for which the device is
                waited for.
            **condition: as in a call.
        """

    def pieces(
        self,
        x_t: Tokens,
        t: Tensor | float | None,
        where: Where | Places,
        size: int,
        **condition: Any,
    ) -> Iterator[Prediction]:
        """What `at` gives, `size` positions at a time: only what the networks put out is in memory
        for all of them."""
        said = self.at(x_t, t, where, **condition).log_conditional
        yield from map(Prediction, said.split(size))

    def features(
        self, x: Tokens, t: Tensor | float | None = None, layer: int | None = None, **condition: Any
    ) -> Tensor:
        """Hidden states of its network, (B, L, h), or (B, 1, h) where it has one for a sequence.

        Args:
            x: (B, L), tokens, noised or clean.
            t: as in a call.
            layer: whose output, from 0; None for the one a third of the way.
            **condition: as in a call.

        Raises:
            ValueError: if it has none, or not as many layers.
        """
        raise ValueError(
            f"{self.description} has no hidden states to look at; a model with "
            "output_hidden_states has."
        )

    @property
    def layers(self) -> int | None:
        """How many layers have hidden states to look at; None where nothing says so."""
        return None

    @abstractmethod
    def networks(self) -> tuple[Module, ...]:
        """What it calls: what a trainer places, freezes, shards and looks at for a fingerprint."""

    @abstractmethod
    def with_networks(self, networks: Sequence[Module]) -> Denoiser:
        """The same denoiser of other networks, as many as `networks()` gives and in that order."""

    @abstractmethod
    def read_as(self, parameterization: Parameterization) -> Denoiser:
        """The same networks, whose output is read otherwise."""

    @abstractmethod
    def trainable_copy(self) -> Denoiser:
        """A copy in float32 whose every weight can be trained, of one network alone: what a student
        or an auxiliary starts as.

        Raises:
            ValueError: if there is no model to be copied.
        """

    def adapted_copy(self) -> Denoiser:
        """What an auxiliary starts as: `trainable_copy`, but of a model that is trained by adapters
        a peer with adapters of its own over the same frozen weights, which are not copied."""
        return self.trainable_copy()

    def at_step(
        self, student: Denoiser, progress: float, memory: MutableMapping[str, Tensor]
    ) -> Denoiser:
        """What it is, as a teacher, at one step of a training; itself, unless it moves with it.

        Args:
            student: in training.
            progress: share of the training that is done.
            memory: what lives on from step to step and is saved with a checkpoint, under names
                that begin with the kind's own.
        """
        return self

    @property
    def renewed(self) -> Module | None:
        """The network that takes on the student's weights when a round of training ends, if it
        has one for that."""
        return None

    @property
    @abstractmethod
    def description(self) -> str:
        """What it is made of, in one line; two that predict alike have the same."""

    @property
    def needs_time(self) -> bool:
        """Whether what it predicts depends on the time; if not, calls may leave `t` out."""
        return self.reads_time is not None

    @property
    def conditions(self) -> frozenset[str]:
        """What it cannot be called without, beside (x_t, t)."""
        return frozenset()

    @property
    def draft(self) -> Denoiser:
        """What drafts its tokens where drafts are verified: itself, unless it is `Drafted`."""
        return self

    def fresh_noise(self, x_t: Tokens, generator: Generators = None) -> dict[str, Tensor]:
        """The condition `noise` of one call at x_t, see `Latent.draw`; empty without a latent."""
        if self.latent is None:
            return {}
        return {"noise": self.latent.draw(x_t, self.diffusion, generator)}


def condition_of(condition: Mapping[str, Any], rows: Tensor, count: int) -> dict[str, Any]:
    """The condition of some of `count` rows, given by their numbers: of each tensor with as many
    rows those, all else as it is."""
    return {
        key: value.index_select(0, rows.to(value.device)) if _by_rows(value, count) else value
        for key, value in condition.items()
    }


def _by_rows(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.shape[:1] == (count,)
