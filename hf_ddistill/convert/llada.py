"""LLaDA: a Llama under full attention, with the names of OLMo."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import LlamaConfig

from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Form, Reading
from hf_ddistill.convert.language_model_folder import LanguageModelFolder
from hf_ddistill.convert.made_of import made_of
from hf_ddistill.convert.renaming import Renaming
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.written_language_model import write_weights
from hf_ddistill.models import BlockDiffusionLM

_LAYER = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
NAMES = Renaming(
    (
        ("transformer.wte.weight", "model.embed_tokens.weight"),
        *(
            (f"transformer.blocks.{{}}.{theirs}.weight", f"model.layers.{{}}.{ours}.weight")
            for theirs, ours in _LAYER.items()
        ),
        ("transformer.ln_f.weight", "model.norm.weight"),
        ("transformer.ff_out.weight", "lm_head.weight"),
    ),
    prefix="model.",
)
#: Field -> the value of a Llama, and what LLaDA's own code takes where the field is missing.
_KNOWN: dict[str, tuple[Any, Any]] = {
    "block_type": ("llama", "sequential"),
    "block_group_size": (1, 1),
    "activation_type": ("silu", "swiglu"),
    "layer_norm_type": ("rms", "default"),
    "layer_norm_with_affine": (True, True),
    "bias_for_layer_norm": (False, False),
    "rope": (True, False),
    "alibi": (False, False),
    "include_bias": (False, False),
    "include_qkv_bias": (False, False),
    "attention_layer_norm": (False, False),
    "input_emb_norm": (False, False),
    "scale_logits": (False, False),
}
_NEEDED = ("d_model", "n_heads", "n_layers", "vocab_size", "max_sequence_length")


@dataclass(frozen=True)
class LLaDA(LanguageModelFolder, Converter):
    """LLaDA and LLaDA 1.5, masked diffusion on the network of a Llama.

    References:
        Large Language Diffusion Models (2025), https://arxiv.org/abs/2502.09992
    """

    id: ClassVar[str] = "llada"
    reads: ClassVar[str] = "model of LLaDA"
    gives: ClassVar[str] = "diffusion language model of full attention"
    form: ClassVar[Form] = Form("LLaDA", LlamaConfig, full=True, names=NAMES)

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """By its type, or the class that wrote it."""
        config = configuration(folder)
        written_by = config.get("architectures") or ()
        return config.get("model_type") == "llada" or "LLaDAModelLM" in written_by

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The type that its configuration names, and the class that wrote it."""
        config = configuration(folder)
        written_by = ", ".join(config.get("architectures") or ()) or "a class that it does not name"
        return f"its configuration is of {config.get('model_type')!r}, written by {written_by}"

    def reading(self, fields: Fields) -> Reading:
        """A Llama under full attention."""
        fields.check(_KNOWN, "a Llama")
        size = {name: fields.count(name) for name in _NEEDED}
        heads = size["n_heads"]
        multi_query = fields.values.get("multi_query_attention")
        with made_of(fields.source):
            text = LlamaConfig(
                # Rows beyond the vocabulary are tokens like the others to its head.
                vocab_size=fields.count("embedding_size", size["vocab_size"]),
                hidden_size=size["d_model"],
                intermediate_size=fields.count(
                    "mlp_hidden_size", fields.count("mlp_ratio", 4) * size["d_model"]
                ),
                num_hidden_layers=size["n_layers"],
                num_attention_heads=heads,
                num_key_value_heads=fields.count("n_kv_heads", 1 if multi_query else heads),
                max_position_embeddings=size["max_sequence_length"],
                rms_norm_eps=fields.number("rms_norm_eps", 1e-5),
                rope_theta=fields.number("rope_theta", 10000.0),
                tie_word_embeddings=fields.flag("weight_tying", True),
                bos_token_id=fields.values.get("bos_token_id"),
                eos_token_id=fields.values.get("eos_token_id"),
                pad_token_id=fields.values.get("pad_token_id"),
            )
        mask = fields.count("mask_token_id", least=0)
        decoding = {"unmasking": "static", "sub_block_size": 32}
        window = size["max_sequence_length"]
        return Reading(text, mask, window, decoding)

    def described(self, model: BlockDiffusionLM) -> dict[str, Any]:
        """By OLMo's names, without biases."""
        text = model.lm.config
        check_plain(text, "LLaDA")
        if text.attention_bias or text.mlp_bias:
            raise ValueError("LLaDA has no biases, and the student has some.")
        if text.hidden_act != "silu":
            raise ValueError(f"LLaDA's activation is silu, the student's {text.hidden_act}.")
        known = {name: value for name, (value, _) in _KNOWN.items()}
        return {
            "architectures": ["LLaDAModelLM"],
            "model_type": "llada",
            **known,
            "d_model": text.hidden_size,
            "n_heads": text.num_attention_heads,
            "n_kv_heads": text.num_key_value_heads,
            "n_layers": text.num_hidden_layers,
            "mlp_hidden_size": text.intermediate_size,
            "max_sequence_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "embedding_size": text.vocab_size,
            "rms_norm_eps": text.rms_norm_eps,
            "rope_theta": text.rope_parameters["rope_theta"],
            "rope_full_precision": True,
            "weight_tying": text.tie_word_embeddings,
        }

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights, with more embeddings than tokens."""
        lm = small_language_model(
            LlamaConfig, vocab_size=14, intermediate_size=12, num_key_value_heads=2
        )
        text = lm.config
        config = {name: value for name, (value, _) in _KNOWN.items()} | {
            "model_type": "llada",
            "d_model": 8,
            "n_heads": 2,
            "n_layers": 1,
            "mlp_hidden_size": 12,
            "vocab_size": 12,
            "embedding_size": 14,
            "max_sequence_length": 16,
            "rms_norm_eps": text.rms_norm_eps,
            "weight_tying": False,
            "mask_token_id": 11,
        }
        write_weights(lm, folder, config, cls.form)


def check_plain(text: LlamaConfig, kind: str) -> None:
    """Raise unless rotary positions are not scaled and heads share the width among them."""
    if text.rope_parameters.get("rope_type", "default") != "default":
        raise ValueError(f"{kind} has plain rotary positions, and the student's are scaled.")
    if text.head_dim * text.num_attention_heads != text.hidden_size:
        raise ValueError(f"{kind}'s heads share the width among them; the student's do not.")
