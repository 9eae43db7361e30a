"""From a model with logits to a `Denoiser`: the one seam between transformers and the core.

What a model was trained for stands in `config.discrete_diffusion`:
`{"process": {...}, "schedule": {...}, "parameterization": "...", "sampler": {...}}`;
`save_pretrained` keeps it.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_utils import PreTrainedModel

from hf_ddistill.denoisers import Latent, NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import require
from hf_ddistill.linalg.constants import on
from hf_ddistill.models.held import Held, enter_held
from hf_ddistill.models.loading import check_finite
from hf_ddistill.models.same_mask import check_same_mask
from hf_ddistill.models.shared_base import base_model, beside
from hf_ddistill.parameterizations import Parameterization
from hf_ddistill.processes import Absorbing
from hf_ddistill.samplers import Sampler
from hf_ddistill.schedules import LogLinear
from hf_ddistill.shapes import LOG_ZERO


@dataclass(frozen=True)
class ModelNetwork:
    """A model called as a network: (x_t, time, **condition) -> logits (B, L, K), or (N, K) at the
    positions row * L + position of `at` (N,).

    Args:
        model: has logits; may be wrapped (PEFT, data parallel).
        inputs: the names that the unwrapped model's `forward` takes.
        adapters: False calls a PEFT model with its adapters off, in eval mode and without
            gradients: the frozen base as a teacher, without a second copy.
        never: (n,) int64, tokens that have no probability, see `Held`.
    """

    model: torch.nn.Module
    inputs: frozenset[str]
    adapters: bool = True
    never: Tensor | None = None

    def __call__(
        self, x_t: Tensor, time: Tensor | None, *, at: Tensor | None = None, **condition: Any
    ) -> Tensor:
        given = self._given(time, condition)
        if at is not None and "at" in self.inputs:
            given["at"] = at
        if self.adapters:
            logits = self.model(input_ids=x_t, **given).logits
        else:
            with base_model(self.model):
                logits = self.model(input_ids=x_t, **given).logits
        self._check(logits)
        if self.never is not None:
            logits = logits.index_fill(-1, on(self.never, logits.device), LOG_ZERO)
        if at is not None and "at" not in self.inputs:
            return logits.flatten(0, 1).index_select(0, at)
        return logits

    def features(
        self, x: Tensor, time: Tensor | None, layer: int | None = None, **condition: Any
    ) -> Tensor:
        """The hidden states (B, L, h) behind a layer, from 0; None for one a third of the way."""
        given = self._given(time, condition)
        with contextlib.nullcontext() if self.adapters else base_model(self.model):
            said = self.model(input_ids=x, output_hidden_states=True, **given).hidden_states
        if not said:
            raise ValueError(f"{self.description} gives no hidden states to look at.")
        layers = len(said) - 1  # the first is what goes into the first layer
        number = max(layers // 3 - 1, 0) if layer is None else layer
        if not 0 <= number < layers:
            raise ValueError(
                f"{self.description} gives the hidden states of {layers} layers, counted from 0; "
                f"layer={layer} is none of them."
            )
        return said[number + 1]

    @property
    def layers(self) -> int | None:
        """How many the configuration names."""
        return getattr(unwrapped(self.model).config.get_text_config(), "num_hidden_layers", None)

    def _given(self, time: Tensor | None, condition: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a call beside the tokens."""
        given = {key: value for key, value in condition.items() if value is not None}
        unknown = sorted(set(given) - self.inputs)
        if unknown:
            raise ValueError(
                f"{type(self.model).__name__} takes no input {', '.join(unknown)}; it takes: "
                f"{', '.join(sorted(self.inputs))}."
            )
        if "class_labels" in given:
            # A negative label asks for the null class, which stands behind all others.
            null = unwrapped(self.model).config.num_classes
            given["class_labels"] = given["class_labels"].where(given["class_labels"] >= 0, null)
        if time is not None:
            given["timesteps"] = time.float()
        return given

    def _check(self, logits: Tensor) -> None:
        """Refuse logits that are NaN or infinite, in one pass over them."""
        if logits.numel():
            ends = torch.stack(logits.detach().aminmax())  # which NaN reaches
            name = type(self.model).__name__
            require(ends.isfinite(), lambda *_: f"{name} gives logits that are NaN or infinite.")

    @property
    def description(self) -> str:
        """The class of the model."""
        return type(unwrapped(self.model)).__name__

    def trainable_copy(self) -> ModelNetwork:
        """The same around a copy to train (see `trainable`), a whole model: adapters are
        merged where they are used, and left out where it is the base that is called."""
        # A copy first: both ways change the model that they are asked of.
        model = copy.deepcopy(self.model)
        if hasattr(model, "get_base_model"):
            model = model.merge_and_unload() if self.adapters else model.unload()
        return replace(self, model=trainable(model), adapters=True)

    def adapted_copy(self) -> ModelNetwork:
        """The same around adapters of its own beside those of the model, over the same frozen
        weights: new ones where it is the base that is called, copies where they are used. A model
        without adapters in training is copied whole."""
        model = unwrapped(self.model, keep_adapters=True)
        trained = any(p.requires_grad for p in model.parameters())
        if not (trained and hasattr(model, "get_base_model")):
            return self.trainable_copy()
        return replace(self, model=beside(model, fresh=not self.adapters), adapters=True)


