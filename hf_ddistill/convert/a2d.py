"""dllm's A2D: causal models of transformers under other attention, with their own names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from transformers import (
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
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
    write_weights,
)
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.text_config import COMMON, text_config, written
from hf_ddistill.models import BlockDiffusionLM

_TYPES = {"a2d-llama": LlamaConfig, "a2d-qwen2": Qwen2Config, "a2d-qwen3": Qwen3Config}
_CLASSES = {"a2d-llama": "A2DLlama", "a2d-qwen2": "A2DQwen2", "a2d-qwen3": "A2DQwen3"}
#: Fields that not every one of the three has.
_SOME = ("head_dim", "attention_bias", "mlp_bias", "attention_dropout")


@dataclass(frozen=True)
class A2D(ByType, Converter):
    """dllm's A2D: a Llama, Qwen2 or Qwen3 trained as masked or as block diffusion.

    Its configuration does not say which of the two: without a block size attention is full.

    References:
        dLLM: Simple Diffusion Language Modeling (2025), https://github.com/ZHZisZZ/dllm

    Args:
        block_size: tokens in a block; None for the configuration's, or full attention.
        mask_token_id: None for the configuration's, or the tokenizer's.
        shift_logits: the output at i - 1 speaks of token i.

    Raises:
        ValueError: for blocks of no token.
    """

    id: ClassVar[str] = "a2d"
    reads: ClassVar[str] = "model of A2D, of dllm"
    gives: ClassVar[str] = "diffusion language model"
    types: ClassVar[tuple[str, ...]] = tuple(_TYPES)

    block_size: int | None = field(
        default=None, metadata={"help": "Tokens in a block (default: what the source says)."}
    )
    mask_token_id: int | None = field(
        default=None,
        metadata={"help": "The row of the embeddings that masks (default: the tokenizer's mask)."},
    )
    shift_logits: bool = field(
        default=False, metadata={"help": "The output at i - 1 speaks of token i."}
    )

    def __post_init__(self) -> None:
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}.")

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """The causal model in blocks or under full attention, and the tokenizer with its mask."""
        fields = Fields(configuration(folder), str(folder))
        text = text_config(_TYPES[_type(fields)], fields)
        mask = self.mask_token_id
        if mask is None and fields.values.get("mask_token_id") is not None:
            mask = fields.count("mask_token_id", least=0)
        window = text.max_position_embeddings
        size = self.block_size or fields.count("block_size", window)
        reading = Reading(
            "A2D model of dllm",
            text,
            mask,
            size,
            self.shift_logits,
            decoding={"unmasking": "static", **({"sub_block_size": 32} if size >= window else {})},
        )
        return read_language_model(folder, reading)

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder as dllm's own, without its code; the block size is in the configuration."""
        inner = getattr(model, "lm", None)
        kind = f"a2d-{inner.config.model_type}" if inner is not None else "a2d-llama"
        if kind not in _TYPES:
            raise ValueError(
                f"A2D models are Llama, Qwen2 and Qwen3 ones, the student is {kind[4:]}."
            )
        lm = language_model_of(model, "A2D", kind[4:])
        full = model.is_full(model.config.block_size)
        check_reading(model, "A2D", full=full, shift=self.shift_logits)
        text = lm.config
        config: dict[str, Any] = {
            "architectures": [f"{_CLASSES[kind]}LMHeadModel"],
            "model_type": kind,
            **written(text, COMMON),
            **{name: getattr(text, name) for name in _SOME if hasattr(text, name)},
            **({} if full else {"block_size": model.config.block_size}),
            "mask_token_id": model.config.mask_token_id,
            **special_tokens(model),
            "dtype": dtype_name(lm),
        }
        write_weights(lm, folder, config)
        write_special(model, folder)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A Qwen3 of random weights, without a block size."""
        lm = small_language_model(Qwen3Config, head_dim=4, rope_theta=1e6)
        text = lm.config
        own = {"model_type": "a2d-qwen3", "mask_token_id": 11, "head_dim": 4}
        write_weights(lm, folder, own | dict(written(text, COMMON)))


def _type(fields: Fields) -> str:
    """Which of the three it is, however it was taken for one of them."""
    kind = fields.values.get("model_type")
    if kind not in _TYPES:
        raise ValueError(
            f"The config.json of {fields.source} gives {kind!r} for model_type; one of A2D is of "
            f"{', '.join(_TYPES)}."
        )
    return str(kind)
