"""What may be given as a teacher, and the model that it becomes."""

from __future__ import annotations

from pathlib import Path

from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_ddistill.models import (
    BlockDiffusionLM,
    as_causal_teacher,
    check_same_tokens,
    unwrapped,
)


def teacher_model(
    teacher: object, student: object, tokenizer: PreTrainedTokenizerBase | None
) -> object:
    """The teacher itself; a name is loaded, and a causal language model comes in the vocabulary of
    its block-diffusion student.

    Args:
        teacher: a model, its name, a denoiser, or None.
        student: a model or None.
        tokenizer: the student's, which must be that of a teacher that is loaded by its name.

    Raises:
        ValueError: for a causal teacher without a block-diffusion student, or with another
            tokenizer (with the first token that differs).
    """
    if isinstance(teacher, str):
        if isinstance(tokenizer, PreTrainedTokenizerBase) and _has_tokenizer(teacher):
            check_same_tokens(AutoTokenizer.from_pretrained(teacher), tokenizer)
        causal = type(AutoConfig.from_pretrained(teacher)) in MODEL_FOR_CAUSAL_LM_MAPPING
        kind = AutoModelForCausalLM if causal else AutoModelForMaskedLM
        teacher = kind.from_pretrained(teacher)
    if not is_causal(teacher):
        return teacher
    inner = unwrapped(student) if isinstance(student, nn.Module) else student
    if not isinstance(inner, BlockDiffusionLM):
        got = "no model" if inner is None else type(inner).__name__
        raise ValueError(
            f"{type(teacher).__name__} is a causal language model: its student is a "
            f"BlockDiffusionLM (to_block_diffusion makes one of it), got {got}."
        )
    return as_causal_teacher(teacher, inner.config)


def is_causal(model: object) -> bool:
    """Whether it is a causal language model of transformers."""
    known = set(MODEL_FOR_CAUSAL_LM_MAPPING.values())
    return isinstance(model, PreTrainedModel) and type(model) in known


def _has_tokenizer(name: str) -> bool:
    folder = Path(name)
    return not folder.is_dir() or any(folder.glob("tokenizer*"))
