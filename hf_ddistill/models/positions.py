"""How long an input a model takes."""

from __future__ import annotations

from torch import nn
from transformers.modeling_utils import PreTrainedModel

from hf_ddistill.models.as_denoiser import unwrapped


def window(model: PreTrainedModel) -> int | None:
    """The most tokens that a model takes; None where its configuration names no number.

    Embeddings of positions that start behind the pad token (RoBERTa, XLM-R, ESM, MPNet, ...) have
    its row and those before it for padding: of 514 rows with padding at 1, 512 are positions.

    Args:
        model: perhaps wrapped.
    """
    inner = unwrapped(model)
    known = getattr(inner.config, "max_position_embeddings", None)
    rows = [
        part.num_embeddings - part.padding_idx - 1
        for name, part in inner.named_modules()
        if isinstance(part, nn.Embedding)
        and part.padding_idx is not None
        and "position" in name.rsplit(".", 1)[-1]
    ]
    return known if known is None else min(rows + [known])
