"""`generate` of a block-diffusion language model, in the manner of transformers' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import BaseStreamer
from transformers.utils import ModelOutput

from hf_ddistill.models.block_decoding import DecodingPlan, decode, ends
from hf_ddistill.models.block_prompts import Prompts
from hf_ddistill.models.pipelined_decoding import Pipelining
from hf_ddistill.shapes import Generators
from hf_ddistill.unmasking import Unmasking

_PIPELINING = {
    "max_active_blocks": "max_blocks",
    "block_add_threshold": "add",
    "block_activate_threshold": "activate",
    "early_threshold": "confidence",
}
_OWN = ("unmasking", "steps_per_block", "block_size", "sub_block_size", "dual_cache", *_PIPELINING)


class BlockDiffusionGenerationConfig(GenerationConfig):
    """
    Settings of `BlockDiffusionLM.generate`, kept in `generation_config.json`.

    Args:
        max_new_tokens (`int`): tokens behind each prompt.
        unmasking (`str` or `dict`): the rule by which a call decides tokens, with its settings
            (`hf-ddistill list`); "threshold" if not given.
        steps_per_block (`int`, *optional*): calls that a "static" rule plans for a block; as many
            as tokens if not given.
        block_size (`int`, *optional*): instead of the model's, the attention's with it.
        sub_block_size (`int`, *optional*): tokens in a block that is decoded, a part of one of the
            attention's. A model of full attention decodes all new tokens as one block if it is not
            given, and block by block ("semi-autoregressive") if it is.
        max_active_blocks, block_add_threshold, block_activate_threshold, early_threshold: blocks
            that are decoded at the same time, see `Pipelining`.
        do_sample (`bool`, *optional*): draw tokens; else take the likeliest. If not given, tokens
            are drawn where a temperature above 0 is given.
        temperature, top_k, top_p: of the draws.
        use_cache (`bool`): keep keys and values of finished blocks; the tokens are the same.
        dual_cache (`bool`): keep, while a block is decoded, keys and values of what lies on both
            sides of it: an approximation, for attention that reaches beyond the block.
        eos_token_id (`int` or `list[int]`): a row ends with the block in which it draws one.
    """

    # Of the class, so that a file holds only those that are set.
    unmasking: str | Mapping[str, Any] | Unmasking | None = None
    steps_per_block: int | None = None
    block_size: int | None = None
    sub_block_size: int | None = None
    dual_cache: bool | None = None
    max_active_blocks: int | None = None
    block_add_threshold: float | None = None
    block_activate_threshold: float | None = None
    early_threshold: float | None = None

    def __init__(self, **kwargs: Any) -> None:
        for name in set(_OWN) & kwargs.keys():
            setattr(self, name, kwargs.pop(name))
        super().__init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All settings as plain data."""
        plain = super().to_dict()
        if isinstance(self.unmasking, Unmasking):
            plain["unmasking"] = self.unmasking.to_config()
        return plain

    @classmethod
    def from_model_config(cls, model_config: Any) -> Self:
        """There is no such thing: a model's `block_size` is no setting of `generate`. (The base
        class, told so, starts from the defaults.)"""
        raise NotImplementedError

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        """Raise for a rule that there is not; what goes together differs from transformers' own
        decoding, and is checked by `generate`."""
        if self.unmasking is not None:
            Unmasking.from_config(self.unmasking)


@dataclass
class BlockDiffusionGenerationOutput(ModelOutput):
    """
    What `generate` put out.

    Args:
        sequences (`torch.LongTensor` of shape `(batch_size, prompt_length + max_new_tokens)`): the
            prompts as they came, then the new tokens; the pad token behind an end token.
        rounds (`torch.LongTensor` of the same shape): the call within its block, from 0, that
            decided a token; -1 for prompts and behind an end.
        calls (`torch.LongTensor` of shape `(batch_size,)`): network calls that each row needed.
        tokens_per_call (`torch.FloatTensor` of shape `(batch_size,)`): new tokens by calls.
    """

    sequences: Tensor = None
    rounds: Tensor = None
    calls: Tensor = None
    tokens_per_call: Tensor = None


