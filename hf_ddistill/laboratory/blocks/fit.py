"""Training of the block laboratory's students, each by one method from one start."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.laboratory import all_sequences
from hf_ddistill.laboratory.blocks.bench import (
    DIFFUSION,
    LENGTH,
    LEVELS,
    BlockLab,
    LabSettings,
    Network,
    set_rate,
    student_of,
)
from hf_ddistill.laboratory.blocks.block_law import BlockDecoder, draw_blocks
from hf_ddistill.parameterizations import Conditional
from hf_ddistill.shapes import Scalar
from hf_ddistill.unmasking import Static


@dataclass(frozen=True)
class Method:
    """How a student is trained.

    Args:
        loss: an objective: from a step to {network: loss}.
        rollouts: whether x_0 is the student's own, else the causal model's.
        auxiliary: whether a copy of the causal model is trained beside it.
        settings: that differ from the laboratory's.
    """

    loss: Callable[[TrainingStep], dict[str, Scalar]]
    rollouts: bool = True
    auxiliary: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


def train_block_student(
    lab: BlockLab,
    method: Method,
    start: nn.Module,
    calls: int,
    settings: LabSettings,
    *,
    seed: int = 0,
) -> nn.Module:
    """A copy of `start` trained by a method, its running mean.

    Args:
        lab: whose causal model is the teacher.
        method: what is minimised, on what.
        start: a converted model, whose block size it keeps.
        calls: of each block in the rollouts, whose order is random.
        settings: of the training.
        seed: of batches and masks.

    Raises:
        ValueError: if a loss is not finite.
    """
    run = _Run(lab, method, start, calls, settings, seed)
    for number in range(settings.steps):
        run.update(number)
    return run.mean.eval()


class _Run:
    """One student in training, and its auxiliary."""

    def __init__(
        self,
        lab: BlockLab,
        method: Method,
        start: nn.Module,
        calls: int,
        settings: LabSettings,
        seed: int,
    ) -> None:
        self.lab, self.method, self.settings = lab, method, settings
        self.model = copy.deepcopy(start).requires_grad_(True)
        self.mean = copy.deepcopy(start).requires_grad_(False)
        self.block_size = start.config.block_size
        self.generator = torch.Generator().manual_seed(seed)
        self.student, self.memory = student_of(self.model), {}
        self.decoder = BlockDecoder(self.student, LENGTH, self.block_size, Static("random"), calls)
        self.peers = {"teacher": lab.teacher}
        networks = {"student": self.model}
        if method.auxiliary:
            networks["auxiliary"] = lab.start(self.block_size)
            peer = NetworkDenoiser(
                Network(networks["auxiliary"]), DIFFUSION, Conditional(), reads_time=None
            )
            self.peers["auxiliary"] = peer
        self.rates = {
            "student": settings.learning_rate,
            "auxiliary": settings.auxiliary_learning_rate,
        }
        self.optimizers = {
            name: torch.optim.Adam(network.parameters(), self.rates[name], betas=(0.9, 0.99))
            for name, network in networks.items()
        }
        self.kept: list[tuple[Tensor, Tensor]] = []

    def update(self, number: int) -> None:
        """One step of every optimizer."""
        x_0, rounds = self._batch()
        progress = number / self.settings.steps
        train = frozenset({"student"})
        if self.method.auxiliary:
            train = self.settings.alternation.trained(number, ("auxiliary",))
        step = TrainingStep(
            x_0,
            DIFFUSION,
            self.student,
            self.peers,
            progress,
            self.generator,
            memory=self.memory,
            trajectory=Trajectory(rounds, self.block_size),
            train=train,
        )
        for name, loss in self.method.loss(step).items():
            if not bool(loss.isfinite()):
                raise ValueError(f"The {name} loss is {float(loss)} at step {number}.")
            optimizer = self.optimizers[name]
            set_rate(optimizer, self.rates[name], progress)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
            optimizer.step()
        if "student" in train:
            self._average(number)

    def _average(self, number: int) -> None:
        decay = min(self.settings.ema, (1 + number) / (10 + number))
        with torch.no_grad():
            for kept, new in zip(self.mean.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)

    def _batch(self) -> tuple[Tensor, Tensor]:
        rows, reuse = self.settings.rows, self.settings.reuse
        if not self.method.rollouts:
            drawn = torch.multinomial(self.lab.law, rows, True, generator=self.generator)
            x_0 = all_sequences(torch.arange(LEVELS), LENGTH)[drawn]
            return x_0, torch.zeros_like(x_0)
        if not self.kept:
            self.model.eval()
            found = draw_blocks(self.decoder, rows * reuse, self.generator)
            self.model.train()
            self.kept = list(zip(*(part.split(rows) for part in found), strict=True))
        return self.kept.pop()
