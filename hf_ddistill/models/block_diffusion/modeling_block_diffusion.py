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

from hf_ddistill.models.block_diffusion.configuration_block_diffusion import BlockDiffusionConfig
from hf_ddistill.models.block_diffusion.generation_block_diffusion import (
    BlockDiffusionGenerationConfig,
    BlockDiffusionGenerationMixin,
)
from hf_ddistill.models.block_diffusion.masked_loss import check_labels, masked_loss
from hf_ddistill.models.block_diffusion.masks import Layout, attention_masks, layout_of
from hf_ddistill.shapes import LOG_ZERO


class BlockDiffusionLM(PreTrainedModel, BlockDiffusionGenerationMixin):
    """
    A causal language model whose attention is bidirectional within a block and causal between
    blocks, and whose output at a mask speaks of the token behind it.

    One set of weights, three readings: block diffusion, any other block size (`block_size=1` is
    the causal model's attention, one not below L full attention), and the causal language model
    itself (`causal=True`). Tools for causal models, such as a likelihood harness, take `model.lm`,
    which is one with the same weights.

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
        if config.mask_token_id is None:
            raise ValueError(
                "An empty BlockDiffusionConfig makes no model: give it the causal model's "
                "text_config and a mask_token_id, as to_block_diffusion does."
            )
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

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> torch.nn.Embedding:
        """As the base class: embeddings, head, configurations and the process in
        `config.discrete_diffusion` get as many tokens; the mask stays the token that it is.

        Raises:
            ValueError: for a size that leaves no row for the mask token.
        """
        mask = self.config.mask_token_id
        if new_num_tokens is not None and new_num_tokens <= mask:
            raise ValueError(
                f"{new_num_tokens} tokens leave no row for the mask token {mask}; keep at least "
                f"{mask + 1}."
            )
        embeddings = self.lm.resize_token_embeddings(
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        if new_num_tokens is None and pad_to_multiple_of is None:
            return embeddings
        rows = self.config.vocab_size = embeddings.weight.shape[0]
        entry = self.config.discrete_diffusion
        if entry is not None:
            process = {**entry["process"], "vocab_size": rows}
            self.config.discrete_diffusion = {**entry, "process": process}
        return embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        clean_ids: Tensor | None = None,
        at: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        inputs_embeds: Tensor | None = None,
        noise: Tensor | None = None,
        block_size: int | None = None,
        causal: bool = False,
        columns: Tensor | None = None,
        finished: Tensor | None = None,
        cache: Cache | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast | tuple:
        r"""
        Logits over the vocabulary, the mask token included.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): x_t.
            attention_mask (`torch.Tensor` of shape `(batch_size, columns)`): 0 at padding, which
                may be on either side; of all columns, those in the cache included.
            clean_ids (`torch.LongTensor` of shape `(batch_size, length)`): x_0: a block of x_t then
                sees itself and the clean blocks before it, all blocks in one call.
            at (`torch.LongTensor` of shape `(N,)`): row * length + position of those to answer for.
            labels (`torch.LongTensor` of shape `(batch_size, length)`): x_0 where it is asked for,
                -100 elsewhere; the loss is the mean cross-entropy there, each token at its own
                position, as a masked language model's. (Objectives weight it by the process.)
            inputs_embeds (`torch.Tensor` of shape `(batch_size, length, hidden_size)`): in place
                of `input_ids`.
            noise (`torch.Tensor` of shape `(batch_size, length, noise_dim)`, *optional*): standard
                normal, 0 at tokens that are decided; none counts as 0.
            block_size (`int`, *optional*): instead of the configuration's.
            causal (`bool`): read as the causal model: causal attention, and the output for token i
                is what that model says of it, given the tokens before: of `input_ids` in its own
                block, and of `clean_ids` (if given) in the blocks before. (Nothing says the first
                one; its output is its own.)
            columns (`torch.LongTensor` of shape `(cached + length,)`): the columns of the cached
                tokens and of these; in order from 0 if not given. Or, of shape `(1 or batch_size,
                length)`, those of these tokens alone, where the cache has a place for each column.
            finished (`torch.LongTensor` of shape `(batch_size,)`): the column before which blocks
                are finished, which a `causal_context` reads causally; 0 if not given.
            cache (`Cache`): gets these tokens added.
            output_hidden_states (`bool`): of all layers, the clean copy (if given) in front.
            output_attentions (`bool`): likewise; with eager attention alone.
            return_dict (`bool`): False for a tuple.
            num_items_in_batch (`int`): divides the sum of the loss, in place of its own count.

        Returns:
            `CausalLMOutputWithPast`: `logits` of shape (batch_size, length, K), or (N, K).

        Raises:
            ValueError: for inputs that exclude or do not fit each other.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("Give input_ids or inputs_embeds, and not both.")
        given = input_ids if inputs_embeds is None else inputs_embeds
        rows, length = given.shape[:2]
        if columns is None:
            cached = 0 if cache is None else cache.get_seq_length()
            columns = torch.arange(cached + length, device=given.device)
        size = block_size or self.config.block_size
        layout = layout_of((rows, length), clean_ids, attention_mask, columns, size, cache)
        context = self.config.causal_context
        layout = replace(layout, causal=causal, causal_context=context)
        if context and finished is not None:
            layout = replace(layout, finished=finished)
        text = self.lm.config
        masks = attention_masks(text, layout, rows, self.get_input_embeddings().weight.dtype)
        asked = {"output_hidden_states": output_hidden_states}
        asked |= {"output_attentions": output_attentions}
        asked = {
            name: getattr(self.config, name) if value is None else value
            for name, value in asked.items()
        }
        if asked["output_attentions"] and text._attn_implementation != "eager":
            raise ValueError(
                f"Attention {text._attn_implementation!r} does not say its weights; load the model "
                "with attn_implementation='eager' for output_attentions."
            )
        decoded = self.lm.get_decoder()(
            **self._inputs(input_ids, inputs_embeds, clean_ids, noise),
            attention_mask=masks,
            position_ids=layout.positions().expand(rows, -1),
            cache=cache,
            use_cache=cache is not None,
            **{name: True for name, value in asked.items() if value},
            **kwargs,
        )
        hidden = decoded.last_hidden_state
        if at is None:
            own = torch.arange(length, device=given.device)
            hidden = hidden[:, self._source(layout, own, length, causal)]
        else:
            hidden = hidden.flatten(0, 1)[self._speaking(layout, at, length, causal)]
        logits, loss = self._head(hidden), None
        if labels is not None:
            check_labels(labels, input_ids, self.config.mask_token_id, causal)
            loss = masked_loss(
                logits, labels if at is None else labels.flatten()[at], num_items_in_batch
            )
        more = {name: getattr(decoded, name, None) for name in ("hidden_states", "attentions")}
        output = CausalLMOutputWithPast(loss=loss, logits=logits, cache=cache, **more)
        as_tuple = not (self.config.return_dict if return_dict is None else return_dict)
        return output.to_tuple() if as_tuple else output

    def _inputs(
        self,
        ids: Tensor | None,
        embeds: Tensor | None,
        clean: Tensor | None,
        noise: Tensor | None,
    ) -> dict[str, Tensor]:
        """What the decoder reads: the clean copy, if there is one, in front."""
        if embeds is None:
            ids = ids if clean is None else torch.cat([clean, ids], 1)
            if noise is None:
                return {"input_ids": ids}
            embeds = self.get_input_embeddings()(ids)
        elif clean is not None:
            embeds = torch.cat([self.get_input_embeddings()(clean), embeds], 1)
        if noise is None:
            return {"inputs_embeds": embeds}
        if self.noise_proj is None:
            raise ValueError("The model has no noise input (config.noise_dim is 0).")
        added = self.noise_proj(noise.to(self.noise_proj.weight.dtype))
        # A clean copy in front of the noisy one gets none.
        before = embeds.shape[1] - added.shape[1]
        return {"inputs_embeds": embeds + torch.nn.functional.pad(added, (0, 0, before, 0))}

    def _source(self, layout: Layout, own: Tensor, length: int, causal: bool) -> Tensor:
        """Which of the computed hidden states speaks of each of these positions."""
        offset = layout.queries.shape[1] - length  # a clean copy in front
        if not (causal or self.config.shift_logits):
            return own + offset if offset else own
        before = (own - 1).clamp_min(0)
        if not offset:
            return before
        columns = layout.columns[-length:][own]
        # The end of the block before is known: it stands in the clean copy. Before the first token
        # there is none, and the clean first token is the answer.
        first = (columns % layout.block_size == 0) & (columns > 0)
        return torch.where(first, before, before + offset)

    def _speaking(self, layout: Layout, at: Tensor, length: int, causal: bool) -> Tensor:
        """The numbers of the computed hidden states that speak of positions by theirs."""
        queries = layout.queries.shape[1]
        if queries == length and not (causal or self.config.shift_logits):
            return at
        return at // length * queries + self._source(layout, at % length, length, causal)

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


__all__ = ["BlockDiffusionLM"]
