"""Dream: a Qwen2 under full attention, whose output speaks of the next token."""

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

_WRITTEN = (*COMMON, "attention_dropout")


@dataclass(frozen=True)
class Dream(ByType, LanguageModelFolder, Converter):
    """Dream, masked diffusion that started from Qwen2.5 and kept its reading of the logits.

    References:
        Dream 7B: Diffusion Large Language Models (2025), https://arxiv.org/abs/2508.15487
    """

    id: ClassVar[str] = "dream"
    reads: ClassVar[str] = "model of Dream"
    gives: ClassVar[str] = "diffusion language model of full attention"
    types: ClassVar[tuple[str, ...]] = ("Dream", "dream")
    form: ClassVar[Form] = Form("Dream", Qwen2Config, full=True, shift_logits=True)

    def reading(self, fields: Fields) -> Reading:
        """A Qwen2 under full attention."""
        text = text_config(Qwen2Config, fields)
        mask = fields.count("mask_token_id", least=0)
        decoding = {"unmasking": {"type": "static", "score": "entropy"}}
        return Reading(text, mask, text.max_position_embeddings, decoding)

    def described(self, model: BlockDiffusionLM) -> dict[str, Any]:
        """With attention that does not slide."""
        return {
            "architectures": ["DreamModel"],
            "model_type": "Dream",
            **written(model.lm.config, _WRITTEN),
            "use_sliding_window": False,
            "sliding_window": None,
        }

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights."""
        lm = small_language_model(Qwen2Config, rope_theta=1e6)
        config = {"model_type": "Dream", "mask_token_id": 11, **written(lm.config, _WRITTEN)}
        write_weights(lm, folder, config, cls.form)
