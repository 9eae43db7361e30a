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

from hf_ddistill.convert.bounds import check_sizes
from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Form, Reading, read_language_model
from hf_ddistill.convert.small_language_model import small_language_model
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.text_config import COMMON, text_config, written
from hf_ddistill.convert.written_language_model import write_language_model, write_weights
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
        check_sizes(folder)
        fields = Fields(configuration(folder), str(folder))
        kind = _type(fields)
        text = text_config(_TYPES[kind], fields)
        mask = self.mask_token_id
        mask = fields.token("mask_token_id") if mask is None else mask
        window = text.max_position_embeddings
        size = self.block_size or fields.count("block_size", window)
        decoding = {"unmasking": "static", **({"sub_block_size": 32} if size >= window else {})}
        form = self._form("A2D model of dllm", kind, full=size >= window)
        return read_language_model(folder, form, Reading(text, mask, size, decoding))

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder as dllm's own, without its code; the block size is in the configuration."""
        inner = getattr(model, "lm", None)
        kind = f"a2d-{inner.config.model_type}" if inner is not None else "a2d-llama"
        if kind not in _TYPES:
            raise ValueError(
                f"A2D models are Llama, Qwen2 and Qwen3 ones, the student is {kind[4:]}."
            )
        full = inner is not None and model.is_full(model.config.block_size)
        form = self._form("A2D", kind, full=full)

        def described(model: BlockDiffusionLM) -> dict[str, Any]:
            text = model.lm.config
            return {
                "architectures": [f"{_CLASSES[kind]}LMHeadModel"],
                "model_type": kind,
                **written(text, COMMON),
                **{name: getattr(text, name) for name in _SOME if hasattr(text, name)},
                **({} if full else {"block_size": model.config.block_size}),
            }

        write_language_model(model, form, described, folder)

    def _form(self, said: str, kind: str, full: bool) -> Form:
        """Of one of the three, in the attention that a model has."""
        own = {"full": full, "shift_logits": self.shift_logits, "dtype_field": "dtype"}
        return Form(said, _TYPES[kind], **own)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A Qwen3 of random weights, without a block size."""
        lm = small_language_model(Qwen3Config, head_dim=4, rope_theta=1e6)
        own = {"model_type": "a2d-qwen3", "mask_token_id": 11, "head_dim": 4}
        form = cls()._form("A2D", "a2d-qwen3", full=True)
        write_weights(lm, folder, own | dict(written(lm.config, COMMON)), form)


def _type(fields: Fields) -> str:
    """Which of the three it is, however it was taken for one of them."""
    kind = fields.values.get("model_type")
    if kind not in _TYPES:
        raise ValueError(
            f"The config.json of {fields.source} gives {kind!r} for model_type; one of A2D is of "
            f"{', '.join(_TYPES)}."
        )
    return str(kind)
