"""The learning rate of a student whose user named none, by what it is."""

from __future__ import annotations

import copy
import logging

from peft import PeftModel
from torch import nn

from hf_ddistill.models import DDiTForDiscreteDiffusion, unwrapped
from hf_ddistill.training.arguments import DiscreteDistillationConfig
from hf_ddistill.training.settings import ADAPTER_RATE, DDIT_RATE, LANGUAGE_MODEL_RATE

logger = logging.getLogger(__name__)


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


def with_learning_rate(
    args: DiscreteDistillationConfig, model: nn.Module
) -> DiscreteDistillationConfig:
    """Settings with the learning rate of a student, told in the log, where they have none; as a
    copy, so that another student is given its own."""
    if args.learning_rate is not None:
        return args
    adapted, args = isinstance(model, PeftModel), copy.copy(args)
    args.learning_rate = default_learning_rate(model, adapted)
    if args.should_log:
        kind = "adapters" if adapted else type(unwrapped(model)).__name__
        logger.warning(
            "learning_rate=%g, which goes with %s as the student; set it for another one.",
            args.learning_rate,
            kind,
        )
    return args
