"""Rows of mixed lengths and prompts, trainers of every objective on them, and what a batch adds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from rollout_settings import decoding
from torch.nn.functional import pad
from training_runs import QUIET, SIZES
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill import DDiTConfig, DDiTForDiscreteDiffusion
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.objectives import Frozen, Networks, Objective
from hf_ddistill.training import (
    DiscreteDiffusionConfig,
    DiscreteDiffusionTrainer,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)
from hf_ddistill.training.held_out import EVALUATION, units_of

K, MASK, PAD, P = 12, 11, 10, 3

#: Of lengths that neither blocks nor each other divide, with prompts of mixed lengths.
ROWS = [
    {"input_ids": [(3 * i + j * j) % 9 for j in range(n)], "labels": None, "given": given}
    for i, (n, given) in enumerate([(7, 2), (12, 1), (4, 3), (9, 5), (12, 4), (6, 1)])
]
for _row in ROWS:
    _ids, _given = _row["input_ids"], _row.pop("given")
    _row["labels"] = [-100] * _given + _ids[_given:]


def network(seed, **settings):
    torch.manual_seed(seed)
    sizes = SIZES | {"max_position_embeddings": 64, "embedding_initializer_range": 1.0}
    tokens = {"vocab_size": K, "mask_token_id": MASK, "pad_token_id": PAD}
    return DDiTForDiscreteDiffusion(DDiTConfig(**sizes | tokens | settings))


def language_model(seed=0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 1.0}
    ids = {"vocab_size": K, "pad_token_id": PAD, "bos_token_id": None, "eos_token_id": 8}
    config = LlamaConfig(max_position_embeddings=64, **sizes, **heads, **ids)
    return LlamaForCausalLM(config)


def blocks(seed, size=4):
    return to_block_diffusion(language_model(seed), mask_token_id=MASK, block_size=size)[0]


def reward(x_0, drawn):
    return ((x_0 % 3 == 0) & drawn).sum(1).double()


def trainer_of(folder, objective, **settings):
    """With networks that the objective takes."""
    objective = decoding(objective, tokens=8)
    rows = objective.over == "rows"
    mean = any(need == Frozen(mean=True) for need in objective.networks.values())
    fixed = {"max_steps": 1, "ema_decay": 0.5 if mean else 0.0, "per_device_eval_batch_size": 2}
    settings = fixed | settings
    data = {"train_dataset": ROWS, "eval_dataset": settings.pop("data", ROWS)}
    diffusion, earned = settings.pop("diffusion", None), settings.pop("reward_function", reward)
    if rows or not objective.networks:
        noise = {"noise_dim": 3} if objective.reads_noise else {}
        made = network(0, **noise) if rows else blocks(0)
        if not objective.networks:
            args = DiscreteDiffusionConfig(str(folder), **QUIET | settings)
            return DiscreteDiffusionTrainer(made, args, objective, diffusion=diffusion, **data)
        peer = network(1)
    else:
        made, causal = blocks(0), ("opdlm", "block_law_matching", "causal_law_matching")
        peer = language_model(1) if objective.id in causal else blocks(1)
    args = DiscreteDistillationConfig(str(folder), **QUIET | settings)
    trainer = DiscreteDistillationTrainer(
        made, peer, objective, args, reward_function=earned, diffusion=diffusion, **data
    )
    if trainer.auxiliaries.networks:
        # It starts as the teacher, where there is no reward.
        with torch.no_grad():
            for model in trainer.auxiliaries.models.values():
                for parameter in model.parameters():
                    parameter.add_(0.2 * torch.randn(parameter.shape))
    return trainer


def added(trainer, rows, columns=0, key=(EVALUATION,)):
    """What rows in one batch add to the sum of each loss over all units, and their number; with
    noise of their own, or keyed as in training."""
    batch = trainer.data_collator(rows)
    if columns:
        real = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
        batch["attention_mask"] = pad(real, (0, columns))
        batch["input_ids"] = pad(batch["input_ids"], (0, columns), value=PAD)
        if "labels" in batch:
            batch["labels"] = pad(batch["labels"], (0, columns), value=-100)
    trainer.model.eval()
    with torch.no_grad():
        record = trainer.training_record(trainer.model, batch, *key)
        losses = trainer.objective(record)
    units = units_of(record.lengths, trainer.objective.unit)
    return {name: float(loss * units) for name, loss in losses.items()} | {"units": int(units)}


def total(parts):
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def moved(folder, size, accumulate, rows=ROWS, **settings):
    """The weights after one step of plain gradient descent on a loss without any noise."""
    args = DiscreteDiffusionConfig(
        str(folder),
        **QUIET,
        max_steps=1,
        ema_decay=0.0,
        per_device_train_batch_size=size,
        gradient_accumulation_steps=accumulate,
        train_sampling_strategy="sequential",
        optim="sgd",
        learning_rate=1.0,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        **settings,
    )
    trainer = DiscreteDiffusionTrainer(network(0), args, _all_masked(), train_dataset=rows)
    trainer.train()
    logged = next(r["loss"] for r in trainer.state.log_history if "loss" in r)
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]), logged


def _all_masked():
    """The bound at t = 1, where nothing is drawn."""

    @dataclass(frozen=True)
    class _AllMasked(Objective):
        networks: ClassVar[Networks] = {}
        citation: ClassVar[str] = "None"

        def __call__(self, step):
            t = torch.ones(len(step.x_0), dtype=torch.float64)
            x_t = step.noised(t)
            local = step.look(step.student, x_t, t)
            log_p = local.prediction.log_conditional.gather(
                -1, step.x_0[local.where][:, None, None]
            )
            return {"student": -step.token_mean(log_p)}

    return _AllMasked()
