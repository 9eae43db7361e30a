"""SDAR's mixtures of experts: a Qwen3 of experts that attends in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import Qwen3MoeConfig

from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Form, Reading
from hf_ddistill.convert.sdar import SDAR
from hf_ddistill.convert.served_folder import MASK_TOKEN_ID, ServedFolder
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.text_config import text_config, written
from hf_ddistill.convert.written_language_model import write_weights


@dataclass(frozen=True)
class SDARMoe(ByType, ServedFolder, Converter):
    """SDAR of experts, such as SDAR-30B-A3B.

    References:
        SDAR: A Synergistic Diffusion-AutoRegression Paradigm for Scalable Sequence Generation
        (2025), https://arxiv.org/abs/2510.06303
    """

    id: ClassVar[str] = "sdar_moe"
    reads: ClassVar[str] = "model of SDAR with experts"
    gives: ClassVar[str] = "block-diffusion language model of experts"
    types: ClassVar[tuple[str, ...]] = ("sdar_moe",)
    form: ClassVar[Form] = Form("SDAR with experts", Qwen3MoeConfig, renamed=True)
    written_fields: ClassVar[tuple[str, ...]] = (
        *SDAR.written_fields,
        "moe_intermediate_size",
        "num_experts",
        "num_experts_per_tok",
        "norm_topk_prob",
        "decoder_sparse_step",
        "mlp_only_layers",
    )
    classes: ClassVar[tuple[str, str]] = ("SDARMoeForCausalLM", "SDARMoeConfig")

    def reading(self, fields: Fields) -> Reading:
        """The experts in blocks.

        Raises:
            ValueError: if it does not say whether the shares of the experts sum to 1.
        """
        for name in ("num_experts_per_tok", "moe_intermediate_size"):
            fields.count(name)
        if not isinstance(fields.values.get("norm_topk_prob"), bool):
            raise ValueError(
                f"The config.json of {fields.source} lacks norm_topk_prob, true or false."
            )
        own = {"num_local_experts": fields.count("num_experts")}
        text = text_config(Qwen3MoeConfig, fields, head_dim=fields.count("head_dim"), **own)
        mask = fields.count("mask_token_id", MASK_TOKEN_ID, least=0)
        return Reading(text, mask, fields.count("block_size", 4), {"unmasking": "threshold"})

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights: a dense layer and one of four experts."""
        moe = {"moe_intermediate_size": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
        moe |= {"norm_topk_prob": True, "mlp_only_layers": [0], "num_hidden_layers": 2}
        lm = small_language_model(Qwen3MoeConfig, head_dim=4, rope_theta=1e6, **moe)
        own = {"model_type": "sdar_moe", "mask_token_id": 11, "block_size": 2}
        write_weights(lm, folder, own | dict(written(lm.config, cls.written_fields)), cls.form)
