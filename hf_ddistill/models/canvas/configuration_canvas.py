"""Configuration of a network that denoises a canvas behind a prompt."""

# No `from __future__ import annotations` here: `@strict` skips fields whose annotation is a string.
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec


@strict
class CanvasConfig(PreTrainedConfig):
    r"""
    Configuration of a `CanvasLM`.

    Args:
        network_config (`PreTrainedConfig` or `dict`): of the network, such as DiffusionGemma's.
        vocab_size (`int`, *optional*): K; that of the network's text if not given.
        max_position_embeddings (`int`, *optional*): the length of the canvas, that of the network
            if not given.
        discrete_diffusion (`dict`, *optional*): what the network was trained for.
    """

    model_type = "canvas"
    sub_configs_defaults = {
        "network_config": SubConfigSpec(AutoConfig, model_type="diffusion_gemma")
    }

    network_config: dict | PreTrainedConfig | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    discrete_diffusion: dict | None = None
    #: The network is not told the time.
    reads_time: str | None = None

    def __post_init__(self, **kwargs: Any):  # noqa: ANN401, ANN204 (the base class decides both)
        super().__post_init__(**kwargs)
        if self.network_config is None:
            return
        text = self.network_config.get_text_config()
        if self.max_position_embeddings is None:
            self.max_position_embeddings = self.network_config.canvas_length
        for name in ("vocab_size", "pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(text, name, None))


__all__ = ["CanvasConfig"]
