"""Who is updated when, where networks are trained beside the student."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass


@dataclass(frozen=True)
class Alternation:
    """Which networks an optimizer step updates: the auxiliaries always, the student in turn.

    Args:
        warmup: optimizer steps at the start that leave the student out.
        every: after them, the student is updated in the last of so many.
    """

    warmup: int = 0
    every: int = 1

    def student_updates(self, steps: int) -> int:
        """How often the first `steps` optimizer steps update the student."""
        return max(steps - self.warmup, 0) // self.every

    def trained(self, step: int, auxiliaries: Collection[str]) -> frozenset[str]:
        """The networks that an optimizer step, counted from 0, updates.

        Args:
            step: its number.
            auxiliaries: names of those beside the student.
        """
        moves = self.student_updates(step + 1) > self.student_updates(step)
        return frozenset({*auxiliaries, "student"} if moves else auxiliaries)
