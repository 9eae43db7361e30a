r"""DDiT as a decoder: with given positions, attention and cache (see `modeling_ddit`).

Alone it is a causal model; BD3LM's blocks come with the masks of `block_diffusion`.

References:
    Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models (2025),
    https://arxiv.org/abs/2503.09573
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_ddit_decoder import DDiTDecoderConfig
from .layers_ddit import rotary_angles
from .modeling_ddit import DDiTModel, DDiTPreTrainedModel


class DDiTDecoder(DDiTModel):
    """DDiT backbone with a cache; its modulation, if it has one, is that of time 0."""

    config_class = DDiTDecoderConfig

    def __init__(self, config: DDiTDecoderConfig) -> None:
        super().__init__(config)
        for layer in self.layers:
            layer.attn.is_causal = True  # where no mask is made of it

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        *,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPast:
        """Hidden states (B, L, h); arguments as of decoders in transformers."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        hidden_states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            seen = 0 if cache is None else cache.get_seq_length()
            length = hidden_states.shape[1]
            position_ids = torch.arange(seen, seen + length, device=hidden_states.device)[None]
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            cache=cache,
            position_ids=position_ids,
        )
        condition = None
        if self.condition is not None:
            condition = self.condition(None, None, hidden_states)
        # The same for all heads.
        positions = tuple(x[:, None] for x in rotary_angles(self.config, position_ids))
        for layer in self.layers:
            hidden_states = layer(hidden_states, condition, mask, positions, cache=cache, **kwargs)
        hidden_states = self.norm(hidden_states)
        if self.norm_modulation is not None:
            shift, scale = self.norm_modulation(condition)
            hidden_states = hidden_states * (1 + scale) + shift
        return BaseModelOutputWithPast(last_hidden_state=hidden_states, cache=cache)


class DDiTForCausalLM(DDiTPreTrainedModel, GenerationMixin):
    """`DDiTDecoder` with a linear head over the vocabulary.

    Args:
        config (`DDiTDecoderConfig`): sizes.
    """

    config_class = DDiTDecoderConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: DDiTDecoderConfig) -> None:
        super().__init__(config)
        self.model = DDiTDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        cache: Cache | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        """Logits (B, L, K); arguments as of causal models in transformers."""
        outputs = self.model(input_ids, attention_mask, position_ids, cache, **kwargs)
        logits, loss = self.lm_head(outputs.last_hidden_state), None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = ["DDiTDecoder", "DDiTForCausalLM"]
