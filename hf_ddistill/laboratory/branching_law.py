"""The law of what any sampler draws, by following every branch of its own code.

Steps are taken one after the other, and rounds where a step is a loop over them; branches that have
come to the same tokens, and remember the same, go on as one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser, Drafted, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.branching import Branches, outcomes
from hf_ddistill.laboratory.space import rows_per_chunk, sequence_numbers
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.samplers import Canvas, Sampler
from hf_ddistill.shapes import Tokens

#: Rows of a batch, at most: as many as stay near the processor.
ROWS = 2**15
#: To how many digits two memories must agree to be one.
DIGITS = 12


@torch.no_grad()
def branching_law(
    denoiser: Denoiser, sampler: Sampler, length: int, grid: Sequence[float]
) -> Tensor:
    """The law over all K^L states, (K^L,) float64.

    A sampler whose loop is its own is followed from the first draw to the last, which takes many
    more branches than one that is followed step by step.

    Raises:
        ValueError: if there are too many branches, a draw cannot be enumerated, the denoiser takes
            noise, or the sampler remembers what is not one tensor a row.
    """
    if denoiser.latent is not None:
        raise ValueError(
            f"The sampler {sampler.id!r} has no step rule, and draws with a noise input cannot be "
            "enumerated: the exact law of such a student is known for steps by a rule alone."
        )
    size = min(rows_per_chunk(denoiser.diffusion.vocab_size, length), ROWS)
    walker = _Walker(_each_state_once(denoiser), length, size)
    if type(sampler).sample is not Sampler.sample:
        return walker.law(walker.whole(sampler, len(grid) - 1))
    front = walker.begin(sampler)
    for t, s in pairwise(grid):
        front = walker.step(front, s, t)
    return walker.law(front)


@runtime_checkable
class InRounds(Protocol):
    """A sampler whose step is a loop, until no row has more masks than the step leaves there."""

    def left(self, diffusion: Diffusion, x_t: Tokens, s: float, t: float) -> Tensor:
        """So many masks, (B,)."""

    def round(self, denoiser: Denoiser, x: Tokens, left: Tensor, generator: Branches) -> Tokens:
        """x behind one round, in which rows with no more masks than that rest."""


@dataclass(frozen=True)
class _Front:
    """Where branches have got to: tokens (R, L), weights (R,), the sampler with what it remembers
    of each, and how many masks a step that goes on leaves there (R,)."""

    x: Tokens
    weight: Tensor
    run: Sampler
    left: Tensor


@dataclass(frozen=True)
class _Walker:
    """Follows the branches of a sampler on a denoiser, `size` of them in a batch."""

    denoiser: Denoiser
    length: int
    size: int

    def begin(self, sampler: Sampler) -> _Front:
        """Noise, and a sampler that begins."""

        def draw(rows: Tensor, generator: Branches) -> Tokens:
            return self.denoiser.diffusion.prior((len(rows), self.length), generator)

        found = list(outcomes(draw, torch.ones(1, dtype=torch.float64), self.size))
        x, weight = (torch.cat(parts) for parts in zip(*((x, w) for w, x in found), strict=True))
        return _Front(x, weight, sampler.begin(), torch.zeros_like(x[:, 0]))

    def step(self, front: _Front, s: float, t: float) -> _Front:
        """What a step makes of all branches."""
        if isinstance(front.run, InRounds):
            return self.in_rounds(front, s, t)

        def move(run: Sampler, rows: Tensor, generator: Branches) -> Tokens:
            return run.step(self.denoiser, front.x[rows], s, t, generator)

        return self.moved(front, move)

    def in_rounds(self, front: _Front, s: float, t: float) -> _Front:
        """What a step makes of all branches, those that are equal behind a round being joined."""
        diffusion = self.denoiser.diffusion
        front = replace(front, left=front.run.left(diffusion, front.x, s, t))
        while bool((diffusion.undetermined(front.x).sum(1) > front.left).any()):
            front = self.moved(front, partial(self._round, front))
        return front

    def _round(self, front: _Front, run: InRounds, rows: Tensor, generator: Branches) -> Tokens:
        return run.round(self.denoiser, front.x[rows], front.left[rows], generator)

    def moved(self, front: _Front, move: Callable[[Any, Tensor, Branches], Tokens]) -> _Front:
        """What `move` makes of all branches; it is given the sampler with what it remembers of
        some rows, and these."""

        def run(rows: Tensor, generator: Branches) -> tuple[Tokens, Tensor, Sampler]:
            sampler = _with_memory(front.run, _of_rows(_memory(front.run), rows))
            return move(sampler, rows, generator), front.left[rows], sampler

        found = list(outcomes(run, front.weight, self.size))
        weight = torch.cat([weight for weight, _ in found])
        x, left = (torch.cat([result[i] for _, result in found]) for i in range(2))
        memory = _joined([_memory(sampler) for _, (_, _, sampler) in found])
        numbers = sequence_numbers(x, self.denoiser.diffusion.vocab_size)
        key = torch.stack([numbers, left], 1).double()
        first, place = _distinct(torch.cat([key, *_rows_of(memory, len(x))], 1))
        weight = weight.new_zeros(len(first)).index_add(0, place, weight)
        sampler = _with_memory(front.run, _of_rows(memory, first))
        return _Front(x[first], weight, sampler, left[first])

    def whole(self, sampler: Sampler, n: int) -> _Front:
        """What a sampler with a loop of its own draws in n steps."""

        def sample(rows: Tensor, generator: Branches) -> Tokens:
            canvas = Canvas.empty((len(rows), self.length))
            return sampler.sample(self.denoiser, canvas, n, generator)

        found = list(outcomes(sample, torch.ones(1, dtype=torch.float64), self.size))
        x, weight = (torch.cat(parts) for parts in zip(*((x, w) for w, x in found), strict=True))
        return _Front(x, weight, sampler, torch.zeros_like(x[:, 0]))

    def law(self, front: _Front) -> Tensor:
        """The weights of all states."""
        size = self.denoiser.diffusion.vocab_size
        law = front.weight.new_zeros(size**self.length)
        return law.index_add(0, sequence_numbers(front.x, size), front.weight)


def _each_state_once(denoiser: Denoiser) -> Denoiser:
    """The same denoiser, whose network is shown rows that agree in state and time once."""
    if denoiser.draft is not denoiser:
        return Drafted(*(_each_state_once(each) for each in (denoiser.parts[0], denoiser.draft)))

    def network(x_t: Tokens, t: Tensor | None, at: Tensor | None = None) -> Tensor:
        key = sequence_numbers(x_t, denoiser.diffusion.vocab_size)[:, None]
        if t is not None and not torch.equal(t, t[:1].expand_as(t)):
            key = torch.cat([key.double(), t[:, None]], 1)
        first, place = _distinct(key)
        said = denoiser(x_t[first], None if t is None else t[first]).log_conditional
        if at is None:
            return said[place]
        length = x_t.shape[1]
        return said[place[at // length], at % length]

    reads = "t" if denoiser.needs_time else None
    return NetworkDenoiser(network, denoiser.diffusion, Conditional(), reads_time=reads)


def _distinct(key: Tensor) -> tuple[Tensor, Tensor]:
    """A row of each kind (U,), and the kind of every row (R,)."""
    one = key.shape[1] == 1  # sorting numbers is many times as fast as sorting rows
    kinds, place = (key[:, 0] if one else key).unique(dim=None if one else 0, return_inverse=True)
    first = torch.empty(len(kinds), dtype=torch.int64)
    first[place] = torch.arange(len(place))
    return first, place


def _memory(run: Sampler) -> dict[str, Any]:
    """What a sampler holds beside its settings."""
    settings = {field.name for field in fields(run)}
    return {name: value for name, value in vars(run).items() if name not in settings}


def _with_memory(run: Sampler, memory: dict[str, Any]) -> Sampler:
    run = copy.copy(run)
    for name, value in memory.items():
        object.__setattr__(run, name, value)
    return run


def _of_rows(memory: Any, rows: Tensor) -> Any:  # noqa: ANN401 (whatever it remembers)
    """What is remembered of some rows."""
    if isinstance(memory, dict):
        return {key: _of_rows(value, rows) for key, value in memory.items()}
    if isinstance(memory, list | tuple):
        return type(memory)(_of_rows(value, rows) for value in memory)
    return memory[rows] if isinstance(memory, Tensor) else copy.copy(memory)


def _joined(memories: list[Any]) -> Any:  # noqa: ANN401
    """The memories of several batches as one; what is no tensor is taken from the first."""
    one = memories[0]
    if isinstance(one, dict):
        return {key: _joined([memory[key] for memory in memories]) for key in one}
    if isinstance(one, list | tuple):
        return type(one)(_joined(list(parts)) for parts in zip(*memories, strict=True))
    return torch.cat(memories) if isinstance(one, Tensor) else one


def _rows_of(memory: Any, count: int) -> list[Tensor]:  # noqa: ANN401
    """All its tensors, as rows (R, ...) of numbers that are the same in two equal memories."""
    if isinstance(memory, dict):
        memory = list(memory.values())
    if isinstance(memory, list | tuple):
        return [rows for value in memory for rows in _rows_of(value, count)]
    if not isinstance(memory, Tensor):
        return []
    if memory.shape[:1] != (count,):
        raise ValueError(
            f"A sampler that remembers tensors of shape {tuple(memory.shape)} for {count} rows has "
            "no exact law here: what it remembers must be of one row each."
        )
    return [memory.double().reshape(len(memory), -1).round(decimals=DIGITS)]
