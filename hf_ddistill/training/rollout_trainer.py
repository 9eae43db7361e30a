"""`Trainer` whose student or teacher decodes what an objective is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from hf_ddistill.couplings import TrainingStep, histogram_entropy
from hf_ddistill.linalg import RowStreams
from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.models import BlockDiffusionLM, unwrapped, window
from hf_ddistill.objectives import Rollouts
from hf_ddistill.training.held_out import EVALUATION, step_noise
from hf_ddistill.training.predictions import decoded_rows
from hf_ddistill.training.rollouts import Decoded, RewardFunction, RolloutDecoder


class RolloutTrainer(Trainer):
    """Decodes the rollouts of an objective behind the prompts of its batches, and the samples of a
    student of blocks.

    What a subclass has: `_objective`, `memory`, `teacher_model` and `own_base`; it calls
    `start_decoding` when a run begins.
    """

    def start_decoding(self, reward_function: RewardFunction | None) -> None:
        """Make the decoder, as the objective asks for it."""
        # Rollouts of the micro batches of this step, by their keys.
        self._ready: dict[tuple[Any, ...], Decoded] = {}
        settings, most = self._objective.rollouts, self.args.prompt_length
        if settings is None:
            # Of samples alone, behind a start; as long as the model reads.
            length = self.args.max_length or window(self.model)
            settings = Rollouts(tokens=max(1, min(Rollouts.tokens, length - (most or 1))))
        block = self._objective.block_size
        self.decoder = RolloutDecoder(settings, most, reward_function, block)

    def decoded(
        self, model: nn.Module, inputs: Mapping[str, Tensor], key: tuple[Any, ...]
    ) -> Decoded | None:
        """What stands behind the prompts of a batch; None where the objective asks for data."""
        if self._objective.rollouts is None:
            return None
        return self._ready.pop(key, None) or self._decode(model, inputs, key)

    def training_record(
        self, model: nn.Module, inputs: Mapping[str, Tensor], *key: Any
    ) -> TrainingStep:
        """The step that the objective is given; it tells how varied the student's tokens are."""
        record = super().training_record(model, inputs, *key)
        rollouts = self._objective.rollouts
        if rollouts is not None and rollouts.by == "student":
            drawn, size = record.trajectory.drawn, self.diffusion.vocab_size
            record.log("rollout_entropy", histogram_entropy(record.x_0, drawn, size))
        return record

    def lengths(self, micro: int, inputs: Mapping[str, Tensor]) -> Tensor:
        """(B,), the tokens of each row that losses are of; rollouts are decoded to know them."""
        if self._objective.rollouts is None:
            return super().lengths(micro, inputs)
        key = (self.state.global_step, micro)
        self._ready[key] = self._decode(self.model, inputs, key)
        return self._ready[key].trajectory.drawn.sum(1)

    def _decode(
        self, model: nn.Module, inputs: Mapping[str, Tensor], key: tuple[Any, ...]
    ) -> Decoded:
        step, by_student = self.state.global_step, self._objective.rollouts.by == "student"
        network = model if by_student or self.own_base else self.teacher_model
        # Without the hooks of data parallelism, which wait for a backward pass.
        network = unwrapped(network, keep_adapters=True)
        device = inputs["input_ids"].device

        def draw() -> Decoded:
            args, about = self.args, (*key, "rollouts")
            copies = self.decoder.settings.group
            noise = step_noise(args.seed, inputs, about, args.process_index, copies)
            noise = [*noise] if isinstance(noise, RowStreams) else noise
            return self.decoder.draw(network, inputs, step, noise, by_student or not self.own_base)

        if key[:1] == (EVALUATION,):
            return draw()
        return self.decoder.kept(self.memory, step, int(key[-1]), draw, device)

    def sample(self, count: int, num_steps: int | None = None) -> Tensor:
        """Clean tokens (count, L) with keyed noise; of blocks behind the first prompts held out."""
        model = unwrapped(self.model, keep_adapters=True)
        if not isinstance(unwrapped(model), BlockDiffusionLM):
            return super().sample(count, num_steps)
        data = self.train_dataset if self.eval_dataset is None else self.eval_dataset
        inputs = self._prepare_inputs(self.data_collator(self.decoder.first(data, count)))
        inputs = self.decoder.starts(inputs, self._objective)
        noise = keyed_generator(self.args.seed, "samples", device=self.args.device)
        return self._last_draw(model, inputs, noise)["input_ids"]

    def _samples_for(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """See `predict`; a model of blocks decodes behind the prompt of each row."""
        model = unwrapped(self.model, keep_adapters=True)
        if not isinstance(unwrapped(model), BlockDiffusionLM):
            return super()._samples_for(inputs)
        key = (self.args.seed, "predictions", self.args.process_index, self._predicted)
        self._predicted += len(inputs["input_ids"])
        noise = keyed_generator(*key, device=self.args.device)
        drawn = self._last_draw(model, inputs, noise)
        return decoded_rows(drawn, inputs, self.decoder.settings.group, self.args.prompt_length)

    def _last_draw(
        self, model: nn.Module, inputs: Mapping[str, Tensor], noise: Any
    ) -> Mapping[str, Tensor]:
        """Decoded sequences, as long as rollouts become."""
        return self.decoder.draw(model, inputs, self.decoder.settings.ramp_steps, noise).inputs
