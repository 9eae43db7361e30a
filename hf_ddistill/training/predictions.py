"""Samples for the rows of a data set, as `Trainer.predict` and `compute_metrics` are given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hf_ddistill import reverse
from hf_ddistill.linalg import categorical
from hf_ddistill.models import BlockDiffusionLM, unwrapped
from hf_ddistill.parameterizations import Denoiser

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
    if isinstance(unwrapped(denoiser.network.model), BlockDiffusionLM):
        raise ValueError(
            "A BlockDiffusionLM decodes its predictions, by the settings of rollouts, which only "
            "the DiscreteDistillationTrainer has; use generate(), or prediction_loss_only=True."
        )
    x_0 = inputs["input_ids"]
    known = {name: value for name, value in inputs.items() if name in denoiser.network.inputs}
    condition = {
        name: value for name, value in known.items() if name not in ("input_ids", "labels")
    }
    real = inputs.get("attention_mask")
    real = torch.ones_like(x_0, dtype=torch.bool) if real is None else real.bool()
    held = ~real if inputs.get("labels") is None else ~real | (inputs["labels"] == NOTHING)
    if prompt_length:
        held[:, :prompt_length] = True
    x, grid = (
        denoiser.diffusion.prior(x_0.shape, generators, x_0.device),
        reverse.step_grid(num_steps),
    )
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        x = torch.where(held, x_0, x)
        given = {**condition, **denoiser.fresh_noise(x, generators)}
        probs = reverse.ancestral(denoiser(x, t, **given), denoiser.diffusion, x, s, t)
        x = categorical(probs, generators)
    x = torch.where(held, x_0, x)
    return x.masked_fill(~real, NOTHING), x_0.masked_fill(held, NOTHING)
