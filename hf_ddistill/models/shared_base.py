"""The frozen base of a model that is trained by adapters, as a teacher and under more adapters."""

from __future__ import annotations

import contextlib
import copy
from itertools import chain

import torch

#: Beginnings of LoRA that leave the model as it is, and its base as well.
_NEUTRAL = (True, "gaussian")
_FIRST, _SECOND = "default", "second"


@contextlib.contextmanager
def base_model(model: torch.nn.Module):  # noqa: ANN201 (a context manager)
    """Within it a PEFT model is its own frozen base: adapters off, eval mode, no gradients."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), model.disable_adapter():
            yield model
    finally:
        model.train(training)


def beside(model: torch.nn.Module, fresh: bool) -> torch.nn.Module:
    """A model of its own modules over the tensors of another one's frozen weights and buffers: one
    copy of the base in memory, and nothing to be switched between calls.

    Args:
        model: of PEFT, with one adapter.
        fresh: with new adapters of the same kind, which change nothing yet, as the global generator
            draws them; else with copies of its own.
    """
    kept = chain(model.parameters(), model.buffers())
    # What is in the memo already is not copied.
    copied = copy.deepcopy(model, {id(each): each for each in kept if not each.requires_grad})
    # One that accelerate has prepared would not be wrapped for several processes again.
    vars(copied).pop("_is_accelerate_prepared", None)
    if fresh:
        settings = copy.deepcopy(copied.peft_config[_FIRST])
        if getattr(settings, "init_lora_weights", True) not in _NEUTRAL:
            settings.init_lora_weights = True
        copied.add_adapter(_SECOND, settings)
        copied.set_adapter(_SECOND)
        copied.delete_adapter(_FIRST)
    return copied
