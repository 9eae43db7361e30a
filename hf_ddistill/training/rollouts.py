"""Sequences that are decoded for training: behind the prompts of a batch, kept for some updates."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from hf_ddistill.couplings import Memory, Trajectory, calls_in_blocks
from hf_ddistill.decoding.decoding import DecodingPlan, decode
from hf_ddistill.models import BlockDiffusionGenerationConfig, BlockDiffusionLM, unwrapped
from hf_ddistill.models.shared_base import base_model
from hf_ddistill.objectives import Objective, Rollouts
from hf_ddistill.shapes import Generators
from hf_ddistill.training.clean_tokens import context_of, real_of
from hf_ddistill.training.data_blocks import tokens_in_block
from hf_ddistill.training.gathered import gathered

#: From decoded sequences (B, L) and where they were decoded (B, L) to a reward for each, (B,).
RewardFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Decoded:
    """A batch of decoded sequences.

    Args:
        inputs: `input_ids` (B, L), and `attention_mask` (B, L) where there is padding.
        trajectory: how they came about.
        reward: (B,), where there is a reward.
    """

    inputs: dict[str, Tensor]
    trajectory: Trajectory
    reward: Tensor | None = None


@dataclass(frozen=True)
class RolloutDecoder:
    """Decodes behind prompts, as an objective asks for.

    Args:
        settings: of the objective.
        prompt_length: tokens of a row that are its prompt at most; None for all.
        reward_function: what a decoded sequence earns, if anything.
        student_block: tokens in a block of the student, where it is not that of the model that
            decodes, and that has full attention: rows are padded to a multiple of it.
    """

    settings: Rollouts
    prompt_length: int | None = None
    reward_function: RewardFunction | None = None
    student_block: int | None = None

    def plan(self, model: BlockDiffusionLM, step: int) -> DecodingPlan:
        """How a model decodes in training at an optimizer step."""
        config = BlockDiffusionGenerationConfig(
            max_new_tokens=self.settings.tokens_at(step),
            sub_block_size=self.settings.block_size,
            unmasking=self.settings.unmasking.to_config(),
            steps_per_block=self.settings.steps_per_block,
            temperature=self.settings.temperature,
        )
        return model.decoding_plan(config)

    @torch.no_grad()
    def draw(
        self,
        model: nn.Module,
        inputs: Mapping[str, Tensor],
        step: int,
        generator: Generators,
        adapters: bool = True,
    ) -> Decoded:
        """Decode behind the prompts of a batch.

        Args:
            model: that decodes; a PEFT model with its adapters or, with `adapters=False`, without.
            inputs: `input_ids` (B, P), perhaps `attention_mask`; of a row with `labels` the prompt
                ends before the first token that is no context.
            step: the optimizer step.
            generator: of the draws; one, or one for each rollout.
            adapters: see `model`.

        Raises:
            ValueError: if a prompt is empty.
        """
        inner = _block_model(model)
        plan, count = self.plan(inner, step), self.settings.tokens_at(step)
        prompts = inner.prompts(*self._prompts(inputs), plan.block_size)
        was_training = model.training
        model.eval()
        try:
            with gathered(model), contextlib.nullcontext() if adapters else base_model(model):
                found = decode(model, prompts, count, plan, generator)
        finally:
            model.train(was_training)
        drawn = found.rounds >= 0
        # What stands behind an end was never decoded, or does not count.
        columns = torch.arange(drawn.shape[1], device=drawn.device)
        last = torch.where(drawn, columns, columns[:1]).amax(1, keepdim=True)
        attend = found.real & (columns <= last)
        x_0 = torch.where(attend, found.ids, torch.zeros_like(found.ids))
        rounds, log_prob = found.rounds, found.log_prob
        if plan.sub_block_size is not None:
            behind, size = rounds[:, prompts.start :], tokens_in_block(inner, drawn)
            behind = calls_in_blocks(behind, plan.sub_block_size, size)
            rounds = torch.cat([rounds[:, : prompts.start], behind], 1)
        multiple = self.student_block or 1
        if not inner.is_full(plan.block_size):
            multiple = math.lcm(multiple, plan.block_size)
        rows = (x_0, rounds, attend, log_prob)
        x_0, rounds, attend, log_prob = _from_the_left(*rows, multiple)
        reward = None if self.reward_function is None else self.reward_function(x_0, rounds >= 0)
        batch = {"input_ids": x_0}
        if not bool(attend.all()):
            batch["attention_mask"] = attend.long()
        return Decoded(batch, Trajectory(rounds, tokens_in_block(inner, rounds), log_prob), reward)

    def kept(
        self,
        memory: Memory,
        step: int,
        micro: int,
        draw: Callable[[], Decoded],
        device: torch.device,
    ) -> Decoded:
        """Rollouts of this step, or those of an earlier one that are to be used again.

        Args:
            memory: of the run; what is kept there is in its checkpoints.
            step: the optimizer step.
            micro: the micro step within it.
            draw: makes new ones.
            device: of the batch; what a checkpoint kept was loaded to the CPU.
        """
        if self.settings.updates == 1:
            return draw()
        own = memory.of("rollouts").of(str(micro))
        if step % self.settings.updates == 0 or not own.own():
            fresh = draw()
            own.clear()
            path = fresh.trajectory
            kept = {**fresh.inputs, "rounds": path.rounds, "log_prob": path.log_prob}
            kept["block_size"] = torch.tensor(path.block_size)
            if fresh.reward is not None:
                kept["reward"] = fresh.reward
            for name, tensor in kept.items():
                own.put(name, tensor)
        kept = {name: tensor.to(device) for name, tensor in own.own().items()}
        inputs = {key: kept[key] for key in ("input_ids", "attention_mask") if key in kept}
        trajectory = Trajectory(kept["rounds"], int(kept["block_size"]), kept["log_prob"])
        return Decoded(inputs, trajectory, kept.get("reward"))

    @staticmethod
    def first(data: Any, count: int) -> list[Mapping[str, Any]]:  # noqa: ANN401
        """The first rows of a data set, or of the first of several."""
        return list(islice(next(iter(data.values())) if isinstance(data, Mapping) else data, count))

    def starts(self, inputs: Mapping[str, Tensor], objective: Objective) -> Mapping[str, Tensor]:
        """A batch as prompts of samples: data without context, all of which are trained on, give
        their first tokens, such as that of the beginning."""
        data = objective.rollouts is None and "labels" not in inputs
        if not data or self.prompt_length is not None:
            return inputs
        return {name: inputs[name][:, :1] for name in {"input_ids", "attention_mask"} & {*inputs}}

    def _prompts(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        ids, real, most = inputs["input_ids"], real_of(inputs), self.prompt_length
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        context = context_of(inputs, None)
        if context is not None:
            real = real & ((real & ~context).cumsum(1) == 0)
        if most is not None:
            real = real & (real.cumsum(1) <= most)
        if not bool(real.any(1).all()):
            raise ValueError(
                "A prompt is empty: a rollout starts behind at least one token, such as the "
                "beginning-of-sequence token."
            )
        group = self.settings.group
        return ids.repeat_interleave(group, 0), real.long().repeat_interleave(group, 0)


def _block_model(model: Any) -> BlockDiffusionLM:  # noqa: ANN401 (wrapped in any way)
    inner = unwrapped(model)
    if not isinstance(inner, BlockDiffusionLM):
        raise ValueError(
            f"Rollouts are decoded by a BlockDiffusionLM, got {type(inner).__name__}; convert a "
            "causal language model with to_block_diffusion."
        )
    return inner


def _from_the_left(
    x_0: Tensor, rounds: Tensor, attend: Tensor, log_prob: Tensor, multiple: int
) -> list[Tensor]:
    """Rows (B, L) whose blocks start at one column, all starting at the first one, and padded on
    the right: a row's layout then hangs on no other prompt, and where the attention is full the
    blocks of a student begin with the prompt, as they do when it decodes."""
    width = -(-int(attend.sum(1).max()) // multiple) * multiple
    order = attend.logical_not().long().argsort(dim=1, stable=True)
    more = max(width - order.shape[1], 0)
    return [
        torch.nn.functional.pad(rows.gather(1, order), (0, more), value=fill)[:, :width]
        for rows, fill in ((x_0, 0), (rounds, -1), (attend, False), (log_prob, 0.0))
    ]
