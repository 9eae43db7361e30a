"""A watch on the variety of what a student gives while it trains."""

from __future__ import annotations

import warnings
from collections import defaultdict, deque

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_ddistill.couplings import Log
from hf_ddistill.training.losses import read

#: What a student's figure is held against, with the reference's name in a warning.
_LAW = ("entropy", "teacher_entropy")
_TOKENS = ("rollout_entropy", "data_entropy")
#: Optimizer steps whose mean counts.
_STEPS = 3
#: Nats below which a reference has no variety to be lost.
_NOTHING = 0.05


class CollapseWatch(TrainerCallback):
    """Warns, once, in the step in which the student's variety falls below a share of what it was.

    It looks, at each optimizer step, at what the objective (or the decoder of rollouts) logged:

    - `rollout_entropy`, of the tokens that the student draws, as one histogram over the batch; held
      against that of the first step and, where there is data of the same kind, `data_entropy`, the
      smaller of the two;
    - `entropy`, of the law of the student's samples by a network that learns it, against
      `teacher_entropy`.

    All in nats per token, as means over the last three steps.

    Args:
        share: in [0, 1); 0 never warns.
    """

    def __init__(self, share: float) -> None:
        self.start(share)

    def start(self, share: float) -> None:
        """Forget what was seen: a run begins."""
        self.share, self.warned = share, False
        self.seen: list[Log] = []
        self.last: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_STEPS))
        self.first: float | None = None

    def see(self, log: Log) -> None:
        """Take note of the log of a step, which the objective will have filled by its end."""
        if self.share and not self.warned:
            self.seen.append(log)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: object,
    ) -> None:
        """Compare, where both figures were recorded."""
        records, self.seen = [log.figures for log in self.seen], []
        if self.warned or not records:
            return
        figures: dict[str, Tensor] = {}
        for name in (*_LAW, *_TOKENS):
            values = [record[name].double() for record in records if name in record]
            if values:
                figures[name] = torch.stack(values).mean()
        for name, value in read(figures).items():
            self.last[name].append(value)
        if self.first is None and self.last["rollout_entropy"]:
            self.first = self.last["rollout_entropy"][0]
        entropy, teacher = map(self._mean, _LAW)
        tokens, data = map(self._mean, _TOKENS)
        before = self.first if data is None or self.first is None else min(self.first, data)
        self._compare(state, tokens, before, "the tokens that it draws have", "where they had")
        self._compare(state, entropy, teacher, "its samples have", "where the teacher has")

    def _mean(self, name: str) -> float | None:
        values = self.last[name]
        return sum(values) / _STEPS if len(values) == _STEPS else None

    def _compare(
        self,
        state: TrainerState,
        own: float | None,
        reference: float | None,
        have: str,
        where: str,
    ) -> None:
        if self.warned or own is None or reference is None or reference < _NOTHING:
            return
        if own >= self.share * reference or not state.is_world_process_zero:
            return
        self.warned = True
        warnings.warn(
            f"The student collapses: at step {state.global_step} {have} an entropy of {own:.4g} "
            f"nats per token, below {self.share:g} of the {reference:.4g} {where}; lower the "
            "learning rate, or raise the objective's maskings or kl, if it has one of these.",
            stacklevel=2,
        )
