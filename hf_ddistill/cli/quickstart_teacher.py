"""The teacher of the quickstart: a masked-diffusion model of binarised 8 x 8 digits, by class.

`hf-ddistill quickstart --from-scratch` trains it; the one in the package came of the same code.
It knows the class because an unconditional model of this size drew, after 5,000 steps, digits that
the judge was 18 points less sure of than of real ones: a teacher too poor to show anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from hf_ddistill.cli.resuming import train
from hf_ddistill.cli.run_folder import run_folder, save_result
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion
from hf_ddistill.processes import Absorbing, Hybrid
from hf_ddistill.schedules import LogLinear
from hf_ddistill.training import DiscreteDiffusionConfig, DiscreteDiffusionTrainer


@dataclass(frozen=True)
class TeacherSetup:
    """Sizes and length of the teacher's training.

    Args:
        hidden_size, layers, heads: of the network.
        steps, batch_size, learning_rate, weight_decay: of the training.
        levels: of grey.
        uniform: share of random tokens in the noise, the rest is masks.
        bf16: train in bfloat16.
        seed: of weights and training.
    """

    hidden_size: int = 128
    layers: int = 3
    heads: int = 4
    steps: int = 7000
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    levels: int = 2
    uniform: float = 0.0
    bf16: bool = False
    seed: int = 0


def train_teacher(
    folder: str | Path, tokens: Tensor, labels: Tensor, setup: TeacherSetup
) -> PreTrainedModel:
    """Train by the likelihood bound and save into `folder`; goes on from a checkpoint in it.

    Args:
        folder: of the model and of checkpoints while it is trained.
        tokens: (N, 64) in [0, levels).
        labels: (N,) in [0, 10).
        setup: sizes and length.
    """
    torch.manual_seed(setup.seed)
    tokens_and_mask = setup.levels + 1
    process = Absorbing(tokens_and_mask)
    if setup.uniform:
        process = Hybrid(tokens_and_mask, setup.uniform, constant=True)
    model = DDiTForDiscreteDiffusion(
        DDiTConfig(
            vocab_size=tokens_and_mask,
            hidden_size=setup.hidden_size,
            num_hidden_layers=setup.layers,
            num_attention_heads=setup.heads,
            token_shape=[8, 8],
            position_embedding="rotary_learned",
            rope_theta=100.0,
            num_classes=10,
            # How many masks there are tells the time; how many random tokens does not.
            time_conditioning=setup.uniform > 0,
            mask_token_id=setup.levels,
        )
    )
    if setup.bf16:
        # torch's fused attention has a slow gradient in bfloat16 on a CPU.
        model.set_attn_implementation("eager")
    columns = {"input_ids": tokens.tolist(), "class_labels": labels.tolist()}
    trainer = DiscreteDiffusionTrainer(
        model,
        DiscreteDiffusionConfig(
            str(folder),
            max_steps=setup.steps,
            per_device_train_batch_size=setup.batch_size,
            learning_rate=setup.learning_rate,
            weight_decay=setup.weight_decay,
            adam_beta2=0.98,
            lr_scheduler_type="cosine",
            warmup_steps=100,
            ema_decay=0.999,
            logging_steps=max(1, setup.steps // 50),
            save_steps=500,
            save_total_limit=1,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            bf16=setup.bf16,
            seed=setup.seed,
        ),
        # A tiny eps: at t = 1 all is noise, which is where sampling starts.
        diffusion=Diffusion(process, LogLinear(eps=1e-4)),
        train_dataset=Dataset.from_dict(columns),
    )
    with run_folder(trainer, folder):
        train(trainer, folder)
        save_result(trainer, folder)
    return AutoModelForMaskedLM.from_pretrained(folder)
