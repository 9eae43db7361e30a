"""A watch on the variety of what a student gives while it trains."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class CollapseWatch(TrainerCallback):
    """Warns, once, when the student's entropy falls below a share of the teacher's.

    Both are what the objective records, `entropy` (of the law of the student's samples) and
    `teacher_entropy`, in nats per token, as means between two logs.

    Args:
        share: in [0, 1); 0 never warns.
    """

    def __init__(self, share: float) -> None:
        self.share, self.warned = share, False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        """Compare the two, where both were recorded."""
        if self.warned or not state.is_world_process_zero:
            return
        entropy, teacher = (logs.get(name) for name in ("entropy", "teacher_entropy"))
        if entropy is None or teacher is None or entropy >= self.share * teacher:
            return
        self.warned = True
        warnings.warn(
            f"The student collapses: at step {state.global_step} its entropy is {entropy:.4g} nats "
            f"per token, below {self.share:g} of the teacher's {teacher:.4g}.",
            stacklevel=2,
        )
