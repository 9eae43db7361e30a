"""Questions about the numbers of a tensor, asked so that nobody waits for a device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

Complaint = Callable[[int, int], str]


class Questions:
    """What was asked of a device and is not answered yet."""

    def __init__(self) -> None:
        #: For each: how many entries fail, of how many.
        self.asked: list[tuple[Tensor, int, Complaint]] = []

    def answer(self) -> None:
        """Wait for all at once, if there are any.

        Raises:
            ValueError: what the first that failed says.
        """
        asked, self.asked = self.asked, []
        if not asked:
            return
        wrong = torch.stack([wrong for wrong, _, _ in asked]).tolist()
        for count, (_, total, complaint) in zip(wrong, asked, strict=True):
            if count:
                raise ValueError(complaint(count, total))


_ASKED: ContextVar[Questions | None] = ContextVar("asked", default=None)


def require(right: Tensor, complaint: Complaint) -> None:
    """Raise a ValueError unless every entry is right; on a device, within `asked_later` or
    `asked_at_the_end`, when the questions are answered.

    Args:
        right: Booleans.
        complaint: (how many are wrong, of how many) -> what the error says.
    """
    if torch.compiler.is_compiling():  # in a graph nobody can be told how many
        torch._assert_async(right.all(), complaint(1, right.numel()))
        return
    questions = _ASKED.get()
    if questions is not None and right.device.type != "cpu":
        questions.asked.append(((~right).sum(), right.numel(), complaint))
    elif not bool(right.all()):
        raise ValueError(complaint(int((~right).sum()), right.numel()))


@contextlib.contextmanager
def asked_later(questions: Questions) -> Iterator[None]:
    """Within it no `require` about a device's numbers waits for them: they are among `questions`,
    or among those of a block around this one. On the CPU nobody has to wait, and errors come where
    they are."""
    # In a graph each `require` is one of its operations.
    if torch.compiler.is_compiling() or _ASKED.get() is not None:
        yield
        return
    token = _ASKED.set(questions)
    try:
        yield
    finally:
        _ASKED.reset(token)


@contextlib.contextmanager
def asked_at_the_end() -> Iterator[None]:
    """The same, and all are answered when it is left.

    Raises:
        ValueError: on leaving, what the first that failed says.
    """
    questions = Questions()
    with asked_later(questions):
        yield
    questions.answer()
