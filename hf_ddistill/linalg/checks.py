"""Questions about the numbers of a tensor, asked so that nobody waits for a device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

Complaint = Callable[[int, int], str]

#: For each question of a block of `asked_at_the_end`: how many entries fail, of how many.
_ASKED: ContextVar[list[tuple[Tensor, int, Complaint]] | None] = ContextVar("asked", default=None)


def require(right: Tensor, complaint: Complaint) -> None:
    """Raise a ValueError unless every entry is right; on a device within `asked_at_the_end`, then.

    Args:
        right: Booleans.
        complaint: (how many are wrong, of how many) -> what the error says.
    """
    if torch.compiler.is_compiling():  # in a graph nobody can be told how many
        torch._assert_async(right.all(), complaint(1, right.numel()))
        return
    asked = _ASKED.get()
    if asked is not None and right.device.type != "cpu":
        asked.append(((~right).sum(), right.numel(), complaint))
    elif not bool(right.all()):
        raise ValueError(complaint(int((~right).sum()), right.numel()))


@contextlib.contextmanager
def asked_at_the_end() -> Iterator[None]:
    """Within it no `require` about a device's numbers waits for them: all are asked for at once,
    when it is left. On the CPU nobody has to wait, and errors come where they are.

    Raises:
        ValueError: on leaving, what the first that failed says.
    """
    if _ASKED.get() is not None:
        yield
        return
    asked: list[tuple[Tensor, int, Complaint]] = []
    token = _ASKED.set(asked)
    try:
        yield
    finally:
        _ASKED.reset(token)
    if not asked:
        return
    for (_, total, complaint), wrong in zip(
        asked, torch.stack([wrong for wrong, _, _ in asked]).tolist(), strict=True
    ):
        if wrong:
            raise ValueError(complaint(wrong, total))
