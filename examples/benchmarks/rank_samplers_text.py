"""The text teacher of `rank_samplers.py`: a small masked diffusion model of characters, and what
judges its samples: a causal language model and n-grams that share nothing with it."""

from pathlib import Path

import torch
from ar_to_diffusion_stages import Windows, character_tokenizer, read_corpus
from datasets import Dataset
from dllm_judge import Ngrams
from transformers import AutoModelForMaskedLM

from hf_ddistill import (
    Absorbing,
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    Diffusion,
    DiscreteDiffusionConfig,
    DiscreteDiffusionTrainer,
    LogLinear,
)
from hf_ddistill.cli.resuming import train as train_on

LENGTH = 64


def corpus(file: Path, seed=0):
    """The tokens of the training part, and the windows of `LENGTH` of it and of the rest."""
    tokenizer = character_tokenizer()
    train, held_out = read_corpus(file, tokenizer)
    generator = torch.Generator().manual_seed(seed)
    windows = [Windows(train, LENGTH, 32).rows, Windows(held_out, LENGTH, LENGTH).rows]
    shuffled = [rows[torch.randperm(len(rows), generator=generator)] for rows in windows]
    return tokenizer, train, *shuffled


def teacher(folder: Path, rows, tokenizer, steps, hidden_size=160, layers=4, seed=0):
    """A DDiT under masks, trained once; goes on from a checkpoint in `folder`."""
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder)
    torch.manual_seed(seed)
    mask = len(tokenizer)
    model = DDiTForDiscreteDiffusion(
        DDiTConfig(
            vocab_size=mask + 1,
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=hidden_size // 32,
            time_conditioning=False,
            mask_token_id=mask,
        )
    )
    trainer = DiscreteDiffusionTrainer(
        model,
        DiscreteDiffusionConfig(
            str(folder),
            max_steps=steps,
            per_device_train_batch_size=32,
            learning_rate=2e-3,
            adam_beta2=0.98,
            lr_scheduler_type="cosine",
            warmup_steps=min(100, steps // 10),
            ema_decay=0.995,
            logging_steps=max(1, steps // 30),
            save_steps=max(1, steps // 4),
            save_total_limit=1,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        diffusion=Diffusion(Absorbing(mask + 1), LogLinear(eps=1e-4)),
        train_dataset=Dataset.from_dict({"input_ids": rows[: 2**17].tolist()}),
    )
    train_on(trainer, folder)
    trainer.save_model()
    return AutoModelForMaskedLM.from_pretrained(folder)


def judge(train, tokenizer):
    """N-grams of the training text."""
    return Ngrams(train, tokenizer, frozenset())
