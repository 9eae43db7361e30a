"""From a causal language model to a block-diffusion one with the same weights."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.models import (
    BlockDiffusionConfig,
    BlockDiffusionGenerationConfig,
    BlockDiffusionLM,
)
from hf_ddistill.models.block_diffusion.configuration_generation import settings_of
from hf_ddistill.models.block_diffusion.generation_settings import SHAPING, refusal

MASK_TOKEN = "<|mask|>"


def to_block_diffusion(
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    block_size: int = 4,
    mask_token_id: int | None = None,
    shift_logits: bool = False,
    noise_dim: int = 0,
    grow_vocabulary: bool = True,
) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
    """A block-diffusion model around a copy of a causal one.

    The mask token is the tokenizer's own, or else a new one: in a row of the embeddings that no
    token has, or in one row more. Its embedding starts as the mean of all others. The settings of
    generation, all end tokens with them, are those of the causal model.

    References:
        Data-Efficient Autoregressive-to-Diffusion Language Models via On-Policy Distillation
        (2026), https://arxiv.org/abs/2606.06712

    Args:
        lm: any causal language model of full or sliding attention; left as it is.
        tokenizer: its tokenizer; a copy with the mask token is returned.
        block_size: tokens in a block.
        mask_token_id: a row of the embeddings to be the mask, where there is no tokenizer.
        shift_logits: keep the causal model's reading, the output at i - 1 for token i.
        noise_dim: width of a noise input per position; it starts with a tenth of the embeddings'
            standard deviation.
        grow_vocabulary: whether the embeddings may get one row more.

    Raises:
        ValueError: if there is no mask token and none can be added, and for a model whose output is
            more than its head on its decoder.
    """
    _check(lm)
    # A student, even where the model was frozen as a teacher before.
    lm, tokenizer = copy.deepcopy(lm).requires_grad_(True), copy.deepcopy(tokenizer)
    rows = lm.get_input_embeddings().weight.shape[0]
    is_new = False
    if mask_token_id is None:
        if tokenizer is None:
            raise ValueError(
                f"{type(lm).__name__} has no mask token; give its tokenizer, to which one is "
                "added, or mask_token_id, a row of the embeddings that no token uses."
            )
        is_new = tokenizer.mask_token_id is None
        if is_new and len(tokenizer) >= rows and not grow_vocabulary:
            tied = "tied " if lm.config.tie_word_embeddings else ""
            raise ValueError(
                f"The vocabulary is full: {len(tokenizer)} tokens in {rows} {tied}embeddings leave "
                "no row for a mask token; give grow_vocabulary=True, or mask_token_id."
            )
        if is_new:
            tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
        mask_token_id = tokenizer.mask_token_id
    if not 0 <= mask_token_id <= rows:
        raise ValueError(f"mask_token_id={mask_token_id} must be from 0 to {rows - 1}.")
    if mask_token_id >= rows:
        lm.resize_token_embeddings(mask_token_id + 1, mean_resizing=False)
    if is_new:
        _start_at_mean(lm, mask_token_id)
    config = BlockDiffusionConfig(
        text_config=copy.deepcopy(lm.config),
        block_size=block_size,
        mask_token_id=mask_token_id,
        shift_logits=shift_logits,
        noise_dim=noise_dim,
    )
    model = BlockDiffusionLM(config, lm)
    model.generation_config = _generation_config(lm)
    if noise_dim:
        spread = float(lm.get_input_embeddings().weight.detach().std())
        torch.nn.init.normal_(model.noise_proj.weight, std=0.1 * spread * noise_dim**-0.5)
    return model.to(lm.dtype), tokenizer


def _generation_config(lm: PreTrainedModel) -> BlockDiffusionGenerationConfig:
    """The causal model's, but for what block decoding has not, which is said."""
    settings = settings_of(lm.generation_config)
    left = [name for name, value in settings.items() if refusal(name, value) is not None]
    if left:
        warnings.warn(
            f"The generation config of {type(lm).__name__} sets {', '.join(left)}, which block "
            "decoding does not act on (docs/generate_settings.md): left out.",
            UserWarning,
            stacklevel=3,
        )
    kept = {name: value for name, value in settings.items() if name not in left}
    if SHAPING.keys() & kept.keys():
        # Of our own settings a temperature alone draws; of the causal model's it did not.
        kept.setdefault("do_sample", False)
    return BlockDiffusionGenerationConfig(**kept)


def _check(lm: PreTrainedModel) -> None:
    """Raise if the model's logits are not its head's on its decoder's output."""
    if lm.get_output_embeddings() is None or not hasattr(lm, "get_decoder"):
        raise ValueError(
            f"{type(lm).__name__} is no causal language model: it has no decoder with a head."
        )
    ids = torch.arange(min(4, lm.config.vocab_size), device=lm.device)[None]
    config = BlockDiffusionConfig(
        text_config=copy.deepcopy(lm.config), block_size=1, mask_token_id=0
    )
    was_training = lm.training
    lm.eval()
    with torch.no_grad():
        theirs = lm(input_ids=ids).logits
        ours = BlockDiffusionLM(config, lm)(input_ids=ids).logits
    lm.train(was_training)
    if not torch.allclose(ours.float(), theirs.float(), atol=1e-3, rtol=1e-3):
        raise ValueError(
            f"{type(lm).__name__} does more than its decoder and its head do (the logits differ by "
            f"{float((ours - theirs).abs().max()):.2g}), so that blocks cannot be read from it; "
            "Llama, Qwen2, Qwen3, Gemma and SmolLM models can be converted."
        )


@torch.no_grad()
def _start_at_mean(lm: PreTrainedModel, index: int) -> None:
    tables: list[nn.Module] = [lm.get_input_embeddings(), lm.get_output_embeddings()]
    for table in tables:
        weight = table.weight
        others = torch.arange(len(weight), device=weight.device) != index
        weight[index] = weight[others].float().mean(0).to(weight.dtype)
