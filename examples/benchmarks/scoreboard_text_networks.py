"""The networks of `scoreboard_text.py`: a masked diffusion model of characters, the teacher, and an
autoregressive model of other speeches, the judge."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from scoreboard_text_corpus import MASK, SYMBOLS, Corpus
from scoreboard_text_muon import Muon
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint

from hf_ddistill import (
    Absorbing,
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    Diffusion,
    DiscreteDiffusionConfig,
    DiscreteDiffusionTrainer,
    LogLinear,
    as_denoiser,
)
from hf_ddistill.cli.resuming import train as train_on
from hf_ddistill.evaluation import likelihood_bound

ASSETS = Path(__file__).parents[1] / "assets"
#: The trained teacher, in float16; where training goes on.
ASSET = ASSETS / "sotu_teacher"
#: The judge of the page, likewise.
JUDGE = ASSETS / "sotu_judge"
WINDOW = 256
#: torch's fused attention has a slow bfloat16 gradient on CPUs.
ATTENTION = "eager"


class Windows(Dataset):
    """Every `stride`-th stretch of `length` tokens."""

    def __init__(self, tokens: Tensor, length: int, stride: int, labels: bool = False) -> None:
        self.rows, self.labels = tokens.unfold(0, length, stride), labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = {"input_ids": self.rows[index]}
        return row | ({"labels": self.rows[index]} if self.labels else {})


def diffusion() -> Diffusion:
    """Masks, alpha = 1 - t."""
    return Diffusion(Absorbing(MASK + 1), LogLinear(eps=1e-4))


def entry() -> dict[str, Any]:
    """The same, as a model's configuration has it."""
    parts = {"process": diffusion().process, "schedule": diffusion().schedule}
    return {name: part.to_config() for name, part in parts.items()} | {"parameterization": "subs"}


def fresh_teacher(hidden_size: int = 320, layers: int = 4, heads: int = 5) -> PreTrainedModel:
    """A DDiT without a time, untrained."""
    config = DDiTConfig(
        vocab_size=MASK + 1,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        # 4.4 times the width, in whole 128s.
        intermediate_size=round(4.4 * hidden_size / 128) * 128,
        max_position_embeddings=WINDOW,
        time_conditioning=False,
        mask_token_id=MASK,
        discrete_diffusion=entry(),
    )
    return DDiTForDiscreteDiffusion(config)


def bound(model: PreTrainedModel, rows: Tensor, draws: int = 2) -> dict[str, float]:
    """Nats per character of some rows, with the standard error; in float32."""
    parts = ({"input_ids": part} for part in rows.split(64))
    found = likelihood_bound(as_denoiser(model.eval()), parts, draws=draws)
    return {"bound": found.nats, "bound_error": found.standard_error}


class Watch(TrainerCallback):
    """Writes the bound of the averaged weights on the validation part, as training goes."""

    def __init__(self, trainer: DiscreteDiffusionTrainer, rows: Tensor, file: Path) -> None:
        self.trainer, self.rows, self.file = trainer, rows, file

    def on_save(self, args, state, control, **kwargs):
        with self.trainer.averaged_weights():
            found = bound(self.trainer.model, self.rows)
        self.trainer.model.train()
        told = {"step": state.global_step, **found}
        with self.file.open("a") as lines:
            lines.write(json.dumps(told) + "\n")
        print(told, flush=True)


def train_teacher(
    corpus: Corpus,
    folder: Path,
    steps: int,
    start: Path | None = None,
    *,
    rate: float = 2.5e-3,
    schedule: str = "cosine",
    length: int = 128,
    batch_size: int = 32,
    seed: int = 0,
    save_steps: int = 500,
) -> PreTrainedModel:
    """Trained so many steps, from the weights of `start` or none; goes on from checkpoints.

    `schedule` is one of transformers: "constant_with_warmup" to be gone on from, "linear" or
    "cosine" to end with. Matrices are multiplied in bfloat16.
    """
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder)
    torch.manual_seed(seed)
    model = fresh_teacher()
    if start is not None:
        model = AutoModelForMaskedLM.from_pretrained(start, dtype=torch.float32)
    model.set_attn_implementation(ATTENTION)
    trainer = DiscreteDiffusionTrainer(
        model,
        DiscreteDiffusionConfig(
            str(folder),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=rate,
            lr_scheduler_type=schedule,
            warmup_steps=min(100, steps // 10),
            ema_decay=0.995,
            bf16=True,
            logging_steps=100,
            save_steps=save_steps,
            save_total_limit=1,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=Windows(corpus.parts["teacher"], length, 8),
        optimizers=(Muon(model, rate), None),
    )
    rows = corpus.rows("validation", length)
    rows = rows[:: max(1, len(rows) // 300)]
    trainer.add_callback(Watch(trainer, rows, folder / "bounds.jsonl"))
    train_on(trainer, folder)
    trainer.save_model()
    return AutoModelForMaskedLM.from_pretrained(folder)


def judge(corpus: Corpus, folder: Path, steps: int, seed: int = 0) -> PreTrainedModel:
    """A Llama of 1.8 million parameters that has read the judge's speeches: `JUDGE`, or trained so
    many steps in `folder`, once."""
    folder = folder if steps else JUDGE
    if not steps or (folder / "model.safetensors").exists():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(SYMBOLS),
            hidden_size=192,
            num_hidden_layers=4,
            num_attention_heads=3,
            num_key_value_heads=3,
            intermediate_size=512,
            max_position_embeddings=WINDOW,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    model.set_attn_implementation(ATTENTION)
    held_out = corpus.rows("validation", WINDOW)[::4]
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder),
            max_steps=steps,
            lr_scheduler_type="cosine",
            warmup_steps=min(100, steps // 10),
            per_device_train_batch_size=8,
            per_device_eval_batch_size=16,
            prediction_loss_only=True,
            bf16=True,
            logging_steps=100,
            eval_strategy="steps",
            eval_steps=max(1, steps // 8),
            save_steps=max(1, steps // 4),
            save_total_limit=1,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=Windows(corpus.parts["judge"], WINDOW, 16, labels=True),
        eval_dataset=[{"input_ids": row, "labels": row} for row in held_out],
        optimizers=(Muon(model, 3e-3), None),
    )
    last = get_last_checkpoint(folder) if folder.exists() else None
    trainer.train(resume_from_checkpoint=last)
    nats = trainer.evaluate()["eval_loss"]
    trainer.save_model()
    print(f"judge: {nats:.4f} nats ({nats / math.log(2):.4f} bits) of validation", flush=True)
    # The trained object would compute in bfloat16 for good.
    return AutoModelForCausalLM.from_pretrained(folder).eval()
