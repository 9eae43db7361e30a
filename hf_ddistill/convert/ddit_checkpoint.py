"""A checkpoint of SEDD, MDLM, Duo, SDTT or BD3LM: its configuration, if there is one, and weights.

K is the number of rows of the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.convert.bounds import check_sizes
from hf_ddistill.convert.ddit import NAMES, sizes
from hf_ddistill.convert.renaming import check_same, grouped
from hf_ddistill.convert.source import check_floating, configuration, training_settings, weights
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import (
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    DDiTPreTrainedModel,
    as_denoiser,
)
from hf_ddistill.parameterizations import Parameterization

_EMBEDDING, _HEAD = "vocab_embed.embedding", "output_layer.linear.weight"


def described(source: str | Path) -> dict[str, Any]:
    """What a source says of itself: its `config.json`, else what a training checkpoint kept of its
    run; empty where there is neither."""
    source = Path(source)
    found = configuration(source)
    if found:
        # Some of the Hub's own mixins keep it as the argument `config` of a class.
        inner = part_of(found, "config")
        return dict(inner) if "model" in inner else found
    found = training_settings(source) if source.exists() else {}
    return found or (configuration(source.parent) if source.is_file() else {})


def part_of(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A nested part of a configuration; empty where there is none."""
    part = config.get(name)
    return part if isinstance(part, Mapping) else {}


def truth(config: Mapping[str, Any], name: str, default: bool, source: str) -> bool:
    """A truth value of a configuration.

    Raises:
        ValueError: for anything else.
    """
    value = config.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(
            f"The configuration of {source} gives {value!r} for {name}, true or false."
        )
    return value


def trained_for(model: PreTrainedModel) -> str:
    """What a converted model's configuration says of its training, in words."""
    config, entry = model.config, model.config.discrete_diffusion
    mask = "" if config.mask_token_id is None else f", mask token {config.mask_token_id}"
    reading = entry["parameterization"]
    reading = reading if isinstance(reading, str) else reading["type"]
    time = getattr(config, "reads_time", None) or "no time"
    return (
        f"{entry['process']['type']} process{mask}, {entry['schedule']['type']} schedule, outputs "
        f"{reading}, reads {time}"
    )


