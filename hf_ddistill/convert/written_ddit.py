"""A DDiT of ours as a folder of SEDD, MDLM, Duo, SDTT or BD3LM: their names and configuration.

Their networks have rotary positions, an MLP of four times the width and a modulation by the time.
One of ours without a time is written with a modulation that changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.ddit import NAMES, SIZES
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import (
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    DDiTPreTrainedModel,
    as_denoiser,
)
from hf_ddistill.parameterizations import Parameterization
from hf_ddistill.processes import Process
from hf_ddistill.schedules import LogLinear, Schedule

#: What a network of theirs has of ours: the name in our configuration, the value, and in words.
_FIXED = (
    ("noise_dim", 0, "a noise input"),
    ("num_classes", 0, "classes"),
    ("position_embedding", "rotary", "learned positions"),
    ("token_shape", None, "a grid of tokens"),
    ("time_scale", None, "another scale of its time"),
    ("norm_eps", 1e-5, "another epsilon of its norms"),
    ("rope_theta", 10000.0, "another base of its rotary positions"),
)


def check_writable(model: PreTrainedModel, kind: str) -> tuple[Diffusion, Parameterization]:
    """What a network was trained for, if the layout has a place for all that it is.

    Args:
        model: to be written.
        kind: what the error calls theirs, such as "MDLM".

    Raises:
        ValueError: in one sentence, with what has no place.
    """
    if not isinstance(model, DDiTForDiscreteDiffusion):
        raise ValueError(f"{kind} networks are DDiTs, and this is a {type(model).__name__}.")
    check_layout(model.config, kind)
    if model.config.reads_time == "t":
        raise ValueError(f"{kind} networks read sigma as their time, and this one reads t.")
    denoiser = as_denoiser(model)
    return denoiser.diffusion, denoiser.parameterization


def check_reads_sigma(config: DDiTConfig, kind: str) -> None:
    """Raise for a network whose modulation is that of time 0, where theirs always reads sigma."""
    if config.time_conditioning and config.reads_time is None:
        raise ValueError(f"{kind} networks read sigma as their time, and this one's is always 0.")


def check_layout(config: DDiTConfig, kind: str) -> None:
    """Raise for a DDiT that has what the layout of theirs has no place for."""
    more = [said for name, value, said in _FIXED if getattr(config, name) != value]
    if config.intermediate_size != 4 * config.hidden_size:
        more.append("an MLP that is not four times as wide as the rest")
    if more:
        raise ValueError(f"{kind} networks have no place for {', '.join(more)} of this one.")


def check_log_linear(diffusion: Diffusion, kind: str) -> None:
    """Raise for a schedule that the configuration of theirs, which names none, does not mean."""
    if diffusion.schedule != LogLinear(1e-3):
        raise ValueError(
            f"The configuration of a {kind} network has no place for a schedule, and stands for "
            f"the log-linear one with eps 1e-3; this one's is {diffusion.schedule}."
        )


def flat(config: DDiTConfig) -> dict[str, Any]:
    """The sizes as the configurations of the Hub have them."""
    found = {flat: getattr(config, ours) for ours, (flat, _) in SIZES.items()}
    return {"vocab_size": config.vocab_size, **found, **_more(config)}


def hydra_model(config: DDiTConfig) -> dict[str, Any]:
    """The sizes as `model` of a training configuration has them."""
    found = {hydra: getattr(config, ours) for ours, (_, hydra) in SIZES.items()}
    return {"name": "ddit", "type": "ddit", **found, **_more(config)}


def _more(config: DDiTConfig) -> dict[str, Any]:
    return {"dropout": config.dropout, "tie_word_embeddings": config.tie_word_embeddings}


def write_ddit(
    model: DDiTPreTrainedModel,
    folder: str | Path,
    config: Mapping[str, Any],
    *,
    prefix: str = NAMES.prefix,
    buffers: Mapping[str, Tensor] | None = None,
    plain: bool = False,
    turned: bool = True,
) -> None:
    """The weights under their names, with a configuration of theirs, into a new folder.

    Args:
        model: one for which `check_layout` has no objection.
        folder: where.
        config: the `config.json`.
        prefix: of their names.
        buffers: further tensors, under their whole names.
        plain: whether theirs has a place for a network without a modulation.
        turned: whether theirs keeps the frequencies of its rotary positions.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    made = {} if plain else _modulation(model.config)
    added = {key: value.to(model.dtype) for key, value in made.items()}
    state = NAMES.theirs({**model.state_dict(), **added})
    width = model.config.hidden_size // model.config.num_attention_heads
    # In the very operations of theirs, or the last bit is another one.
    frequencies = 1.0 / (10000.0 ** (torch.arange(0, width, 2).float() / width))
    named = {key.removeprefix(NAMES.prefix): value for key, value in state.items()}
    named |= {"rotary_emb.inv_freq": frequencies} if turned else {}
    state = {prefix + key: value.contiguous().clone() for key, value in named.items()}
    save_file({**(buffers or {}), **state}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _modulation(config: DDiTConfig) -> dict[str, Tensor]:
    """That of a network without one: it shifts and scales by 0 and lets all through its gates."""
    if config.time_conditioning:
        return {}
    width, cond = config.hidden_size, config.cond_dim
    zeros = {"time_in": (cond, 256), "time_out": (cond, cond)}
    made = {f"model.condition.{n}.weight": torch.zeros(s) for n, s in zeros.items()}
    made |= {f"model.condition.{n}.bias": torch.zeros(cond) for n in zeros}
    gates = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0]).repeat_interleave(width)
    places = {f"model.layers.{i}.modulation": gates for i in range(config.num_hidden_layers)}
    places["model.norm_modulation"] = torch.zeros(2 * width)
    for place, bias in places.items():
        made[f"{place}.linear.weight"] = torch.zeros(len(bias), cond)
        made[f"{place}.linear.bias"] = bias
    return made


def example_ddit(
    converter: Converter,
    folder: str | Path,
    process: Process,
    parameterization: Parameterization,
    time_input: str,
    *,
    schedule: Schedule | None = None,
    time_scale: float | None = None,
) -> None:
    """Write a small network of random weights with a converter."""
    config = DDiTConfig(
        vocab_size=process.vocab_size,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        cond_dim=4,
        time_conditioning=True,
        time_input=time_input,
        time_scale=time_scale,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = DDiTForDiscreteDiffusion(config)
    as_denoiser(model, Diffusion(process, schedule or LogLinear()), parameterization)
    converter.write(model, folder)
