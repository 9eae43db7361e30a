"""Trainers: an objective, its networks and its randomness inside `transformers.Trainer`."""

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
