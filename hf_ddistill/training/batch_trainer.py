"""`Trainer` for which a batch is what an objective is given, and its losses are means over tokens
(or rows), whatever batches these come in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.linalg import Questions
from hf_ddistill.training.clean_tokens import context_of, real_of, trained_in
from hf_ddistill.training.data_blocks import of_data
from hf_ddistill.training.finite import check_step
from hf_ddistill.training.held_out import EVALUATION, HeldOutMean, own_rows, step_noise, units_of
from hf_ddistill.training.rollouts import Decoded
from hf_ddistill.training.sharding import is_sharded


class BatchTrainer(Trainer):
    """Makes of a batch the step that an objective is given, and weighs the mean loss of each micro
    batch by what it is a mean of, its `units`: the tokens that losses are of, or the rows that have
    any, as the objective says.

    So the gradient of an optimizer step is that of the mean over all of its micro batches and
    processes together (over those of one process, if `average_tokens_across_devices` is off), and
    the loss of an evaluation that over all held-out rows, each once.

    What a subclass has: `_objective`, `diffusion`, `memory`, `student_steps`, and the networks,
    `denoiser(model)` and `peers()`, of which a step updates `updated(held_out)`.
    """

    # `Trainer` shall not divide by the number of micro batches.
    loss_is_scaled_for_ga = True
    _micro = 0
    _loss_of_step: Tensor | None = None
    #: What micro batches asked of their numbers, to be answered once in each optimizer step.
    _questions = Questions()
    _held_out = HeldOutMean()

    def decoded(
        self, model: nn.Module, inputs: Mapping[str, Tensor], key: tuple[Any, ...]
    ) -> Decoded | None:
        """What takes the place of a batch, where that is but prompts; None for data."""
        return None

    def training_record(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *key: Any
    ) -> TrainingStep:
        """The step that the objective is given, its randomness keyed by `key`, or for `EVALUATION`
        by each row itself."""
        decoded = self.decoded(model, inputs, key)
        inputs = inputs if decoded is None else decoded.inputs
        args, attend, held_out = self.args, real_of(inputs), key[:1] == (EVALUATION,)
        context = context_of(inputs, args.prompt_length) if decoded is None else None
        inputs = {name: value for name, value in inputs.items() if name != "labels"}
        x_0 = inputs.pop("input_ids")
        path = of_data(model, x_0, attend, context) if decoded is None else decoded.trajectory
        noise = step_noise(args.seed, {"input_ids": x_0, **inputs}, key, args.process_index)
        progress = min(self.state.global_step / max(self.state.max_steps, 1), 1.0)
        return TrainingStep(
            x_0=x_0,
            diffusion=self.diffusion,
            student=self.denoiser(model),
            peers=self.peers(),
            progress=1.0 if held_out else progress,
            generator=noise,
            student_steps=self.student_steps,
            condition=inputs,
            attend=attend,
            context=context,
            # An evaluation must leave no trace in it.
            memory=self.memory.copy() if held_out else self.memory,
            trajectory=path,
            reward=None if decoded is None else decoded.reward,
            train=self.updated(held_out),
            held_out=held_out,
            most=self._most,
        )

    def _most(self, number: int) -> int:
        """The largest of all processes where weights are sharded, whose networks all must call
        equally often; elsewhere the number itself."""
        if not is_sharded(self.accelerator):
            return number
        of_all = self.accelerator.gather(torch.tensor([number], device=self.accelerator.device))
        return int(of_all.max())

    def lengths(self, micro: int, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B,), the tokens of each row of a micro batch that losses are of."""
        return trained_in(inputs, self.args.prompt_length).sum(1)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | None]:
        """The micro batches of one optimizer step, and their units for each process, as the mean
        over processes."""
        self._micro, self._loss_of_step, self._questions = 0, None, Questions()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, None
        lengths = [self.lengths(i, self._prepare_inputs(b)) for i, b in enumerate(batches)]
        units = torch.stack([units_of(rows, self._objective.unit) for rows in lengths]).sum()
        units = units.double()
        if self.args.average_tokens_across_devices:
            units = self.accelerator.reduce(units, "mean")
        return batches, units.clamp_min(1e-9)

    def shared(self, loss: Tensor, record: TrainingStep, all_units: Tensor | int | None) -> Tensor:
        """A micro batch's mean loss, by its share of the units of the optimizer step."""
        if all_units is None:
            return loss
        share = units_of(record.lengths, self._objective.unit) / all_units
        return loss * share.to(loss.dtype)

    def watch_loss(self, loss: Tensor) -> None:
        """Take note of a micro batch's loss, which is looked at before the weights change."""
        loss = loss.detach()
        self._loss_of_step = loss if self._loss_of_step is None else self._loss_of_step + loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm)
        # The scaler of float16 finds such gradients itself, and leaves their step out.
        seen = norm if self.accelerator.scaler is None else None
        self._questions.answer()
        check_step(self._loss_of_step, seen, self._objective.id, self.state.global_step)
        return norm

    def own(self, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """The rows of a held-out batch that no other batch has, and whether there are any; else the
        first one, since networks that are sharded are called by all processes."""
        rows = own_rows(len(inputs["input_ids"]), self.accelerator)
        return {name: value[: max(rows, 1)] for name, value in inputs.items()}, rows > 0

    def hold_out(self, loss: Tensor, record: TrainingStep, counts: bool) -> None:
        """Enter the loss of a held-out batch for the mean of the evaluation."""
        units = units_of(record.lengths, self._objective.unit)
        self._held_out.add(loss, units * counts)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """That of `Trainer`, but for its loss."""
        self._held_out = HeldOutMean()
        given = (description, prediction_loss_only, ignore_keys, metric_key_prefix)
        output = super().evaluation_loop(dataloader, *given)
        name = f"{metric_key_prefix}_loss"
        self._held_out.into(output.metrics, name, self.accelerator)
        if self._objective.is_bound and name in output.metrics:
            bits = output.metrics[name] * math.log2(math.e)
            output.metrics[f"{metric_key_prefix}_bits_per_token"] = bits
        return output
