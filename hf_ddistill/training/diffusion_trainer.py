"""`Trainer` for any objective: builds the step, keys its noise, averages weights, writes cards."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.trainer_utils import HubStrategy

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser, unwrapped
from hf_ddistill.objectives import Objective
from hf_ddistill.parameterizations import Denoiser
from hf_ddistill.training.arguments import DiscreteDiffusionConfig
from hf_ddistill.training.batch_trainer import BatchTrainer
from hf_ddistill.training.clean_tokens import CleanCollator
from hf_ddistill.training.data import TokenCollator, prepared
from hf_ddistill.training.ema import AveragedModel, WeightAverage
from hf_ddistill.training.held_out import EVALUATION
from hf_ddistill.training.keyed_noise import keyed_generator
from hf_ddistill.training.losses import Parts, total
from hf_ddistill.training.model_card import CardFacts, write_card
from hf_ddistill.training.rollouts import whole_blocks
from hf_ddistill.training.run_state import RunState
from hf_ddistill.training.samples import draw_samples, write_samples
from hf_ddistill.training.sharding import check_whole


class DiscreteDiffusionTrainer(BatchTrainer):
    """Trains a discrete diffusion model on clean tokens, by maximum likelihood unless told
    otherwise.

    Args:
        model (`PreTrainedModel` or `str`): with logits over the vocabulary, or the name of one.
        args (`DiscreteDiffusionConfig`): settings.
        objective (`str`, `dict` or `Objective`): an id, a configuration, or the object.
        diffusion (`Diffusion`, *optional*): read from the model's config if not given.
        parameterization (`str`, *optional*): read from the model's config if not given.
        train_dataset, eval_dataset: rows with `input_ids` (and `labels`, -100 where a token is
            context; `class_labels`), or, with a tokenizer, with `text`, `messages`, or `prompt` and
            `completion` (see `training.data.prepared`); in memory or streamed (`datasets`).
        processing_class (*optional*): the tokenizer.
        sample_metrics (*optional*): from samples (N, L) drawn at each evaluation to figures.
        **kwargs: what `Trainer` takes (callbacks, optimizers, ...).

    Raises:
        ValueError: for an unknown objective, one that needs peers that this trainer does not have,
            an empty data set, data that hold a mask or noise token, or a model without a process.
    """

    args: DiscreteDiffusionConfig
    available_peers: ClassVar[tuple[str, ...]] = ("ema",)

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | str,
        args: DiscreteDiffusionConfig | None = None,
        objective: str | Mapping[str, Any] | Objective = "nelbo",
        *,
        diffusion: Diffusion | None = None,
        parameterization: str | None = None,
        sample_metrics: Callable[[Tensor], Mapping[str, float]] | None = None,
        **kwargs: Any,
    ) -> None:
        args = DiscreteDiffusionConfig("trainer_output") if args is None else args
        model = AutoModelForMaskedLM.from_pretrained(model) if isinstance(model, str) else model
        self.objective = Objective.from_config(objective)
        missing = set(self.objective.peers) - set(self.available_peers)
        if missing:
            raise ValueError(
                f"Objective {self.objective.id!r} needs {', '.join(sorted(missing))}, which "
                f"{type(self).__name__} does not have."
            )
        if "ema" in self.objective.peers and not args.ema_decay:
            raise ValueError(f"Objective {self.objective.id!r} needs 'ema': set ema_decay above 0.")
        self._denoiser = as_denoiser(model, diffusion, parameterization)
        self.diffusion = self._denoiser.diffusion
        config, tokenizer = unwrapped(model).config, kwargs.get("processing_class")
        length = args.max_length or getattr(config, "max_position_embeddings", None)
        blocks = whole_blocks(model, self.objective)
        collator = kwargs.get("data_collator")
        collator = collator or TokenCollator.suited_to(config, tokenizer, blocks)
        kwargs["data_collator"] = CleanCollator(collator, self.diffusion)
        how = (self.objective.rollouts is not None, args.assistant_only_loss)
        for split in ("train_dataset", "eval_dataset"):
            kwargs[split] = prepared(kwargs.get(split), tokenizer, length, *how)
            kwargs["data_collator"].first(kwargs[split])
        self.sample_metrics = sample_metrics
        self.memory: dict[str, Tensor] = {}
        self.measured: list[dict[str, Any]] = []
        self.parts = Parts()
        super().__init__(model=model, args=args, **kwargs)
        self.average = None
        if args.ema_decay:
            check_whole(self.accelerator, "The mean of weights (ema_decay above 0)")
            self.average = WeightAverage(self.model, args.ema_decay, self.updates)
            self.add_callback(self.average)

    def updates(self, steps: int) -> int:
        """How many of the first `steps` optimizer steps update the model."""
        return steps

    def denoiser(self, model: nn.Module | None = None) -> Denoiser:
        """The model in training (or `model`, perhaps wrapped) as a denoiser."""
        model = self.model if model is None else model
        return replace(self._denoiser, network=replace(self._denoiser.network, model=model))

    def peers(self) -> dict[str, Denoiser]:
        """The networks that the objective asked for."""
        if "ema" not in self.objective.peers:
            return {}
        return {"ema": self.denoiser(AveragedModel(self.average))}

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
        losses = self.objective(record)
        losses = {name: loss for name, loss in losses.items() if name in record.train}
        loss = total(losses, self.objective.id, step)
        self.parts.add({f"{name}_loss": value for name, value in losses.items()} | record.record)
        return self.shared(loss, record, num_items_in_batch)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """The objective on held-out data, its noise the same at every evaluation."""
        inputs = self._prepare_inputs(inputs)
        own, counts = self.own(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            record = self.training_record(model, own, EVALUATION)
            memory = {name: value.clone() for name, value in self.memory.items()}
            loss = sum(self.objective(replace(record, memory=memory)).values())
        self.hold_out(loss, record, counts)
        return loss.detach().reshape(1), None, None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The loss on held-out data and figures of samples, both with the averaged weights."""
        prefix = kwargs.get("metric_key_prefix", "eval")
        # Loaders and metrics draw from the global generator, which dropout is drawn from.
        with torch.random.fork_rng(devices=[]), self.averaged_weights():
            metrics = super().evaluate(*args, **kwargs)
            figures = self._judge_samples(prefix)
        if figures:
            self.log(dict(figures))
            metrics.update(figures)
        return metrics

    def _judge_samples(self, prefix: str) -> dict[str, float]:
        if not self.args.num_eval_samples:
            return {}
        # On every process, each the same: all of them may ask for the best model so far.
        samples = self.sample(self.args.num_eval_samples)
        figures = self.sample_metrics(samples) if self.sample_metrics else {}
        figures = {key: float(value) for key, value in figures.items()}
        about = {"step": self.state.global_step, "nfe": self.student_steps}
        if figures:
            self.measured.append({**about, **figures})
        if self.is_world_process_zero():
            folder = Path(self.args.output_dir) / "samples"
            write_samples(folder, samples, about, self.processing_class)
        return {f"{prefix}_{key}": value for key, value in figures.items()}

    def sample(self, count: int, num_steps: int | None = None) -> Tensor:
        """Draw (count, L) clean tokens from the model in training, with keyed noise."""
        model = unwrapped(self.model, keep_adapters=True)
        shape = (count, self.args.max_length or unwrapped(model).config.max_position_embeddings)
        steps, batch_size = num_steps or self.student_steps, self.args.eval_batch_size
        generator = keyed_generator(self.args.seed, "samples", device=self.args.device)
        return draw_samples(self.denoiser(model), shape, steps, batch_size, generator)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss, averaged since the last record, beside the loss."""
        if "loss" in logs:
            logs = {**logs, **self.parts.means()}
        super().log(logs, start_time)

    def averaged_weights(self) -> contextlib.AbstractContextManager:
        """Within it the model has the mean of its weights, where there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the averaged weights and a card; a checkpoint keeps the raw ones, to go on from."""
        folder = Path(output_dir or self.args.output_dir)
        if _internal_call and output_dir is not None:
            super().save_model(str(folder), _internal_call)
            state = RunState(self._kept(), self.memory, self.measured)
            state.save(folder, self.args.process_index, self.args.should_save)
            return
        with self.averaged_weights():
            super().save_model(str(folder), _internal_call)
        if self.args.should_save:
            # A pickle; the card says what the run was.
            (folder / "training_args.bin").unlink(missing_ok=True)
            write_card(folder, self.facts())

    def _kept(self) -> dict[str, Tensor]:
        mean = {} if self.average is None else self.average.mean
        return {f"ema.{key}": value for key, value in mean.items()}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        if self.average is not None:
            self.average.mean = {k[4:]: v for k, v in tensors.items() if k.startswith("ema.")}

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        state = RunState.load(resume_from_checkpoint, self.args.process_index)
        self._restore(state.tensors)
        self.memory, self.measured = state.memory, state.measured

    def _load_best_model(self) -> None:
        super()._load_best_model()
        best = RunState.load(self.state.best_model_checkpoint, self.args.process_index)
        self._restore(best.tensors)

    def facts(self) -> CardFacts:
        """What the card tells of this run."""
        args = self.args
        rows = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return CardFacts(
            name=self.hub_model_id or args.hub_model_id or Path(args.output_dir).name,
            objective=self.objective.to_config(),
            citation=self.objective.citation,
            diffusion=unwrapped(self.model).config.discrete_diffusion,
            steps=self.student_steps,
            rows=self.measured,
            training={
                "optimizer steps": self.state.global_step,
                "rows per step": rows,
                "learning rate": args.learning_rate,
                "mean of weights, decay": args.ema_decay,
                "seed": args.seed,
            },
        )

    def create_model_card(
        self,
        model_name: str | None = None,
        license: str | None = None,
        tags: str | Sequence[str] = (),
        dataset: str | None = None,
    ) -> None:
        """What `push_to_hub` calls, with what it was given beside its own arguments."""
        if self.is_world_process_zero():
            tags = (tags,) if isinstance(tags, str) else tuple(tags)
            facts = replace(self.facts(), license=license, tags=tags, data=dataset)
            write_card(self.args.output_dir, facts)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push the averaged weights; a checkpoint holds the raw ones, and pickles."""
        if self.args.hub_strategy != HubStrategy.END:
            self.push_to_hub(commit_message=f"Step {self.state.global_step}")
