"""Inputs that are no single tokens: Duo's soft and top-k inputs, for any model with embeddings."""

from __future__ import annotations

from torch import Tensor
from transformers import PreTrainedModel


def mixed_embeddings(
    model: PreTrainedModel, shares: Tensor, tokens: Tensor | None = None
) -> Tensor:
    """Mixtures of token embeddings, for the `inputs_embeds` of the model.

        e_l = sum_k shares[l, k] E[k],   or sum_j shares[l, j] E[tokens[l, j]]

    References:
        The Diffusion Duality (2025), https://arxiv.org/abs/2506.10892

    Args:
        model: with token embeddings (K, h).
        shares: (B, L, K), such as the softmax of Duo's soft input, or one-hot rows; with `tokens`
            (B, L, J).
        tokens: (B, L, J) int64, the only tokens that have a share.

    Returns:
        (B, L, h), in the dtype of the embeddings.

    Raises:
        ValueError: for shapes that do not fit.
    """
    table = model.get_input_embeddings().weight
    if tokens is None:
        if shares.ndim != 3 or shares.shape[-1] != len(table):
            raise ValueError(
                f"shares has shape {tuple(shares.shape)}; it must be (B, L, K) with the "
                f"K={len(table)} of the model, or come with tokens."
            )
        return shares.to(table) @ table
    if tokens.shape != shares.shape or tokens.ndim != 3:
        raise ValueError(
            f"shares has shape {tuple(shares.shape)} and tokens {tuple(tokens.shape)}; both must "
            "be (B, L, J)."
        )
    return (shares.to(table)[..., None] * table[tokens]).sum(-2)
