"""The card of a converted model: what it is, and that it is not trained yet."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedTokenizerBase

from hf_ddistill.models import BlockDiffusionLM

TEMPLATE = Path(__file__).with_name("model_card.md")


def conversion_card(
    name: str,
    model: BlockDiffusionLM,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    source: str,
    base_model: str | None = None,
) -> ModelCard:
    """The card of what `to_block_diffusion` returned.

    Args:
        name: of the model, that stands in the snippets.
        model, tokenizer: the converted ones.
        source: name of the causal language model.
        base_model: its id, where it is on the Hub.
    """
    config = model.config
    mask = f"id {config.mask_token_id}"
    if tokenizer is not None and tokenizer.mask_token is not None:
        mask = f"`{tokenizer.mask_token}`, {mask}"
    data = ModelCardData(
        library_name="hf_ddistill",
        base_model=base_model,
        tags=["discrete-diffusion", "block-diffusion", "converted"],
        model_name=name,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        source=source,
        config=config,
        mask=mask,
        dtype=str(model.dtype).removeprefix("torch."),
    )
