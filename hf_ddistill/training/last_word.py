"""What the guard of a training says of its student behind the last step."""

from __future__ import annotations

from dataclasses import dataclass

NONE_AS_NEAR = "no step had samples as near as the teacher's"


@dataclass
class LastWord:
    """How the student ended.

    Args:
        distances: of its last samples from the data, and of the teacher's; None where nobody
            looked.
        is_teacher: whether no step was as near to the data, so that it is its teacher again.
        ahead: where it is ahead of its teacher, and where not (`fewer_calls.in_words`), if it was
            kept for that.
    """

    distances: tuple[float, float] | None = None
    is_teacher: bool = False
    ahead: str = ""

    def report(self, good_step: int) -> str | None:
        """How the last samples compare, and which step was good; None where nobody looked."""
        if self.distances is None:
            return None
        if self.is_teacher:
            return f"The student is its teacher: {NONE_AS_NEAR}; train longer."
        if self.ahead:
            return f"{self.ahead[0].upper()}{self.ahead[1:]} (docs/results/safety.md)."
        own, teacher = self.distances
        return (
            f"After the last step its samples were {own:.3g} from the data, the teacher's at the "
            f"same calls {teacher:.3g} (docs/results/safety.md); the good step before it was "
            f"{good_step}."
        )

    def facts(self) -> dict[str, str]:
        """For the card."""
        if self.is_teacher:
            return {"weights": f"the teacher's own: {NONE_AS_NEAR}"}
        return {"calls": self.ahead} if self.ahead else {}


def kept_for_fewer(step: int, calls: int, why: str, weights: str, ahead: str) -> str:
    """Of a student that is worse at the most calls alone; `weights` says which it ends with, if not
    its last."""
    return (
        f"The student's samples after the last step ({step}) are worse than the teacher's at "
        f"{calls} calls: {why}; {weights or 'it is kept for fewer'}: {ahead}. To be better at "
        f"{calls}, train longer."
    )


def given_up(step: int, calls: int, why: str, then: str, is_good: bool) -> str:
    """Of a student that is worse, what was done, and what could be; `is_good`, whether it ends with
    a good step."""
    last = "the last good one" if is_good else NONE_AS_NEAR
    fewer = ", or student_steps to fewer calls" if calls > 1 else ""
    return (
        f"The student's samples after the last step ({step}) are worse than the teacher's at the "
        f"same number of calls, {calls}: {why}; {then}; {last}. Train longer, or set a lower "
        f"learning_rate{fewer}; collapse_share=0 keeps what was trained."
    )
