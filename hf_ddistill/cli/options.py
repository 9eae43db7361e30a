"""Flags for the settings of the trainers: one for each field that their dataclasses define.

Names, defaults and help come from the dataclasses, so that a new field is a new flag.
"""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from hf_ddistill.cli.common import positive
from hf_ddistill.cli.values import CALLS, RATE, number, setting, whole

#: Types that are narrower than the annotations are.
NARROW: dict[str, Callable[[str], Any]] = {
    "student_steps": CALLS,
    "sample_steps": CALLS,
    "rounds": whole(1, 16),  # each doubles the steps of the first
    "ema_decay": number(0, 1, ")"),
    "auxiliary_learning_rate": RATE,
    "auxiliary_beta1": number(0, 1, ")"),
    "collapse_share": number(0, 1, ")"),
    "noise_std": RATE,
    **dict.fromkeys(
        (
            "max_length",
            "auxiliary_updates",
        ),
        positive,
    ),
}
#: Help where a value of None means something.
WORDS = {
    "max_length": "tokens in a row of text (default: the model's window)",
    "prompt_length": "tokens of a row that are given; of rollouts, the prompt (default: none; of "
    "rollouts all)",
    "auxiliary_learning_rate": "of the auxiliary (default: the student's)",
}
GROUPS = {
    "auxiliary_": ("auxiliary", "the network that some objectives train beside the student"),
}
#: Fields of `TrainingArguments` that have a flag, with our defaults.
OF_TRAINER: dict[str, tuple[Callable[[str], Any], Any]] = {
    "weight_decay": (number(0), 0.0),
    "max_grad_norm": (number(0), 1.0),
    "adam_beta1": (number(0, 1, ")"), 0.9),
    "adam_beta2": (number(0, 1, ")"), 0.999),
}
#: Those that need no settings of their own.
SCHEDULERS = ("cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")


def own_fields(config: type) -> list[Field]:
    """The fields that a dataclass defines itself, on top of `TrainingArguments`."""
    theirs = {field.name for field in fields(TrainingArguments)}
    own = typing.cast(Mapping[str, Any], config.__annotations__)
    return [field for field in fields(config) if field.name in own and field.name not in theirs]


def add_settings(parser: argparse.ArgumentParser, config: type, without: tuple = ()) -> None:
    """A flag for each field that a dataclass defines itself, but those that are left out."""
    hints = typing.get_type_hints(config)
    groups: dict[str, Any] = {}
    for field in own_fields(config):
        if field.name in without:
            continue
        where: Any = parser
        for prefix, about in GROUPS.items():
            if field.name.startswith(prefix):
                groups[prefix] = groups.get(prefix) or parser.add_argument_group(*about)
                where = groups[prefix]
        _add_field(where, field, hints[field.name])


def _add_field(parser: Any, field: Field, hint: Any) -> None:
    accepted = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    default = field.default if field.default is not MISSING else field.default_factory()
    said = WORDS.get(field.name) or _plainly(field.metadata.get("help", ""))
    flag = "--" + field.name.replace("_", "-")
    if default is None and "(default" not in said:
        said += " (default: not set)"
    if bool in accepted:
        kind: Any = argparse.BooleanOptionalAction
        parser.add_argument(flag, action=kind, default=default, help=said)
        return
    narrow = NARROW.get(field.name)
    if dict in accepted:
        narrow = setting
    elif narrow is None:
        narrow = next(kind for hint_, kind in PLAIN.items() if hint_ in accepted)
    parser.add_argument(flag, type=narrow, default=default, help=said)


PLAIN: dict[type, Callable[[str], Any]] = {int: whole(), float: number(), str: str}


def _plainly(sentence: str) -> str:
    """Help of a dataclass, a sentence, as the parser's is: without a capital and a full stop."""
    sentence = sentence.removesuffix(".")
    return sentence[:1].lower() + sentence[1:]


def settings(args: argparse.Namespace, config: type) -> dict[str, Any]:
    """What those flags say, as arguments of the dataclass."""
    given = {
        field.name: getattr(args, field.name)
        for field in own_fields(config)
        if hasattr(args, field.name)
    }
    return given


def add_optimisation(parser: argparse.ArgumentParser) -> None:
    """The options of the optimizer, its schedule and the log."""
    about = {field.name: field for field in fields(TrainingArguments)}
    for name, (kind, default) in OF_TRAINER.items():
        said = about[name].metadata["help"].split(". ")[0]
        flag = "--" + name.replace("_", "-")
        parser.add_argument(flag, type=kind, default=default, help=_plainly(said))
    parser.add_argument(
        "--lr-scheduler-type", choices=SCHEDULERS, default="cosine", help="of the learning rate"
    )
    parser.add_argument(
        "--warmup-steps",
        type=whole(),
        help="in which the learning rate rises (default: a tenth of --steps, at most 100)",
    )
    parser.add_argument(
        "--logging-steps", type=positive, help="a log every so many (default: a fiftieth of them)"
    )
    parser.add_argument(
        "--report-to",
        nargs="+",
        type=reporter,
        default=["none"],
        metavar="NAME",
        help="where logs go, such as tensorboard, wandb or trackio",
    )
    parser.add_argument(
        "--eval-steps", type=positive, help="an evaluation every so many (default: a tenth of them)"
    )


def reporter(text: str) -> str:
    """Something that transformers can report to, and that is installed."""
    if text in ("none", "all"):
        return text
    if text not in INTEGRATION_TO_CALLBACK:
        known = ", ".join(["none", "all", *sorted(INTEGRATION_TO_CALLBACK)])
        raise argparse.ArgumentTypeError(f"knows no {text!r}; there are: {known}")
    if text not in get_available_reporting_integrations():
        raise argparse.ArgumentTypeError(f"needs the package for {text!r}, which is not installed")
    return text


def optimisation(args: argparse.Namespace, has_eval_data: bool) -> dict[str, Any]:
    """Those options as arguments of `TrainingArguments`.

    Raises:
        ValueError: for settings of an evaluation without data that are held out.
    """
    if not has_eval_data:
        for name in ("eval_steps", "num_eval_samples"):
            if getattr(args, name, None):
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} needs data that are held out: --eval-data, --eval-split.")
    tenth = max(1, args.steps // 10)
    return {
        **{name: getattr(args, name) for name in OF_TRAINER},
        "lr_scheduler_type": args.lr_scheduler_type,
        "warmup_steps": _given(args.warmup_steps, min(100, args.steps // 10)),
        "logging_steps": _given(args.logging_steps, max(1, args.steps // 50)),
        "report_to": args.report_to,
        "eval_strategy": "steps" if has_eval_data else "no",
        "eval_steps": _given(args.eval_steps, tenth) if has_eval_data else None,
        "per_device_eval_batch_size": args.batch_size,
        "use_cpu": args.cpu or not torch.cuda.is_available(),
    }


def _given(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
