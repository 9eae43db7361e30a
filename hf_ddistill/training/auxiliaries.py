"""The networks that are trained beside the student, by the names that the objective gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.models import unwrapped
from hf_ddistill.objectives import Objective
from hf_ddistill.objectives.alternation import Alternation
from hf_ddistill.training.arguments import DiscreteDistillationConfig
from hf_ddistill.training.copies import denoiser_copy
from hf_ddistill.training.finite import check_gradient
from hf_ddistill.training.losses import Parts
from hf_ddistill.training.settings import ADAPTED_AUXILIARY_TIMES, AUXILIARY_TIMES
from hf_ddistill.training.sharding import (
    check_whole,
    placed_auxiliary,
    put,
    share_base,
    whole,
)
from hf_ddistill.training.trained_state import trained_state


def make_auxiliaries(
    objective: Objective, sources: Mapping[str, Denoiser], accelerator: Accelerator, seed: int
) -> dict[str, Denoiser | nn.Module]:
    """The trained networks of an objective, in train mode, where the process computes.

    Args:
        objective: says which.
        sources: "teacher" and "student", of which copies are made; factories get the student's
            network and its diffusion.
        accelerator: of the training.
        seed: of the weights that a factory draws.

    Raises:
        ValueError: for a source that cannot be copied, a factory that makes no network, or a
            student that is sharded otherwise than by FSDP2.
    """
    made: dict[str, Denoiser | nn.Module] = {}
    for name in objective.auxiliaries:
        check_whole(accelerator, f"The {name} of {objective.id!r}")
        need = objective.networks[name]
        if need.copy_of is not None:
            copied = denoiser_copy(sources[need.copy_of], f"The {name}", seed)
            (network,) = copied.networks()
            made[name] = copied.with_networks([placed_auxiliary(network, accelerator, True)])
        else:
            student = sources["student"]
            own = unwrapped(student.networks()[0])
            network = need.build(name, own, student.diffusion, seed)
            made[name] = placed_auxiliary(network.train(), accelerator, False)
    return made


class Auxiliaries(TrainerCallback):
    """Keeps the gradients of all networks in training apart: each is cleared and clipped by itself.

    Args:
        networks: those beside the student, by name: denoisers around trainable networks, or these
            themselves; perhaps wrapped for data parallelism.
        alternation: when the student is updated; they always are.
        parts: where the norms of their gradients are entered for the log.
    """

    def __init__(
        self, networks: Mapping[str, Denoiser | nn.Module], alternation: Alternation, parts: Parts
    ) -> None:
        self.networks, self.alternation, self.parts = dict(networks), alternation, parts

    @property
    def models(self) -> dict[str, nn.Module]:
        """The networks themselves, without what is around them."""
        named = self.networks.items()
        return {name: unwrapped(_module(each), keep_adapters=True) for name, each in named}

    def train(self, mode: bool) -> None:
        """Put all of them into train or evaluation mode."""
        for each in self.networks.values():
            _module(each).train(mode)

    def updated(self, step: int) -> frozenset[str]:
        """The networks, the student among them, that an optimizer step (from 0) updates."""
        return self.alternation.trained(step, self.networks)

    def facts(self, args: DiscreteDistillationConfig) -> dict[str, Any]:
        """Settings worth telling; none without any network."""
        if not self.networks:
            return {}
        names = " and ".join(self.networks)
        return {
            f"learning rate of the {names}": _told(
                _learning_rate(model, args) for model in self.models.values()
            ),
            f"optimizer steps of the {names} alone at the start": self.alternation.warmup,
            f"updates of the {names} for each of the student": self.alternation.every,
        }

    def sharded_beside(self, student: nn.Module) -> None:
        """Take note that the student has been sharded: adapters over its base share its shards."""
        for model in self.models.values():
            share_base(model, student)

    def join(
        self,
        optimizer: Optimizer,
        args: DiscreteDistillationConfig,
        decayed: Callable[[nn.Module], list[str]],
    ) -> None:
        """Add their parameters to the student's optimizer, with settings of their own.

        Args:
            optimizer: without a schedule as yet; the one that it gets holds for all its groups.
            args: settings.
            decayed: names of a network's parameters that weight decay is for.
        """
        own: dict[str, Any] = {}
        if "betas" in optimizer.defaults:
            own["betas"] = (args.auxiliary_beta1, args.adam_beta2)
        for model in self.models.values():
            own["lr"] = _learning_rate(model, args)
            names = set(decayed(model))
            trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
            for decays in (True, False):
                chosen = [p for name, p in trained if (name in names) == decays]
                decay = args.weight_decay if decays else 0.0
                optimizer.add_param_group({"params": chosen, "weight_decay": decay, **own})

    def kept(self) -> dict[str, Tensor]:
        """Their weights as a checkpoint keeps them."""
        # Shared (tied) tensors are written once each.
        return {
            f"{name}.{key}": whole(value).clone()
            for name, model in self.models.items()
            for key, value in trained_state(model).items()
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take the weights from what `kept` gave."""
        for name, model in self.models.items():
            start = f"{name}."
            weights = {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
            for key, value in trained_state(model).items():
                put(value, weights[key])

    def on_step_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Forget the last gradients; `Trainer` does so for the student alone."""
        for model in self.models.values():
            model.zero_grad()

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        """Clip the gradients; a student that is left out gets none, which optimizers pass over."""
        limit = args.max_grad_norm if args.max_grad_norm > 0 else float("inf")
        for name, network in self.models.items():
            norm = nn.utils.clip_grad_norm_(network.parameters(), limit)
            norm = whole(norm)
            if not args.fp16:
                check_gradient(norm, name, state.global_step)
            self.parts.add({f"{name}_grad_norm": norm})
        if "student" not in self.updated(state.global_step):
            model.zero_grad()


def _learning_rate(model: nn.Module, args: DiscreteDistillationConfig) -> float:
    """Its own, or else some times the student's, at the start of the schedule. Twice: on two
    letters that are equal, the auxiliary that has the student's lags until this has collapsed
    (docs/results/safety.md). Ten times where it is adapters, which lag at twice the student's by
    three and four times what they do then (docs/results/cost.md)."""
    own = args.auxiliary_learning_rate
    times = ADAPTED_AUXILIARY_TIMES if isinstance(model, PeftModel) else AUXILIARY_TIMES
    return times * args.learning_rate if own is None else own


def _told(rates: Iterable[float]) -> float | str:
    """The rate of all, or each one's."""
    found = list(dict.fromkeys(rates))
    return found[0] if len(found) == 1 else ", ".join(f"{rate:g}" for rate in found)


def _module(network: Denoiser | nn.Module) -> nn.Module:
    """The network that is called, perhaps wrapped."""
    return network if isinstance(network, nn.Module) else network.networks()[0]
