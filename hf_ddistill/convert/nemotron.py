"""Nemotron-Labs-Diffusion: a Ministral 3 that attends in blocks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import Ministral3Config

from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Form, Reading
from hf_ddistill.convert.language_model_folder import LanguageModelFolder
from hf_ddistill.convert.renaming import Renaming
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.text_config import COMMON, text_config
from hf_ddistill.convert.written_language_model import write_weights
from hf_ddistill.models import BlockDiffusionLM

_LAYER = (
    *(f"self_attn.{part}_proj.weight" for part in "qkvo"),
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
)
NAMES = Renaming(
    (
        ("encoder.embed_tokens.weight", "model.embed_tokens.weight"),
        *((f"encoder.layers.{{}}.{part}", f"model.layers.{{}}.{part}") for part in _LAYER),
        ("encoder.norm.weight", "model.norm.weight"),
        ("diffusion_head.weight", "lm_head.weight"),
    )
)
_KNOWN: dict[str, tuple[Any, Any]] = {
    "attention_bias": (False, False),
    "mlp_bias": (False, False),
}
_WRITTEN = (*COMMON, "head_dim", "rope_parameters", "attention_dropout")


@dataclass(frozen=True)
class Nemotron(ByType, LanguageModelFolder, Converter):
    """Nemotron-Labs-Diffusion: a token in work sees all of its block, one of a finished block none
    behind it, as in its training and its decoding.

    Its own decoding takes the first token of a block from the causal reading; here it is decided
    with the others.

    References:
        Efficient-DLM: From Autoregressive to Diffusion Language Models (2025),
        https://arxiv.org/abs/2512.14067
    """

    id: ClassVar[str] = "nemotron"
    reads: ClassVar[str] = "model of Nemotron-Labs-Diffusion"
    gives: ClassVar[str] = "block-diffusion language model"
    types: ClassVar[tuple[str, ...]] = ("nemotron_labs_diffusion",)
    form: ClassVar[Form] = Form(
        "Nemotron-Labs-Diffusion",
        Ministral3Config,
        causal_context=True,
        names=NAMES,
        dtype_field="dtype",
    )

    def reading(self, fields: Fields) -> Reading:
        """A Ministral 3 in blocks."""
        fields.check(_KNOWN, "a Ministral 3")
        text = text_config(Ministral3Config, fields, pad_token_id=fields.values.get("pad_token_id"))
        # Without a scaling of queries its strength is 0; transformers needs a number.
        text.rope_parameters.setdefault("llama_4_scaling_beta", 0.0)
        text.rope_parameters.setdefault(
            "original_max_position_embeddings", text.max_position_embeddings
        )
        mask = fields.count("mask_token_id", 100, least=0)
        return Reading(text, mask, fields.count("block_size", 32), {"unmasking": "threshold"})

    def described(self, model: BlockDiffusionLM) -> dict[str, Any]:
        """Without biases, attending in both directions within a block."""
        return {
            "architectures": ["NemotronLabsDiffusionModel"],
            "model_type": "nemotron_labs_diffusion",
            "dlm_paradigm": "bidirectional",
            **{name: getattr(model.lm.config, name) for name in _WRITTEN},
            **{name: value for name, (value, _) in _KNOWN.items()},
            "block_size": model.config.block_size,
        }

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights, with its scaling of positions and queries."""
        rope = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "beta_fast": 32.0}
        rope |= {"beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0}
        rope |= {"original_max_position_embeddings": 4, "llama_4_scaling_beta": 0.1}
        lm = small_language_model(
            Ministral3Config, head_dim=4, rope_parameters=rope, pad_token_id=None
        )
        config = {name: getattr(lm.config, name) for name in _WRITTEN}
        own = {"model_type": "nemotron_labs_diffusion", "mask_token_id": 11, "block_size": 4}
        write_weights(lm, folder, config | own, cls.form)
