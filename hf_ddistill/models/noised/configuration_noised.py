"""Configuration of a masked language model with a noise input."""

# No `from __future__ import annotations` here: `@strict` skips fields whose annotation is a string.
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec


@strict
class NoisedMaskedLMConfig(PreTrainedConfig):
    r"""
    Configuration of a `NoisedMaskedLM`.

    Args:
        text_config (`PreTrainedConfig` or `dict`): that of the masked language model; BERT's if not
            given.
        noise_dim (`int`): numbers of noise at each position.
        vocab_size, max_position_embeddings, hidden_size, mask_token_id, pad_token_id,
            bos_token_id, eos_token_id: those of `text_config` if not given.
        held_tokens (`dict`, *optional*): tokens that are given and never drawn.
        discrete_diffusion (`dict`, *optional*): what the network was trained for.

    Raises:
        ValueError: for a `noise_dim` below 1.
    """

    model_type = "noised_masked_lm"
    sub_configs_defaults = {"text_config": SubConfigSpec(AutoConfig, model_type="bert")}

    text_config: dict | PreTrainedConfig | None = None
    noise_dim: int = 8
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    hidden_size: int | None = None
    tie_word_embeddings: bool = False
    mask_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    held_tokens: dict | None = None
    discrete_diffusion: dict | None = None

    def __post_init__(self, **kwargs: Any):  # noqa: ANN401, ANN204 (the base class decides both)
        super().__post_init__(**kwargs)
        if self.noise_dim < 1:
            raise ValueError(f"noise_dim must be at least 1, got {self.noise_dim}")
        text = self.text_config
        taken = ("vocab_size", "max_position_embeddings", "hidden_size", "mask_token_id")
        for name in (*taken, "pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(text, name, None))
        self.tie_word_embeddings = text.tie_word_embeddings


__all__ = ["NoisedMaskedLMConfig"]
