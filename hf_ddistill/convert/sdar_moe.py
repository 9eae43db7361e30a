"""SDAR's mixtures of experts: a Qwen3 of experts that attends in blocks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase, Qwen3MoeConfig

from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Reading, read_language_model
from hf_ddistill.convert.sdar import (
    MASK_TOKEN_ID,
    command_of,
    fitted_for_engines,
    served,
    write_beside,
)
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.text_config import COMMON, text_config, written
from hf_ddistill.models import BlockDiffusionLM

_WRITTEN = (*COMMON, "head_dim", "attention_bias", "attention_dropout", "initializer_range")
_WRITTEN += ("moe_intermediate_size", "num_experts", "num_experts_per_tok", "norm_topk_prob")
_WRITTEN += ("decoder_sparse_step", "mlp_only_layers")


@dataclass(frozen=True)
class SDARMoe(ByType, Converter):
    """SDAR of experts, such as SDAR-30B-A3B.

    References:
        SDAR: A Synergistic Diffusion-AutoRegression Paradigm for Scalable Sequence Generation
        (2025), https://arxiv.org/abs/2510.06303
    """

    id: ClassVar[str] = "sdar_moe"
    reads: ClassVar[str] = "model of SDAR with experts"
    gives: ClassVar[str] = "block-diffusion language model of experts"
    types: ClassVar[tuple[str, ...]] = ("sdar_moe",)

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """The experts in blocks, and the tokenizer with its mask token.

        Raises:
            ValueError: if it does not say whether the shares of the experts sum to 1.
        """
        fields = Fields(configuration(folder), str(folder))
        for name in ("num_experts_per_tok", "moe_intermediate_size"):
            fields.count(name)
        if not isinstance(fields.values.get("norm_topk_prob"), bool):
            raise ValueError(f"The config.json of {folder} lacks norm_topk_prob, true or false.")
        own = {"num_local_experts": fields.count("num_experts")}
        reading = Reading(
            "SDAR with experts",
            text_config(Qwen3MoeConfig, fields, head_dim=fields.count("head_dim"), **own),
            fields.count("mask_token_id", MASK_TOKEN_ID, least=0),
            fields.count("block_size", 4),
            renamed=True,
            decoding={"unmasking": "threshold"},
        )
        return read_language_model(folder, reading)

    def fitted(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        """With the mask and a head where the engines look for them."""
        return fitted_for_engines(model, tokenizer, "qwen3_moe")

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder that SGLang and lmdeploy load, with a configuration of ours for transformers."""
        lm, config = served(model, "qwen3_moe", _WRITTEN)
        written_by = lm.config.architectures
        lm.save_pretrained(folder)  # it splits the experts as it joined them
        lm.config.architectures = written_by
        named = {"architectures": ["SDARMoeForCausalLM"], "model_type": "sdar_moe"}
        named |= {"auto_map": {"AutoConfig": "configuration_sdar.SDARMoeConfig"}}
        text = json.dumps(named | config, indent=2) + "\n"
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")
        write_beside(model, folder)

    def loaded_by(self, model: PreTrainedModel, folder: str) -> str:
        """SGLang's command."""
        return command_of(folder)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights: a dense layer and one of four experts."""
        moe = {"moe_intermediate_size": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
        moe |= {"norm_topk_prob": True, "mlp_only_layers": [0], "num_hidden_layers": 2}
        lm = small_language_model(Qwen3MoeConfig, head_dim=4, rope_theta=1e6, **moe)
        lm.save_pretrained(folder)
        own = {"model_type": "sdar_moe", "mask_token_id": 11, "block_size": 2}
        text = json.dumps(own | dict(written(lm.config, _WRITTEN))) + "\n"
        (Path(folder) / "config.json").write_text(text, encoding="utf-8")
