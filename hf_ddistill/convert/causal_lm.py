"""The converter of causal language models, into block-diffusion ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from huggingface_hub import ModelCard
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_ddistill.convert.block_diffusion import to_block_diffusion
from hf_ddistill.convert.bounds import check_numbers, check_sizes
from hf_ddistill.convert.card import conversion_card
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.source import configuration
from hf_ddistill.models import BlockDiffusionLM, load_config
from hf_ddistill.models.loading import load_checkpoint
from hf_ddistill.models.opening import is_causal_name
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class CausalLM(Converter):
    """A causal language model becomes a block-diffusion one with the same weights.

    References:
        Data-Efficient Autoregressive-to-Diffusion Language Models via On-Policy Distillation
        (2026), https://arxiv.org/abs/2606.06712

    Args:
        block_size: tokens in a block.
        mask_token_id: as `to_block_diffusion` has it, where there is no tokenizer.
        shift_logits: keep the causal model's reading, the output at i - 1 for token i.
        noise_dim: width of a noise input per position.
        grow_vocabulary: whether the embeddings may get one row more.
        dtype: of the weights: "auto", "float32", "bfloat16" or "float16".

    Raises:
        ValueError: for blocks of no token, a negative width or another dtype.
    """

    id: ClassVar[str] = "causal_lm"
    reads: ClassVar[str] = "causal language model"
    gives: ClassVar[str] = "block-diffusion language model"

    block_size: int = field(default=4, metadata={"help": "Tokens in a block."})
    mask_token_id: int | None = field(
        default=None,
        metadata={"help": "The row of the embeddings that masks (default: the tokenizer's mask)."},
    )
    shift_logits: bool = field(
        default=False, metadata={"help": "The output at i - 1 speaks of token i."}
    )
    noise_dim: int = field(
        default=0, metadata={"help": "Width of a noise input per position; 0 for none."}
    )
    grow_vocabulary: bool = field(
        default=True, metadata={"help": "A row more of the embeddings for the mask, if need be."}
    )
    dtype: str = field(
        default="auto",
        metadata={"help": f"Of the weights: {', '.join(DTYPES)}; auto is the model's."},
    )

    def __post_init__(self) -> None:
        for name, least in (("block_size", 1), ("noise_dim", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """By its type, and by the class that wrote it where the type has several."""
        kind = configuration(folder).get("model_type", "")
        # transformers would ask at the terminal whether to run the code of a type of others.
        return (not kind or kind in CONFIG_MAPPING) and is_causal_name(folder)

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The type that its configuration names, and the class that wrote it."""
        config = load_config(folder)
        written_by = ", ".join(config.architectures or ()) or "a class that it does not name"
        return f"its configuration is of {config.model_type!r}, written by {written_by}"

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """A block-diffusion model, and the tokenizer with its mask token."""
        check_sizes(folder)
        config = load_config(folder)
        check_numbers(lambda: AutoModelForCausalLM.from_config(config), folder)
        return to_block_diffusion(
            load_checkpoint(AutoModelForCausalLM, folder, dtype=self.dtype),
            load_tokenizer(folder) if has_tokenizer(folder) else None,
            block_size=self.block_size,
            mask_token_id=self.mask_token_id,
            shift_logits=self.shift_logits,
            noise_dim=self.noise_dim,
            grow_vocabulary=self.grow_vocabulary,
        )

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """The causal language model inside, the mask's row with it."""
        if not isinstance(model, BlockDiffusionLM):
            raise ValueError(f"{type(model).__name__} holds no causal language model to write.")
        if not type(model.lm).__module__.startswith("transformers."):
            raise ValueError(
                f"The network within is a {type(model.lm).__name__}, which no causal model of "
                "transformers is."
            )
        if model.config.noise_dim:
            raise ValueError(
                f"noise_dim={model.config.noise_dim}: a causal language model takes no noise."
            )
        model.lm.save_pretrained(folder)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A Llama of random weights, without a tokenizer: it needs `mask_token_id`."""
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        config = LlamaConfig(vocab_size=12, num_attention_heads=2, **sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            LlamaForCausalLM(config).save_pretrained(folder)

    def card(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        source: str,
        base_model: str | None = None,
    ) -> ModelCard:
        """What it is, and that it is not trained yet."""
        return conversion_card(name, model, tokenizer, source=source, base_model=base_model)

    def next_step(self, model: PreTrainedModel, source: str, output: str) -> str:
        """Blocks and mask, and the command that trains it."""
        config = model.config
        return (
            f"blocks of {config.block_size}, mask token {config.mask_token_id}. It speaks once it "
            f"is trained: hf-ddistill distill --teacher {source} --student {output} "
            "--objective opdlm ..."
        )
