"""The model as the pipeline calls it: on the scheduler's times, in eval mode, its calls counted."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser

#: The condition that numbers the rows: a sampler may leave rows out of a call, and indexes every
#: condition by those that it asks for.
ROW = "row_number"


@dataclass
class CountedNetwork:
    """A network, and how often it was called.

    Args:
        network: what a `Denoiser` takes; `ROW` is not handed on to it.
        calls: so far.
        by_row: (B,), in how many of them each row took part, by the condition `ROW`; None where
            that is not counted.
    """

    network: Callable[..., torch.Tensor]
    calls: int = 0
    by_row: torch.Tensor | None = None

    def __call__(self, *inputs: torch.Tensor, **condition: Any) -> torch.Tensor:
        self.calls += 1
        rows = condition.pop(ROW, None)
        if self.by_row is not None:
            self.by_row += torch.zeros_like(self.by_row).index_fill(0, rows, 1)
        return self.network(*inputs, **condition)


def denoiser_on(
    model: torch.nn.Module, diffusion: Diffusion, tokenizer: PreTrainedTokenizerBase | None = None
) -> Denoiser:
    """The model as a denoiser of the scheduler's diffusion, its calls counted.

    Raises:
        ValueError: for another process than the model's, or another schedule although the model
            looks at the time; for another mask than the tokenizer's.
    """
    denoiser = as_denoiser(model, tokenizer=tokenizer)
    trained = denoiser.diffusion
    if trained.process != diffusion.process:
        raise ValueError(
            f"The model was trained for the process {trained.process.to_config()}, the scheduler "
            f"has {diffusion.process.to_config()}; `DiscreteDiffusionPipeline.from_model` makes "
            "one that fits."
        )
    if trained != diffusion and denoiser.reads_time == "t":
        raise ValueError(
            "The model looks at the time and was trained for the schedule "
            f"{trained.schedule.to_config()}, the scheduler has {diffusion.schedule.to_config()}."
        )
    return replace(denoiser, network=CountedNetwork(denoiser.network), diffusion=diffusion)


@contextlib.contextmanager
def evaluating(*models: torch.nn.Module | None) -> Iterator[None]:
    """Within it the models are in eval mode: dropout while sampling would go unnoticed."""
    there = [(model, model.training) for model in models if model is not None]
    for model, _ in there:
        model.eval()
    try:
        yield
    finally:
        for model, training in there:
            model.train(training)
