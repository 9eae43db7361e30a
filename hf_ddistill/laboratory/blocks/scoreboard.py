"""The scoreboard of the block laboratory: teacher, start and students of any objective of blocks,
each with the exact distance of what it decodes from the law."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.laboratory.blocks.block_law import BlockDecoder, block_law
from hf_ddistill.laboratory.blocks.network import BlockNetwork, block_student
from hf_ddistill.laboratory.blocks.students import (
    BlockProblem,
    fit_block_start,
    new_block_network,
    set_up_blocks,
    train_block_student,
)
from hf_ddistill.laboratory.distances import entropy
from hf_ddistill.laboratory.scoreboard import Row, distances
from hf_ddistill.laboratory.students import BenchSettings
from hf_ddistill.objectives import Objective


@dataclass(frozen=True)
class BlockBench:
    """A problem of blocks with its name, and what is measured on it.

    Blocks are decoded in random order, the same number of calls for each: a sample of n calls has
    n / (L / b) for a block.

    Args:
        name: of the problem, for the rows.
        problem: law and blocks.
        settings: of every training.
    """

    name: str
    problem: BlockProblem
    settings: BenchSettings = BenchSettings()

    @property
    def description(self) -> str:
        """The problem in one line."""
        problem = self.problem
        return (
            f"{self.name}: {len(problem.law):,} sequences of {problem.length} in blocks of "
            f"{problem.block_size}, entropy {float(entropy(problem.law)):.4f} nats; absorbing"
        )

    @property
    def usual_calls(self) -> tuple[int, ...]:
        """Network calls a sample, if nobody says: 1, 2, 4 ... for each block."""
        blocks, most = self.problem.length // self.problem.block_size, self.problem.block_size
        return tuple(blocks * 2**n for n in range(most.bit_length()))

    def fit_start(self) -> BlockNetwork:
        """The network that all students start from."""
        return fit_block_start(self.problem, self.settings)

    def calls_of(self, nfe: int) -> int:
        """Calls for each block.

        Raises:
            ValueError: if the blocks cannot have as many each.
        """
        blocks, most = self.problem.length // self.problem.block_size, self.problem.block_size
        if nfe % blocks or not 1 <= nfe // blocks <= most:
            accepted = ", ".join(str(blocks * n) for n in range(1, most + 1))
            raise ValueError(
                f"{blocks} blocks of {most} tokens take {accepted} calls a sample, got nfe={nfe}."
            )
        return nfe // blocks

    @torch.no_grad()
    def law(self, denoiser: Denoiser, nfe: int) -> Tensor:
        """What a denoiser decodes in so many calls a sample, (C^L,)."""
        problem, calls = self.problem, self.calls_of(nfe)
        decoder = BlockDecoder(denoiser, problem.length, problem.block_size, calls=calls)
        return block_law(decoder).law

    def row(self, method: str, nfe: int, seed: int | None, law: Tensor, **more: Any) -> Row:
        """One row of the scoreboard."""
        named = {"method": method, "problem": self.name, "process": "absorbing", "nfe": nfe}
        far = distances(self.problem.law, law)
        return {**named, **far, "seed": seed, "block_size": self.problem.block_size, **more}

    def teacher_rows(self, nfe: Iterable[int]) -> Iterator[Row]:
        """The law's own conditionals given the state of a block."""
        for calls in nfe:
            yield self.row("teacher", calls, None, self.law(self.problem.teacher(), calls))

    def start_rows(self, start: BlockNetwork, nfe: Iterable[int]) -> Iterator[Row]:
        """The network that all students start from."""
        denoiser = block_student(start, self.problem.diffusion)
        for calls in nfe:
            yield self.row("start", calls, 0, self.law(denoiser, calls))

    def check(self, objective: Objective, nfe: Sequence[int], *, one_student: bool = False) -> None:
        """Raise, before anything is trained, for what `student_rows` would; arguments as there."""
        start = new_block_network(self.problem, self.settings)
        for calls in [max(nfe)] if one_student else nfe:
            set_up_blocks(self.problem, objective, self.calls_of(calls), start)

    def student_rows(
        self,
        objective: Objective,
        start: BlockNetwork,
        nfe: Sequence[int],
        seed: int,
        *,
        one_student: bool = False,
        notify: Callable[[float], object] | None = None,
    ) -> Iterator[Row]:
        """Train by an objective and measure: a student for each number of calls, or one for all;
        arguments as `Bench.student_rows`."""
        for measured in [nfe] if one_student else [[calls] for calls in nfe]:
            trained = train_block_student(
                self.problem,
                objective,
                self.calls_of(max(measured)),
                start,
                self.settings,
                seed=seed,
                notify=notify,
            )
            cost = {**trained.cost(), "one_student": one_student}
            for calls in measured:
                law = self.law(trained.denoiser, calls)
                yield self.row(objective.id, calls, seed, law, **cost)
