"""`generate` of a block-diffusion language model, in the manner of transformers' own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import BaseStreamer
from transformers.utils import ModelOutput

from hf_ddistill.models.block_decoding import DecodingPlan, decode
from hf_ddistill.models.block_prompts import Prompts
from hf_ddistill.shapes import Generators
from hf_ddistill.unmasking import Unmasking


class BlockDiffusionGenerationConfig(GenerationConfig):
    """
    Settings of `BlockDiffusionLM.generate`, kept in `generation_config.json`.

    Args:
        max_new_tokens (`int`): tokens behind each prompt.
        unmasking (`str` or `dict`): the rule by which a call decides tokens, with its settings
            (`hf-ddistill list`); "threshold" if not given.
        steps_per_block (`int`, *optional*): calls that a "static" rule plans for a block; as many
            as tokens if not given.
        block_size (`int`, *optional*): instead of the model's.
        do_sample (`bool`, *optional*): draw tokens; else take the likeliest. If not given, tokens
            are drawn where a temperature above 0 is given.
        temperature, top_k, top_p: of the draws.
        use_cache (`bool`): keep keys and values of finished blocks.
        eos_token_id (`int` or `list[int]`): a row ends with the block in which it draws one.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.unmasking = kwargs.pop("unmasking", None)
        self.steps_per_block = kwargs.pop("steps_per_block", None)
        self.block_size = kwargs.pop("block_size", None)
        super().__init__(**kwargs)


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

    generation_config_class = BlockDiffusionGenerationConfig

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        streamer: BaseStreamer | None = None,
        *,
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
        plan = self.decoding_plan(config)
        prompts = self.prompts(input_ids, attention_mask, plan.block_size)
        if streamer is not None and prompts.rows != 1:
            raise ValueError(f"A streamer takes one row, got a batch of {prompts.rows}.")
        new = config.max_new_tokens
        if new is None or new < 1:
            raise ValueError(f"max_new_tokens must be at least 1, got {new}.")
        decoded = decode(self, prompts, new, plan, generator, streamer)
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
        return Prompts.laid_out(input_ids, attention_mask, block_size, fill)

    def decoding_plan(self, config: GenerationConfig) -> DecodingPlan:
        """The part of a generation config that decoding goes by."""
        eos = config.eos_token_id
        eos = self.config.eos_token_id if eos is None else eos
        eos = () if eos is None else (eos,) if isinstance(eos, int) else tuple(eos)
        temperature = config.temperature
        sample = bool(temperature) if config.do_sample is None else config.do_sample
        return DecodingPlan(
            block_size=config.block_size or self.config.block_size,
            unmasking=Unmasking.from_config(config.unmasking or "threshold"),
            steps_per_block=config.steps_per_block,
            temperature=(1.0 if temperature is None else temperature) if sample else 0.0,
            top_k=config.top_k if sample else None,
            top_p=1.0 if config.top_p is None or not sample else config.top_p,
            use_cache=config.use_cache is not False,
            eos=eos,
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
            self.generation_config = self.generation_config_class.from_dict(
                generation_config.to_dict()
            )
        elif pretrained_model_name_or_path is not None:
            try:
                self.generation_config = self.generation_config_class.from_pretrained(
                    pretrained_model_name_or_path, **given
                )
            except OSError:
                # There is no such file: the settings of a new model stay.
                self.generation_config = self.generation_config_class()


__all__ = [
    "BlockDiffusionGenerationConfig",
    "BlockDiffusionGenerationMixin",
    "BlockDiffusionGenerationOutput",
]
