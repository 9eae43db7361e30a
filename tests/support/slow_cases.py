"""Cases of which the fast suite runs some, and the slow one the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest


def mostly_slow(cases: Iterable, is_fast: Callable[..., bool]) -> list:
    """`cases` as parameters; those of which `is_fast` is not true are slow.

    Args:
        cases: values, or tuples of them where a test has several parameters.
        is_fast: is asked with the values of a case.
    """
    split = [(case if isinstance(case, tuple) else (case,)) for case in cases]
    return [pytest.param(*case, marks=[] if is_fast(*case) else pytest.mark.slow) for case in split]
