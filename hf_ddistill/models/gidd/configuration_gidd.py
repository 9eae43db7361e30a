"""Configuration of GIDD's network."""

# No `from __future__ import annotations` here: `@strict` skips fields whose annotation is a string.
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class GiddConfig(PreTrainedConfig):
    r"""
    Configuration of a `GiddLM`.

    References:
        Scaling Behavior of Discrete Diffusion Language Models (2025),
        https://arxiv.org/abs/2512.10858

    Args:
        attn_soft_cap (`float`): c of the attention scores, c tanh(score / c).
        resid_scale (`float`): what a layer adds is multiplied by it over the number of layers.
        weight_scaling, head_scaling (`float` or `str`): what a projection, and the head, is
            multiplied by: a number, or "fan_in" or "fan_out" to the power of -1/2.
        use_qk_norm (`bool`): normalise queries and keys over the whole width.
        attention_bias (`bool`): a learned key and value before all others.
        mlp_bias (`bool`): of the two projections of a layer's MLP.
        discrete_diffusion (`dict`, *optional*): what the network was trained for.

    Raises:
        ValueError: for heads that do not share the width, and for another scaling.
    """

    model_type = "gidd_lm"

    vocab_size: int = 131072
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    attn_soft_cap: float = 30.0
    max_position_embeddings: int = 1024
    resid_scale: float = 4.0
    rms_norm_eps: float = 1e-6
    use_qk_norm: bool = True
    weight_scaling: str | float = "fan_in"
    head_scaling: str | float = 1.0
    rope_theta: float = 10000.0
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    mask_token_id: int | None = None
    discrete_diffusion: dict | None = None
    #: The network is not told the time.
    reads_time: str | None = None

    def __post_init__(self, **kwargs: Any):  # noqa: ANN401, ANN204 (the base class decides both)
        super().__post_init__(**kwargs)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size={self.hidden_size} must be an even multiple of "
                f"num_attention_heads={self.num_attention_heads}"
            )
        for name in ("weight_scaling", "head_scaling"):
            value = getattr(self, name)
            if isinstance(value, str) and value not in ("fan_in", "fan_out"):
                raise ValueError(f"{name} must be a number, 'fan_in' or 'fan_out', got {value!r}")


__all__ = ["GiddConfig"]
