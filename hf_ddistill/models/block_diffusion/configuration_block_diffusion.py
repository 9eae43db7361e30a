"""Configuration of a block-diffusion language model around a causal one."""

# No `from __future__ import annotations` here: `@strict` skips fields whose annotation is a string.
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec


@strict
class BlockDiffusionConfig(PreTrainedConfig):
    r"""
    Configuration of a block-diffusion language model: a causal language model's weights under
    attention that is bidirectional within a block and causal between blocks.

    References:
        Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models (2025),
        https://arxiv.org/abs/2503.09573

    Args:
        text_config (`PreTrainedConfig` or `dict`): that of the causal language model.
        block_size (`int`): tokens in a block; 1 is causal attention, one that is not below the
            length is full attention.
        mask_token_id (`int`): index of the mask token, a row of the embeddings.
        shift_logits (`bool`): the output at i - 1 speaks of token i, as in the causal model; for
            the first token of a block it is the last of the block before. False: the output at i
            speaks of token i.
        causal_context (`bool`): a token of a finished block sees nothing behind it, not in its own
            block either, as in the causal model; one in work sees all of its block, as without.
        noise_dim (`int`): width of the noise input per position, added to the embeddings through a
            linear layer; 0 for none. With it the tokens of a call can be drawn together: the noise
            carries the plan that they share.
        vocab_size (`int`, *optional*): K, the mask token included; that of `text_config` if not
            given. A greater one gives probability 0 to the tokens that the causal model lacks.
        discrete_diffusion (`dict`, *optional*): the process that the model was trained for; masks.

    Raises:
        ValueError: without a causal model's configuration or a mask token inside the vocabulary,
            for a block of less than one token, and for another model's configuration.
    """

    model_type = "block_diffusion"
    sub_configs_defaults = {"text_config": SubConfigSpec(AutoConfig, model_type="llama")}

    text_config: dict | PreTrainedConfig | None = None
    block_size: int = 4
    mask_token_id: int | None = None
    shift_logits: bool = False
    causal_context: bool = False
    noise_dim: int = 0
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    hidden_size: int | None = None
    tie_word_embeddings: bool = False
    pad_token_id: int | None = None
    bos_token_id: int | list[int] | None = None
    eos_token_id: int | list[int] | None = None
    discrete_diffusion: dict | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any):  # noqa: ANN206 (as the base)
        """As the base class; a causal model's configuration is not taken for one of these, which
        would make a model of the default sizes out of it."""
        kind = config_dict.get("model_type", cls.model_type)
        if kind != cls.model_type:
            raise ValueError(
                f"A {kind} model is no block-diffusion model: make one of a causal language model "
                "with to_block_diffusion(AutoModelForCausalLM.from_pretrained(...), tokenizer), or "
                "`hf-ddistill convert MODEL --output FOLDER`, and load that."
            )
        return super().from_dict(config_dict, **kwargs)

    def __post_init__(self, **kwargs: Any):  # noqa: ANN401, ANN204 (the base class decides both)
        # The base class, when it writes only what differs from a default, makes an empty one.
        if self.text_config is None:
            if self.mask_token_id is not None or self.vocab_size is not None:
                raise ValueError(
                    "a block-diffusion model needs text_config, the configuration of its causal "
                    "language model; to_block_diffusion makes both"
                )
            super().__post_init__(**kwargs)
            return
        super().__post_init__(**kwargs)
        text = self.text_config
        for name in ("vocab_size", "max_position_embeddings", "hidden_size"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(text, name))
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(text, name, None))
        self.tie_word_embeddings = text.tie_word_embeddings
        if self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}")
        if self.noise_dim < 0:
            raise ValueError(f"noise_dim must be at least 0 (0 turns it off), got {self.noise_dim}")
        if self.mask_token_id is None:
            raise ValueError(
                "a block-diffusion model needs mask_token_id, the row of the embeddings that "
                "stands for a token not yet decided; to_block_diffusion adds one"
            )
        if not 0 <= self.mask_token_id < self.vocab_size:
            raise ValueError(
                f"mask_token_id={self.mask_token_id} is no row of the embeddings: it must be from "
                f"0 to {self.vocab_size - 1}"
            )


__all__ = ["BlockDiffusionConfig"]
