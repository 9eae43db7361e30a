"""The loss of a masked language model, for those who call a model with `labels`."""

from __future__ import annotations

import torch
from torch import Tensor


def check_labels(labels: Tensor, ids: Tensor | None, mask: int, causal: bool) -> None:
    """Raise for labels that no data hold, and for those that the model reads off its inputs."""
    if bool((labels == mask).any()):
        raise ValueError(
            f"labels hold the mask token {mask}, which no data hold: they are the tokens before "
            "they were masked, and -100 where there is no loss."
        )
    if causal or ids is None:
        return
    seen = (ids == labels)[labels != -100]
    # A collator for masked language models leaves one label in ten as it is; so many of them
    # together are those of a causal model.
    if len(seen) >= 8 and bool(seen.all()):
        raise ValueError(
            "Every label is the token that input_ids shows at its own position, and what is seen "
            "needs no guess: mask tokens (an objective or a collator for masked language models "
            "does), or read the model as the causal one with causal=True."
        )


def masked_loss(logits: Tensor, labels: Tensor, count: Tensor | int | None) -> Tensor:
    """Mean cross-entropy where there is a label."""
    logits, labels = logits.float().flatten(0, -2), labels.flatten().to(logits.device)
    total = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    return total / ((labels != -100).sum().clamp_min(1) if count is None else count)


__all__ = ["check_labels", "masked_loss"]
