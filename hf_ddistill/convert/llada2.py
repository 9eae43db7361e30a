"""LLaDA2: Bailing's mixture of experts, which transformers has as Sarvam's, in blocks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SarvamMoEConfig,
)

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
)
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.text_config import plain_rope, text_config
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
class LLaDA2(ByType, Converter):
    """LLaDA2.0 and 2.1, block diffusion on a mixture of experts.

    References:
        LLaDA2.0: Scaling Up Diffusion Language Models to 100B (2025),
        https://arxiv.org/abs/2512.15745
    """

    id: ClassVar[str] = "llada2"
    reads: ClassVar[str] = "model of LLaDA2"
    gives: ClassVar[str] = "block-diffusion language model of experts"
    types: ClassVar[tuple[str, ...]] = ("llada2_moe", "llada2_moe_veomni")

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """The experts in blocks, and the tokenizer with its mask token."""
        fields = Fields(configuration(folder), str(folder))
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
        mask = fields.values.get("mask_token_id")
        reading = Reading(
            "LLaDA2",
            text,
            None if mask is None else fields.count("mask_token_id", least=0),
            fields.count("block_size", 32),
            renamed=True,
            decoding={"unmasking": {"type": "threshold", "threshold": 0.95}},
            usual_mask=MASK_TOKEN_ID,
        )
        return read_language_model(folder, reading)

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder as LLaDA2's own, without its code."""
        lm = language_model_of(model, "LLaDA2", "sarvam_moe")
        check_reading(model, "LLaDA2", full=False, shift=False)
        written_by = lm.config.architectures
        # It renames and splits as it read.
        lm.save_pretrained(folder, state_dict=_router_as_read(lm))
        lm.config.architectures = written_by
        config = {
            "architectures": ["LLaDA2MoeModelLM"],
            "model_type": "llada2_moe",
            **_fields(lm.config),
            "block_size": model.config.block_size,
            "mask_token_id": model.config.mask_token_id,
            **special_tokens(model),
            "torch_dtype": dtype_name(lm),
        }
        _write_config(folder, config)
        write_special(model, folder)

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
        text = lm.config
        lm.save_pretrained(folder)
        own = {"model_type": "llada2_moe", "mask_token_id": 11, "block_size": 4}
        _write_config(folder, _fields(text) | own)


def _router_as_read(lm: PreTrainedModel) -> dict[str, Tensor]:
    """The weights; a router, which transformers keeps in float32, in the dtype of the others where
    that holds its numbers."""
    state = dict(lm.state_dict())
    for key in [key for key in state if key.endswith("mlp.gate.weight")]:
        short = state[key].to(lm.dtype)
        if torch.equal(short.to(state[key].dtype), state[key]):
            state[key] = short
    return state


def _fields(text: SarvamMoEConfig) -> dict[str, Any]:
    theirs = {name: getattr(text, ours) for name, ours in _WRITTEN.items()}
    rope = plain_rope(text)
    share = text.rope_parameters.get("partial_rotary_factor", 1.0)
    known = {name: value for name, (value, _) in _KNOWN.items()}
    return theirs | rope | {"partial_rotary_factor": share} | known


def _write_config(folder: str | Path, config: dict[str, Any]) -> None:
    text = json.dumps(config, indent=2) + "\n"
    (Path(folder) / "config.json").write_text(text, encoding="utf-8")
