r"""Discrete diffusion transformer (DDiT): a bidirectional transformer over noised tokens.

Notation: B batch, L length, K vocabulary size, h hidden size, c condition vector (B, cond_dim),
t in [0, 1] time (0 is data, 1 is noise), x_t noised tokens (B, L).

References:
    Scalable Diffusion Models with Transformers (2022), https://arxiv.org/abs/2212.09748
    Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (2023),
    https://arxiv.org/abs/2310.16834
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_ddit import DDiTConfig
from .layers_ddit import (
    DDiTAttention,
    DDiTCondition,
    DDiTLayer,
    DDiTLayerNorm,
    DDiTModulation,
    at_rows,
    rotary_angles,
)


class DDiTPreTrainedModel(PreTrainedModel):
    """Initialisation and the features common to the backbone and its heads."""

    # Not from an annotation, which would be a string in this file.
    config_class = DDiTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DDiTLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": DDiTLayer, "attentions": DDiTAttention}

    def resize_token_embeddings(
        self,
        new_num_tokens: int | None = None,
        pad_to_multiple_of: int | None = None,
        mean_resizing: bool = True,
    ) -> nn.Embedding:
        """As in transformers; the process in `config.discrete_diffusion` gets the new vocabulary,
        too, and its mask stays the token that it was."""
        if new_num_tokens is not None:  # refused before anything is changed
            self.config.process_of_size(new_num_tokens)
        embeddings = super().resize_token_embeddings(
            new_num_tokens, pad_to_multiple_of, mean_resizing
        )
        process = self.config.process_of_size(self.config.vocab_size)
        if process is not None:
            self.config.discrete_diffusion = {**self.config.discrete_diffusion, "process": process}
        return embeddings

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # A parameter is initialised once, at its own module and before any parent: hence the mark.
        std = getattr(module, "init_std", None)
        if std is None:
            super()._init_weights(module)
            return
        init.normal_(module.weight, std=std)
        if getattr(module, "bias", None) is not None:
            init.zeros_(module.bias)


class DDiTModel(DDiTPreTrainedModel):
    """DDiT backbone: hidden states (B, L, h) after the final (modulated) norm."""

    def __init__(self, config: DDiTConfig) -> None:
        super().__init__(config)
        std = config.embedding_initializer_range
        if config.tie_word_embeddings:
            std = min(std, config.hidden_size**-0.5)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_tokens.init_std = std
        self.embed_positions = None
        if config.has_learned_positions:
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
            position_std = config.position_initializer_range
            self.embed_positions.init_std = std if position_std is None else position_std
        self.noise_proj = None
        if config.noise_dim:
            self.noise_proj = nn.Linear(config.noise_dim, config.hidden_size, bias=False)
            self.noise_proj.init_std = std * config.noise_dim**-0.5
        self.condition = DDiTCondition(config) if config.is_conditional else None
        self.layers = nn.ModuleList([DDiTLayer(config, i) for i in range(config.num_hidden_layers)])
        self.norm = DDiTLayerNorm(config.hidden_size, config.norm_eps)
        self.norm_modulation = DDiTModulation(config, chunks=2) if config.is_conditional else None
        self.gradient_checkpointing = False
        self.post_init()

    def _embed(self, inputs_embeds: torch.Tensor, noise: torch.Tensor | None) -> torch.Tensor:
        """Add learned positions and projected noise to the token embeddings (B, L, h)."""
        length = inputs_embeds.shape[1]
        shape = self.config.token_shape
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"got {length} tokens; this model has "
                f"max_position_embeddings={self.config.max_position_embeddings}"
            )
        if shape is not None and length != torch.Size(shape).numel():
            raise ValueError(
                f"got {length} tokens; token_shape={shape} has {torch.Size(shape).numel()}"
            )
        if noise is not None:
            shared = self.config.noise_per == "sequence"
            expected = (*inputs_embeds.shape[: 1 if shared else 2], self.config.noise_dim)
            if self.noise_proj is None:
                raise ValueError("got noise, but this model has noise_dim=0 and no input for it")
            if noise.shape != expected:
                raise ValueError(
                    f"noise has shape {tuple(noise.shape)}; it must be "
                    f"{'(B, noise_dim)' if shared else '(B, L, noise_dim)'} = {expected}"
                )
            added = self.noise_proj(noise.to(self.noise_proj.weight))
            inputs_embeds = inputs_embeds + (added[:, None] if shared else added)
        if self.embed_positions is not None:
            positions = torch.arange(length, device=inputs_embeds.device)
            inputs_embeds = inputs_embeds + self.embed_positions(positions)
        return inputs_embeds

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        timesteps: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        class_labels: torch.LongTensor | None = None,
        noise: torch.Tensor | None = None,
        at: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutput:
        """See `DDiTForDiscreteDiffusion.forward`; with `at` the last hidden state is (N, h)."""
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if class_labels is not None and not self.config.num_classes:
            raise ValueError(
                "got class_labels, but this model has num_classes=0 and no input for them"
            )
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        hidden_states = self._embed(inputs_embeds, noise)
        if class_labels is not None and class_labels.shape != hidden_states.shape[:1]:
            raise ValueError(
                f"class_labels has shape {tuple(class_labels.shape)}; it must be (B,) = "
                f"{tuple(hidden_states.shape[:1])}"
            )
        condition = None
        if self.condition is not None:
            condition = self.condition(timesteps, class_labels, hidden_states)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        positions = None
        if self.config.has_rotary_positions:
            index = torch.arange(hidden_states.shape[1], device=hidden_states.device)
            positions = rotary_angles(self.config, index)
        length = hidden_states.shape[1]
        *layers, last = self.layers
        for layer in layers:
            hidden_states = layer(hidden_states, condition, mask, positions, **kwargs)
        hidden_states = last(hidden_states, condition, mask, positions, at, **kwargs)
        hidden_states = self.norm(hidden_states)
        if self.norm_modulation is not None:
            shift, scale = at_rows(self.norm_modulation(condition), at, length)
            hidden_states = hidden_states * (1 + scale) + shift
        return BaseModelOutput(last_hidden_state=hidden_states)


class DDiTKwargs(TransformersKwargs, total=False):
    """What `DDiTForDiscreteDiffusion` takes beside its named inputs.

    `Trainer` counts every named input with "label" in it as something to be learnt, and measures no
    loss where one of them is missing.
    """

    class_labels: torch.LongTensor | None


class DDiTForDiscreteDiffusion(DDiTPreTrainedModel):
    """DDiT with a linear head over the vocabulary: the network of a discrete diffusion model.

    Args:
        config (`DDiTConfig`): sizes and inputs.
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    #: Inputs that the signature of `forward` does not name.
    more_inputs = frozenset({"class_labels"})

    def __init__(self, config: DDiTConfig) -> None:
        super().__init__(config)
        self.model = DDiTModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size)
        # Without it the loss would be the causal one, which shifts the labels.
        self.loss_type = "ForMaskedLM"
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        timesteps: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        noise: torch.Tensor | None = None,
        at: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        **kwargs: Unpack[DDiTKwargs],
    ) -> MaskedLMOutput:
        """Logits (B, L, K), or (N, K) for the N positions of `at`.

        Args:
            input_ids: noised tokens x_t (B, L).
            timesteps: times (B,), in [0, 1] or as `time_input` says; needed with
                `time_conditioning`, unused without.
            attention_mask: 1 for tokens, 0 for padding (B, L).
            class_labels: labels (B,); None is the null class `num_classes`.
            noise: noise (B, L, noise_dim), or (B, noise_dim) of sequences; None adds nothing.
            at: row * L + position (N,) of the only positions that are answered for: the others
                do not go through the head, nor through more of the last layer than its keys and
                values.
            inputs_embeds: token embeddings (B, L, h) instead of `input_ids`.
            labels: clean tokens (B, L), -100 where there is no loss.

        Raises:
            ValueError: for a missing time, for noise or labels that the model has no input for,
                for wrong lengths, for a loss of a model with classes without them.
        """
        class_labels = kwargs.pop("class_labels", None)
        if labels is not None and self.config.num_classes and class_labels is None:
            raise ValueError(
                f"A loss of a model with num_classes={self.config.num_classes} needs class_labels "
                f"({self.config.num_classes} is the null class); a Trainer drops the column unless "
                "it has remove_unused_columns=False."
            )
        outputs = self.model(
            input_ids=input_ids,
            timesteps=timesteps,
            attention_mask=attention_mask,
            class_labels=class_labels,
            noise=noise,
            at=at,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if at is not None:
            labels = None if labels is None else labels.flatten().index_select(0, at)
        logits = self.lm_head(hidden_states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return MaskedLMOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = ["DDiTForDiscreteDiffusion", "DDiTModel", "DDiTPreTrainedModel"]
