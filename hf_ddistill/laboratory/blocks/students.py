"""The block laboratory's students: the start of all, and one student by an objective."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from hf_ddistill.couplings import Trajectory, random_masks
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory.blocks.block_law import BlockDecoder, draw_blocks
from hf_ddistill.laboratory.blocks.network import (
    BlockNetwork,
    ExactBlocks,
    block_student,
    block_teacher,
)
from hf_ddistill.laboratory.fit import Batch, Pace, checked, make_peers, mean_of
from hf_ddistill.laboratory.space import all_sequences
from hf_ddistill.laboratory.students import BenchSettings, Student, fit_student
from hf_ddistill.linalg import keyed_generator
from hf_ddistill.objectives import Objective
from hf_ddistill.places import Places
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import LogLinear
from hf_ddistill.unmasking import Static


@dataclass(frozen=True, eq=False)
class BlockProblem:
    """A law that block decoders are to end in.

    Args:
        law: of each of the C^L sequences of tokens from 0 in product order, positive.
        tokens: C.
        length: L.
        block_size: b, which divides L.
    """

    law: Tensor
    tokens: int
    length: int
    block_size: int

    def __post_init__(self) -> None:
        if self.tokens**self.length != len(self.law):
            raise ValueError(
                f"Blocks need the law of all sequences in order: {self.tokens} tokens and length "
                f"{self.length} make {self.tokens**self.length:,}, got {len(self.law):,}."
            )
        if self.block_size < 1 or self.length % self.block_size:
            raise ValueError(
                f"Blocks of {self.block_size} tokens do not divide a length of {self.length}."
            )

    @property
    def diffusion(self) -> Diffusion:
        """The mask is the token behind the others."""
        return Diffusion(Absorbing(self.tokens + 1, self.tokens), LogLinear())

    def teacher(self) -> Denoiser:
        """The law's own conditionals."""
        return block_teacher(ExactBlocks(self.law, self.block_size, self.diffusion), self.diffusion)

    def data(self, rows: int, generator: torch.Generator) -> Tensor:
        """(rows, L) sequences of the law."""
        drawn = torch.multinomial(self.law, rows, True, generator=generator)
        return all_sequences(torch.arange(self.tokens), self.length)[drawn]


def fit_block_start(problem: BlockProblem, settings: BenchSettings, seed: int = 0) -> BlockNetwork:
    """The network that all students and auxiliaries start from: cross entropy on the law's
    sequences, in both readings, a block's masks at random."""
    size = problem.block_size
    network = new_block_network(problem, settings, seed)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for number in range(settings.start_steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * Pace().rate(number / settings.start_steps)
        generator = keyed_generator(seed, number, "start")
        x_0 = problem.data(settings.rows, generator)
        where = random_masks(x_0, torch.ones_like(x_0, dtype=torch.bool), size, generator)
        x_t = x_0.masked_fill(where, problem.tokens)
        said = network(x_t, at=Places.of(where).index, clean_ids=x_0)
        causal = network(x_0, causal=True)
        loss = cross_entropy(said, x_0[where]) + cross_entropy(causal.flatten(0, 1), x_0.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def new_block_network(
    problem: BlockProblem, settings: BenchSettings, seed: int = 0
) -> BlockNetwork:
    """What that is before its first step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        about = (problem.tokens + 1, problem.length, problem.block_size, settings.width)
        return BlockNetwork(*about)


def set_up_blocks(
    problem: BlockProblem, objective: Objective, calls: int, start: BlockNetwork
) -> tuple[Objective, Denoiser, Denoiser]:
    """The objective as it is for its student, the student and the law's own conditionals; arguments
    as `train_block_student`.

    Raises:
        ValueError: for settings that do not go with this training.
    """
    if objective.over == "rows":
        raise ValueError(
            f"Objective {objective.id!r} trains all positions of a row at once, and the students "
            "here decode blocks: leave out --block-size, or take one over blocks."
        )
    check_rollouts(objective)
    student, teacher = block_student(copy.deepcopy(start), problem.diffusion), problem.teacher()
    return checked(objective, student, teacher, calls), student, teacher


def train_block_student(
    problem: BlockProblem,
    objective: Objective,
    calls: int,
    start: BlockNetwork,
    settings: BenchSettings,
    *,
    seed: int = 0,
    notify: Callable[[float], object] | None = None,
) -> Student:
    """Train a copy of the start; the law's own conditionals are the teacher.

    Args:
        problem: law and blocks.
        objective: what is minimised; its rollouts are decoded in random order, and as long as the
            sequences are.
        calls: of each block in rollouts.
        start: where the student, and copies of the teacher, start.
        settings: of the training; a noise input is not among them.
        seed: of batches and noise.
        notify: is told the share of the training that is done, after each step.

    Raises:
        ValueError: if the objective needs what the laboratory does not have, its settings do not go
            with the training, or its loss is not finite.
    """
    made = set_up_blocks(problem, objective, calls, start)
    (objective, student, teacher), mean = made, mean_of(made[1])
    sources = {"teacher": teacher, "start": block_teacher(start, problem.diffusion)}
    peers = make_peers(objective, student, mean, sources, seed)
    kept: dict[int, Batch] = {}

    def batch(number: int) -> Batch:
        needed, decodes = objective.rollouts, None
        if needed is not None:
            decodes = {"student": student, "teacher": teacher}[needed.by]
            number = number // needed.updates  # steps that learn from the same rollouts
        if number not in kept:
            generator = keyed_generator(seed, number, "data")
            kept.clear()
            kept[number] = decoded_batch(problem, decodes, calls, settings.rows, generator)
        return kept[number]

    return fit_student(
        objective,
        student,
        peers,
        batch,
        settings,
        mean=mean,
        student_steps=calls,
        seed=seed,
        notify=notify,
    )


def check_rollouts(objective: Objective) -> None:
    """Raise for settings of rollouts that the laboratory does not act on."""
    needed, default = objective.rollouts, type(objective).rollouts
    if needed is None:
        return
    same = replace(needed, updates=default.updates)
    if needed.unmasking == Static("random"):
        same = replace(same, unmasking=default.unmasking)
    idle = [
        field.name
        for field in fields(needed)
        if getattr(same, field.name) != getattr(default, field.name)
    ]
    if idle:
        raise ValueError(
            f"The laboratory decodes {objective.id!r} in random order, as many tokens as its "
            f"sequences have: rollouts.{idle[0]} would not be acted on; leave it out "
            "(rollouts.updates, and unmasking static by the score 'random', are accepted)."
        )


def decoded_batch(
    problem: BlockProblem,
    decodes: Denoiser | None,
    calls: int,
    rows: int,
    generator: torch.Generator,
) -> Batch:
    """What a denoiser writes in random order, `calls` for each block; the law's own sequences,
    each block decided at once, if there is none."""
    if decodes is None:
        x_0 = problem.data(rows, generator)
        return Batch(x_0, Trajectory(torch.zeros_like(x_0), problem.block_size))
    decoder = BlockDecoder(decodes, problem.length, problem.block_size, calls=calls)
    x_0, rounds = draw_blocks(decoder, rows, generator)
    return Batch(x_0, Trajectory(rounds, problem.block_size))
