"""Dream: a Qwen2 under full attention, whose output speaks of the next token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config, Qwen2ForCausalLM

from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import (
    Reading,
    check_reading,
    dtype_name,
    language_model_of,
    read_language_model,
    special_tokens,
    write_special,
    write_weights,
)
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.text_config import text_config, written
from hf_ddistill.models import BlockDiffusionLM

_WRITTEN = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_dropout",
)


@dataclass(frozen=True)
class Dream(ByType, Converter):
    """Dream, masked diffusion that started from Qwen2.5 and kept its reading of the logits.

    References:
        Dream 7B: Diffusion Large Language Models (2025), https://arxiv.org/abs/2508.15487
    """

    id: ClassVar[str] = "dream"
    reads: ClassVar[str] = "model of Dream"
    gives: ClassVar[str] = "diffusion language model of full attention"
    types: ClassVar[tuple[str, ...]] = ("Dream", "dream")

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """A Qwen2 under full attention, and the tokenizer with its mask token."""
        fields = Fields(configuration(folder), str(folder))
        text = text_config(Qwen2Config, fields)
        reading = Reading(
            "Dream",
            text,
            fields.count("mask_token_id", least=0),
            text.max_position_embeddings,
            shift_logits=True,
            decoding={"unmasking": {"type": "static", "score": "entropy"}},
        )
        return read_language_model(folder, reading)

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder as Dream's own, without its code."""
        lm = language_model_of(model, "Dream", "qwen2")
        check_reading(model, "Dream", full=True, shift=True)
        config = {
            "architectures": ["DreamModel"],
            "model_type": "Dream",
            **written(lm.config, _WRITTEN),
            "use_sliding_window": False,
            "sliding_window": None,
            "mask_token_id": model.config.mask_token_id,
            **special_tokens(model),
            "torch_dtype": dtype_name(lm),
        }
        write_weights(lm, folder, config)
        write_special(model, folder)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights."""
        text = Qwen2Config(
            vocab_size=12,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=16,
            rope_theta=1e6,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            lm = Qwen2ForCausalLM(text)
        config = {"model_type": "Dream", "mask_token_id": 11, **written(text, _WRITTEN)}
        write_weights(lm, folder, config)
