"""What converters of language models write as an example of their source."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

_SIZES = {
    "vocab_size": 12,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
}


def small_language_model(cls: type[PreTrainedConfig], **more: Any) -> PreTrainedModel:
    """A causal language model of a few hundred random weights, the same ones each time.

    Args:
        cls: of its configuration.
        **more: fields beside the sizes, or in their place.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(cls(**_SIZES | more))
