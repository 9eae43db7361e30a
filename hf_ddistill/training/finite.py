"""Weights and gradients that are numbers, before they do harm."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from hf_ddistill.training.losses import read
from hf_ddistill.training.sharding import is_sharded, local, whole


def check_step(loss: Tensor, norm: Tensor | float | None, objective: str, step: int) -> None:
    """Raise unless the loss and the norm of its gradient are numbers, while the weights have not
    taken it yet; the one wait for the device in an optimizer step.

    Args:
        loss: the sum over the micro batches.
        norm: of the gradient of the model in training; None where others look at it.
        objective: id of what gave the loss.
        step: the optimizer step that would take it, from 0.

    Raises:
        ValueError: if one is infinite or NaN.
    """
    seen = {"loss": loss} if norm is None else {"loss": loss, "norm": torch.as_tensor(whole(norm))}
    found = read(seen)
    if not math.isfinite(found["loss"]):
        raise ValueError(
            f"The loss of {objective!r} is {found['loss']} at step {step}; lower the learning rate "
            "or look at `hf-ddistill diagnose`."
        )
    if norm is not None:
        check_gradient(found["norm"], "model", step)


def check_gradient(norm: Tensor | float, whose: str, step: int) -> None:
    """Raise unless the norm of a gradient is a number, while the weights have not taken it yet.

    Args:
        norm: over all its parameters.
        whose: the network, for the error.
        step: the optimizer step that would take it, from 0.

    Raises:
        ValueError: if it is infinite or NaN.
    """
    norm = float(norm)
    if not math.isfinite(norm):
        raise ValueError(
            f"The gradient of the {whose} has the norm {norm} at step {step}, which would end its "
            "weights: lower the learning rate (or look at `hf-ddistill diagnose`), and go on from "
            "the last checkpoint if there is one."
        )


def check_weights(named: Iterable[tuple[str, Tensor]], accelerator: Accelerator, step: int) -> None:
    """Raise unless all weights are numbers.

    Args:
        named: the weights.
        accelerator: of the training; where it shards them, all processes must call.
        step: optimizer steps that were taken.

    Raises:
        ValueError: if one is infinite or NaN, with the names of the first ones.
    """
    bad = [name for name, value in named if not _finite(value)]
    if is_sharded(accelerator):
        bad = sorted(set(gather_object(bad)))
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(
            f"Weights are infinite or NaN after step {step} ({', '.join(bad[:3])}{more}), and are "
            "not saved: lower the learning rate and go on from the last checkpoint, which is whole."
        )


def _finite(value: Tensor) -> bool:
    own = local(value)
    return not own.is_floating_point() or bool(own.detach().isfinite().all())
