"""A small causal language model whose law is known, converted to block
diffusion and trained; each student's exact law against that of the model that it comes from.

p the causal model's law of L tokens, (C^L,); b tokens in a block, n calls for each.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.couplings import Trajectory
from hf_ddistill.denoisers import Denoiser, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import all_sequences, clean_tokens, sequence_numbers
from hf_ddistill.laboratory.blocks import BlockDecoder, CausalTable, draw_blocks
from hf_ddistill.laboratory.fit import Batch, Pace, fit, mean_of
from hf_ddistill.linalg import keyed_generator
from hf_ddistill.objectives import Objective
from hf_ddistill.objectives.alternation import Alternation
from hf_ddistill.parameterizations import Conditional, Subs, log_prob_of
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import LogLinear

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
        t: Tensor | None,
        *,
        at: Tensor | None = None,
        clean_ids: Tensor | None = None,
        block_size: int | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Logits (B, n, K), or (N, K), of the tokens that the diffusion knows."""
        shape, index = x.shape, torch.arange(x.numel()) if at is None else at
        if causal:
            x = torch.cat([torch.full((len(x), 1), START), x], 1)
            given = index + index // shape[1] + 1
            logits = self.model(input_ids=x, at=given, causal=True).logits
        else:
            logits = self.model(
                input_ids=x, clean_ids=clean_ids, at=index, block_size=block_size
            ).logits
        logits = logits[..., : DIFFUSION.vocab_size]
        return logits if at is not None else logits.view(*shape, -1)


def causal_law(denoiser: Denoiser, length: int) -> Tensor:
    """The law of a causal language model's first L tokens, the clean ones renormalised: float64
    (C^L,) in product order.

    Args:
        denoiser: its network, called with `causal=True`, gives the logits of token i at i.
        length: L.
    """
    tokens = clean_tokens(denoiser.diffusion)
    x = all_sequences(tokens, length).reshape(-1, length)
    bare = denoiser.read_as(Conditional())
    with torch.no_grad():
        log_p = torch.cat([bare(some, causal=True).log_conditional for some in x.split(4096)])
    log_p = log_p.double()[..., tokens].log_softmax(-1)
    places = torch.searchsorted(tokens, x)
    law = log_prob_of(log_p, places).sum(1).exp()
    return law / law.sum()


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
            optimizer.param_groups[0]["lr"] = 4e-3 * Pace().rate(number / settings.lm_steps)
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
        denoiser = NetworkDenoiser(Network(model.eval()), DIFFUSION, Conditional(), reads_time=None)
        return causal_law(denoiser, LENGTH)

    @cached_property
    def teacher(self) -> Denoiser:
        """p's own conditionals, read from a table."""
        return NetworkDenoiser(
            CausalTable(self.law, DIFFUSION), DIFFUSION, Conditional(), reads_time=None
        )

    def start(self, block_size: int) -> nn.Module:
        """The language model converted, not yet trained."""
        model, _ = to_block_diffusion(self.lm, block_size=block_size, mask_token_id=MASK)
        return model


def student_of(model: nn.Module) -> Denoiser:
    """A block-diffusion model as the laboratory's denoiser."""
    return NetworkDenoiser(Network(model), DIFFUSION, Subs(), reads_time=None)


@dataclass(frozen=True)
class Method:
    """How a student is trained: an objective, rollouts or data, settings that differ."""

    loss: Objective
    rollouts: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


def train_llama(
    lab: BlockLab, method: Method, start: nn.Module, calls: int, settings: LabSettings
) -> nn.Module:
    """A copy of `start` trained by a method, its running mean; rollouts have so many calls for
    each block, in random order."""
    size = start.config.block_size
    student = student_of(copy.deepcopy(start).requires_grad_(True))
    mean, peers = mean_of(student), {"teacher": lab.teacher}
    if method.loss.auxiliaries:
        network = Network(lab.start(size).requires_grad_(True))
        peers["auxiliary"] = NetworkDenoiser(network, DIFFUSION, Conditional(), reads_time=None)
    decoder = BlockDecoder(student, LENGTH, size, calls=calls)
    kept = []

    def batch(number: int) -> Batch:
        generator = keyed_generator(0, number, "data")
        if not method.rollouts:
            drawn = torch.multinomial(lab.law, settings.rows, True, generator=generator)
            x_0 = all_sequences(torch.arange(LEVELS), LENGTH)[drawn]
            return Batch(x_0, Trajectory(torch.zeros_like(x_0), size))
        if not kept:
            (model,) = student.networks()
            model.eval()
            found = draw_blocks(decoder, settings.rows * settings.reuse, generator)
            model.train()
            kept.extend(zip(*(part.split(settings.rows) for part in found), strict=True))
        x_0, rounds = kept.pop()
        return Batch(x_0, Trajectory(rounds, size))

    pace = Pace(
        settings.learning_rate,
        settings.auxiliary_learning_rate,
        betas=(0.9, 0.99),
        ema=settings.ema,
        alternation=settings.alternation,
    )
    fit(method.loss, student, peers, batch, lambda n: n / settings.steps, pace=pace, mean=mean)
    return mean.networks()[0].eval()


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
