"""Settings of `transformers.Trainer` that our trainers cannot act on: each is refused when the
trainer is made (docs/trainer_settings.md says of every setting what becomes of it)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils.peft_utils import find_adapter_config_file

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.models import BlockDiffusionConfig, BlockDiffusionLM, load_config, unwrapped
from hf_ddistill.models.causal_kind import is_causal, is_causal_config
from hf_ddistill.models.opening import is_causal_name
from hf_ddistill.objectives import Objective
from hf_ddistill.training.settings import DistillationSettings

_TOKENS = "a row's own tokens are what is learnt"

#: Arguments of the trainer that must be left out, and why.
REFUSED_ARGUMENTS = {
    "compute_loss_func": (
        "the objective is the loss: give objective= an id, a configuration or an Objective"
    ),
    "preprocess_logits_for_metrics": (
        "no logits are gathered: compute_metrics is given samples as predictions"
    ),
}

#: Settings that have one value here, and why.
REFUSED_SETTINGS: dict[str, tuple[Any, str]] = {
    "label_smoothing_factor": (
        0.0,
        "the objectives compare exact probabilities, and have no labels to be smoothed",
    ),
    "label_names": (None, f"{_TOKENS}, and no column by another name"),
    "remove_unused_columns": (
        False,
        "it would drop the columns that the objective reads and forward() does not take",
    ),
    "average_tokens_across_devices": (
        True,
        "a loss is a mean over the tokens of all processes, whichever of them has more",
    ),
    "use_liger_kernel": (
        False,
        "its kernels replace a causal model's own loss, which no objective goes through",
    ),
    "bf16_full_eval": (
        False,
        "it would leave the weights in bfloat16, and they are what is saved; bf16=True computes "
        "in bfloat16",
    ),
    "fp16_full_eval": (
        False,
        "it would leave the weights in float16, and they are what is saved; fp16=True computes "
        "in float16",
    ),
    "parallelism_config": (
        None,
        "objectives look at whole sequences and whole layers: rows are spread over processes, and "
        "weights by FSDP",
    ),
}

#: Beginnings of LoRA that take a part of the base's weights into the adapters.
CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")

#: What an evaluation measures without figures of the user's own.
_MEASURED = ("loss", "runtime", "samples_per_second", "steps_per_second")


def check_config(args: object, kind: type, trainer: str) -> None:
    """Raise unless the settings are of a trainer's own class: those of another one lack some, or
    have some that are not acted on.

    Args:
        args: as they were given.
        kind: the class that the trainer takes.
        trainer: its name.
    """
    distils = [isinstance(args, DistillationSettings), issubclass(kind, DistillationSettings)]
    if not isinstance(args, kind) or distils[0] != distils[1]:
        raise ValueError(
            f"args= of {trainer} must be a {kind.__name__}, got {type(args).__name__}."
        )


def check_settings(
    args: TrainingArguments, given: Mapping[str, Any], judges_samples: bool = False
) -> None:
    """Raise for a setting that would be accepted and not acted on.

    Args:
        args: of the trainer.
        given: its other arguments.
        judges_samples: whether there are `sample_metrics`.

    Raises:
        ValueError: in one sentence, with the reason.
    """
    for name, reason in REFUSED_ARGUMENTS.items():
        if given.get(name) is not None:
            raise ValueError(f"{name}= is not used here: {reason}.")
    for name, (value, reason) in REFUSED_SETTINGS.items():
        if (got := getattr(args, name)) != value and got not in (None, [], ()):
            raise ValueError(f"{name}={got!r} is not used here, only {value!r}: {reason}.")
    if args.fp16 and args.device.type == "cpu":
        raise ValueError("fp16=True is not used on a CPU: it computes no float16; take bf16=True.")
    samples = getattr(args, "num_eval_samples", 0)
    if judges_samples and not samples:
        raise ValueError(
            "sample_metrics= judges the samples that are drawn at an evaluation, and "
            "num_eval_samples is 0: set it above 0."
        )
    best = (args.metric_for_best_model or "loss").removeprefix("eval_")
    own = judges_samples or given.get("compute_metrics") is not None
    if not own and not best.endswith(_MEASURED):
        raise ValueError(
            f"metric_for_best_model={args.metric_for_best_model!r} is measured by nobody: without "
            "sample_metrics= or compute_metrics= an evaluation has the loss alone."
        )


def check_decoder(objective: Objective, teacher_is_a_model: bool) -> None:
    """Raise if the teacher is to decode, and is made of several models or none of ours."""
    rollouts = objective.rollouts
    if rollouts is not None and rollouts.by == "teacher" and not teacher_is_a_model:
        raise ValueError(
            f"Objective {objective.id!r} trains on what its teacher decodes, so that the teacher "
            "must be one model, and no denoiser made of others."
        )


def check_attention(objective: Objective, model: nn.Module, length: int | None) -> None:
    """Raise if an objective over whole rows has a student that sees blocks alone, or one over
    blocks a student that has none.

    Args:
        objective: says what it is over.
        model: the student, perhaps wrapped.
        length: tokens of a row; None where it is not known.
    """
    inner = unwrapped(model)
    if not isinstance(inner, BlockDiffusionLM):
        if objective.over == "blocks":
            raise ValueError(
                f"Objective {objective.id!r} trains a BlockDiffusionLM, which decodes in blocks, "
                f"and {type(inner).__name__} draws all positions at once: take one over rows, such "
                "as 'law_matching' or 'ecd'."
            )
        return
    size = inner.config.block_size
    if objective.over == "rows" and not inner.is_full(size) and size < (length or size + 1):
        raise ValueError(
            f"Objective {objective.id!r} trains all positions of a row at once, and this "
            f"BlockDiffusionLM sees blocks of {size}, each behind finished ones: take one over "
            "blocks, such as 'dparallel' or 't3d' (of what the teacher decodes), 'bd3lm' (of "
            "data), or, where the teacher is a causal language model, 'opdlm'."
        )


def check_reads_masks(objective: Objective, teacher: object) -> None:
    """Raise if a causal language model, or the name of one, is to say what stands at masks."""
    need = objective.networks.get("teacher")
    if need is None or need.causal:
        return
    if is_causal_name(teacher) if isinstance(teacher, str) else is_causal(teacher):
        raise ValueError(
            f"Objective {objective.id!r} asks its teacher what stands at masks, and a causal "
            "language model reads none: take 'opdlm', 'causal_law_matching' or "
            "'block_law_matching', which ask it for each next token, or 'bd3lm', which asks none."
        )


def check_reads_tokens(objective: Objective, teacher: object) -> None:
    """Raise if what reads in both directions, a model, one of a denoiser or of a list, or the name
    of one, is to say each next token."""
    need = objective.networks.get("teacher")
    if need is None or not need.causal:
        return
    given = teacher if isinstance(teacher, list | tuple) else [teacher]
    for each in given:
        for network in each.networks() if isinstance(each, Denoiser) else [each]:
            if found := _both_directions(network):
                raise ValueError(
                    f"Objective {objective.id!r} asks its teacher for each next token behind those "
                    f"before it, and {found} reads in both directions: give a causal language "
                    "model, or a BlockDiffusionLM of blocks that was made of one; of this teacher "
                    "'law_matching' and 'ecd' are distilled, or into blocks 'd2f' and 'cdlm'."
                )


def _both_directions(network: object) -> str:
    """What a teacher is that reads in both directions; empty for any other."""
    if isinstance(network, str):
        if find_adapter_config_file(network) is not None:
            return ""  # opened as what their base is
        config, name = load_config(network), network
        causal = is_causal_config(config, name)
    else:
        network = unwrapped(network) if isinstance(network, nn.Module) else network
        if not isinstance(network, PreTrainedModel):
            return ""
        config, name = network.config, type(network).__name__
        causal = is_causal(network)
    if causal:
        return ""
    if not isinstance(config, BlockDiffusionConfig):
        return name
    window = config.max_position_embeddings
    full = window is not None and config.block_size >= window
    return f"{name}, a BlockDiffusionLM of full attention," if full else ""


def check_base_stays(peft_config: Any, model: nn.Module | None) -> None:
    """Raise if adapters change the base that is to be their teacher: those that will be added, or
    else those that a model has."""
    own = getattr(model, "peft_config", {}).values() if peft_config is None else [peft_config]
    for settings in own:
        begun = str(getattr(settings, "init_lora_weights", True))
        for name, changes in (
            ("bias", getattr(settings, "bias", "none") != "none"),
            ("init_lora_weights", begun.startswith(CHANGING)),
        ):
            if changes:
                raise ValueError(
                    f"{name}={getattr(settings, name)!r} of the adapters changes their base, which "
                    "is the teacher where none is given: leave it out, or give teacher=."
                )


def check_reward(objective: Objective, reward_is_given: bool) -> None:
    """Raise if an objective cannot do without a reward, and there is none."""
    if objective.takes_reward and not reward_is_given:
        raise ValueError(
            f"Objective {objective.id!r} needs what each rollout earns: give reward_function=."
        )


def check_auxiliaries(objective: str, args: Any, optimizer_is_given: bool) -> None:
    """Raise if settings do not go with more networks in the optimizer of the student."""
    by_layer = "layerwise" in args.optim or "lomo" in args.optim
    refused = {
        "an optimizer that is given": optimizer_is_given,
        f"optim={str(args.optim.value)!r}, which steps within the backward pass": by_layer,
    }
    for what, found in refused.items():
        if found:
            raise ValueError(
                f"Objective {objective!r} trains an auxiliary beside the student, which does not "
                f"go with {what}."
            )


def warn_of_half_precision(model: nn.Module) -> None:
    """Warn if weights are trained that small steps cannot move."""
    halves = {torch.bfloat16, torch.float16}
    kinds = {p.dtype for p in model.parameters() if p.requires_grad} & halves
    if kinds:
        name = str(kinds.pop()).removeprefix("torch.")
        warnings.warn(
            f"The model that was given has weights of {name}, which lose every step that is small "
            "beside the weight (below 1/256 of it in bfloat16, 1/2048 in float16): most will not "
            "move. Load it with dtype=torch.float32; bf16=True computes in bfloat16 all the same.",
            stacklevel=3,
        )


def warn_of_independent_tokens(student: Denoiser) -> None:
    """Warn of a student of one call that starts from masks and has nothing else to draw from."""
    if student.diffusion.reveals and student.latent is None:
        warnings.warn(
            "A student of one call that starts from masks and has no noise input draws its tokens "
            "independently of each other, whatever it is trained for: give it a noise input "
            "(noise_dim; for blocks to_block_diffusion(noise_dim=...)), or more calls.",
            stacklevel=3,
        )