def as_denoiser(
    model: PreTrainedModel,
    diffusion: Diffusion | None = None,
    parameterization: Parameterization | str | None = None,
    *,
    adapters: bool = True,
    tokenizer: Any | None = None,
) -> NetworkDenoiser:
    """A `Denoiser` around any model with logits; what is resolved is entered in the model's config.

    Its config may also say which time the model reads as `timesteps` (`reads_time`: "t", "sigma" or
    None; t where there is such an input and nothing is said) and which noise it takes as `noise`
    (`noise_dim`, and `noise_per`: "position" or "sequence"), and which tokens are given and never
    drawn (`held_tokens`, see `Held`).

    Args:
        model: a `PreTrainedModel`, or one wrapped by PEFT or for data parallelism.
        diffusion: read from `config.discrete_diffusion` if not given; a masked LM without that
            entry gets Absorbing with its mask token, and LogLinear.
        parameterization: read in the same way; "subs" for Absorbing, else "conditional".
        adapters: False for the frozen base of a PEFT model.
        tokenizer: of the model, where it is known: it names the mask where nothing else does, and
            must name the same one where others do; special tokens of its are held by a masked LM
            of transformers without an entry, unless `diffusion` is given.

    Raises:
        ValueError: if there is neither an entry nor a mask token, the entry cannot be read, the
            process is over another vocabulary than the model's, two masks are named, or weights
            are NaN or infinite.
    """
    inner = unwrapped(model)
    if diffusion is None:
        enter_held(inner.config, tokenizer)
    if not adapters:
        # The base is called as it is, not through hooks that wait for gradients.
        model = unwrapped(model, keep_adapters=True)
    # An attention kernel may give 0 for a row of NaN: they need not reach the logits.
    check_finite(model, type(inner).__name__)
    entry = diffusion_entry(inner.config)
    if diffusion is None:
        diffusion = _read(Diffusion, entry, inner) if entry else _masked(inner, tokenizer)
    if parameterization is None:
        default = "subs" if diffusion.reveals else "conditional"
        parameterization = _read(Parameterization, entry.get("parameterization", default), inner)
    parameterization = Parameterization.from_config(parameterization)
    if diffusion.vocab_size != inner.config.vocab_size:
        raise ValueError(
            f"The process has vocab_size={diffusion.vocab_size}, {type(inner).__name__} "
            f"{inner.config.vocab_size}: both count the mask token, and must agree."
        )
    check_same_mask(diffusion, inner.config, tokenizer)
    known = parameterization.to_config()
    known = known["type"] if parameterization == type(parameterization)() else known
    inner.config.discrete_diffusion = {**entry, **diffusion.to_config(), "parameterization": known}
    if diffusion.process.mask_token_id is not None:
        inner.config.mask_token_id = diffusion.process.mask_token_id
    inputs = frozenset(inspect.signature(inner.forward).parameters) - {"self", "kwargs", "labels"}
    inputs |= getattr(inner, "more_inputs", frozenset())
    held = Held.of(inner.config)
    never = torch.tensor(held.tokens, dtype=torch.int64) if held and held.tokens else None
    network = ModelNetwork(model, inputs, adapters, never)
    # A model with an input for the time reads t, unless its configuration says what it reads.
    unsaid = "t" if "timesteps" in inputs else None
    reads_time = getattr(inner.config, "reads_time", unsaid)
    return NetworkDenoiser(network, diffusion, parameterization, _latent(inner.config), reads_time)


