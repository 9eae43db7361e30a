"""Samples for the rows of a data set, as `Trainer.predict` and `compute_metrics` are given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.models import BlockDiffusionLM, sampler_of, unwrapped
from hf_ddistill.samplers import Canvas

#: What `transformers` puts where there is nothing to be predicted.
NOTHING = -100


@torch.no_grad()
def predicted(
    denoiser: Denoiser,
    inputs: Mapping[str, Tensor],
    prompt_length: int | None,
    num_steps: int,
    generators: Sequence[torch.Generator],
) -> tuple[Tensor, Tensor]:
    """A sample for each row of a batch, and the rows as labels, each (B, L).

    What is given of a row (its first `prompt_length` tokens, or those whose label is -100) is held
    in every call: exact for masks; a network of another process was trained on noised tokens.

    Args:
        denoiser: of the model in eval mode.
        inputs: `input_ids`, perhaps `attention_mask`, `labels` and conditions of the network.
        prompt_length: tokens at the start that are given.
        num_steps: network calls.
        generators: one for each row.

    Raises:
        ValueError: for a model that decodes blocks.
    """
    if isinstance(unwrapped(denoiser.networks()[0]), BlockDiffusionLM):
        raise ValueError(
            "A BlockDiffusionLM decodes its predictions, by the settings of rollouts, which only "
            "the DiscreteDistillationTrainer has; use generate(), or prediction_loss_only=True."
        )
    x_0 = inputs["input_ids"]
    asked = denoiser.network.inputs - {"input_ids", "labels"}
    condition = {name: value for name, value in inputs.items() if name in asked}
    real = inputs.get("attention_mask")
    real = torch.ones_like(x_0, dtype=torch.bool) if real is None else real.bool()
    held = ~real if inputs.get("labels") is None else ~real | (inputs["labels"] == NOTHING)
    if prompt_length:
        held[:, :prompt_length] = True
    sampler = sampler_of(denoiser.networks()[0])
    x = sampler.sample(denoiser, Canvas(x_0, ~held), num_steps, generators, **condition)
    return x.masked_fill(~real, NOTHING), x_0.masked_fill(held, NOTHING)


def decoded_rows(
    drawn: Mapping[str, Tensor], inputs: Mapping[str, Tensor], group: int, prompt_length: int | None
) -> tuple[Tensor, Tensor]:
    """What was decoded behind the prompts of a batch, the first of each group, and the rows as
    labels; -100 at padding, and in the labels at what was given.

    Args:
        drawn: `input_ids` (B * group, L), perhaps `attention_mask`.
        inputs: the batch.
        group: decodings behind each prompt.
        prompt_length: tokens of a row that were given; all of them if None.
    """
    labels = inputs["input_ids"].clone()
    if inputs.get("attention_mask") is not None:
        labels[~inputs["attention_mask"].bool()] = NOTHING
    labels[:, :prompt_length] = NOTHING
    found = drawn["input_ids"].clone()
    if drawn.get("attention_mask") is not None:
        found[~drawn["attention_mask"].bool()] = NOTHING
    return found[::group], labels