class BlockDiffusionGenerationMixin:
    """`generate` for `BlockDiffusionLM`."""

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: BaseStreamer | None = None,
        *,
        logits_processor: Any = None,
        generator: Generators = None,
        **kwargs: Any,
    ) -> Tensor | BlockDiffusionGenerationOutput:
        """Decode behind prompts, block by block.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`, *optional*): the
                prompts, padded on the left; one empty prompt if not given.
            attention_mask (`torch.Tensor` of the same shape, *optional*): 0 at padding.
            generation_config (`BlockDiffusionGenerationConfig`, *optional*): the model's own if
                not given.
            streamer (`BaseStreamer`, *optional*): gets finished blocks by `put`, and the states in
                between by `put_draft` if it has one; one row only.
            logits_processor (`LogitsProcessorList`, *optional*): change the logits of each call, as
                if the token of each position were the next one; or `ProxySteering`.
            generator (`torch.Generator` or a list of them, *optional*): of the draws; with one for
                each row, what a row draws does not depend on its batch.
            **kwargs: override entries of `generation_config`.

        Returns:
            the sequences, or a `BlockDiffusionGenerationOutput` with
            `return_dict_in_generate=True`.

        Raises:
            ValueError: for an unknown setting, or a prompt with which the new tokens pass the
                window of the model.
        """
        config = self._configured(generation_config, kwargs)
        new = config.max_new_tokens
        if new is None or new < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {new}.")
        plan = self.decoding_plan(config)
        prompts = self.prompts(input_ids, attention_mask, plan.block_size)
        if streamer is not None and prompts.rows != 1:
            raise ValueError(f"A streamer takes one row, got a batch of {prompts.rows}.")
        decoded = decode(
            self, prompts, new, plan, generator, streamer=streamer, processors=logits_processor
        )
        pad = self.config.pad_token_id
        fallback = plan.eos[0] if plan.eos else 0
        sequences, rounds = prompts.undone(decoded, new, fallback if pad is None else pad)
        if not config.return_dict_in_generate:
            return sequences
        drawn = (rounds >= 0).sum(1)
        return BlockDiffusionGenerationOutput(
            sequences=sequences,
            rounds=rounds,
            calls=decoded.calls,
            tokens_per_call=drawn / decoded.calls.clamp_min(1),
        )

    def prompts(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, block_size: int
    ) -> Prompts:
        """The prompts, laid out so that the blocks of all rows stand in the same columns."""
        if input_ids is None:
            input_ids = torch.zeros((1, 0), dtype=torch.int64, device=self.device)
        fill = self.config.mask_token_id
        layout = 1 if self.is_full(block_size) else block_size
        return Prompts.laid_out(input_ids, attention_mask, layout, fill)

    def is_full(self, block_size: int) -> bool:
        """Whether no two blocks of this size fit into the window: attention is full."""
        window = self.config.max_position_embeddings
        return window is not None and block_size >= window

    def decoding_plan(self, config: GenerationConfig) -> DecodingPlan:
        """The part of a generation config that decoding goes by."""
        eos = config.eos_token_id
        eos = ends(self.config.eos_token_id if eos is None else eos)
        temperature = config.temperature
        sample = bool(temperature) if config.do_sample is None else config.do_sample
        size, part = config.block_size or self.config.block_size, config.sub_block_size
        if self.is_full(size):
            part = part or config.max_new_tokens
        elif part is not None and (part < 1 or size % part):
            raise ValueError(f"sub_block_size={part} must divide the block of {size} tokens.")
        if config.dual_cache and config.use_cache is False:
            raise ValueError(
                "dual_cache=True needs keys and values, and use_cache=False keeps none."
            )
        cache = "none" if config.use_cache is False else "dual" if config.dual_cache else "finished"
        given = {key: getattr(config, name) for name, key in _PIPELINING.items()}
        return DecodingPlan(
            block_size=size,
            unmasking=Unmasking.from_config(config.unmasking or "threshold"),
            steps_per_block=config.steps_per_block,
            temperature=(1.0 if temperature is None else temperature) if sample else 0.0,
            top_k=config.top_k if sample else None,
            top_p=1.0 if config.top_p is None or not sample else config.top_p,
            cache=cache,
            eos=eos,
            sub_block_size=part,
            pipelining=Pipelining(**{k: v for k, v in given.items() if v is not None}),
        )

    def _configured(
        self, given: GenerationConfig | None, overrides: Mapping[str, Any]
    ) -> GenerationConfig:
        own = self.generation_config if given is None else given
        config = BlockDiffusionGenerationConfig.from_dict(own.to_dict())
        unused = config.update(**overrides)
        if unused:
            raise ValueError(
                f"generate takes no {', '.join(sorted(unused))}; "
                "BlockDiffusionGenerationConfig says what it takes."
            )
        return config

    def adjust_generation_fn(
        self,
        generation_config: GenerationConfig | None,
        from_auto_class: bool,
        from_pipeline: bool,
        pretrained_model_name_or_path: str | None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Called by `from_pretrained`: take the generation config that was given or saved."""
        known = ("cache_dir", "force_download", "local_files_only", "token", "revision")
        known += ("subfolder",)
        given = {key: kwargs[key] for key in known if key in kwargs}
        if generation_config is not None:
            self.generation_config = BlockDiffusionGenerationConfig.from_dict(
                generation_config.to_dict()
            )
        elif pretrained_model_name_or_path is not None:
            try:
                self.generation_config = BlockDiffusionGenerationConfig.from_pretrained(
                    pretrained_model_name_or_path, **given
                )
            except OSError:
                folder = Path(pretrained_model_name_or_path, given.get("subfolder") or "")
                if (folder / "generation_config.json").exists():
                    raise
                # There is no such file: the settings of a new model stay.
                self.generation_config = BlockDiffusionGenerationConfig()


__all__ = [
    "BlockDiffusionGenerationConfig",
    "BlockDiffusionGenerationMixin",
    "BlockDiffusionGenerationOutput",
]