def _latent(config: PreTrainedConfig) -> Latent | None:
    """The noise input that a configuration tells of: `noise_dim` numbers, per position unless its
    `noise_per` says "sequence"."""
    dim = getattr(config, "noise_dim", 0)
    return Latent(dim, getattr(config, "noise_per", "position")) if dim else None


def denoiser_of(given: Any, diffusion: Diffusion | None, tokenizer: Any | None = None) -> Any:
    """A model as a denoiser, see `as_denoiser`; what is one already, as it is."""
    if isinstance(given, torch.nn.Module):
        return as_denoiser(given, diffusion, tokenizer=tokenizer)
    return given


def trainable(model: torch.nn.Module) -> torch.nn.Module:
    """A copy, changed so that its every weight can be trained, whatever the model was used for: in
    float32, since in half precision most weights do not move."""
    model.requires_grad_(True).float()
    # One that accelerate has prepared would not be wrapped for several processes again.
    vars(model).pop("_is_accelerate_prepared", None)
    return model


def diffusion_entry(config: PreTrainedConfig) -> dict[str, Any]:
    """What a model was trained for, as its configuration says it; empty where it says nothing.

    Raises:
        ValueError: if it is no mapping.
    """
    entry = getattr(config, "discrete_diffusion", None) or {}
    if not isinstance(entry, Mapping):
        raise ValueError(
            'config.discrete_diffusion must be a mapping such as {"process": {...}, "schedule": '
            f"{{...}}}}, got {entry!r}."
        )
    return dict(entry)


def enter_sampler(model: torch.nn.Module, sampler: Sampler, num_steps: int) -> None:
    """Enter in a model's configuration how it is to be sampled, as every pipeline opens it."""
    config = unwrapped(model).config
    own = {"sampler": sampler.to_config(), "num_inference_steps": num_steps}
    config.discrete_diffusion = {**diffusion_entry(config), **own}


def sampler_of(model: PreTrainedModel) -> Sampler:
    """The sampler that a model was trained for, as its configuration says it; else ancestral steps.

    Raises:
        ValueError: if the configuration cannot be read.
    """
    inner = unwrapped(model)
    return _read(Sampler, diffusion_entry(inner.config).get("sampler", "ancestral"), inner)


def _read(family: type, config: Any, model: PreTrainedModel) -> Any:
    """`family.from_config`, whose sentence then says where the configuration stands."""
    try:
        return family.from_config(config)
    except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"config.discrete_diffusion of {type(model).__name__} cannot be read: {error}"
        ) from error


def unwrapped(model: torch.nn.Module, keep_adapters: bool = False) -> PreTrainedModel:
    """The model itself, without the wrappers of data parallelism, of the compiler and (unless kept)
    of PEFT."""
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        # The compiler's wrapper passes questions for other names on.
        model = model._orig_mod if hasattr(model, "_orig_mod") else model.module
    adapted = hasattr(model, "get_base_model")
    return model.get_base_model() if adapted and not keep_adapters else model


def _masked(model: PreTrainedModel, tokenizer: Any | None) -> Diffusion:
    mask = getattr(model.config, "mask_token_id", None)
    mask = getattr(tokenizer, "mask_token_id", None) if mask is None else mask
    if mask is None:
        raise ValueError(
            f"{type(model).__name__} says neither in config.discrete_diffusion what process it "
            "was trained for, nor in config.mask_token_id which token is the mask; pass "
            "`diffusion=`, or set config.mask_token_id = tokenizer.mask_token_id."
        )
    return Diffusion(Absorbing(model.config.vocab_size, mask), LogLinear())
