"""Samples of a student beside those of its teacher at fewer calls than it is trained for at most.

A student of several numbers of calls can be far ahead of its teacher where the calls are few, and a
little behind where they are most.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from hf_ddistill.training.comparison import END_ERRORS, LARGER, Comparison
from hf_ddistill.training.told_apart import FOLDS, told_apart

#: Standard errors by which samples must be harder to tell from the data than the teacher's.
AHEAD = 2.0


class FewerCalls:
    """At each number of calls that the objective serves below `student_steps`, both models draw for
    the same rows and with the same noise, at the same calls. The figure is how easily their samples
    are told from the data (`told_apart`): the teacher's independent tokens have the frequencies of
    the data at any number of calls, so that `Likeness`, which counts these, prefers them.

    Args:
        trainer: a `DiscreteDistillationTrainer`.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        #: The teacher draws once.
        self._made: dict[int, tuple[Comparison, Any]] = {}

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of calls, those that are looked at."""
        return self.trainer._objective.fewer_calls(self.trainer.student_steps)

    def look(self, share: float) -> dict[int, float]:
        """By how many standard errors the student is behind its teacher (below 0: ahead), by the
        number of calls; without end where its samples there have collapsed below a share."""
        return {calls: self._behind(calls, share) for calls in self.numbers}

    def _behind(self, calls: int, share: float) -> float:
        if calls not in self._made:
            made = Comparison.of(self.trainer, LARGER, calls)
            few = min(len(made.data.tokens), len(made.teacher.rows.tokens)) < 2 * FOLDS
            told = None if few else told_apart(made.teacher.rows, made.data)
            self._made[calls] = made, told
        made, teacher = self._made[calls]
        if teacher is None:  # too few rows to say anything
            return 0.0
        found = made.student()
        if made.lost(found, share) is not None:
            return math.inf
        beyond, error = told_apart(found.rows, made.data).beyond(teacher)
        return beyond / max(error, 1e-12)


def leads(behind: Mapping[int, float]) -> bool:
    """Whether a student is ahead at one number of calls at least."""
    return any(errors <= -AHEAD for errors in behind.values())


def in_words(behind: Mapping[int, float], calls: int) -> str:
    """At which numbers of calls a student is ahead and at which its teacher is, who is at `calls`,
    the most; as a clause."""
    ahead = [n for n, errors in behind.items() if errors <= -AHEAD]
    level = [n for n, errors in behind.items() if -AHEAD < errors < END_ERRORS]
    after = [n for n, errors in behind.items() if errors >= END_ERRORS]
    said = [f"at {_listed(ahead)} call{'s' * (ahead != [1])} it is ahead of its teacher"]
    said += [f"at {_listed(level)} neither is seen to be"] if level else []
    said += [f"at {_listed([*after, calls])} its teacher is"]
    return f"{', '.join(said)}: sample it in {_listed(ahead, 'or')}"


def _listed(numbers: Iterable[int], word: str = "and") -> str:
    *first, last = map(str, numbers)
    return f"{', '.join(first)} {word} {last}" if first else last
