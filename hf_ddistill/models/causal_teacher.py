"""A causal language model as the teacher of a block-diffusion one."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.models.block_diffusion.configuration_block_diffusion import BlockDiffusionConfig
from hf_ddistill.models.block_diffusion.modeling_block_diffusion import BlockDiffusionLM


def as_causal_teacher(lm: PreTrainedModel, student: BlockDiffusionConfig) -> BlockDiffusionLM:
    """A causal language model as it is (no copy), in the student's vocabulary: called with
    `causal=True` it is the teacher of objectives that ask an autoregressive one.

    Raises:
        ValueError: if it has more tokens than the student.
    """
    own = lm.config.vocab_size
    if own > student.vocab_size:
        raise ValueError(
            f"The teacher has {own} tokens and the student {student.vocab_size}: the student's "
            "vocabulary must be the teacher's, with the mask token in or behind it."
        )
    config = BlockDiffusionConfig(
        text_config=copy.deepcopy(lm.config),
        block_size=student.block_size,
        mask_token_id=student.mask_token_id,
        vocab_size=student.vocab_size,
    )
    teacher = BlockDiffusionLM(config, lm)
    teacher.config.name_or_path = lm.config.name_or_path
    return teacher


def check_same_tokens(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    """Raise, with the first token that differs, if two tokenizers do not share the teacher's
    vocabulary."""
    ours = student.get_vocab()
    for token, index in sorted(teacher.get_vocab().items(), key=lambda item: item[1]):
        if ours.get(token) != index:
            known = [name for name, number in ours.items() if number == index]
            theirs = repr(known[0]) if known else "nothing"
            raise ValueError(
                f"The teacher has another tokenizer: token {index} is {token!r} for it and "
                f"{theirs} for the student; both must read the same tokens."
            )
