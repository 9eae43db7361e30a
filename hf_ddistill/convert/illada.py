"""iLLaDA: a Llama under full attention, with the names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import LlamaConfig, PreTrainedModel, PreTrainedTokenizerBase

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
from hf_ddistill.convert.llada import check_plain
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.text_config import COMMON, text_config, written
from hf_ddistill.models import BlockDiffusionLM

#: `<[MASK]>` of its tokenizer, which neither names it as the mask nor does the configuration.
MASK_TOKEN_ID = 5
#: Of other norms it has layer normalisation with a bias, which no Llama has.
_KNOWN: dict[str, tuple[Any, Any]] = {"layer_norm_eps": (None, None)}
_WRITTEN = (*COMMON, "attention_bias", "mlp_bias", "attention_dropout")


@dataclass(frozen=True)
class ILLaDA(ByType, Converter):
    """iLLaDA, masked diffusion trained from scratch with grouped queries and a tied head.

    References:
        Improved Large Language Diffusion Models (2026), https://arxiv.org/abs/2606.25331
    """

    id: ClassVar[str] = "illada"
    reads: ClassVar[str] = "model of iLLaDA"
    gives: ClassVar[str] = "diffusion language model of full attention"
    types: ClassVar[tuple[str, ...]] = ("illada",)

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """A Llama under full attention, and the tokenizer with its mask token."""
        fields = Fields(configuration(folder), str(folder))
        fields.check(_KNOWN, "a Llama")
        tied = fields.flag("tie_word_embeddings", True)
        text = text_config(LlamaConfig, fields, head_dim=None, tie_word_embeddings=tied)
        mask = fields.values.get("mask_token_id")
        reading = Reading(
            "iLLaDA",
            text,
            None if mask is None else fields.count("mask_token_id", least=0),
            text.max_position_embeddings,
            decoding={"unmasking": "static", "sub_block_size": 32},
            usual_mask=MASK_TOKEN_ID,
        )
        return read_language_model(folder, reading)

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder as iLLaDA's own, without its code."""
        lm = language_model_of(model, "iLLaDA", "llama")
        check_reading(model, "iLLaDA", full=True, shift=False)
        check_plain(lm.config, "iLLaDA")
        config = {
            "architectures": ["ILLaDAForCausalLM"],
            "model_type": "illada",
            **written(lm.config, _WRITTEN),
            "layer_norm_eps": None,
            "mask_token_id": model.config.mask_token_id,
            **special_tokens(model),
            "torch_dtype": dtype_name(lm),
        }
        write_weights(lm, folder, config)
        write_special(model, folder)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights, with a tied head."""
        lm = small_language_model(LlamaConfig, rope_theta=1e6, tie_word_embeddings=True)
        own = {"model_type": "illada", "layer_norm_eps": None, "mask_token_id": 11}
        write_weights(lm, folder, own | dict(written(lm.config, _WRITTEN)))
