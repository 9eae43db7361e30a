"""How long an input a model takes."""

from __future__ import annotations

from numbers import Integral

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


def sequence_length(model: PreTrainedModel, length: int | None) -> int:
    """L: `length`, or all that the model can take.

    Raises:
        ValueError: if the model has no such length, or none is known.
    """
    most = window(model)
    grid = getattr(unwrapped(model).config, "token_shape", None)
    if length is None and most is None:
        raise ValueError("Pass `length`: the model's config has no max_position_embeddings.")
    length = most if length is None else length
    if not isinstance(length, Integral) or isinstance(length, bool):
        raise ValueError(f"`length` must be an integer, got {length!r}.")
    if grid is not None and length != most:
        raise ValueError(f"length={length}, but the model's token_shape={grid} has {most}.")
    if length < 1 or (most is not None and length > most):
        raise ValueError(f"length={length} must lie in [1, {most}], the model's window.")
    return length
