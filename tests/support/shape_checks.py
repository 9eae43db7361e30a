"""What checks the annotations under pytest: beartype, for the first calls of each test.

A fit of some hundred steps calls the same functions with the same shapes a hundred thousand times:
checked each time, that was a tenth of what the whole suite costs, and found nothing after the first
steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from beartype import beartype
from jaxtyping import config

#: Checks in a test; a call has two of them, of what goes in and of what comes out.
CHECKS = 1000
_left = CHECKS


def checked(function: Callable) -> Callable:
    """`function`, which jaxtyping made to hold the annotations, checked by beartype and counted.

    It is looked at when it is first called: most are not, in the tests of one process, and writing
    the checks of all of them took seconds.
    """
    typed = None

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global _left
        nonlocal typed
        _left -= 1
        if not _left:
            config.update("jaxtyping_disable", True)
        if typed is None:
            typed = beartype(function)
        return typed(*args, **kwargs)

    return counted


def begin() -> None:
    """Checks for another test."""
    global _left
    _left = CHECKS
    config.update("jaxtyping_disable", False)
