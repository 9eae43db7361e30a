"""What users of `transformers.Trainer` do beside training: evaluate, predict, search, publish."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import (
    BestRun,
    EvalLoopOutput,
    PredictionOutput,
    number_of_arguments,
    set_seed,
)

from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.models import unwrapped
from hf_ddistill.models.adapters import bring_base
from hf_ddistill.models.loading import as_name
from hf_ddistill.models.opening import open_model
from hf_ddistill.objectives import Objective
from hf_ddistill.training.arguments import DiscreteDiffusionConfig
from hf_ddistill.training.model_card import write_card
from hf_ddistill.training.predictions import predicted
from hf_ddistill.training.samples import write_samples


class StandardTrainer(Trainer):
    """Evaluation with figures of samples, prediction by sampling, fresh models for searches.

    What a subclass has: `_prepared(data)`, `sample(count)`, `denoiser(model)`, `facts()`;
    `_adopted(model)`, which takes a model that `model_init` made, and `_renew()`, for all else of
    a run; `average`, `measured`, `sample_metrics`.
    """

    _judges = True

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """The loss on held-out data and figures of samples, both with the averaged weights."""
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        if eval_dataset is not None and not isinstance(eval_dataset, str):
            data = eval_dataset = self._prepared(eval_dataset)
        # The samples are the model's own, whichever of several data sets it is evaluated on.
        several, judges = isinstance(data, Mapping), self._judges
        self._judges = judges and not several
        # Loaders and metrics draw from the global generator, which dropout is drawn from.
        with torch.random.fork_rng(devices=[]), self.averaged_weights():
            try:
                metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
            finally:
                self._judges = judges
            figures = self._judge_samples(metric_key_prefix) if several and judges else {}
        if figures:
            self.log(dict(figures))
            metrics.update(figures)
            handler = self.callback_handler
            self.control = handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """With the figures of samples among the metrics, where callbacks and logs find them."""
        self._predicted = 0
        given = (description, prediction_loss_only, ignore_keys, metric_key_prefix)
        output = super().evaluation_loop(dataloader, *given)
        if description == "Evaluation" and self._judges:
            output.metrics.update(self._judge_samples(metric_key_prefix))
        return output

    def predict(
        self,
        test_dataset: Any,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> PredictionOutput:
        """A sample for each row of a data set, with the averaged weights.

        Returns:
            `predictions`: tokens (N, L), drawn in the model's own number of steps, with the row's
            class and behind what is given of it; `label_ids`: the row's own tokens, -100 where
            they were given. Padding is -100 in both. `metrics`: the loss, and what
            `compute_metrics` makes of the two.
        """
        with torch.random.fork_rng(devices=[]), self.averaged_weights():
            return super().predict(self._prepared(test_dataset), ignore_keys, metric_key_prefix)

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

    def _samples_for(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A sample for each row of a batch, and the rows themselves: see `predict`."""
        rows = range(self._predicted, self._predicted + len(inputs["input_ids"]))
        self._predicted = rows.stop
        key, device = (self.args.seed, "predictions", self.args.process_index), self.args.device
        generators = [keyed_generator(*key, row, device=device) for row in rows]
        denoiser = self.denoiser(unwrapped(self.model, keep_adapters=True))
        given = self.args.prompt_length
        return predicted(denoiser, inputs, given, self.student_steps, generators)

    def averaged_weights(self) -> contextlib.AbstractContextManager:
        """Within it the model has the mean of its weights, where there is one."""
        return contextlib.nullcontext() if self.average is None else self.average.applied()

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
            bring_base(Path(self.args.output_dir), self.hub_model_id)

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """A new model by `model_init`, which takes the place of the one before."""
        return self._adopted(self._completed(super().call_model_init(trial)))

    def _completed(self, model: nn.Module) -> nn.Module:
        """The model that will be trained, made of the one that was given."""
        return model

    def _hp_search_setup(self, trial: Any) -> None:
        """The settings of a trial, and all that depends on settings and on the model anew."""
        super()._hp_search_setup(trial)
        if self.model_init is not None:
            self._renew()

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> BestRun | list[BestRun]:
        """See `Trainer.hyperparameter_search`."""
        try:
            return super().hyperparameter_search(*args, **kwargs)
        finally:
            self.hp_search_backend = None

    @property
    def objective(self) -> Objective | float | None:
        """What is minimised. In a search `Trainer` keeps the figure of a trial under this name."""
        searches = getattr(self, "hp_search_backend", None) is not None
        return self._figure if searches else self._objective

    @objective.setter
    def objective(self, value: Objective | float | None) -> None:
        if isinstance(value, Objective):
            self._objective = value
        else:
            self._figure = value


def first_model(
    model: nn.Module | str | os.PathLike | None,
    args: DiscreteDiffusionConfig,
    model_init: Callable[..., PreTrainedModel] | None,
    optimizers: tuple[Any, Any] | None = None,
) -> nn.Module | None:
    """The model that was given, loaded or made; None if there is nothing to make one of.

    Args:
        model: a model, which is left as it is, or a name, whose weights are loaded in float32.
        args: settings.
        model_init: makes a model, if there is no other, from the seed of the settings.
        optimizers: that were given.

    Raises:
        ValueError: for two models, or an optimizer of a model that will be replaced.
    """
    if model_init is not None:
        if model is not None:
            raise ValueError("Give model= or model_init=, not both.")
        if any(each is not None for each in optimizers or ()):
            raise ValueError(
                "model_init= makes a new model for each run, so that no optimizer of it can be "
                "given; leave out optimizers=, or give model=."
            )
        if (count := number_of_arguments(model_init)) > 1:
            raise ValueError(f"model_init= takes no argument, or the trial alone; it has {count}.")
        set_seed(args.seed)
        model = model_init(*[None] * count)
    if isinstance(model := as_name(model), str):
        # What is trained in half precision hardly moves, and many files are.
        return open_model(model, dtype=torch.float32)
    return model
