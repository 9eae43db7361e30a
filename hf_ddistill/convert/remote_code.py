"""Models of ours with their code beside them, for those who load with `trust_remote_code`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.configurable import Configurable
from hf_ddistill.convert.bounds import check_numbers, check_sizes
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.own_code import carried, file_of
from hf_ddistill.convert.source import configuration
from hf_ddistill.models import (
    BlockDiffusionLM,
    DDiTConfig,
    DDiTForCausalLM,
    DDiTForDiscreteDiffusion,
    GiddLM,
    NoisedMaskedLM,
    as_denoiser,
    load_config,
    load_masked_lm,
    sampler_of,
)
from hf_ddistill.models.sampling import Sampling
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.unmasking import Unmasking

#: The file that transformers is sent to; it imports all others.
ENTRY = "modeling_student"
_KINDS = (DDiTForDiscreteDiffusion, GiddLM, NoisedMaskedLM, BlockDiffusionLM)
#: Those around another network, and what of ours can stand within them.
_AROUND = {NoisedMaskedLM: (), BlockDiffusionLM: (DDiTForCausalLM,)}


@dataclass(frozen=True)
class RemoteCode(Converter):
    """A model of ours that transformers loads without an install, by the code in its folder.

    The code is that of this package, file by file: the network, and what its sampling needs.
    """

    id: ClassVar[str] = "transformers"
    citation: ClassVar[str] = "this package"
    reads: ClassVar[str] = "model of hf_ddistill with its code"
    gives: ClassVar[str] = "model of ours"

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """By the file that its configuration sends transformers to."""
        return _code_of(folder).startswith(f"{ENTRY}.")

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The class that its configuration names."""
        return f"its configuration names the class {_code_of(folder)!r}, which export writes"

    def read(self, folder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        """The model by the code of this package, not by that in the folder."""
        check_sizes(folder)
        config = load_config(folder)
        check_numbers(lambda: AutoModelForMaskedLM.from_config(config), folder)
        model = load_masked_lm(folder)
        model.config.__dict__.pop("auto_map", None)  # a folder of ours without the code has none
        return model, load_tokenizer(folder) if has_tokenizer(folder) else None

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """Weights and configuration as `save_pretrained` writes them, and the code."""
        kind = _kind(model)
        members = _members(model, kind)
        folder = Path(folder)
        model.save_pretrained(folder)
        code = {"AutoConfig": kind.config_class.__name__, "AutoModelForMaskedLM": kind.__name__}
        place = folder / "config.json"
        config = json.loads(place.read_text(encoding="utf-8"))
        config["auto_map"] = {auto: f"{ENTRY}.{name}" for auto, name in code.items()}
        place.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        inner = _within_it(model)
        needed = [kind, kind.config_class, *members, *inner]
        needed += [each.config_class for each in inner]
        needed += [] if kind is BlockDiffusionLM else [Sampling]
        files = carried(each.__module__ for each in needed)
        for name, text in {**files, f"{ENTRY}.py": _entry(kind, members, inner)}.items():
            (folder / name).write_text(text, encoding="utf-8")

    def loaded_by(self, model: PreTrainedModel, folder: str) -> str:
        """A line of Python."""
        return f'AutoModelForMaskedLM.from_pretrained("{folder}", trust_remote_code=True)'

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A small DDiT of random weights."""
        config = DDiTConfig(
            vocab_size=6,
            mask_token_id=5,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = DDiTForDiscreteDiffusion(config)
        as_denoiser(model)
        cls().write(model, folder)


def _code_of(folder: str) -> str:
    """The class that the configuration of a folder names for masked language models."""
    named = configuration(folder).get("auto_map")
    return str(named.get("AutoModelForMaskedLM")) if isinstance(named, Mapping) else ""


def _kind(model: PreTrainedModel) -> type[PreTrainedModel]:
    """The class of a model whose code can be carried.

    Raises:
        ValueError: for another one.
    """
    name = type(model).__name__
    kind = next((kind for kind in _KINDS if isinstance(model, kind)), None)
    if kind is None:
        known = ", ".join(kind.__name__ for kind in _KINDS)
        why = "another form (hf-ddistill list converters) holds it, or an install of hf_ddistill"
        if _is_of_transformers(model):
            why = f"transformers has its network, and {why}"
        raise ValueError(f"Code can go with {known}, and this is a {name}: {why}.")
    if kind in _AROUND and not (_within_it(model) or _is_of_transformers(model.lm)):
        raise ValueError(
            f"The network within this {name} is a {type(model.lm).__name__}, which its "
            "configuration names and only an install knows; networks of transformers can be "
            "carried."
        )
    return kind


def _is_of_transformers(model: PreTrainedModel) -> bool:
    return type(model).__module__.startswith("transformers.")


def _within_it(model: PreTrainedModel) -> tuple[type[PreTrainedModel], ...]:
    """The class of ours within a model, whose configuration alone names it: none or one."""
    ours = _AROUND.get(type(model), ())
    return tuple(kind for kind in ours if type(model.lm) is kind)


def _members(model: PreTrainedModel, kind: type[PreTrainedModel]) -> list[type[Configurable]]:
    """The members of families by which a model may be sampled, in the order of their names.

    Raises:
        ValueError: for one that is not of this package.
    """
    if kind is BlockDiffusionLM:
        rule = Unmasking.from_config(model.generation_config.unmasking or "threshold")
        found = {type(rule), *filter(_is_ours, Unmasking.registry.values())}
    else:
        denoiser = as_denoiser(model)
        used = (denoiser.diffusion, denoiser.parameterization, sampler_of(model))
        found = {member for each in used for member in _within(each)}
    for member in found:
        if not _is_ours(member):
            raise ValueError(
                f"The {member.family} {member.id!r} of the student is of {member.__module__}, "
                "which is no part of hf_ddistill and cannot be carried."
            )
    return sorted(found, key=lambda member: (member.__module__, member.__name__))


def _within(value: Any) -> Iterator[type[Configurable]]:
    """The classes of the members of families that a value has within it."""
    if isinstance(value, Configurable):
        yield type(value)
    if dataclasses.is_dataclass(value):
        value = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        value = list(value.values())
    for each in value if isinstance(value, list | tuple) else ():
        yield from _within(each)


def _is_ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == __name__.split(".")[0]


def _entry(
    kind: type[PreTrainedModel],
    members: list[type[Configurable]],
    inner: tuple[type[PreTrainedModel], ...],
) -> str:
    """The text of the file that transformers is sent to; it names the networks within the model to
    the Auto classes, which find them by their configurations."""
    config, name = kind.config_class, kind.__name__
    told = (
        '"""A model of hf_ddistill that needs no install, written by `hf-ddistill export`.\n\n'
        'The members of families that are imported here are those that it knows.\n"""\n'
    )
    lines = [f"from .{file_of(config.__module__)} import {config.__name__}"]
    lines += [f"from .{file_of(each.__module__)} import {each.__name__}" for each in members]
    source = f"from .{file_of(kind.__module__)} import {name}"
    known = ""
    for each in inner:
        of, made = each.config_class, each.__name__
        lines.append(f"from .{file_of(of.__module__)} import {of.__name__}")
        lines.append(f"from .{file_of(each.__module__)} import {made}")
        known += f'AutoConfig.register("{of.model_type}", {of.__name__}, exist_ok=True)\n'
        known += f"AutoModelForCausalLM.register({of.__name__}, {made}, exist_ok=True)\n"
    if inner:
        lines.insert(0, "from transformers import AutoConfig, AutoModelForCausalLM\n")
        known = f"\n\n{known}"
    names = [config.__name__, name, *(each.__name__ for each in members)]
    if kind is BlockDiffusionLM:
        made = ""
    else:
        source += " as Network"
        lines.append(f"from .{file_of(Sampling.__module__)} import Sampling")
        made = f'\n\nclass {name}(Sampling, Network):\n    """The network, with `sample`."""\n\n'
    listed = "".join(f'    "{each}",\n' for each in names)
    return f"{told}\n" + "\n".join([*lines, source]) + f"\n{known}{made}\n__all__ = [\n{listed}]\n"
