"""Trainers: an objective, its networks and its randomness inside `transformers.Trainer`.

Names are imported when they are used: `settings`, which the command line reads, imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_ddistill.lazy import lazy_names

if TYPE_CHECKING:
    from hf_ddistill.training.arguments import DiscreteDiffusionConfig, DiscreteDistillationConfig
    from hf_ddistill.training.diffusion_trainer import DiscreteDiffusionTrainer
    from hf_ddistill.training.distillation_trainer import DiscreteDistillationTrainer
    from hf_ddistill.training.model_card import CardFacts, write_card

__all__ = [
    "CardFacts",
    "DiscreteDiffusionConfig",
    "DiscreteDiffusionTrainer",
    "DiscreteDistillationConfig",
    "DiscreteDistillationTrainer",
    "write_card",
]

__getattr__, __dir__ = lazy_names(__name__, __file__)
