"""The options of a training as arguments of the trainers' configurations."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from transformers.integrations import get_available_reporting_integrations

from hf_ddistill.cli.options.option import flag_name
from hf_ddistill.cli.options.shared import TrainingOptions
from hf_ddistill.cli.terminal import is_terminal
from hf_ddistill.training.settings import DiffusionSettings, DistillationSettings

#: Options that `TrainingArguments` have under the same name.
SAME = (
    *("learning_rate", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "optim"),
    *("lr_scheduler_type", "bf16", "fp16", "dataloader_num_workers", "seed", "save_total_limit"),
)


def training_arguments(options: Any, has_eval_data: bool) -> dict[str, Any]:
    """Those of a command that trains, for a `DiscreteDiffusionConfig` or one of distillation.

    Args:
        options: `TrainingOptions` with `output`, and with settings of the trainers.
        has_eval_data: whether there are data that are held out.

    Raises:
        ValueError: for settings of an evaluation without such data, and for a place to report to
            whose package is not installed.
    """
    kinds = (DistillationSettings, DiffusionSettings)
    own = [each.name for kind in kinds if isinstance(options, kind) for each in fields(kind)]
    return {
        **{name: getattr(options, name) for name in (*own, *SAME)},
        **_renamed(options),
        **_evaluation(options, has_eval_data),
        "output_dir": str(options.output),
        "save_strategy": "steps",
        "disable_tqdm": not is_terminal(),
    }


def _renamed(options: TrainingOptions) -> dict[str, Any]:
    """Those that have another name or another default there."""
    steps = options.steps
    for name in options.report_to:
        if name not in ("none", "all", *get_available_reporting_integrations()):
            raise ValueError(
                f"--report-to: needs the package for {name!r}, which is not installed."
            )
    return {
        "max_steps": steps,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.accumulate,
        "warmup_steps": _given(options.warmup_steps, min(100, steps // 10)),
        "logging_steps": _given(options.logging_steps, max(1, steps // 50)),
        "save_steps": _given(options.save_steps, min(500, max(1, steps // 10))),
        "report_to": list(options.report_to),
        "use_cpu": options.cpu or not torch.cuda.is_available(),
    }


def _evaluation(options: TrainingOptions, has_eval_data: bool) -> dict[str, Any]:
    for name in ("eval_steps", "num_eval_samples"):
        if getattr(options, name) and not has_eval_data:
            raise ValueError(f"{flag_name(name)} needs data that are held out: --eval-data.")
    tenth = max(1, options.steps // 10)
    return {
        "eval_strategy": "steps" if has_eval_data else "no",
        "eval_steps": _given(options.eval_steps, tenth) if has_eval_data else None,
        "per_device_eval_batch_size": options.batch_size,
    }


def _given(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
