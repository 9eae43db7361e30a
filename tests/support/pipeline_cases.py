"""Pipelines that tests share."""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedulers import (
    AncestralScheduler,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def made(process=None, seed=0, **sizes):
    """A random model in which time, class and noise all matter."""
    process = process or Absorbing(6)
    torch.manual_seed(seed)
    sizes = {"max_position_embeddings": 8, "position_embedding": "learned", **sizes}
    config = DDiTConfig(
        vocab_size=process.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        cond_dim=16,
        discrete_diffusion=Diffusion(process).to_config(),
        **sizes,
    )
    model = DDiTForDiscreteDiffusion(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
    return model


def piped(model, scheduler_class=AncestralScheduler, tokenizer=None, **settings):
    pipe = DiscreteDiffusionPipeline.from_model(model, scheduler_class, tokenizer, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def letters():
    """A tokenizer with one token for each of "abcd", and a mask: 6 tokens."""
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "d": 3, "?": 4, "_": 5}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", mask_token="_")
