"""`Trainer` for any objective: builds the step, keys its noise, averages weights, writes cards."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PreTrainedModel, Trainer
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_ddistill import reverse
from hf_ddistill.couplings import TrainingStep
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import as_denoiser, unwrapped
from hf_ddistill.objectives import Objective
from hf_ddistill.parameterizations import Denoiser
from hf_ddistill.training.arguments import DiscreteDiffusionConfig
from hf_ddistill.training.data import TokenCollator, prepared
from hf_ddistill.training.ema import WeightAverage
from hf_ddistill.training.keyed_noise import keyed_generator
from hf_ddistill.training.model_card import CardFacts, write_card

STATE_NAME = "objective_state.safetensors"


class DiscreteDiffusionTrainer(Trainer):
    """Trains a discrete diffusion model on clean tokens, by maximum likelihood unless told
    otherwise.

    Args:
        model (`PreTrainedModel` or `str`): with logits over the vocabulary, or the name of one.
        args (`DiscreteDiffusionConfig`): settings.
        objective (`str`, `dict` or `Objective`): an id, a configuration, or the object.
        diffusion (`Diffusion`, *optional*): read from the model's config if not given.
        parameterization (`str`, *optional*): read from the model's config if not given.
        train_dataset, eval_dataset: rows with `input_ids` (and `class_labels`), or with `text`
            and a tokenizer; in memory or streamed (`datasets`).
        processing_class (*optional*): the tokenizer.
        sample_metrics (*optional*): from samples (N, L) drawn at each evaluation to figures.
        **kwargs: what `Trainer` takes (callbacks, optimizers, ...).

    Raises:
        ValueError: for an unknown objective, one that needs peers that this trainer does not have,
            an empty data set, or a model without a process.
    """

    args: DiscreteDiffusionConfig
    # The loss is a mean over the micro batch; Trainer divides by the accumulation steps.
    loss_is_scaled_for_ga = False
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
        denoiser = as_denoiser(model, diffusion, parameterization)
        self.diffusion, self.parameterization = denoiser.diffusion, denoiser.parameterization
        config = unwrapped(model).config
        tokenizer = kwargs.get("processing_class")
        length = args.max_length or getattr(config, "max_position_embeddings", None)
        for split in ("train_dataset", "eval_dataset"):
            kwargs[split] = prepared(kwargs.get(split), tokenizer, length)
        kwargs.setdefault("data_collator", TokenCollator(getattr(config, "pad_token_id", None)))
        self.sample_metrics = sample_metrics
        self.memory: dict[str, Tensor] = {}
        self.measured: list[dict[str, Any]] = []
        self._parts: dict[str, list[float]] = defaultdict(list)
        self._micro = (-1, 0)
        self._shape: tuple[int, ...] | None = None
        super().__init__(model=model, args=args, **kwargs)
        self.average = WeightAverage(self.model, args.ema_decay) if args.ema_decay else None
        if self.average is not None:
            self.add_callback(self.average)

    def denoiser(self, model: nn.Module | None = None) -> Denoiser:
        """The model in training (or `model`, perhaps wrapped) as a denoiser."""
        model = self.model if model is None else model
        return as_denoiser(model, self.diffusion, self.parameterization)

    def peers(self) -> dict[str, Denoiser]:
        """The networks that the objective asked for."""
        return {"ema": self._averaged()} if "ema" in self.objective.peers else {}

    def _averaged(self) -> Denoiser:
        if self.average is None:
            raise ValueError("An objective with the peer 'ema' needs ema_decay above 0.")
        student = self.denoiser(unwrapped(self.model, keep_adapters=True))

        def network(*args: Any, **kwargs: Any) -> Tensor:
            with torch.no_grad(), self.average.applied():
                return student.network(*args, **kwargs)

        return Denoiser(network, self.diffusion, self.parameterization)

    @property
    def student_steps(self) -> int:
        """Network calls per sample that the model is trained for, at this point of the training."""
        return self.args.sample_steps

    def training_record(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *key: Any
    ) -> TrainingStep:
        """The step that the objective is given, its randomness keyed by `key`."""
        inputs = dict(inputs)
        x_0 = inputs.pop("input_ids")
        self._shape = tuple(x_0.shape[1:])
        attend = inputs.get("attention_mask")
        total = max(self.state.max_steps, 1)
        return TrainingStep(
            x_0=x_0,
            diffusion=self.diffusion,
            student=self.denoiser(model),
            peers=self.peers(),
            progress=min(self.state.global_step / total, 1.0),
            generator=keyed_generator(
                self.args.seed, *key, self.args.process_index, device=x_0.device
            ),
            student_steps=self.student_steps,
            condition=inputs,
            attend=None if attend is None else attend.bool(),
            memory=self.memory,
        )

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """The sum of the objective's losses on one micro batch."""
        step = self.state.global_step
        self._micro = (step, self._micro[1] + 1 if self._micro[0] == step else 0)
        record = self.training_record(model, inputs, step, self._micro[1])
        losses = self.objective(record)
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        if not bool(loss.isfinite()):
            raise ValueError(
                f"The loss of {self.objective.id!r} is {float(loss.detach())} at step "
                f"{step}; lower "
                "the learning rate or look at `hf-ddistill diagnose`."
            )
        for name, value in {**{f"{k}_loss": v for k, v in losses.items()}, **record.record}.items():
            self._parts[name].append(float(value.detach()))
        return loss

    def prediction_step(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor, None, None]:
        """The objective on held-out data, its noise the same at every evaluation."""
        inputs = self._prepare_inputs(inputs)
        memory = dict(self.memory)
        key = int(inputs["input_ids"].sum())
        with torch.no_grad(), self.compute_loss_context_manager():
            record = self.training_record(model, inputs, "evaluation", key)
            loss = sum(self.objective(record).values())
        self.memory = memory
        return loss.detach().reshape(1), None, None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The loss on held-out data and figures of samples, both with the averaged weights."""
        prefix = kwargs.get("metric_key_prefix", "eval")
        with self._averaged_weights():
            metrics = super().evaluate(*args, **kwargs)
            figures = self._judge_samples(prefix)
        if figures:
            self.log(dict(figures))
            metrics.update(figures)
        return metrics

    def _judge_samples(self, prefix: str) -> dict[str, float]:
        if not self.args.num_eval_samples or not self.is_world_process_zero():
            return {}
        samples = self.sample(self.args.num_eval_samples)
        figures = dict(self.sample_metrics(samples)) if self.sample_metrics else {}
        folder = Path(self.args.output_dir) / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        shown: list[Any] = samples[:16].tolist()
        if self.processing_class is not None and hasattr(self.processing_class, "batch_decode"):
            shown = self.processing_class.batch_decode(shown)
        record = {"step": self.state.global_step, "nfe": self.student_steps, "samples": shown}
        (folder / f"{self.state.global_step}.json").write_text(json.dumps(record))
        self.measured.append({"step": self.state.global_step, "nfe": self.student_steps, **figures})
        return {f"{prefix}_{key}": float(value) for key, value in figures.items()}

    def sample(self, count: int, num_steps: int | None = None) -> Tensor:
        """Draw (count, L) clean tokens from the model in training, with keyed noise."""
        model = unwrapped(self.model, keep_adapters=True)
        device = self.args.device
        generator = keyed_generator(self.args.seed, "samples", device=device)
        config = unwrapped(model).config
        condition = {}
        if getattr(config, "num_classes", 0):
            condition["class_labels"] = torch.arange(count, device=device) % config.num_classes
        length = self._shape[0] if self._shape else config.max_position_embeddings
        training = model.training
        model.eval()
        tokens = reverse.sample(
            self.denoiser(model),
            (count, length),
            num_steps or self.student_steps,
            generator=generator,
            device=device,
            **condition,
        )
        model.train(training)
        return tokens.cpu()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the parts of the loss, averaged since the last record, beside the loss."""
        if "loss" in logs:
            logs = {**logs, **{key: sum(v) / len(v) for key, v in self._parts.items()}}
            self._parts.clear()
        super().log(logs, start_time)

    def _averaged_weights(self):  # noqa: ANN202 (a context manager)
        return self.average.applied() if self.average is not None else torch.enable_grad()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the averaged weights and a card; a checkpoint keeps the raw ones, to go on from."""
        folder = Path(output_dir or self.args.output_dir)
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            super().save_model(str(folder), _internal_call)
            if self.args.should_save:
                save_file(self._state(), folder / STATE_NAME)
            return
        with self._averaged_weights():
            super().save_model(str(folder), _internal_call)
        if self.args.should_save:
            # A pickle; the card says what the run was.
            (folder / "training_args.bin").unlink(missing_ok=True)
            self.write_card(folder)

    def _state(self) -> dict[str, Tensor]:
        state = {f"memory.{key}": value.contiguous() for key, value in self.memory.items()}
        if self.average is not None:
            state |= {f"ema.{key}": value.contiguous() for key, value in self.average.mean.items()}
        return state | {"format": torch.ones(1)}

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file = os.path.join(resume_from_checkpoint, STATE_NAME)
        if os.path.exists(file):
            self._restore(load_file(file, device=str(self.args.device)))

    def _restore(self, state: dict[str, Tensor]) -> None:
        self.memory = {k[7:]: v.cpu() for k, v in state.items() if k.startswith("memory.")}
        if self.average is not None:
            self.average.mean = {k[4:]: v for k, v in state.items() if k.startswith("ema.")}

    def facts(self) -> CardFacts:
        """What the card tells of this run."""
        args = self.args
        return CardFacts(
            name=args.hub_model_id or Path(args.output_dir).name,
            objective=self.objective.to_config(),
            citation=self.objective.citation,
            diffusion=unwrapped(self.model).config.discrete_diffusion,
            steps=self.student_steps,
            rows=self.measured,
            training={
                "optimizer steps": self.state.global_step,
                "rows per step": args.train_batch_size
                * args.gradient_accumulation_steps
                * args.world_size,
                "learning rate": args.learning_rate,
                "mean of weights, decay": args.ema_decay,
                "seed": args.seed,
            },
        )

    def write_card(self, folder: str | Path) -> None:
        """Write the card of this run into `folder`."""
        write_card(folder, self.facts())

    def create_model_card(self, **kwargs: Any) -> None:
        """What `push_to_hub` calls."""
        if self.is_world_process_zero():
            self.write_card(self.args.output_dir)
