"""What the libraries write beside what a command says."""

from __future__ import annotations

import logging
import sys

#: For each library, the function that turns its bars off.
BARS = {
    "datasets": ("datasets", "disable_progress_bars"),
    "diffusers": ("diffusers.utils.logging", "disable_progress_bar"),
    "huggingface_hub": ("huggingface_hub.utils", "disable_progress_bars"),
    "transformers": ("transformers.utils.logging", "disable_progress_bar"),
}


def is_terminal() -> bool:
    """Whether a person sees bars move, on stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def quiet_unless_terminal() -> None:
    """Without a terminal there are no bars that move, and no reports in the middle of a log.

    A report of weights that are missing says what our own checks say in a sentence. It is of the
    libraries that are imported; a command imports those that it needs before it runs.
    """
    if is_terminal():
        return
    for library, (module, disable) in BARS.items():
        if library in sys.modules:
            getattr(sys.modules[module], disable)()
    for name in ("modeling_utils", "distributed.tensor_parallel"):
        logging.getLogger(f"transformers.{name}").setLevel(logging.ERROR)
