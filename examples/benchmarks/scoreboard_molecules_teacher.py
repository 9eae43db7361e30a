"""The teacher of `scoreboard_molecules.py`: masked diffusion over pieces of molecules."""

import time

import torch
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
from hf_ddistill.cli.resuming import train


def settings(args, steps, **more):
    """What all trainings share."""
    return {
        "max_steps": steps,
        "lr_scheduler_type": "cosine",
        "adam_beta2": 0.98,
        "logging_steps": max(1, min(100, steps // 10)),
        "save_steps": max(1, min(500, steps // 4)),
        "save_total_limit": 1,
        "use_cpu": not torch.cuda.is_available(),
        "bf16": args.bf16,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": args.seed,
        **more,
    }


def in_bf16(model, args):
    """The model as it is trained fastest in bfloat16: on CPUs the fused attention's gradient is
    slow in it."""
    if args.bf16 and not torch.cuda.is_available():
        model.set_attn_implementation("eager")
    return model


def trained(trainer, folder):
    """The model that training leaves in `folder`, from the last checkpoint if there is one."""
    started = time.monotonic()
    train(trainer, folder)
    trainer.save_model()
    print(f"{folder.name}: {time.monotonic() - started:.0f} s", flush=True)
    return AutoModelForMaskedLM.from_pretrained(folder)


def train_teacher(args, data, size, start):
    """The teacher of the output folder; where there is none it is trained, by the likelihood
    bound, from `start` or from scratch. Padding is a token as any other."""
    folder = args.output / "teacher"
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder)
    if start is not None:
        model = AutoModelForMaskedLM.from_pretrained(start, dtype=torch.float32)
        if args.teacher_steps == 0:
            return model
    else:
        torch.manual_seed(args.seed)
        model = DDiTForDiscreteDiffusion(
            DDiTConfig(
                vocab_size=size,
                hidden_size=128,
                num_hidden_layers=5,
                num_attention_heads=4,
                max_position_embeddings=args.length,
                position_embedding="rotary_learned",
                rope_theta=100.0,
                mask_token_id=size - 1,
            )
        )
    config = DiscreteDiffusionConfig(
        str(folder),
        **settings(args, args.teacher_steps, learning_rate=args.teacher_rate, weight_decay=0.02),
        per_device_train_batch_size=args.teacher_batch_size,
        warmup_steps=min(200, args.teacher_steps // 10),
        ema_decay=0.999 if args.teacher_steps > 2000 else 0.98,
    )
    trainer = DiscreteDiffusionTrainer(
        in_bf16(model, args),
        config,
        diffusion=Diffusion(Absorbing(size), LogLinear(eps=1e-4)),
        train_dataset=data,
    )
    return trained(trainer, folder)
