"""The record that an objective is given: one batch of clean data, the networks, and this step's
randomness."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Module

from hf_ddistill.couplings.memory import Log, Memory
from hf_ddistill.couplings.trajectories import Trajectory
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.denoisers.denoiser import condition_of
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import RowStreams, categorical, uniform_noise
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.places import Places
from hf_ddistill.shapes import Generators, PerToken, Scalar, Times, Tokens, Where


@dataclass(frozen=True)
class TrainingStep:
    """Everything that one evaluation of a loss may look at.

    Args:
        x_0: clean tokens (B, L).
        diffusion: that of all networks.
        student: the network in training.
        peers: the other networks that the objective names, such as "teacher": denoisers, as they
            are at this step (`Denoiser.at_step`), and what its factories made.
        progress: share of the training that is done, in [0, 1].
        generator: of all randomness of this step; `RowStreams` make a row's independent of the
            batch that it is in.
        student_steps: network calls per sample that the student is trained for.
        condition: inputs of all networks beside (x_t, t), such as `class_labels`.
        attend: (B, L), False at padding; None where there is none.
        context: (B, L), True at tokens that are given, such as a prompt: all networks see them,
            they are never noised, and no part of a loss; None where there are none.
        memory: what lives on from step to step and is saved with a checkpoint, each part its
            owner's: `step.memory.of(owner)`.
        log: takes the figures of this step, such as parts of its loss: `step.log(name, value)`.
        trajectory: how x_0 came about, where it was decoded block by block for this step.
        reward: (B,), what the rollouts earned, where there is a reward.
        train: the networks that are updated at this step, all if not given; an objective leaves
            out the losses of others, and what only these need.
        held_out: whether this is an evaluation, whose value must be that of each row by itself: no
            baselines of other rows, no times or weights that follow the training.
        most: of a number of calls that hangs on what was drawn, the largest of all processes, where
            these must call a network equally often (its weights are sharded over them).
    """

    x_0: Tokens
    diffusion: Diffusion
    student: Denoiser
    peers: Mapping[str, Denoiser | Module] = field(default_factory=dict)
    progress: float = 0.0
    generator: Generators = None
    student_steps: int = 1
    condition: Mapping[str, Any] = field(default_factory=dict)
    attend: Where | None = None
    context: Where | None = None
    memory: Memory = field(default_factory=Memory)
    log: Log = field(default_factory=Log)
    trajectory: Trajectory | None = None
    reward: Tensor | None = None
    train: frozenset[str] | None = None
    held_out: bool = False
    most: Callable[[int], int] = int

    def __post_init__(self) -> None:
        if self.train is None:
            object.__setattr__(self, "train", frozenset({"student", *self.peers}))
        if not self.held_out:
            now = self.student, self.progress, self.memory.tensors
            moved = {
                name: peer.at_step(*now) if isinstance(peer, Denoiser) else peer
                for name, peer in self.peers.items()
            }
            object.__setattr__(self, "peers", moved)

    @cached_property
    def trained(self) -> Where:
        """(B, L), the tokens that losses are of: what was decoded; of data all but padding and
        context."""
        if self.trajectory is not None:
            return self.trajectory.drawn
        real = torch.ones_like(self.x_0, dtype=torch.bool) if self.attend is None else self.attend
        return real if self.context is None else real & ~self.context

    @cached_property
    def lengths(self) -> Tensor:
        """(B,) int64, the tokens of each row that losses are of."""
        return self.trained.sum(1)

    def token_mean(self, values: Tensor) -> Scalar:
        """The sum of `values`, of tokens or of rows, over the number of tokens that losses are of.

        So a row adds the same whatever else is in its batch, padding included, up to that number.
        """
        return values.sum() / self.lengths.sum().clamp_min(1)

    def row_mean(self, values: Tensor) -> Scalar:
        """The mean of `values` (B,), each counted as often as its row has tokens that losses are
        of."""
        return self.token_mean(values * self.lengths)

    def given(self, x: Tokens) -> Tokens:
        """x with the context as it is."""
        return x if self.context is None else torch.where(self.context, self.x_0, x)

    def noised(self, t: Times) -> Tokens:
        """x_t ~ P_0t[x_0], the context as it is."""
        return self.given(self.diffusion.corrupt(self.x_0, t, self.generator))

    def numbers(self, places: Places) -> Tensor:
        """A uniform number (N,) for each of the positions, float64."""
        device = places.index.device
        if not isinstance(self.generator, RowStreams):
            return uniform_noise((len(places),), self.generator, device)
        return places.take(uniform_noise(places.shape, self.generator, device))

    def draw(self, probs: Tensor, where: Where | Places) -> Tensor:
        """Tokens (N, ...) from probabilities (N, ..., K) at the N positions of `where`."""
        noise = self.numbers(Places.of(where))
        return categorical(probs, noise=noise.view(probs.shape[:-1]))

    def look(
        self,
        denoiser: Denoiser,
        x: Tokens,
        t: Times | None,
        where: Where | Places | None = None,
        **more: Any,
    ) -> Local:
        """A denoiser's prediction where x_0 is not certain (or at `where`), padding left out; a
        network with a noise input gets fresh noise, and `t` is None for one that reads no time.
        `more` are inputs of this call alone."""
        places = Places.of(self.open(x) if where is None else where)
        noise = denoiser.fresh_noise(x, self.generator)
        given = {**self.condition, **noise, **more}
        return Local(denoiser.at(x, t, places, **given), places, t)

    def rows(self, rows: Tensor) -> TrainingStep:
        """The same step for some rows of the batch, given by their numbers."""
        total = self.x_0.shape[0]
        path = self.trajectory
        return replace(
            self,
            x_0=self.x_0[rows],
            condition=condition_of(self.condition, rows, total),
            generator=(
                self.generator.of(rows)
                if isinstance(self.generator, RowStreams)
                else self.generator
            ),
            attend=None if self.attend is None else self.attend[rows],
            context=None if self.context is None else self.context[rows],
            trajectory=path if path is None else path.of(rows),
            reward=None if self.reward is None else self.reward[rows],
        )

    @contextlib.contextmanager
    def freeze(self, name: str) -> Iterator[Denoiser | nn.Module]:
        """A peer whose weights get no gradient within it, while what it is shown does: for the loss
        of a student by what a discriminator says, which must not train the discriminator."""
        peer = self.peers[name]
        networks = peer.networks() if isinstance(peer, Denoiser) else (peer,)
        weights = [w for each in networks for w in each.parameters() if w.requires_grad]
        for weight in weights:
            weight.requires_grad_(False)
        try:
            yield peer
        finally:
            for weight in weights:
                weight.requires_grad_(True)

    def open(self, x: Tokens) -> Where:
        """The positions of x that count: not certain, and none of padding and context."""
        return self.diffusion.undetermined(x) & self.trained


@dataclass(frozen=True)
class Local:
    """A prediction at some of the positions, each of them a row of length one.

    Args:
        prediction: log p(x_0 | x_t) of shape (N, 1, K).
        places: the N positions.
        t: (B,); None where the network reads no time.
    """

    prediction: Prediction
    places: Places
    t: Times | None

    @property
    def where(self) -> Where:
        """(B, L), the positions."""
        return self.places.where

    @property
    def rows(self) -> Tensor:
        """The row of the batch that each position is in, (N,)."""
        return self.places.rows

    def log_prob_of(self, x: Tokens) -> Tensor:
        """The log-probability (N, 1) of the tokens that x (B, L) has at the positions."""
        return self.prediction.log_prob_of(self.places.take(x)[:, None])

    def numbers_of(self, part: Places) -> Tensor:
        """Which of the N positions those of a part of them are, (N',)."""
        return part.take(self.where.flatten().cumsum(0).view(self.where.shape) - 1)

    def log_conditional_at(self, where: Where | Places) -> Tensor:
        """The log-conditional (N', K) at the positions of `where`, a part of its own; all of it
        where these are its own."""
        if where is self.places or where is self.where:
            return self.prediction.log_conditional.squeeze(1)
        numbers = self.numbers_of(Places.of(where))
        return self.prediction.log_conditional.squeeze(1).index_select(0, numbers)

    def place(self, values: Tensor, into: Tensor) -> Tensor:
        """`into` (B, L) with `values` (N, 1) put in at the positions."""
        return self.places.put(values[:, 0], into)

    def per_token(self, values: Tensor) -> PerToken:
        """`values` (N, 1) as (B, L), 0 elsewhere; gradients flow."""
        zero = torch.zeros(self.places.shape, dtype=values.dtype, device=values.device)
        return self.places.put(values[:, 0], zero)


def log_variety(step: TrainingStep, drawn: Tokens, where: Where | None = None) -> None:
    """Log the entropy of the tokens that a student drew, and of the batch's own in their place.

    Args:
        step: with data x_0 of the shape of
        drawn: (B, L).
        where: (B, L), the positions that were drawn; all but padding if not given.
    """
    where, size = step.attend if where is None else where, step.diffusion.vocab_size
    step.log("rollout_entropy", histogram_entropy(drawn, where, size))
    step.log("data_entropy", histogram_entropy(step.x_0, where, size))


def histogram_entropy(tokens: Tokens, where: Where | None, vocab_size: int) -> Scalar:
    """The entropy of one histogram over all tokens (B, L) at `where`, in nats."""
    weight = torch.ones_like(tokens, dtype=torch.float64) if where is None else where.double()
    counts = weight.new_zeros(vocab_size).scatter_add(0, tokens.flatten(), weight.flatten())
    return torch.special.entr(counts / counts.sum().clamp_min(1)).sum()
