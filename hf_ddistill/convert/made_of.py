"""What transformers raises for a configuration of others, as one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

#: A value that a field cannot have ends in any of these, wherever a network first meets it.
_RAISED = (
    StrictDataclassError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
)


@contextlib.contextmanager
def made_of(source: str | Path) -> Iterator[None]:
    """Around what makes a configuration or a network of the fields of a source, and nothing else.

    Raises:
        ValueError: with the source and what it raised.
    """
    try:
        yield
    except _RAISED as error:
        said = " ".join(str(error).split())
        raise ValueError(
            f"The config.json of {source} makes no network: {type(error).__name__}: {said}"
        ) from error
