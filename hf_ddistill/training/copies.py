"""Trainable copies of a teacher: the student where there is no other, and auxiliaries."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn

from hf_ddistill.denoisers import Denoiser, Ensemble, Guided
from hf_ddistill.models import DDiTForDiscreteDiffusion, unwrapped
from hf_ddistill.training.arguments import DiscreteDistillationConfig
from hf_ddistill.training.keyed_noise import keyed_generator


def student_of(
    model: nn.Module | None, teacher: object, args: DiscreteDistillationConfig, adapted: bool
) -> nn.Module:
    """The model that was given, or a copy of the teacher; with `args.noise_dim`, if it is above 0.

    Args:
        model: the one that was given.
        teacher: to be copied if there is none.
        args: settings.
        adapted: whether adapters will be all that is trained.

    Raises:
        ValueError: without a model that could be copied, or if the noise input that is asked for
            cannot be had.
    """
    copied = model is None
    if copied:
        model = _copy_of(teacher, "Without a model, the student")
    asked, own = args.noise_dim, getattr(unwrapped(model).config, "noise_dim", 0)
    if asked in (0, own):
        return model
    if own or not copied:
        raise ValueError(
            f"noise_dim={asked} was asked for, but the student has noise_dim={own}; leave out "
            "noise_dim to train it as it is, or model= for a copy of a teacher without noise."
        )
    if not isinstance(model, DDiTForDiscreteDiffusion):
        raise ValueError(
            f"noise_dim={asked} was asked for, but {type(model).__name__} takes no noise; only a "
            "DDiT can be copied with a noise input."
        )
    if adapted:
        raise ValueError(
            f"noise_dim={asked} adds weights to the base, which adapters neither train nor save; "
            "leave out peft_config, or pass a model= that has a noise input."
        )
    _add_noise_input(model, asked, args.noise_std, args.seed)
    return model


def trainable_copy(model: nn.Module) -> nn.Module:
    """A copy in memory whose every weight can be trained, whatever the model was used for: in
    float32, since in half precision most weights do not move."""
    copied = copy.deepcopy(model).requires_grad_(True).float()
    # One that accelerate has prepared would not be wrapped for several processes again.
    vars(copied).pop("_is_accelerate_prepared", None)
    return copied


def denoiser_copy(source: Denoiser, what: str, accelerator: Accelerator) -> Denoiser:
    """A denoiser (without its guidance; the first of several) around a trainable copy of its
    network, in train mode, where the process computes; `what` it is, for errors."""
    denoiser = _one_denoiser(source)
    model = accelerator.prepare_model(_copy_of(denoiser, what).train())
    return replace(denoiser, network=replace(denoiser.network, model=model, adapters=True))


def _copy_of(teacher: object, what: str) -> nn.Module:
    """A trainable copy of a model, or of the one that a denoiser calls.

    Of a PEFT model in a denoiser it is a whole model with the same output: adapters are merged
    where the denoiser uses them, and left out where it is the base.
    """
    if isinstance(teacher, nn.Module):
        return trainable_copy(teacher)
    denoiser = _one_denoiser(teacher)
    network = getattr(denoiser, "network", None)
    model = getattr(network, "model", None)
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"{what} is a copy of the teacher, so the teacher must be a model, or a denoiser "
            f"of one (as_denoiser); got {type(network or teacher).__name__}."
        )
    if isinstance(model, PeftModel):
        # A copy first: both ways change the model that they are asked of.
        whole = copy.deepcopy(model)
        model = whole.merge_and_unload() if network.adapters else whole.unload()
    return trainable_copy(model)


def _one_denoiser(teacher: object) -> object:
    """The denoiser within a teacher that is made of some."""
    return teacher.denoiser if isinstance(teacher, Guided | Ensemble) else teacher


@torch.no_grad()
def _add_noise_input(model: DDiTForDiscreteDiffusion, dim: int, std: float, seed: int) -> None:
    """A projection whose output has variance std^2 in each channel."""
    like, width = model.model.embed_tokens.weight, model.config.hidden_size
    projection = nn.utils.skip_init(nn.Linear, dim, width, bias=False, dtype=like.dtype)
    drawn = torch.randn((width, dim), generator=keyed_generator(seed, "noise input"))
    projection.weight.copy_(drawn * std * dim**-0.5)
    model.model.noise_proj = projection.to(like.device)
    model.config.noise_dim = dim
