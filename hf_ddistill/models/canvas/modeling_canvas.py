"""A network of transformers that denoises a canvas behind a prompt, as a masked language model is
called: DiffusionGemma, whose encoder reads the prompt and whose decoder the canvas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_utils import PreTrainedModel

from hf_ddistill.models.canvas.configuration_canvas import CanvasConfig


class CanvasLM(PreTrainedModel):
    """
    Logits of the tokens of a canvas, all of which see each other and the prompt before them.

    Args:
        config (`CanvasConfig`): with that of the network.
        lm (`PreTrainedModel`, *optional*): the network, taken over as it is; a new one by the
            configuration if not given.
    """

    config: CanvasConfig
    config_class = CanvasConfig
    base_model_prefix = "lm"
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(self, config: CanvasConfig, lm: PreTrainedModel | None = None) -> None:
        if config.network_config is None:
            raise ValueError("An empty CanvasConfig makes no model: give it a network_config.")
        super().__init__(config)
        self.lm = DiffusionGemmaForBlockDiffusion(config.network_config) if lm is None else lm
        self.config.network_config = self.lm.config
        self.post_init()

    def get_input_embeddings(self) -> torch.nn.Module:
        """Those of the decoder."""
        return self.lm.model.decoder.embed_tokens

    def get_output_embeddings(self) -> torch.nn.Module:
        """The head."""
        return self.lm.lm_head

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        at: Tensor | None = None,
        *,
        prompt_ids: Tensor | None = None,
        prompt_mask: Tensor | None = None,
        self_conditioning_logits: Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, length)`): x_t, the canvas.
            attention_mask (`torch.Tensor` of the same shape, *optional*): 0 at padding.
            at (`torch.LongTensor` of shape `(N,)`, *optional*): row * length + position of those
                to answer for.
            prompt_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`, *optional*):
                what stands before; the beginning-of-sequence token if not given.
            prompt_mask (`torch.Tensor` of the same shape, *optional*): 0 at padding.
            self_conditioning_logits (`torch.Tensor` of shape `(batch_size, length, vocab_size)`,
                *optional*): those of the call before.

        Returns:
            `MaskedLMOutput`: `logits` of shape (batch_size, length, K), or (N, K).

        Raises:
            ValueError: without a prompt where there is no beginning-of-sequence token.
        """
        if prompt_ids is None:
            start = self.config.bos_token_id
            if not isinstance(start, int):
                raise ValueError(
                    "The network reads a prompt before the canvas, and its configuration names no "
                    "one bos_token_id to stand in its place; give prompt_ids."
                )
            prompt_ids = input_ids.new_full((len(input_ids), 1), start)
        masks = {}
        if prompt_mask is not None or attention_mask is not None:
            before = torch.ones_like(prompt_ids) if prompt_mask is None else prompt_mask
            canvas = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            masks = {
                "attention_mask": before,
                "decoder_attention_mask": torch.cat([before.bool(), canvas.bool()], 1),
            }
        hidden = self.lm.model(
            input_ids=prompt_ids,
            decoder_input_ids=input_ids,
            self_conditioning_logits=self_conditioning_logits,
            **masks,
            **kwargs,
        ).last_hidden_state
        if at is not None:
            hidden = hidden.flatten(0, 1)[at]
        cap = self.lm.final_logit_softcapping
        logits = self.lm.lm_head(hidden).float()
        return MaskedLMOutput(logits=torch.tanh(logits / cap) * cap)


__all__ = ["CanvasLM"]
