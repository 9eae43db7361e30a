"""The network that is trained beside the student, which objectives know as "auxiliary"."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.models import unwrapped
from hf_ddistill.training.arguments import DiscreteDistillationConfig
from hf_ddistill.training.finite import check_gradient
from hf_ddistill.training.losses import Parts


@dataclass(frozen=True)
class Alternation:
    """Which networks an optimizer step updates: the auxiliary always, the student in turn.

    Args:
        warmup: optimizer steps at the start that leave the student out.
        every: after them, the student is updated in the last of so many.
    """

    warmup: int = 0
    every: int = 1

    @classmethod
    def of(cls, args: DiscreteDistillationConfig) -> Alternation:
        """That of the settings."""
        return cls(args.auxiliary_warmup_steps, args.auxiliary_updates)

    def student_updates(self, steps: int) -> int:
        """How often the first `steps` optimizer steps update the student."""
        return max(steps - self.warmup, 0) // self.every

    def trained(self, step: int) -> frozenset[str]:
        """The networks that an optimizer step, counted from 0, updates."""
        moves = self.student_updates(step + 1) > self.student_updates(step)
        return frozenset({"auxiliary", "student"} if moves else {"auxiliary"})


class Auxiliary(TrainerCallback):
    """Keeps the gradients of student and auxiliary apart: each is cleared and clipped by itself.

    Args:
        denoiser: around the trainable network, perhaps wrapped for data parallelism.
        alternation: which of the two is updated when.
        parts: where the norm of the gradient is entered for the log.
    """

    def __init__(self, denoiser: Denoiser, alternation: Alternation, parts: Parts) -> None:
        self.denoiser, self.alternation, self.parts = denoiser, alternation, parts

    @property
    def model(self) -> nn.Module:
        """The network itself."""
        return unwrapped(self.denoiser.networks()[0])

    @staticmethod
    def learning_rate(args: DiscreteDistillationConfig) -> float:
        """Its own, or else the student's, at the start of the schedule."""
        own = args.auxiliary_learning_rate
        return args.learning_rate if own is None else own

    def facts(self, args: DiscreteDistillationConfig) -> dict[str, Any]:
        """Settings worth telling."""
        return {
            "learning rate of the auxiliary": self.learning_rate(args),
            "optimizer steps of the auxiliary alone at the start": self.alternation.warmup,
            "updates of the auxiliary for each of the student": self.alternation.every,
        }

    def join(
        self, optimizer: Optimizer, args: DiscreteDistillationConfig, decayed: Collection[str]
    ) -> None:
        """Add the network's parameters to the student's optimizer, with settings of their own.

        Args:
            optimizer: without a schedule as yet; the one that it gets holds for all its groups.
            args: settings.
            decayed: names of the parameters that weight decay is for.
        """
        own: dict[str, Any] = {"lr": self.learning_rate(args)}
        if "betas" in optimizer.defaults:
            own["betas"] = (args.auxiliary_beta1, args.adam_beta2)
        for decays in (True, False):
            chosen = [p for name, p in self.model.named_parameters() if (name in decayed) == decays]
            decay = args.weight_decay if decays else 0.0
            optimizer.add_param_group({"params": chosen, "weight_decay": decay, **own})

    def kept(self) -> dict[str, Tensor]:
        """Its weights as a checkpoint keeps them."""
        # Shared (tied) tensors are written once each.
        weights = self.model.state_dict()
        return {f"auxiliary.{name}": value.clone() for name, value in weights.items()}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights from what `kept` gave."""
        weights = {k[10:]: v for k, v in tensors.items() if k.startswith("auxiliary.")}
        self.model.load_state_dict(weights)

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Forget the last gradient; `Trainer` does so for the student alone."""
        self.model.zero_grad()

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        """Clip the gradient; a student that is left out gets none, which optimizers pass over."""
        limit = args.max_grad_norm if args.max_grad_norm > 0 else float("inf")
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        if not args.fp16:
            check_gradient(norm, "auxiliary", state.global_step)
        self.parts.add({"auxiliary_grad_norm": norm})
        if "student" not in self.alternation.trained(state.global_step):
            model.zero_grad()
