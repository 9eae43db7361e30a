"""What the libraries write beside what a command says."""

from __future__ import annotations

import logging
import sys

import datasets
import diffusers
import huggingface_hub
import transformers


def is_terminal() -> bool:
    """Whether a person sees bars move, on stderr."""
    return sys.stderr is not None and sys.stderr.isatty()


def quiet_unless_terminal() -> None:
    """Without a terminal there are no bars that move, and no reports in the middle of a log.

    A report of weights that are missing says what our own checks say in a sentence.
    """
    if is_terminal():
        return
    datasets.disable_progress_bars()
    diffusers.utils.logging.disable_progress_bar()
    huggingface_hub.utils.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    for name in ("modeling_utils", "distributed.tensor_parallel"):
        logging.getLogger(f"transformers.{name}").setLevel(logging.ERROR)
