"""Fast-dLLM v2: a Qwen2 that attends in blocks and keeps its reading of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import Qwen2Config

from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Form, Reading
from hf_ddistill.convert.language_model_folder import LanguageModelFolder
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.text_config import COMMON, text_config, written
from hf_ddistill.convert.written_language_model import write_weights
from hf_ddistill.models import BlockDiffusionLM

#: `|<MASK>|` of its tokenizer, which its code has by heart.
MASK_TOKEN_ID = 151665
_WRITTEN = (*COMMON, "attention_dropout")


@dataclass(frozen=True)
class FastDLLM(ByType, LanguageModelFolder, Converter):
    """Fast-dLLM v2: Qwen2.5 in blocks; the output at i - 1 speaks of token i, and for the first
    token of a block it is the last of the finished block before.

    References:
        Fast-dLLM v2: Efficient Block-Diffusion LLM (2025), https://arxiv.org/abs/2509.26328
    """

    id: ClassVar[str] = "fast_dllm"
    reads: ClassVar[str] = "model of Fast-dLLM v2"
    gives: ClassVar[str] = "block-diffusion language model"
    types: ClassVar[tuple[str, ...]] = ("Fast_dLLM_Qwen",)
    form: ClassVar[Form] = Form(
        "Fast-dLLM v2", Qwen2Config, shift_logits=True, usual_mask=MASK_TOKEN_ID
    )

    def reading(self, fields: Fields) -> Reading:
        """A Qwen2 in blocks."""
        text, mask = text_config(Qwen2Config, fields), fields.token("mask_token_id")
        decoding = {"unmasking": {"type": "threshold", "threshold": 0.95}}
        return Reading(text, mask, fields.count("bd_size", 32), decoding)

    def described(self, model: BlockDiffusionLM) -> dict[str, Any]:
        """With attention that does not slide."""
        return {
            "architectures": ["Fast_dLLM_QwenForCausalLM"],
            "model_type": "Fast_dLLM_Qwen",
            **written(model.lm.config, _WRITTEN),
            "use_sliding_window": False,
            "sliding_window": None,
            "bd_size": model.config.block_size,
        }

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights, with fewer tokens than a real one."""
        lm = small_language_model(Qwen2Config, rope_theta=1e6)
        own = {"model_type": "Fast_dLLM_Qwen", "mask_token_id": 11, "bd_size": 4}
        write_weights(lm, folder, own | dict(written(lm.config, _WRITTEN)), cls.form)
