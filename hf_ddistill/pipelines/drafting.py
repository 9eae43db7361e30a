"""A second network that drafts what the pipeline's model verifies."""

from __future__ import annotations

import os
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedModel

from hf_ddistill.denoisers import Denoiser, Drafted, NetworkDenoiser
from hf_ddistill.models import BlockDiffusionLM, as_denoiser, unwrapped
from hf_ddistill.models.opening import open_model
from hf_ddistill.models.positions import window
from hf_ddistill.pipelines.network import denoiser_on
from hf_ddistill.samplers import Canvas
from hf_ddistill.schedulers import DiscreteSchedulerBase, SamplerScheduler


def opened(drafter: PreTrainedModel | str | os.PathLike | None) -> PreTrainedModel | None:
    """A drafter that is given by its folder or Hub id, opened; any other as it is."""
    return open_model(drafter) if isinstance(drafter, str | os.PathLike) else drafter


def drafting(scheduler: DiscreteSchedulerBase) -> DiscreteSchedulerBase:
    """The scheduler, or one of the sampler `speculative` where its own takes no drafts."""
    if scheduler.sampler.drafts:
        return scheduler
    return SamplerScheduler.from_config(scheduler.config, sampler="speculative")


def drafted_by(
    pipe: DiffusionPipeline, teacher: NetworkDenoiser, canvas: Canvas, labels: Tensor | None
) -> Denoiser:
    """The pipeline's denoiser with its drafter, if it has one, under the diffusion of the former;
    where drafts are taken, calls are counted by row.

    Args:
        pipe: with a `drafter`, or None there.
        teacher: of its model, counted.
        canvas: of the samples.
        labels: of classes, if there are any.

    Raises:
        ValueError: for a sampler that takes no drafts, a drafter that decodes by blocks, and one of
            other tokens, another process, other labels or a smaller window.
    """
    drafter, sampler = pipe.drafter, pipe.scheduler.sampler
    if sampler.drafts:
        teacher.network.by_row = torch.zeros_like(canvas.tokens[:, 0])
    if drafter is None:
        return teacher
    name = type(unwrapped(drafter)).__name__
    if not sampler.drafts:
        raise ValueError(
            f"The pipeline has a drafter, and its sampler {sampler.id!r} takes no drafts; set "
            "`pipe.scheduler = SamplerScheduler.from_config(pipe.scheduler.config, "
            'sampler="speculative")`, or `pipe.drafter = None`.'
        )
    if isinstance(unwrapped(drafter), BlockDiffusionLM):
        raise ValueError(f"The drafter, {name}, decodes by blocks and drafts for no other model.")
    _check(drafter, canvas.tokens.shape[1], labels)
    ours = teacher.diffusion.process
    theirs = as_denoiser(drafter, tokenizer=pipe.tokenizer).diffusion.process
    if theirs != ours:
        raise ValueError(
            f"The drafter, {name}, was trained for the process {theirs.to_config()}, and the model "
            f"for {ours.to_config()}: a draft is verified under the same one alone."
        )
    return Drafted(teacher, denoiser_on(drafter, teacher.diffusion, pipe.tokenizer))


def _check(drafter: nn.Module, length: int, labels: Tensor | None) -> None:
    """Raise unless a drafter takes sequences of this length, and the labels that are given."""
    most, config = window(drafter), unwrapped(drafter).config
    grid = getattr(config, "token_shape", None)
    if most is not None and (length > most or (grid is not None and length != most)):
        takes = f"{most} tokens" if grid is not None else f"at most {most} tokens"
        raise ValueError(f"The drafter takes {takes}, and the samples have {length}.")
    classes = getattr(config, "num_classes", 0)
    if labels is not None and int(labels.max()) >= max(classes, 1):
        raise ValueError(
            f"The drafter has num_classes={classes}, and the labels are {labels.tolist()}."
        )


def calls_told(denoiser: Denoiser, canvas: Canvas) -> dict[str, Any]:
    """What is known of the calls of a counted denoiser, for the pipeline's output."""
    if isinstance(denoiser, Drafted):
        of_drafter = {"num_drafter_calls": denoiser.drafter.network.calls}
        return calls_told(denoiser.teacher, canvas) | of_drafter
    network = denoiser.network
    told = {"num_network_calls": network.calls}
    if network.by_row is not None:
        told["calls"] = network.by_row.cpu()
        told["tokens_per_call"] = canvas.infill.sum(1).cpu() / told["calls"].clamp_min(1)
    return told
