"""The students of `scoreboard_text.py`: one network, one data set, one number of network passes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from scoreboard_text_corpus import MASK, Corpus
from scoreboard_text_networks import ATTENTION, Windows, entry
from scoreboard_text_recipes import ALL, Recipe
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.data import Dataset
from transformers import AutoModelForMaskedLM, PreTrainedModel, TrainerCallback

from hf_ddistill import (
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)
from hf_ddistill.training.noise_strength import set_strength


def trainer_of(
    recipe: Recipe, teacher: PreTrainedModel, student: PreTrainedModel, data: Dataset, **settings
) -> DiscreteDistillationTrainer:
    """What trains a student; settings are those of `DiscreteDistillationConfig`."""
    shared = {
        "lr_scheduler_type": "cosine",
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "disable_tqdm": True,
        # The guard draws samples of both, in passes that no budget counts; the bound on the
        # auxiliary's lag, which costs nothing, stays as it is by default.
        "collapse_share": 0.0,
    }
    args = DiscreteDistillationConfig(**{**shared, **recipe.settings, **settings})
    return DiscreteDistillationTrainer(student, teacher, recipe.objective, args, train_dataset=data)


def student_of(teacher: Path, recipe: Recipe) -> PreTrainedModel:
    """The teacher's weights, with a noise input where the recipe has one."""
    more = {"noise_dim": recipe.noise, "noise_per": recipe.noise_per} if recipe.noise else {}
    student = AutoModelForMaskedLM.from_pretrained(teacher, dtype=torch.float32, **more)
    student.set_attn_implementation(ATTENTION)
    if recipe.noise and recipe.noise_scale is not None:
        student.model.noise_proj.weight.data *= recipe.noise_scale
    return student


class Passes:
    """Network passes of batches of so many rows, of whichever network: a forward pass is one, and
    the backward pass behind it two more."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.count = batch_size, 0.0

    def __enter__(self) -> Passes:
        self._hook = register_module_forward_hook(self._passed, with_kwargs=True)
        return self

    def __exit__(self, *exception: object) -> None:
        self._hook.remove()

    def _passed(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if isinstance(module, DDiTForDiscreteDiffusion):
            rows = len(args[0] if args else kwargs["input_ids"])
            self.count += (3 if output.logits.requires_grad else 1) * rows / self.batch_size


def passes_per_step(recipe: Recipe, calls: int, batch_size: int, length: int) -> float:
    """Of an objective, over 33 steps of networks so small that nothing else is measured: how often
    it asks its networks does not hang on their size."""
    small = {
        "vocab_size": MASK + 1,
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "max_position_embeddings": length,
        "mask_token_id": MASK,
        "discrete_diffusion": entry(),
    }
    noise = {"noise_dim": recipe.noise, "noise_per": recipe.noise_per}
    networks = [DDiTForDiscreteDiffusion(DDiTConfig(**small, **more)) for more in ({}, noise)]
    tokens = torch.randint(MASK, (64 * length,), generator=torch.Generator().manual_seed(0))
    steps = 33  # whole rounds
    with TemporaryDirectory() as folder, Passes(batch_size) as passes:
        trainer = trainer_of(
            recipe,
            *networks,
            Windows(tokens, length, length),
            output_dir=folder,
            max_steps=steps,
            student_steps=calls,
            per_device_train_batch_size=batch_size,
            save_strategy="no",
            logging_strategy="no",
        )
        trainer.train()
    return passes.count / steps


class Lines(TrainerCallback):
    """The log, one JSON object a line."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_log(self, args, state, control, logs=None, **kwargs):
        with self.file.open("a") as lines:
            lines.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


def trained(
    recipe: Recipe,
    corpus: Corpus,
    teacher: Path,
    folder: Path,
    args: Any,
    seed: int,
    passes: float,
) -> PreTrainedModel:
    """The student of a recipe after so many passes; trained once, from the last checkpoint if it
    was stopped. What it took is in `took.json`, its log in `log.jsonl`."""
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder).eval()
    start, before = teacher, 0.0
    if recipe.start:
        start, passes = folder / "start", passes / 2
        trained(ALL[recipe.start], corpus, teacher, start, args, seed, passes)
        before = json.loads((start / "took.json").read_text())["core_seconds"]
    noise: dict[str, float] = {}
    calls = recipe.calls or max(args.calls)
    each = passes_per_step(recipe, calls, args.batch_size, args.length)
    rounds = recipe.settings.get("rounds", 1)
    steps = rounds * round(passes / each / rounds)
    torch.manual_seed(seed)
    frozen = AutoModelForMaskedLM.from_pretrained(teacher, dtype=torch.float32)
    frozen.set_attn_implementation(ATTENTION)
    trainer = trainer_of(
        recipe,
        frozen,
        student_of(start, recipe),
        Windows(corpus.parts["teacher"], args.length, 8),
        output_dir=str(folder),
        max_steps=steps,
        student_steps=calls,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=args.batch_size,
        warmup_steps=min(20, steps // 10),
        ema_decay=args.ema_decay,
        bf16=args.bf16,
        logging_steps=max(1, steps // 12),
        save_steps=max(1, steps // 3),
        save_total_limit=1,
        seed=seed,
    )
    trainer.add_callback(Lines(folder / "log.jsonl"))
    if recipe.noise and recipe.noise_scale is None and not recipe.start:
        # As the trainer does with a noise input that it has made itself.
        found = set_strength(trainer)
        noise = {"noise_std": found.std, "noise_tells": found.share}
    busy = time.process_time()
    trainer.train(resume_from_checkpoint=trainer.last_checkpoint(folder))
    busy = time.process_time() - busy + before
    took = {"steps": steps, "passes_per_step": each, "core_seconds": busy, **noise}
    (folder / "took.json").write_text(json.dumps(took))
    trainer.save_model()
    # The trained object would compute in bfloat16 for good.
    return AutoModelForMaskedLM.from_pretrained(folder).eval()
