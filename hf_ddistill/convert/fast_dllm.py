"""Fast-dLLM v2: a Qwen2 that attends in blocks and keeps its reading of the logits."""

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

#: `|<MASK>|` of its tokenizer, which its code has by heart.
MASK_TOKEN_ID = 151665
_WRITTEN = (*COMMON, "attention_dropout")


@dataclass(frozen=True)
class FastDLLM(ByType, Converter):
    """Fast-dLLM v2: Qwen2.5 in blocks; the output at i - 1 speaks of token i, and for the first
    token of a block it is the last of the finished block before.

    References:
        Fast-dLLM v2: Efficient Block-Diffusion LLM (2025), https://arxiv.org/abs/2509.26328
    """

    id: ClassVar[str] = "fast_dllm"
    reads: ClassVar[str] = "model of Fast-dLLM v2"
    gives: ClassVar[str] = "block-diffusion language model"
    types: ClassVar[tuple[str, ...]] = ("Fast_dLLM_Qwen",)

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """A Qwen2 in blocks, and the tokenizer with its mask token."""
        fields = Fields(configuration(folder), str(folder))
        mask = fields.values.get("mask_token_id")
        reading = Reading(
            "Fast-dLLM v2",
            text_config(Qwen2Config, fields),
            None if mask is None else fields.count("mask_token_id", least=0),
            fields.count("bd_size", 32),
            shift_logits=True,
            decoding={"unmasking": {"type": "threshold", "threshold": 0.95}},
            usual_mask=MASK_TOKEN_ID,
        )
        return read_language_model(folder, reading)

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder as its authors' own, without their code."""
        lm = language_model_of(model, "Fast-dLLM v2", "qwen2")
        check_reading(model, "Fast-dLLM v2", full=False, shift=True)
        config = {
            "architectures": ["Fast_dLLM_QwenForCausalLM"],
            "model_type": "Fast_dLLM_Qwen",
            **written(lm.config, _WRITTEN),
            "use_sliding_window": False,
            "sliding_window": None,
            "bd_size": model.config.block_size,
            "mask_token_id": model.config.mask_token_id,
            **special_tokens(model),
            "torch_dtype": dtype_name(lm),
        }
        write_weights(lm, folder, config)
        write_special(model, folder)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights, with fewer tokens than a real one."""
        lm = small_language_model(Qwen2Config, rope_theta=1e6)
        own = {"model_type": "Fast_dLLM_Qwen", "mask_token_id": 11, "bd_size": 4}
        write_weights(lm, folder, own | dict(written(lm.config, _WRITTEN)))
