"""iLLaDA: a Llama under full attention, with the names of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import LlamaConfig

from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Form, Reading
from hf_ddistill.convert.language_model_folder import LanguageModelFolder
from hf_ddistill.convert.llada import check_plain
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.text_config import COMMON, text_config, written
from hf_ddistill.convert.written_language_model import write_weights
from hf_ddistill.models import BlockDiffusionLM

#: `<[MASK]>` of its tokenizer, which neither names it as the mask nor does the configuration.
MASK_TOKEN_ID = 5
#: Of other norms it has layer normalisation with a bias, which no Llama has.
_KNOWN: dict[str, tuple[Any, Any]] = {"layer_norm_eps": (None, None)}
_WRITTEN = (*COMMON, "attention_bias", "mlp_bias", "attention_dropout")


@dataclass(frozen=True)
class ILLaDA(ByType, LanguageModelFolder, Converter):
    """iLLaDA, masked diffusion trained from scratch with grouped queries and a tied head.

    References:
        Improved Large Language Diffusion Models (2026), https://arxiv.org/abs/2606.25331
    """

    id: ClassVar[str] = "illada"
    reads: ClassVar[str] = "model of iLLaDA"
    gives: ClassVar[str] = "diffusion language model of full attention"
    types: ClassVar[tuple[str, ...]] = ("illada",)
    form: ClassVar[Form] = Form("iLLaDA", LlamaConfig, full=True, usual_mask=MASK_TOKEN_ID)

    def reading(self, fields: Fields) -> Reading:
        """A Llama under full attention."""
        fields.check(_KNOWN, "a Llama")
        tied = fields.flag("tie_word_embeddings", True)
        text = text_config(LlamaConfig, fields, head_dim=None, tie_word_embeddings=tied)
        decoding = {"unmasking": "static", "sub_block_size": 32}
        window = text.max_position_embeddings
        return Reading(text, fields.token("mask_token_id"), window, decoding)

    def described(self, model: BlockDiffusionLM) -> dict[str, Any]:
        """With heads that share the width among them."""
        check_plain(model.lm.config, "iLLaDA")
        return {
            "architectures": ["ILLaDAForCausalLM"],
            "model_type": "illada",
            **written(model.lm.config, _WRITTEN),
            "layer_norm_eps": None,
        }

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights, with a tied head."""
        lm = small_language_model(LlamaConfig, rope_theta=1e6, tie_word_embeddings=True)
        own = {"model_type": "illada", "layer_norm_eps": None, "mask_token_id": 11}
        write_weights(lm, folder, own | dict(written(lm.config, _WRITTEN)), cls.form)
