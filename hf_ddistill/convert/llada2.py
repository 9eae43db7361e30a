"""LLaDA2: Bailing's mixture of experts, which transformers has as Sarvam's, in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import SarvamMoEConfig

from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Form, Reading
from hf_ddistill.convert.language_model_folder import LanguageModelFolder
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.text_config import plain_rope, text_config
from hf_ddistill.convert.written_language_model import write_weights
from hf_ddistill.models import BlockDiffusionLM

#: Known by heart where neither configuration nor tokenizer says it.
MASK_TOKEN_ID = 156895
_KNOWN: dict[str, tuple[Any, Any]] = {
    "score_function": ("sigmoid", "sigmoid"),
    "use_bias": (False, False),
    "use_qkv_bias": (False, False),
    "moe_router_enable_expert_bias": (True, True),
}
#: Theirs and, where it is another one, the name that transformers has.
_WRITTEN = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "hidden_act": "hidden_act",
    "max_position_embeddings": "max_position_embeddings",
    "rms_norm_eps": "rms_norm_eps",
    "tie_word_embeddings": "tie_word_embeddings",
    "moe_intermediate_size": "moe_intermediate_size",
    "num_experts": "n_routed_experts",
    "num_experts_per_tok": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts",
    "n_group": "n_group",
    "topk_group": "topk_group",
    "first_k_dense_replace": "first_k_dense_replace",
    "routed_scaling_factor": "routed_scaling_factor",
    "norm_topk_prob": "norm_topk_prob",
    "use_qk_norm": "use_qk_norm",
}


@dataclass(frozen=True)
class LLaDA2(ByType, LanguageModelFolder, Converter):
    """LLaDA2.0 and 2.1, block diffusion on a mixture of experts.

    References:
        LLaDA2.0: Scaling Up Diffusion Language Models to 100B (2025),
        https://arxiv.org/abs/2512.15745
    """

    id: ClassVar[str] = "llada2"
    reads: ClassVar[str] = "model of LLaDA2"
    gives: ClassVar[str] = "block-diffusion language model of experts"
    types: ClassVar[tuple[str, ...]] = ("llada2_moe", "llada2_moe_veomni")
    form: ClassVar[Form] = Form("LLaDA2", SarvamMoEConfig, renamed=True, usual_mask=MASK_TOKEN_ID)

    def reading(self, fields: Fields) -> Reading:
        """The experts in blocks."""
        fields.check(_KNOWN, "LLaDA2")
        for name in ("num_experts", "num_experts_per_tok", "num_shared_experts", "head_dim"):
            fields.count(name)
        own = dict.fromkeys(("first_k_dense_replace", "n_group", "topk_group"), 0)
        own = {name: fields.count(name, least=least) for name, least in own.items()}
        text = text_config(
            SarvamMoEConfig,
            fields,
            n_routed_experts=fields.count("num_experts"),
            n_shared_experts=fields.count("num_shared_experts"),
            moe_intermediate_size=fields.count("moe_intermediate_size"),
            routed_scaling_factor=fields.number("routed_scaling_factor"),
            partial_rotary_factor=fields.number("partial_rotary_factor", 1.0),
            # Theirs divides by the sum wherever there is one, whatever the configuration says.
            norm_topk_prob=fields.count("num_experts_per_tok") > 1,
            use_qk_norm=fields.flag("use_qk_norm", True),
            **own,
        )
        decoding = {"unmasking": {"type": "threshold", "threshold": 0.95}}
        size = fields.count("block_size", 32)
        return Reading(text, fields.token("mask_token_id"), size, decoding)

    def described(self, model: BlockDiffusionLM) -> dict[str, Any]:
        """By Bailing's names."""
        return {
            "architectures": ["LLaDA2MoeModelLM"],
            "model_type": "llada2_moe",
            **_fields(model.lm.config),
            "block_size": model.config.block_size,
        }

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights: a dense layer and one of four experts in two groups."""
        moe = {"moe_intermediate_size": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
        moe |= {"n_group": 2, "topk_group": 1}
        lm = small_language_model(
            SarvamMoEConfig,
            num_hidden_layers=2,
            head_dim=4,
            rope_theta=6e5,
            partial_rotary_factor=0.5,
            **moe,
        )
        own = {"model_type": "llada2_moe", "mask_token_id": 11, "block_size": 4}
        write_weights(lm, folder, _fields(lm.config) | own, cls.form)


def _fields(text: SarvamMoEConfig) -> dict[str, Any]:
    theirs = {name: getattr(text, ours) for name, ours in _WRITTEN.items()}
    rope = plain_rope(text)
    share = text.rope_parameters.get("partial_rotary_factor", 1.0)
    known = {name: value for name, (value, _) in _KNOWN.items()}
    return theirs | rope | {"partial_rotary_factor": share} | known
