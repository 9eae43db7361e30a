"""Dream: a Qwen2 under full attention, whose output speaks of the next token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen2Config

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
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.text_config import COMMON, text_config, written
from hf_ddistill.models import BlockDiffusionLM

_WRITTEN = (*COMMON, "attention_dropout")


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
        lm = small_language_model(Qwen2Config, rope_theta=1e6)
        text = lm.config
        config = {"model_type": "Dream", "mask_token_id": 11, **written(text, _WRITTEN)}
        write_weights(lm, folder, config)
