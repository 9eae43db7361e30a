"""The learning rate of a student whose user named none, by what it is."""

from __future__ import annotations

from torch import nn

from hf_ddistill.models import DDiTForDiscreteDiffusion, unwrapped
from hf_ddistill.training.settings import ADAPTER_RATE, DDIT_RATE, LANGUAGE_MODEL_RATE


def default_learning_rate(model: nn.Module, adapted: bool = False) -> float:
    """That of a DDiT, which is small and of the task; of a language model of transformers, whose
    weights know more than the data of a distillation say; or of adapters, which start at nothing.

    Args:
        model: the student, or what it is a copy of.
        adapted: whether adapters are all that is trained.
    """
    if adapted:
        return ADAPTER_RATE
    ddit = isinstance(unwrapped(model), DDiTForDiscreteDiffusion)
    return DDIT_RATE if ddit else LANGUAGE_MODEL_RATE
