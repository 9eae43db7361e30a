"""The block laboratory: a small causal language model whose law is known, converted to block
diffusion and trained; each student's exact law against that of the model that it comes from.

p the causal model's law of L tokens, (C^L,); b tokens in a block, n calls for each.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.couplings import TrainingStep, Trajectory
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.exact import all_sequences, sequence_numbers
from hf_ddistill.exact.block_law import BlockDecoder, draw_blocks
from hf_ddistill.exact.block_tables import CausalTable, causal_law
from hf_ddistill.parameterizations import Conditional, Denoiser, Subs
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import Scalar
from hf_ddistill.training.auxiliary import Alternation
from hf_ddistill.unmasking import Static

#: Gray levels of a pixel, and pixels of a patch: 3^8 = 6,561 sequences.
LEVELS, LENGTH = 3, 8
#: The mask, and the token that every sequence starts behind.
MASK, START = LEVELS, LEVELS + 1
DIFFUSION = Diffusion(Absorbing(LEVELS + 1, MASK), LogLinear())


def patches() -> Tensor:
    """The law of 2 x 4 patches of scikit-learn's digits, row by row, in 3 levels of gray (0-3,
    4-11, 12-16): (6561,), with 1e-6 on top of each share."""
    pixels = torch.from_numpy(load_digits().images)
    levels = (pixels > 3.5).long() + (pixels > 11.5)
    found = levels.unfold(1, 2, 1).unfold(2, 4, 1).reshape(-1, LENGTH)
    counts = sequence_numbers(found, LEVELS).bincount(minlength=LEVELS**LENGTH)
    law = counts.double() / counts.sum() + 1e-6
    return law / law.sum()


@dataclass(frozen=True)
class Network:
    """A language model called on bare sequences: read as the causal model it is given the start
    token before them.

    Args:
        model: a `BlockDiffusionLM`.
    """

    model: nn.Module

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        *,
        at: Tensor | None = None,
        clean_ids: Tensor | None = None,
        block_size: int | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Logits (B, n, K), or (N, K), of the tokens that the diffusion knows."""
        where = torch.ones_like(x, dtype=torch.bool) if at is None else at
        if causal:
            x = torch.cat([torch.full((len(x), 1), START), x], 1)
            given = torch.cat([torch.zeros_like(where[:, :1]), where], 1)
            logits = self.model(input_ids=x, at=given, causal=True).logits
        else:
            logits = self.model(
                input_ids=x, clean_ids=clean_ids, at=where, block_size=block_size
            ).logits
        logits = logits[..., : DIFFUSION.vocab_size]
        return logits if at is not None else logits.view(*where.shape, -1)


@dataclass(frozen=True)
class LabSettings:
    """What all students are trained with.

    Args:
        width: of the language model, which has two layers of four heads.
        lm_steps: of the language model's own training, 512 sequences each.
        steps: of each student's.
        rows: of a batch.
        learning_rate: at the start; a cosine takes it down to a hundredth.
        reuse: updates on each rollout.
        ema: decay of the running mean, which is what is measured.
        auxiliary_learning_rate: of the auxiliary, where there is one.
        alternation: which of the steps update the student, where there is an auxiliary.
    """

    width: int = 32
    lm_steps: int = 1500
    steps: int = 600
    rows: int = 128
    learning_rate: float = 2e-3
    reuse: int = 1
    ema: float = 0.98
    auxiliary_learning_rate: float = 3e-3
    alternation: Alternation = Alternation()


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


@dataclass(frozen=True, eq=False)
class BlockLab:
    """A causal language model, its law, and the students made of it.

    Args:
        lm: behind `START`.
        settings: of the students.
    """

    lm: LlamaForCausalLM
    settings: LabSettings

    @classmethod
    def fitted(cls, settings: LabSettings, law: Tensor, seed: int = 0) -> BlockLab:
        """With a language model trained on a law (6561,) by cross entropy."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            lm = LlamaForCausalLM(_config(settings.width))
        generator = torch.Generator().manual_seed(seed)
        every = all_sequences(torch.arange(LEVELS), LENGTH)
        optimizer = torch.optim.Adam(lm.parameters(), 4e-3)
        for number in range(settings.lm_steps):
            _set_rate(optimizer, 4e-3, number / settings.lm_steps)
            x = every[torch.multinomial(law, 512, True, generator=generator)]
            x = torch.cat([torch.full((len(x), 1), START), x], 1)
            logits = lm(input_ids=x).logits[:, :-1]
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return cls(lm.eval(), settings)

    @cached_property
    def law(self) -> Tensor:
        """p, exact: what students are held against."""
        model, _ = to_block_diffusion(self.lm, block_size=1, mask_token_id=MASK)
        denoiser = Denoiser(Network(model.eval()), DIFFUSION, Conditional())
        return causal_law(denoiser, LENGTH)

    @cached_property
    def teacher(self) -> Denoiser:
        """p's own conditionals, read from a table."""
        return Denoiser(CausalTable(self.law, DIFFUSION), DIFFUSION, Conditional())

    def start(self, block_size: int) -> nn.Module:
        """The language model converted, not yet trained."""
        model, _ = to_block_diffusion(self.lm, block_size=block_size, mask_token_id=MASK)
        return model

    def trained(
        self,
        method: Method,
        start: nn.Module,
        calls: int,
        *,
        seed: int = 0,
        settings: LabSettings | None = None,
    ) -> nn.Module:
        """A copy of `start` trained by a method; its rollouts have `calls` calls a block, in random
        order.

        Raises:
            ValueError: if a loss is not finite.
        """
        run = _Run(self, method, start, calls, settings or self.settings, seed)
        for number in range(run.settings.steps):
            run.update(number)
        return run.mean.eval()


def student_of(model: nn.Module) -> Denoiser:
    """A block-diffusion model as the laboratory's denoiser."""
    return Denoiser(Network(model), DIFFUSION, Subs())


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
            peer = Denoiser(Network(networks["auxiliary"]), DIFFUSION, Conditional())
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
            train = self.settings.alternation.trained(number)
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
            _set_rate(optimizer, self.rates[name], progress)
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


def _config(width: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=START + 1,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2 * LENGTH,
        tie_word_embeddings=False,
        bos_token_id=START,
        eos_token_id=None,
        pad_token_id=None,
    )


def _set_rate(optimizer: torch.optim.Optimizer, rate: float, progress: float) -> None:
    share = 0.01 + 0.99 * (1 + math.cos(math.pi * progress)) / 2
    for group in optimizer.param_groups:
        group["lr"] = rate * share
