"""Members of families (objectives, processes, ...) from what a user writes: an id, or JSON."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

from hf_ddistill.cli.families import PACKAGE, family_rooms
from hf_ddistill.configurable import Configurable
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.processes import Process
from hf_ddistill.schedules import Schedule

Member = TypeVar("Member", bound=Configurable)


def name_or_json(option: str, text: str) -> str | dict[str, Any]:
    """An id as it is, or JSON that starts with a brace as a mapping."""
    if not text.startswith("{"):
        return text
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{option} takes an id or JSON; {text!r} is no JSON: {error}.") from error


def member(family: type[Member], option: str, text: str | Mapping[str, Any]) -> Member:
    """The member of a family that an option names.

    Raises:
        ValueError: for an unknown id or setting, or a setting of another kind than it takes.
    """
    config = name_or_json(option, text) if isinstance(text, str) else text
    try:
        return family.from_config(config)
    # What is deep within a setting, such as a word in a matrix, torch refuses in these ways.
    except (TypeError, OverflowError, IndexError) as error:
        raise ValueError(f"{option} {text} has a setting of a wrong kind: {error}.") from error


#: Options that name a member which can be made before anything else is known, and its family.
EARLY = {"objective": "objective", "unmasking": "unmasking", "schedule": "schedule"}


def check_members(options: Any) -> None:
    """Make the members that a command's options name: a value out of range is told before the
    libraries of the command are imported."""
    for name, family in EARLY.items():
        given = getattr(options, name, None)
        for text in [given] if isinstance(given, str) else given or ():
            member(family_class(family), f"--{name}", text)


def _kind(family: type[Member], option: str, config: str | Mapping[str, Any]) -> type[Member]:
    """The class that an id, or the 'type' of a mapping, names."""
    kind = config if isinstance(config, str) else config.get("type")
    if not isinstance(kind, str):
        raise ValueError(f"{option} needs a 'type': its {family.family}'s id; got {config}.")
    return family.named(kind)


def family_class(name: str) -> type[Configurable]:
    """The class of a family, with all its members imported."""
    _, room = family_rooms()[name]
    place = room.relative_to(PACKAGE.parent).with_suffix("").parts
    importlib.import_module(".".join(place))
    return next(base for base in Configurable.__subclasses__() if base.family == name)


def noise_tokens(process: str) -> int:
    """How many tokens a process, an id or JSON, needs beside those of the data."""
    kind = _kind(Process, "--process", name_or_json("--process", process))
    return len(kind.example(4).noise_tokens)


def build_diffusion(
    process: str, schedule: str, vocab_size: int | None, mask_token_id: int | None = None
) -> Diffusion:
    """A diffusion over `vocab_size` tokens from two ids, or from JSON configurations.

    Args:
        process: an id, or JSON, which may say its own `vocab_size` and `mask_token_id`.
        schedule: an id, or JSON.
        vocab_size: K, where the process does not say it.
        mask_token_id: of a process that has masks; the process's own choice if not given.

    Raises:
        ValueError: for what there is not, and for another mask in the process than is given.
    """
    config = name_or_json("--process", process)
    config = {"type": config} if isinstance(config, str) else dict(config)
    kind = _kind(Process, "--process", config)
    fields = {field.name for field in dataclasses.fields(kind)}
    if config["type"] not in ("general", "kronecker", "low_rank"):
        if vocab_size is not None:
            config.setdefault("vocab_size", vocab_size)
    elif len(config) == 1:
        raise ValueError(f'{process} needs its matrices: give it as JSON, {{"type": ...}}.')
    if mask_token_id is not None and "mask_token_id" in fields:
        if config.setdefault("mask_token_id", mask_token_id) != mask_token_id:
            raise ValueError(
                f"--process has mask_token_id={config['mask_token_id']}, and the mask is "
                f"{mask_token_id}: the two must be one."
            )
    made = member(Process, "--process", config)
    return Diffusion(made, member(Schedule, "--schedule", schedule))
