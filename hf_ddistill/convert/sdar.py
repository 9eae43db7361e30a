"""SDAR: a Qwen3 that attends in blocks. What SGLang and lmdeploy serve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import Qwen3Config

from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Form, Reading
from hf_ddistill.convert.served_folder import MASK_TOKEN_ID, ServedFolder
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.text_config import COMMON, text_config, written
from hf_ddistill.convert.written_language_model import write_weights


@dataclass(frozen=True)
class SDAR(ByType, ServedFolder, Converter):
    """SDAR, a Qwen3 that attends in blocks; OPDLM's students and others are saved in its form.

    References:
        SDAR: A Synergistic Diffusion-AutoRegression Paradigm for Scalable Sequence Generation
        (2025), https://arxiv.org/abs/2510.06303
    """

    id: ClassVar[str] = "sdar"
    reads: ClassVar[str] = "model of SDAR"
    gives: ClassVar[str] = "block-diffusion language model"
    types: ClassVar[tuple[str, ...]] = ("sdar",)
    form: ClassVar[Form] = Form("SDAR", Qwen3Config)
    written_fields: ClassVar[tuple[str, ...]] = (
        *COMMON,
        "head_dim",
        "attention_bias",
        "attention_dropout",
        "initializer_range",
    )
    classes: ClassVar[tuple[str, str]] = ("SDARForCausalLM", "SDARConfig")

    def reading(self, fields: Fields) -> Reading:
        """A Qwen3 in blocks."""
        mask = fields.count("mask_token_id", MASK_TOKEN_ID, least=0)
        size = fields.count("block_size", 4)
        return Reading(text_config(Qwen3Config, fields), mask, size, {"unmasking": "threshold"})

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights, with fewer tokens than a real one."""
        lm = small_language_model(Qwen3Config, head_dim=4, rope_theta=1e6)
        own = {"model_type": "sdar", "mask_token_id": 11, "block_size": 2}
        write_weights(lm, folder, own | dict(written(lm.config, cls.written_fields)), cls.form)