@dataclass(frozen=True)
class DDiTCheckpoint:
    """What lies on disk, under the bare names of the layout.

    Args:
        source: folder or file.
        kind: what the errors call it, such as "MDLM".
        config: what it says of itself; may be empty.
        state: the tensors.
    """

    source: str
    kind: str
    config: Mapping[str, Any]
    state: Mapping[str, Tensor]

    @classmethod
    def open(cls, source: str, kind: str) -> DDiTCheckpoint:
        """Read it.

        Raises:
            ValueError: for weights that cannot be read, or of another layout.
        """
        check_sizes(source)
        found = {NAMES.bare(key): value for key, value in weights(source).items()}
        state = {key: value for key, value in found.items() if not key.startswith("noise.")}
        check_floating(state, source)
        if _EMBEDDING not in state or state[_EMBEDDING].ndim != 2:
            raise ValueError(
                f"{source} is no {kind} network: there is no {_EMBEDDING} of two axes; there are "
                f"{grouped(state)}."
            )
        return cls(source, kind, described(source), state)

    @property
    def vocab_size(self) -> int:
        """K: the configurations of the Hub say it, else the weights.

        Raises:
            ValueError: for one of the Hub that says none, or no whole number.
        """
        said = self.config.get("vocab_size")
        if said is None and "model_type" not in self.config:
            return len(self.state[_EMBEDDING])
        if isinstance(said, bool) or not isinstance(said, int) or said < 2:
            of = "lacks" if said is None else f"gives {said!r} for"
            raise ValueError(f"The config.json of {self.source} {of} vocab_size, a whole number.")
        return said

    @property
    def time_conditioning(self) -> bool:
        """Whether its blocks are modulated by a time."""
        return any(key.startswith("sigma_map.") for key in self.state)

    def sizes(self, length: int | None = None, heads: int | None = None) -> dict[str, Any]:
        """Arguments of a `DDiTConfig`: by the configuration, or where there is none by the weights.

        Args:
            length: greatest one; rotary positions do not tell what it was.
            heads: where neither the configuration nor `rotary_emb.inv_freq` says it.

        Raises:
            ValueError: for what nothing says, and if configuration and weights differ in heads.
        """
        found = self._by_weights(length, heads)
        if self.config:
            said = sizes(self.config, self.source)
            given = {"max_position_embeddings": length} if length else {}
            found |= said | given
        found = self._rotary(found)
        model = part_of(self.config, "model")
        tied = self.config.get("tie_word_embeddings", model.get("tie_word_embeddings"))
        return found | {"tie_word_embeddings": bool(tied) or _HEAD not in self.state}

    def _by_weights(self, length: int | None, heads: int | None) -> dict[str, Any]:
        state = self.state
        layers = {key.split(".")[1] for key in state if key.startswith("blocks.")}
        found = {"hidden_size": state[_EMBEDDING].shape[1], "num_hidden_layers": len(layers)}
        up, time = state.get("blocks.0.mlp.0.weight"), state.get("sigma_map.mlp.2.weight")
        found |= {} if up is None else {"intermediate_size": len(up)}
        found |= {} if time is None else {"cond_dim": len(time)}
        if self.config:
            return found
        turned = state.get("rotary_emb.inv_freq")
        if heads is None and turned is not None and len(turned):
            heads = found["hidden_size"] // (2 * len(turned))
        missing = [
            f"--{name}" for name, value in (("length", length), ("heads", heads)) if not value
        ]
        if missing:
            raise ValueError(
                f"{self.source} has no configuration, and its weights do not say all of it: give "
                f"{' and '.join(missing)}."
            )
        return found | {"max_position_embeddings": length, "num_attention_heads": heads}

    def _rotary(self, found: dict[str, Any]) -> dict[str, Any]:
        """With the base of the saved frequencies, which must be of the heads' width."""
        turned = self.state.get("rotary_emb.inv_freq")
        if turned is None or turned.ndim != 1 or len(turned) < 2:
            return found
        width, heads = found["hidden_size"], found["num_attention_heads"]
        if width != 2 * len(turned) * heads:
            raise ValueError(
                f"{self.source} is said to have {heads} heads of {width} channels, but its "
                f"rotary_emb.inv_freq is of heads of {2 * len(turned)} channels."
            )
        # In half precision a frequency is known to less than 1 %, and does not tell the base.
        near = 1e-4 if turned.dtype in (torch.float32, torch.float64) else 1e-2
        powers = torch.arange(len(turned), dtype=torch.float64) / len(turned)
        base = float(turned[1].double()) ** -len(turned)
        for each in (10000.0, float(round(base)), base):
            if torch.allclose(turned.double(), each**-powers, rtol=near, atol=0.0):
                return found | {"rope_theta": each}
        raise ValueError(
            f"{self.source} has a rotary_emb.inv_freq that is no series base^(-2 k / width), but "
            f"starts {turned[:2].tolist()}."
        )

    def network(
        self, config: DDiTConfig, cls: type[DDiTPreTrainedModel] = DDiTForDiscreteDiffusion
    ) -> DDiTPreTrainedModel:
        """The network with these weights.

        Raises:
            ValueError: for weights that do not fit, grouped, and for tied ones that differ.
        """
        state = NAMES.ours(self.state)
        if config.tie_word_embeddings:
            one = state["model.embed_tokens.weight"]
            other = state.setdefault("lm_head.weight", one)
            if not torch.equal(one, other):
                raise ValueError(
                    f"The configuration of {self.source} ties embeddings and head, but its weights "
                    "are two."
                )
        with torch.device("meta"):
            model = cls(config)
        wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in state.items()}
        about = "its configuration's" if self.config else "the given"
        check_same(found, wanted, f"{self.source} is no {self.kind} network of {about} sizes")
        model.load_state_dict(state, assign=True)
        model.tie_weights()
        for parameter in model.parameters():
            # Or a model that is made around it draws them anew.
            parameter._is_hf_initialized = True
        return model.requires_grad_(True).eval()

    def model(
        self,
        sizes: Mapping[str, Any],
        diffusion: Diffusion,
        parameterization: Parameterization,
        *,
        time_input: str,
        time_scale: float | None = None,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> DDiTForDiscreteDiffusion:
        """The network, with what it was trained for entered in its configuration.

        Raises:
            ValueError: as of `network` and of `as_denoiser`.
        """
        config = DDiTConfig(
            vocab_size=diffusion.vocab_size,
            time_conditioning=self.time_conditioning,
            time_input=time_input,
            time_scale=time_scale,
            mask_token_id=diffusion.process.mask_token_id,
            **sizes,
        )
        model = self.network(config)
        as_denoiser(model, diffusion, parameterization, tokenizer=tokenizer)
        return model
