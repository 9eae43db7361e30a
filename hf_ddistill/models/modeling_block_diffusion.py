"""A causal language model's weights as a block-diffusion language model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from hf_ddistill.models.block_masks import Layout, attention_masks
from hf_ddistill.models.configuration_block_diffusion import BlockDiffusionConfig
from hf_ddistill.models.generation_block_diffusion import (
    BlockDiffusionGenerationConfig,
    BlockDiffusionGenerationMixin,
)
from hf_ddistill.shapes import LOG_ZERO


class BlockDiffusionLM(PreTrainedModel, BlockDiffusionGenerationMixin):
    """
    A causal language model whose attention is bidirectional within a block and causal between
    blocks, and whose output at a mask speaks of the token behind it.

    One set of weights, three readings: block diffusion, any other block size (`block_size=1` is
    the causal model's attention, one not below L full attention), and the causal language model
    itself (`causal=True`).

    References:
        Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models (2025),
        https://arxiv.org/abs/2503.09573
        Data-Efficient Autoregressive-to-Diffusion Language Models via On-Policy Distillation
        (2026), https://arxiv.org/abs/2606.06712

    Args:
        config (`BlockDiffusionConfig`): with that of the causal model.
        lm (`PreTrainedModel`, *optional*): the causal model, which is taken over as it is; a new
            one by the configuration if not given.
    """

    config: BlockDiffusionConfig
    config_class = BlockDiffusionConfig
    # Here and not in the mixin: the base class, which comes first, has one.
    generation_config_class = BlockDiffusionGenerationConfig
    base_model_prefix = "lm"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: BlockDiffusionConfig, lm: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.lm = AutoModelForCausalLM.from_config(config.text_config) if lm is None else lm
        # One object: what is changed in either (the attention, the vocabulary) is saved.
        self.config.text_config = self.lm.config
        self.noise_proj = None
        if config.noise_dim:
            width = self.get_input_embeddings().embedding_dim
            self.noise_proj = torch.nn.Linear(config.noise_dim, width, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        """Those of the causal model."""
        return self.lm.get_input_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        """Replace those of the causal model."""
        self.lm.set_input_embeddings(value)

    def get_output_embeddings(self) -> torch.nn.Module:
        """The causal model's head."""
        return self.lm.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: torch.nn.Module) -> None:
        """Replace the causal model's head."""
        self.lm.set_output_embeddings(new_embeddings)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        clean_ids: Tensor | None = None,
        at: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        block_size: int | None = None,
        causal: bool = False,
        columns: Tensor | None = None,
        cache: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        r"""
        Logits over the vocabulary, the mask token included.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): x_t.
            attention_mask (`torch.Tensor` of shape `(batch_size, columns)`): 0 at padding, which
                may be on either side; of all columns, those in the cache included.
            clean_ids (`torch.LongTensor` of shape `(batch_size, length)`): x_0: a block of x_t then
                sees itself and the clean blocks before it, all blocks in one call.
            at (`torch.BoolTensor` of shape `(batch_size, length)`): the N positions to answer for.
            noise (`torch.Tensor` of shape `(batch_size, length, noise_dim)`, *optional*): standard
                normal, 0 at tokens that are decided; none counts as 0.
            block_size (`int`, *optional*): instead of the configuration's.
            causal (`bool`): read as the causal model: causal attention, and the output for token i
                is what that model says of it, given the tokens before: of `input_ids` in its own
                block, and of `clean_ids` (if given) in the blocks before. (Nothing says the first
                one; its output is its own.)
            columns (`torch.LongTensor` of shape `(cached + length,)`): the columns of the cached
                tokens and of these; in order from 0 if not given.
            cache (`Cache`): gets these tokens added.

        Returns:
            `CausalLMOutputWithPast`: `logits` of shape (batch_size, length, K), or (N, K).
        """
        if columns is None:
            cached = 0 if cache is None else cache.get_seq_length()
            columns = torch.arange(cached + input_ids.shape[1], device=input_ids.device)
        size = block_size or self.config.block_size
        layout = _layout(input_ids, clean_ids, attention_mask, columns, size)
        layout = replace(layout, causal=causal)
        ids = input_ids if clean_ids is None else torch.cat([clean_ids, input_ids], 1)
        text = self.lm.config
        masks = attention_masks(text, layout, len(ids), self.get_input_embeddings().weight.dtype)
        hidden = self.lm.get_decoder()(
            **self._inputs(ids, noise),
            attention_mask=masks,
            position_ids=layout.positions().expand(len(ids), -1),
            cache=cache,
            use_cache=cache is not None,
            **kwargs,
        ).last_hidden_state
        source = self._source(layout, input_ids.shape[1], causal)
        if at is None:
            hidden = hidden[:, source]
        else:
            rows, positions = at.nonzero(as_tuple=True)
            hidden = hidden[rows, source[positions]]
        return CausalLMOutputWithPast(logits=self._head(hidden), cache=cache)

    def _inputs(self, ids: Tensor, noise: Tensor | None) -> dict[str, Tensor]:
        if noise is None:
            return {"input_ids": ids}
        if self.noise_proj is None:
            raise ValueError("The model has no noise input (config.noise_dim is 0).")
        added = self.noise_proj(noise.to(self.noise_proj.weight.dtype))
        # A clean copy in front of the noisy one gets none.
        before = ids.shape[1] - added.shape[1]
        added = torch.nn.functional.pad(added, (0, 0, before, 0))
        return {"inputs_embeds": self.get_input_embeddings()(ids) + added}

    def _source(self, layout: Layout, length: int, causal: bool) -> Tensor:
        """(length,), which of the computed hidden states speaks of each position."""
        copies = layout.queries // length
        own = torch.arange(length, device=layout.columns.device)
        offset = (copies - 1) * length
        if not (causal or self.config.shift_logits):
            return own + offset
        before = (own - 1).clamp_min(0)
        if copies == 1:
            return before
        columns = layout.columns[-length:]
        # The end of the block before is known: it stands in the clean copy. Before the first token
        # there is none, and the clean first token is the answer.
        first = (columns % layout.block_size == 0) & (columns > 0)
        return torch.where(first, before, before + offset)

    def _head(self, hidden: Tensor) -> Tensor:
        logits = self.lm.get_output_embeddings()(hidden)
        cap = getattr(self.lm.config, "final_logit_softcapping", None)
        if cap is not None:
            logits = torch.tanh(logits / cap) * cap
        missing = self.config.vocab_size - logits.shape[-1]
        if missing:
            # LOG_ZERO is more than half precision can say.
            logits = torch.nn.functional.pad(logits.float(), (0, missing), value=LOG_ZERO)
        return logits


def _layout(
    input_ids: Tensor,
    clean_ids: Tensor | None,
    attention_mask: Tensor | None,
    columns: Tensor,
    block_size: int,
) -> Layout:
    length = input_ids.shape[1]
    real = None if attention_mask is None else attention_mask.bool()
    if real is not None and bool(real.all()):
        real = None
    if clean_ids is None:
        return Layout(columns, length, block_size, None, real)
    if clean_ids.shape != input_ids.shape:
        raise ValueError(
            f"clean_ids has shape {tuple(clean_ids.shape)} and input_ids "
            f"{tuple(input_ids.shape)}: they are two states of the same tokens."
        )
    clean = torch.arange(2 * length, device=columns.device) < length
    return Layout(columns.repeat(2), 2 * length, block_size, clean, real)


__all__ = ["BlockDiffusionLM"]
