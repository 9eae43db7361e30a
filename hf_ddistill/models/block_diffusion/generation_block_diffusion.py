"""`generate` of a block-diffusion language model, in the manner of transformers' own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase
from transformers.generation import BaseStreamer
from transformers.utils import ModelOutput

from hf_ddistill.decoding.decoding import decode
from hf_ddistill.decoding.plan import DecodingPlan
from hf_ddistill.decoding.prompts import Decoded, Prompts, check_ids
from hf_ddistill.decoding.record import Record
from hf_ddistill.decoding.verified import decode_verified
from hf_ddistill.models.block_diffusion.configuration_generation import (
    BlockDiffusionGenerationConfig,
    settings_of,
)
from hf_ddistill.models.block_diffusion.generation_plans import criteria_of, new_tokens, plan_of
from hf_ddistill.models.block_diffusion.generation_settings import resolved
from hf_ddistill.shapes import Generators


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
        scores (`tuple(torch.FloatTensor)`, *optional*): with `output_scores=True`, for each new
            token the log-probabilities of shape `(batch_size, vocab_size)` that it was drawn from;
            0 behind an end.
        logits (`tuple(torch.FloatTensor)`, *optional*): with `output_logits=True`, the model's
            logits at that call, in the same way.
    """

    sequences: Tensor = None
    rounds: Tensor = None
    calls: Tensor = None
    tokens_per_call: Tensor = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None


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
        stopping_criteria: Any = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        on_call: Callable[[int, Decoded], bool] | None = None,
        generator: Generators = None,
        **kwargs: Any,
    ) -> Tensor | BlockDiffusionGenerationOutput:
        """Decode behind prompts, block by block.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, prompt_length)`, *optional*): the
                prompts, padded on the left. A row without any token starts with the model's
                beginning-of-sequence token, if it has one, as one row does if nothing is given.
            attention_mask (`torch.Tensor` of the same shape, *optional*): 0 at padding.
            generation_config (`GenerationConfig`, *optional*): what it does not set is as in the
                model's own.
            streamer (`BaseStreamer`, *optional*): gets finished blocks by `put`, and the states in
                between by `put_draft` if it has one; one row only.
            logits_processor (`LogitsProcessorList`, *optional*): change the logits of each call, as
                if the token of each position were the next one; or `ProxySteering`.
            stopping_criteria (`StoppingCriteriaList`, *optional*): called with `(ids, None)` of one
                row as each token of a finished block would have come; the first that says so ends
                the row behind that token.
            tokenizer (`PreTrainedTokenizerBase`, *optional*): for `stop_strings`.
            on_call (`Callable`, *optional*): called with the number of each network call and what
                is decoded (`ids` of all rows in whole blocks, mask tokens where nothing is decided;
                `rounds`, `log_prob`); True ends decoding.
            generator (`torch.Generator` or a list of them, *optional*): of the draws; with one for
                each row, what a row draws does not depend on its batch.
            **kwargs: settings, see `docs/generate_settings.md`; they override those of
                `generation_config`, and None unsets what is set there.

        Returns:
            the sequences, or a `BlockDiffusionGenerationOutput` with
            `return_dict_in_generate=True`.

        Raises:
            ValueError: for a setting that is not acted on, settings that contradict each other,
                and a prompt with which the new tokens pass the window of the model.
        """
        config = self._configured(generation_config, kwargs)
        wanted = _wanted(config)
        plan = replace(
            self.decoding_plan(config), criteria=criteria_of(config, stopping_criteria, tokenizer)
        )
        if input_ids is not None:
            check_ids(input_ids)
        input_ids, attention_mask = self._begun(input_ids, attention_mask, config.bos_token_id)
        prompts = self.prompts(input_ids, attention_mask, plan.block_size)
        if config.num_return_sequences not in (None, 1):
            prompts = prompts.repeated(config.num_return_sequences)
        rows = prompts.rows
        if streamer is not None and rows != 1:
            raise ValueError(f"A streamer takes one row, got a batch of {rows}.")
        if isinstance(generator, Sequence) and len(generator) != rows:
            raise ValueError(f"Got {len(generator)} generators for {rows} rows; give one for each.")
        pad = self.padding_token(config.pad_token_id, plan.eos)
        new, plan = new_tokens(config, plan, prompts, self.config.max_position_embeddings)
        record = Record(wanted)
        more = {"streamer": streamer, "processors": logits_processor, "on_call": on_call}
        if plan.verify_with_base:
            decoded = decode_verified(self, prompts, new, plan, generator, **more)
        else:
            more["record"] = record if wanted else None
            decoded = decode(self, prompts, new, plan, generator, **more)
        return self._output(config, pad, prompts, decoded, new, record)

    def _output(
        self,
        config: BlockDiffusionGenerationConfig,
        pad: int,
        prompts: Prompts,
        decoded: Decoded,
        new: int,
        record: Record,
    ) -> Tensor | BlockDiffusionGenerationOutput:
        sequences, rounds = prompts.undone(decoded, new, pad)
        if not config.return_dict_in_generate:
            return sequences
        counts = rounds[:, -new:] >= 0
        columns = prompts.asked(new)
        return BlockDiffusionGenerationOutput(
            sequences=sequences,
            rounds=rounds,
            calls=decoded.calls,
            tokens_per_call=counts.sum(1) / decoded.calls.clamp_min(1),
            **{name: record.of(name, columns, counts) for name in record.wanted},
        )

    def prompts(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, block_size: int
    ) -> Prompts:
        """The prompts, laid out so that the blocks of all rows stand in the same columns."""
        if input_ids is None:
            input_ids = torch.zeros((1, 0), dtype=torch.int64, device=self.device)
        fill = self.config.mask_token_id
        layout = 1 if self.is_full(block_size) else block_size
        return Prompts.laid_out(input_ids, attention_mask, layout, fill, self.config.vocab_size)

    def is_full(self, block_size: int) -> bool:
        """Whether no two blocks of this size fit into the window: attention is full."""
        window = self.config.max_position_embeddings
        return window is not None and block_size >= window

    def decoding_plan(self, config: GenerationConfig) -> DecodingPlan:
        """The part of a generation config that decoding goes by; the end tokens are the model's
        own, of its generation config or else its config, where it names none."""
        eos = config.eos_token_id
        for own in (self.generation_config.eos_token_id, self.config.eos_token_id):
            eos = own if eos is None else eos
        size = config.block_size or self.config.block_size
        return plan_of(config, size, self.is_full(size), eos, self.config.vocab_size)

    def _begun(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, bos: int | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Prompts in which a row without any token is the beginning-of-sequence token."""
        bos = self.config.bos_token_id if bos is None else bos
        bos = bos[0] if isinstance(bos, list) else bos
        if bos is None or bos < 0:
            return input_ids, attention_mask
        if input_ids is None or input_ids.shape[1] == 0:
            rows = 1 if input_ids is None else len(input_ids)
            device = self.device if input_ids is None else input_ids.device
            return torch.full((rows, 1), bos, dtype=torch.int64, device=device), None
        if attention_mask is None or bool(attention_mask.any(1).all()):
            return input_ids, attention_mask
        input_ids, attention_mask = input_ids.clone(), attention_mask.clone()
        empty = ~attention_mask.bool().any(1)
        input_ids[empty, -1], attention_mask[empty, -1] = bos, 1
        return input_ids, attention_mask

    def padding_token(self, asked: int | None = None, ends: Sequence[int] | None = None) -> int:
        """The token that stands where nothing is: the one asked for, or else the model's own.

        Args:
            asked: a setting `pad_token_id`.
            ends: the end tokens of the call; the model's own if not given.

        Raises:
            ValueError: for a token of the text.
        """
        if ends is None:
            ends = self.decoding_plan(BlockDiffusionGenerationConfig()).eos
        mask, owns = self.config.mask_token_id, [self.generation_config.pad_token_id]
        owns = [token for token in (*owns, self.config.pad_token_id) if token is not None][:1]
        fitting = [*owns, *ends, mask]
        pad = fitting[0] if asked is None else asked
        if pad in fitting or (not owns and 0 <= pad < self.config.vocab_size):
            return pad
        raise ValueError(
            f"pad_token_id={pad}: padding with a token of the text could not be told from it; it "
            f"must be the model's own pad token, an end token or the mask token, one of {fitting} "
            "(set model.generation_config.pad_token_id to change the model's own)."
        )

    def _configured(
        self, given: GenerationConfig | None, explicit: dict[str, Any]
    ) -> BlockDiffusionGenerationConfig:
        configs = (given, self.generation_config)
        layers = [settings_of(config) for config in configs if config is not None]
        # None is no end here, and not the model's own: -1 is none.
        if explicit.get("eos_token_id", -1) is None:
            explicit = explicit | {"eos_token_id": []}
        return BlockDiffusionGenerationConfig(**resolved(layers, explicit))

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


def _wanted(config: BlockDiffusionGenerationConfig) -> tuple[str, ...]:
    """What a call asks for beside the sequences."""
    wanted = tuple(name for name in ("scores", "logits") if getattr(config, f"output_{name}"))
    if wanted and not config.return_dict_in_generate:
        raise ValueError(
            f"output_{wanted[0]}=True needs return_dict_in_generate=True: sequences alone have no "
            "place for them."
        )
    if wanted and config.verify_with_base:
        raise ValueError(
            f"output_{wanted[0]}=True is not acted on with verify_with_base=True, whose tokens are "
            "of the base's law: ask the causal model for it."
        )
    return wanted


__all__ = [
    "BlockDiffusionGenerationConfig",
    "BlockDiffusionGenerationMixin",
    "BlockDiffusionGenerationOutput",
]
