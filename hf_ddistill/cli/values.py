"""What the values of options may be: types for argparse that refuse in one sentence.

A configuration file's values go through the same types (`config_file`).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path

#: Whole numbers of an option without a bound of its own end here: beyond it is a slip of the hand.
MOST = 10**9
#: Network calls for one sample: more of them cannot be meant.
MOST_CALLS = 100_000
DTYPES = ("float32", "bfloat16", "float16")
#: What transformers can report to.
REPORTERS = (
    *("azure_ml", "clearml", "codecarbon", "comet_ml", "dagshub", "dvclive", "flyte"),
    *("kubeflow", "mlflow", "neptune", "swanlab", "tensorboard", "trackio", "wandb"),
)


def whole(least: int = 0, most: int = MOST) -> Callable[[str], int]:
    """The type of an integer in [least, most]."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be an integer, got {text!r}") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        if value > most:
            raise argparse.ArgumentTypeError(f"must be at most {most:,}, got {value:,}")
        return value

    return parse


def number(
    least: float = -math.inf, most: float = math.inf, open_ends: str = ""
) -> Callable[[str], float]:
    """The type of a finite number from `least` to `most`.

    Args:
        least, most: the ends.
        open_ends: holds "(" where `least` itself is refused, and ")" where `most` is.
    """
    left, right = "(" if "(" in open_ends else "[", ")" if ")" in open_ends else "]"
    if least == -math.inf and most == math.inf:
        meant = "finite"
    elif most == math.inf:
        meant = f"above {least:g}" if left == "(" else f"at least {least:g}"
    else:
        meant = f"in {left}{least:g}, {most:g}{right}"

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be a number, got {text!r}") from None
        inside = least <= value <= most and math.isfinite(value)
        if not inside or (left == "(" and value == least) or (right == ")" and value == most):
            raise argparse.ArgumentTypeError(f"must be {meant}, got {value:g}")
        return value

    return parse


#: Network calls per sample.
CALLS = whole(1, MOST_CALLS)
#: An integer of at least 1.
positive = whole(1)
#: What every library of random numbers takes.
SEED = whole(0, 2**32 - 1)
RATE = number(0, open_ends="(")
TEMPERATURE = number(0)


def setting(text: str) -> str:
    """An id, or JSON of a mapping, as text: what `name_or_json` reads."""
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise argparse.ArgumentTypeError(
            f"takes an id or JSON; {text!r} is no JSON: {error}"
        ) from None
    except RecursionError:
        raise argparse.ArgumentTypeError("got JSON that is nested too deeply") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(
            f"takes an id or a JSON mapping, got a JSON {type(value).__name__}"
        )
    return text.strip()


def device_name(text: str) -> str:
    """A device as torch names it; whether this machine has it, `pick_device` says."""
    if not re.fullmatch(r"[a-z]+(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"knows no device {text!r}; there are cpu, cuda:0, ...")
    return text


def reporter(text: str) -> str:
    """Something that transformers can report to."""
    if text not in ("none", "all", *REPORTERS):
        known = ", ".join(["none", "all", *REPORTERS])
        raise argparse.ArgumentTypeError(f"knows no {text!r}; there are: {known}")
    return text


def json_file(text: str) -> str:
    """A file that can be written once the work is done."""
    check_writable(Path(text))
    return text


def rows_file(text: str) -> str:
    """The same for rows of data."""
    if Path(text).suffix != ".jsonl":
        raise argparse.ArgumentTypeError(f"writes a .jsonl file, got {text}")
    check_writable(Path(text))
    return text


def png_file(text: str) -> str:
    """The same for a picture."""
    if Path(text).suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"writes a .png file, got {text}")
    check_writable(Path(text))
    return text


#: What stands for the terminal where a file could be named.
TERMINAL = "terminal"


def show_file(text: str) -> str:
    """`TERMINAL`, or a file of a kind that shows steps."""
    if text == TERMINAL:
        return text
    if Path(text).suffix.lower() not in (".gif", ".html"):
        raise argparse.ArgumentTypeError(
            f"writes a .gif or an .html file, or takes no value; got {text}"
        )
    check_writable(Path(text))
    return text


def check_writable(file: Path) -> None:
    """Raise if a file cannot be written there; folders that are missing can be made."""
    if not file.name:
        raise argparse.ArgumentTypeError(f"names {str(file)!r}, which is a folder; give a file")
    try:
        if file.is_dir():
            raise argparse.ArgumentTypeError(f"names {file}, which is a folder; give a file")
        folder = next(folder for folder in file.absolute().parents if os.path.lexists(folder))
    except OSError as error:  # a name that is too long, say
        raise argparse.ArgumentTypeError(f"cannot write {file}: {error.strerror}") from None
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"cannot write {file}: {folder} is no folder")
    target = file if file.exists() else folder
    if not os.access(target, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write {file}: no permission in {folder}")
