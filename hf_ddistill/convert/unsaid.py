"""Settings of the converters of DiTs: what a checkpoint may leave unsaid."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import PreTrainedModel

from hf_ddistill.convert.ddit_checkpoint import trained_for


@dataclass(frozen=True)
class Unsaid:
    """What neither the configuration nor the weights may say, and what the new model says.

    Args:
        length: greatest one.
        heads: of attention.
        tokenizer: folder or Hub id, where there is none beside the weights.
    """

    length: int | None = field(
        default=None, metadata={"help": "Greatest length (default: what the source says)."}
    )
    heads: int | None = field(
        default=None, metadata={"help": "Attention heads (default: what the source says)."}
    )
    tokenizer: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of the tokenizer (default: that beside the weights)."},
    )

    def next_step(self, model: PreTrainedModel, source: str, output: str) -> str:
        """What its configuration now says."""
        return trained_for(model)


@dataclass(frozen=True)
class UnsaidMask(Unsaid):
    """`Unsaid` of networks over masks.

    Args:
        mask_token_id: where neither configuration nor tokenizer names it.
    """

    mask_token_id: int | None = field(
        default=None,
        metadata={"help": "The row of the embeddings that masks (default: the tokenizer's mask)."},
    )
