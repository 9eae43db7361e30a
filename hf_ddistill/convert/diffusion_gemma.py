"""DiffusionGemma, native in transformers: a teacher through its own class, over uniform states."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from transformers import (
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_ddistill.convert.bounds import check_numbers, check_sizes
from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.made_of import made_of
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import CanvasConfig, CanvasLM, load_checkpoint, load_config
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.processes import Uniform
from hf_ddistill.schedules import LogLinear

#: What its output is: p(x_0 | x_t), or p(x_0^i | x_t without i).
PREDICTIONS = {"mean": "conditional", "mean_loo": "given_others"}


@dataclass(frozen=True)
class DiffusionGemma(ByType, Converter):
    """DiffusionGemma: tokens of a canvas are replaced by uniform ones, and an encoder reads what
    stands before.

    With K tokens of which a share 1 - alpha is replaced, p(x_0^i | x_t) is softmax of the logits
    "mean_loo" in which the observed token has log(1 + K alpha / (1 - alpha)) more.

    References:
        Leave-one-out denoisers (2026), https://arxiv.org/abs/2605.22765

    Args:
        prediction: "mean", as it was released, or "mean_loo", as TRL calls the other training.

    Raises:
        ValueError: for another prediction.
    """

    id: ClassVar[str] = "diffusion_gemma"
    reads: ClassVar[str] = "model of DiffusionGemma"
    gives: ClassVar[str] = "denoiser of a canvas behind a prompt"
    types: ClassVar[tuple[str, ...]] = ("diffusion_gemma",)

    prediction: str = field(
        default="mean",
        metadata={"help": "What the output is: mean, or TRL's mean_loo (leave-one-out)."},
    )

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}."
            )

    def read(self, folder: str) -> tuple[CanvasLM, PreTrainedTokenizerBase | None]:
        """Its own network, called as a masked language model is, and its tokenizer."""
        check_sizes(folder)
        with made_of(folder):
            config = load_config(folder)
        check_numbers(lambda: DiffusionGemmaForBlockDiffusion(config), folder)
        with made_of(folder):
            lm = load_checkpoint(DiffusionGemmaForBlockDiffusion, folder, dtype="auto")
        diffusion = Diffusion(Uniform(lm.config.text_config.vocab_size), LogLinear())
        reading = {"parameterization": PREDICTIONS[self.prediction]}
        config = CanvasConfig(
            network_config=copy.deepcopy(lm.config),
            discrete_diffusion={**diffusion.to_config(), **reading},
        )
        tokenizer = load_tokenizer(folder) if has_tokenizer(folder) else None
        return CanvasLM(config, lm).eval(), tokenizer

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """Its own network, as transformers saves it."""
        if not isinstance(model, CanvasLM):
            raise ValueError(f"{type(model).__name__} holds no DiffusionGemma to write.")
        model.lm.save_pretrained(folder)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights: two layers, four experts, a canvas of eight tokens."""
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
        text = {
            "vocab_size": 20,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            **heads,
            "global_head_dim": 8,
            "num_global_key_value_heads": 1,
            "sliding_window": 8,
            "layer_types": ["sliding_attention", "full_attention"],
            "num_experts": 4,
            "top_k_experts": 2,
            "moe_intermediate_size": 8,
            "max_position_embeddings": 64,
        }
        vision = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
        vision |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 8}
        images = {"boi_token_id": 17, "eoi_token_id": 18, "image_token_id": 19}
        config = DiffusionGemmaConfig(
            text_config=text, vision_config=vision, canvas_length=8, **images
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            DiffusionGemmaForBlockDiffusion(config).save_pretrained(folder)
