"""The trainer with a teacher."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, set_seed

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.models import BlockDiffusionLM, as_denoiser, denoiser_of, enter_sampler, unwrapped
from hf_ddistill.models.held import inherit_held
from hf_ddistill.models.loading import as_name
from hf_ddistill.objectives import Objective
from hf_ddistill.objectives.alternation import Alternation
from hf_ddistill.training.adapters import with_noise_saved
from hf_ddistill.training.arguments import DiscreteDistillationConfig
from hf_ddistill.training.auxiliaries import Auxiliaries, make_auxiliaries
from hf_ddistill.training.callbacks.guard import Guard
from hf_ddistill.training.callbacks.rounds import Rounds, check_rounds
from hf_ddistill.training.copies import student_of
from hf_ddistill.training.diffusion_trainer import DiscreteDiffusionTrainer
from hf_ddistill.training.losses import Parts
from hf_ddistill.training.model_card import CardFacts
from hf_ddistill.training.noise_strength import set_strength
from hf_ddistill.training.rates import with_learning_rate
from hf_ddistill.training.refusals import (
    check_auxiliaries,
    check_base_stays,
    check_config,
    check_decoder,
    check_reads_masks,
    check_reads_tokens,
    check_reward,
    warn_of_independent_tokens,
)
from hf_ddistill.training.rollout_trainer import RolloutTrainer
from hf_ddistill.training.rollouts import RewardFunction
from hf_ddistill.training.sharded_optimizers import ShardedOptimizers
from hf_ddistill.training.standard_trainer import first_model
from hf_ddistill.training.teacher_models import agreed, placed, teacher_model, teacher_name

if TYPE_CHECKING:
    from peft import PeftConfig


class DiscreteDistillationTrainer(ShardedOptimizers, RolloutTrainer, DiscreteDiffusionTrainer):
    """Distils a teacher into a student of few steps.

    Args:
        model (`PreTrainedModel`, `str` or `Path`): the student; None for a copy of the teacher,
            with a noise input if `args.noise_dim` is above 0. Copies, and what is loaded by its
            name, are trained in float32.
        teacher (`PreTrainedModel`, `Denoiser`, `str`, `Path` or a list, *optional*): frozen; of
            several the mean (`Ensemble`); of a `BlockDiffusionLM` also a causal language model over
            its tokens. Not given with `peft_config`: the student's own base, adapters off, is the
            teacher.
        objective (`str`, `dict` or `Objective`): an id (`hf-ddistill list`), a configuration, or
            the object.
        args (`DiscreteDistillationConfig`): settings.
        peft_config (*optional*): makes the student a PEFT model.
        reward_function (*optional*): from decoded sequences (B, L) and where they were decoded
            (B, L) to what each earns (B,), for objectives on rewards.
        **kwargs: as of `DiscreteDiffusionTrainer`.

    The networks that an objective trains beside the student (`Objective.networks`: copies of the
    teacher or the student, or what a factory makes) are in the same optimizer, but with settings of
    their own (`auxiliary_*`, for all of them), trained in every step, each clipped by itself, kept
    in checkpoints and left out of what is saved at the end and pushed.

    Raises:
        ValueError: if teacher and student differ in vocabulary or process, or there is no teacher;
            if a network of the objective cannot be had.
    """

    args: DiscreteDistillationConfig
    distils: ClassVar[bool] = True

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str | os.PathLike | None = None,
        teacher: PreTrainedModel | Denoiser | str | os.PathLike | Sequence[Any] | None = None,
        objective: str | Mapping[str, Any] | Objective = "law_matching",
        args: DiscreteDistillationConfig | None = None,
        *,
        peft_config: PeftConfig | None = None,
        reward_function: RewardFunction | None = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        **kwargs: Any,
    ) -> None:
        args = DiscreteDistillationConfig("trainer_output") if args is None else args
        check_config(args, DiscreteDistillationConfig, type(self).__name__)
        # Adapters are drawn before `Trainer` sets the seed.
        set_seed(args.seed)
        model = first_model(model, args, model_init, kwargs.get("optimizers"))
        objective, teacher = Objective.from_config(objective), as_name(teacher)
        check_reads_masks(objective, teacher)
        check_reads_tokens(objective, teacher)
        check_reward(objective, reward_function is not None)
        teacher = teacher_model(teacher, model, kwargs.get("processing_class"))
        if model is teacher and model is not None:
            raise ValueError(
                "Student and teacher are one object, which cannot be trained and frozen at once; "
                "leave out model= to train a copy of the teacher."
            )
        changed = args.student_layers or args.student_bits or peft_config is not None
        #: Whether the student starts as its teacher, but for a noise input that it may have got.
        self.is_copy = model is None and isinstance(teacher, nn.Module) and not changed
        self.args, self._peft_config, self._teacher = args, peft_config, teacher
        self.teacher = None
        if teacher is None:
            check_base_stays(peft_config, model)
        model = self._completed(model)
        self.args = args = with_learning_rate(args, model)
        adapted = isinstance(model, PeftModel)
        self.own_base = teacher is None and adapted
        if teacher is None and not self.own_base:
            raise ValueError(
                "Distillation needs a teacher: pass teacher=, or peft_config= to use the base."
            )
        self.teacher_model = (
            teacher.eval().requires_grad_(False) if isinstance(teacher, nn.Module) else None
        )
        #: What takes on the student's weights when a round ends.
        self.renewed = teacher.renewed if isinstance(teacher, Denoiser) else self.teacher_model
        if args.rounds > 1:
            check_rounds(model, self.renewed, adapted or model_init is not None)
        self._given = kwargs.pop("diffusion", None)
        self.auxiliaries = Auxiliaries({}, Alternation(), Parts())
        self.guard = Guard(self)
        self._rewarded_by = reward_function
        super().__init__(model, args, objective, **kwargs)
        self.model_init = model_init
        check_decoder(self._objective, self.own_base or self.teacher_model is not None)
        blocks = isinstance(unwrapped(self.model), BlockDiffusionLM)
        if self._objective.one_call or (args.student_steps == 1 and not blocks):
            warn_of_independent_tokens(self._denoiser)
        if args.rounds > 1:
            self.add_callback(Rounds(self))
        self.add_callback(self.guard)

    def _completed(self, model: nn.Module | None) -> nn.Module:
        """The student itself, or a copy of the teacher, with the adapters that were asked for."""
        settings, own = self._peft_config, 0
        if model is not None:
            own = getattr(unwrapped(model).config, "noise_dim", 0)
        self._adds_noise = self.args.noise_dim > 0 and not own
        model = student_of(model, self._teacher, self.args, settings is not None)
        if settings is None:
            return model
        return get_peft_model(model, with_noise_saved(settings) if self._adds_noise else settings)

    def _adopted(self, model: nn.Module) -> nn.Module:
        """The student, and its base as the teacher where there is no other."""
        if self.own_base:
            self.teacher = as_denoiser(
                model, self._given, adapters=False, tokenizer=self._tokenizer
            )
            if self._adds_noise:
                # The base as it was, which nobody gave any.
                self.teacher = replace(self.teacher, latent=None)
        elif self.teacher is None:
            self.teacher = denoiser_of(self._teacher, self._given, self._tokenizer)
        inherit_held(unwrapped(model).config, map(unwrapped, self.teacher.networks()))
        self._process = (agreed(model, self.teacher, self._given), self._process[1])
        return super()._adopted(model)

    def _renew(self) -> None:
        """All that depends on the settings of a run, as it is before the first step."""
        args = self.args
        # First: what a mean of weights starts as.
        finds = self._adds_noise and args.noise_std is None
        self._noise = set_strength(self) if finds else None
        super()._renew()
        self.start_decoding(self._rewarded_by)
        enter_sampler(self.model, self._objective.sampler, args.student_steps)
        self._make_auxiliaries()
        self.teacher = placed(self.teacher, self.accelerator, self.model)
        self.guard.start()

    def _make_auxiliaries(self) -> None:
        """Make what is trained beside the student, from a teacher that is not wrapped yet."""
        args = self.args
        if self.auxiliaries.networks:
            self.remove_callback(self.auxiliaries)
        if not self._objective.auxiliaries:
            return
        check_auxiliaries(self._objective.id, args, self.optimizer is not None)
        sources = {"teacher": self.teacher, "student": self.denoiser()}
        made = make_auxiliaries(self._objective, sources, self.accelerator, args.seed)
        turns = Alternation(args.auxiliary_warmup_steps, args.auxiliary_updates)
        self.auxiliaries = Auxiliaries(made, turns, self.parts)
        self.add_callback(self.auxiliaries)

    def peers(self) -> dict[str, Denoiser | nn.Module]:
        """The networks beside the student that the objective needs, by name."""
        asked = {"teacher": self.teacher} if "teacher" in self._objective.networks else {}
        return {**super().peers(), **asked, **self.auxiliaries.networks}

    def updates(self, steps: int) -> int:
        """How many of the first `steps` optimizer steps update the student."""
        return self.auxiliaries.alternation.student_updates(steps)

    def updated(self, held_out: bool) -> frozenset[str]:
        """The networks that this step updates; on held-out data those whose losses are asked."""
        if held_out:
            return frozenset({"student", *self.auxiliaries.networks})
        return self.auxiliaries.updated(self.state.global_step)

    def training_record(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *key: Any
    ) -> TrainingStep:
        """The step that the objective is given."""
        record = super().training_record(model, inputs, *key)
        if model.training:
            self.guard.see(record.log)
        self.auxiliaries.train(model.training)
        return record

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """One optimizer, with parameter groups for the student and then for the auxiliaries."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(model)
        # accelerate shards the model of an optimizer, which has no other's weights before.
        if is_new and not self.accelerator.is_fsdp2:
            self.auxiliaries.join(optimizer, self.args, self.get_decay_parameter_names)
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LRScheduler:
        """The schedule of all groups of the optimizer, whose models have been placed."""
        if self.accelerator.is_fsdp2:
            self.auxiliaries.sharded_beside(self.model)
            self.auxiliaries.join(self.optimizer, self.args, self.get_decay_parameter_names)
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_learning_rate(self) -> float:
        return super()._get_learning_rate() * self.guard.factor

    def round_at(self, step: int) -> int:
        """The round, from 0, that an optimizer step is in."""
        total = max(self.state.max_steps, 1)
        return min(self.args.rounds * step // total, self.args.rounds - 1)

    @property
    def student_steps(self) -> int:
        """`args.student_steps` in the last round, twice as many in each one before."""
        if not self.state.max_steps:
            return self.args.student_steps
        rounds_left = self.args.rounds - 1 - self.round_at(self.state.global_step)
        return self.args.student_steps * 2**rounds_left

    def _kept(self) -> dict[str, Tensor]:
        tensors = super()._kept()
        if self.args.rounds > 1:
            # Shared (tied) tensors are written once each.
            weights = unwrapped(self.renewed).state_dict()
            tensors |= {f"teacher.{key}": value.clone() for key, value in weights.items()}
        return tensors | self.auxiliaries.kept() | self.guard.kept()

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        super()._restore(tensors)
        weights = {k[8:]: v for k, v in tensors.items() if k.startswith("teacher.")}
        if weights:
            unwrapped(self.renewed).load_state_dict(weights)
        self.auxiliaries.restore(tensors)
        self.guard.restore(tensors)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As of `DiscreteDiffusionTrainer`, with the sampler as it has been learned."""
        sampler = self._objective.learned_sampler(self.auxiliaries.models, self.args.student_steps)
        enter_sampler(self.model, sampler, self.args.student_steps)
        super().save_model(output_dir, _internal_call)

    def facts(self) -> CardFacts:
        """What the card tells of this run, its teacher included."""
        facts = replace(
            super().facts(),
            teacher=teacher_name(self.teacher),
            steps=self.args.student_steps,
            block_size=getattr(unwrapped(self.model).config, "block_size", None),
        )
        more = {**self.auxiliaries.facts(self.args), **self.guard.facts()}
        if self._noise is not None:
            more["noise input at first, standard deviation"] = f"{self._noise.std:.3g}"
        return replace(facts, training={**facts.training, **more})
