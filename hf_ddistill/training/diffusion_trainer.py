"""`Trainer` for any objective: builds the step, keys its noise, averages weights, writes cards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, set_seed
from transformers.trainer_utils import HubStrategy

from hf_ddistill.couplings import Memory
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import asked_at_the_end, asked_later
from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.models import as_denoiser, unwrapped, window
from hf_ddistill.models.held import Held
from hf_ddistill.objectives import Frozen, Objective
from hf_ddistill.training.adapters import SavedBase, described
from hf_ddistill.training.arguments import DiscreteDiffusionConfig
from hf_ddistill.training.batch_trainer import BatchTrainer
from hf_ddistill.training.callbacks.ema import AveragedModel, WeightAverage
from hf_ddistill.training.clean_tokens import CleanCollator
from hf_ddistill.training.data import TokenCollator
from hf_ddistill.training.data_blocks import whole_blocks
from hf_ddistill.training.held_out import EVALUATION
from hf_ddistill.training.losses import Parts, total
from hf_ddistill.training.model_card import CardFacts, write_card
from hf_ddistill.training.preparation import prepared
from hf_ddistill.training.refusals import (
    check_attention,
    check_config,
    check_settings,
    warn_of_half_precision,
)
from hf_ddistill.training.resumable import ResumableTrainer
from hf_ddistill.training.run_checks import check_columns, check_networks, check_run
from hf_ddistill.training.run_state import RunState
from hf_ddistill.training.samples import draw_samples
from hf_ddistill.training.sharding import check_whole, saves_shards
from hf_ddistill.training.standard_trainer import StandardTrainer, first_model


class DiscreteDiffusionTrainer(ResumableTrainer, StandardTrainer, BatchTrainer):
    """Trains a discrete diffusion model on clean tokens, by maximum likelihood unless told
    otherwise.

    Args:
        model (`PreTrainedModel`, `str` or `Path`): with logits over the vocabulary; or the name of
            one, which is loaded in float32; or None with `model_init`.
        args (`DiscreteDiffusionConfig`): settings.
        objective (`str`, `dict` or `Objective`): an id, a configuration, or the object.
        diffusion (`Diffusion`, *optional*): read from the model's config if not given.
        parameterization (`str`, *optional*): read from the model's config if not given.
        train_dataset, eval_dataset: rows with `input_ids` (and `labels`, -100 where a token is
            context; `class_labels`), or, with a tokenizer, with `text`, `messages`, or `prompt` and
            `completion` (see `training.preparation.prepared`); in memory or streamed (`datasets`).
        processing_class (*optional*): the tokenizer.
        sample_metrics (*optional*): from samples (N, L) drawn at each evaluation to figures, any
            of which may be the `metric_for_best_model`.
        model_init (*optional*): makes the model, anew for each run and trial of a search.
        **kwargs: what `Trainer` takes (callbacks, optimizers, compute_metrics, ...; the samples of
            `predict` are the predictions that metrics are computed of).

    Raises:
        ValueError: for an unknown objective, one that needs networks that this trainer does not
            have, an empty data set, data that hold a mask or noise token, a model without a
            process, or a setting that is not acted on.
    """

    args: DiscreteDiffusionConfig
    distils: ClassVar[bool] = False
    teacher: Denoiser | None = None

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str | Path | None = None,
        args: DiscreteDiffusionConfig | None = None,
        objective: str | Mapping[str, Any] | Objective = "nelbo",
        *,
        diffusion: Diffusion | None = None,
        parameterization: str | None = None,
        sample_metrics: Callable[[Tensor], Mapping[str, float]] | None = None,
        model_init: Callable[..., PreTrainedModel] | None = None,
        **kwargs: Any,
    ) -> None:
        args = DiscreteDiffusionConfig("trainer_output") if args is None else args
        if not self.distils:
            check_config(args, DiscreteDiffusionConfig, type(self).__name__)
        check_settings(args, kwargs, sample_metrics is not None)
        # What is drawn here (weights that a file lacks) is of the run's seed, too.
        set_seed(args.seed)
        model = first_model(model, args, model_init, kwargs.get("optimizers"))
        if model is None:
            raise ValueError("There is nothing to train: give model= or model_init=.")
        warn_of_half_precision(model)
        self.objective = Objective.from_config(objective)
        check_networks(self._objective, args, type(self).__name__, self.distils)
        self._process, self._tokenizer = (
            (diffusion, parameterization),
            kwargs.get("processing_class"),
        )
        self.average: WeightAverage | None = None
        self._adopted(model)
        config, tokenizer = unwrapped(model).config, self._tokenizer
        length = args.max_length or window(model)
        check_attention(self._objective, model, length)  # first: nothing else makes it fit
        self.objective = self._objective.for_student(self._denoiser)
        check_run(self._objective, model, self._denoiser, self.teacher, args)
        collator = kwargs.get("data_collator") or TokenCollator.suited_to(
            config, tokenizer, whole_blocks(model, self._objective)
        )
        most = args.max_length if self._objective.rollouts is None else None  # a prompt is whole
        kwargs["data_collator"] = clean = CleanCollator.of(collator, self.diffusion, config, most)
        packing = Held.of(config) is None if args.packing is None else args.packing
        how = (self._objective.rollouts is not None, args.assistant_only_loss, packing)

        def ready(data: Any) -> Any:
            data = prepared(data, tokenizer, length, *how)
            clean.first(data)
            check_columns(self.teacher, data)
            if self._objective.rollouts is None:
                clean.check_trained(data, args.prompt_length)
            return data

        self._prepared = ready
        for split in ("train_dataset", "eval_dataset"):
            kwargs[split] = ready(kwargs.get(split))
        self.sample_metrics = sample_metrics
        self._predicted = 0
        super().__init__(model=model, args=args, **kwargs)
        self.model_init = model_init
        self._renew()

    def _adopted(self, model: nn.Module) -> nn.Module:
        """The model, which is the one in training from now on."""
        self._denoiser = as_denoiser(model, *self._process, tokenizer=self._tokenizer)
        self.diffusion = self._denoiser.diffusion
        self.saved_base = SavedBase.of(model)
        return model

    def _renew(self) -> None:
        """What a run remembers and the mean of its weights, as they are before the first step."""
        self.memory = Memory()
        self.measured: list[dict[str, Any]] = []
        self.parts = Parts()
        if self.average is not None:
            self.remove_callback(self.average)
        self.average = None
        if self.args.ema_decay:
            check_whole(self.accelerator, "The mean of weights (ema_decay above 0)")
            self.average = WeightAverage(self.model, self.args.ema_decay, self.updates)
            self.add_callback(self.average)

    def updates(self, steps: int) -> int:
        """How many of the first `steps` optimizer steps update the model."""
        return steps

    def denoiser(self, model: nn.Module | None = None) -> Denoiser:
        """The model in training (or `model`, perhaps wrapped) as a denoiser."""
        model = self.model if model is None else model
        return self._denoiser.with_networks([model])

    def peers(self) -> dict[str, Denoiser]:
        """The networks beside the student that the objective needs, by name."""
        return {
            name: self.denoiser(AveragedModel(self.average))
            for name, need in self._objective.networks.items()
            if need == Frozen(mean=True)
        }

    def updated(self, held_out: bool) -> frozenset[str]:
        """The networks that this step updates; on held-out data those whose losses are asked."""
        return frozenset({"student"})

    @property
    def student_steps(self) -> int:
        """Network calls per sample that the model is trained for, at this point of the training."""
        return self.args.sample_steps

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The sum of the objective's losses on one micro batch, by its share of the step."""
        step = self.state.global_step
        record = self.training_record(model, inputs, step, self._micro)
        self._micro += 1
        with asked_later(self._questions):
            losses = self._objective(record)
        losses = {name: loss for name, loss in losses.items() if name in record.train}
        loss = total(losses, self._objective.id, step)
        self.watch_loss(loss)
        self.parts.add(
            {f"{name}_loss": value for name, value in losses.items()} | record.log.figures
        )
        return self.shared(loss, record, num_items_in_batch)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The objective on held-out data, its noise the same at every evaluation."""
        inputs = self._prepare_inputs(inputs)
        own, counts = self.own(inputs)
        with torch.no_grad(), self.compute_loss_context_manager(), asked_at_the_end():
            record = self.training_record(model, own, EVALUATION)
            loss = sum(self._objective(record).values())
        self.hold_out(loss, record, counts)
        loss = loss.detach().reshape(1)
        return (loss, None, None) if prediction_loss_only else (loss, *self._samples_for(inputs))

    def sample(self, count: int, num_steps: int | None = None) -> Tensor:
        """Draw (count, L) clean tokens from the model in training, with keyed noise."""
        model = unwrapped(self.model, keep_adapters=True)
        shape = (count, self.args.max_length or window(model))
        steps, batch_size = num_steps or self.student_steps, self.args.eval_batch_size
        generator = keyed_generator(self.args.seed, "samples", device=self.args.device)
        return draw_samples(self.denoiser(model), shape, steps, batch_size, generator)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss, averaged since the last record, beside the loss."""
        if "loss" in logs and self.is_in_train:
            logs = {**logs, **self.parts.means()}
            if not self.distils:
                # The one network in training is no student, and its loss is the loss.
                logs.pop("student_loss", None)
        super().log(logs, start_time)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the averaged weights and a card; a checkpoint keeps the raw ones, to go on from."""
        folder = Path(output_dir or self.args.output_dir)
        self.check_finite()
        if _internal_call and output_dir is not None:
            super().save_model(str(folder), _internal_call)
            state = RunState(self._kept(), self.memory, self.measured)
            state.save(folder, self.args.process_index, self.args.should_save)
            return
        with self.averaged_weights():
            super().save_model(str(folder), _internal_call)
            if saves_shards(self.accelerator):
                # `Trainer` leaves it to the checkpoints, which are of shards.
                self._save(str(folder), self.accelerator.get_state_dict(self.model))
        if self.args.should_save:
            # A pickle; the card says what the run was.
            (folder / "training_args.bin").unlink(missing_ok=True)
            write_card(folder, self.facts())

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None
    ) -> None:
        """What `Trainer` writes; beside adapters also what opens them again."""
        super()._save(output_dir, state_dict)
        if self.saved_base is not None and self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.saved_base.save(folder, self.model, state_dict)

    def _kept(self) -> dict[str, Tensor]:
        mean = {} if self.average is None else self.average.kept()
        return {f"ema.{key}": value for key, value in mean.items()}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        if self.average is not None:
            self.average.restore({k[4:]: v for k, v in tensors.items() if k.startswith("ema.")})

    def facts(self) -> CardFacts:
        """What the card tells of this run."""
        args = self.args
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return CardFacts(
            name=self.hub_model_id or args.hub_model_id or Path(args.output_dir).name,
            objective=self._objective.to_config(),
            citation=self._objective.citation,
            diffusion=unwrapped(self.model).config.discrete_diffusion,
            steps=self.student_steps,
            rows=self.measured,
            adapters=described(self.model),
            base=getattr(self.saved_base, "name", None),
            training={
                "optimizer steps": self.state.global_step,
                "rows per step": rows,
                "learning rate": args.learning_rate,
                "mean of weights, decay": args.ema_decay,
                "seed": args.seed,
            },
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the averaged weights; a checkpoint holds the raw ones, and pickles."""
        if self.args.hub_strategy != HubStrategy.END:
            self.push_to_hub(commit_message=f"Step {self.state.global_step}")
