"""GIDD's scaled-up models, over masks or over uniform tokens."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import save_torch_state_dict
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.convert.bounds import check_sizes
from hf_ddistill.convert.by_type import ByType
from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.made_of import made_of
from hf_ddistill.convert.renaming import Renaming, check_same
from hf_ddistill.convert.source import check_floating, configuration, weights
from hf_ddistill.convert.source_tokenizer import read_tokenizer
from hf_ddistill.convert.text_config import floats
from hf_ddistill.convert.written_language_model import dtype_name, special_tokens
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import GiddConfig, GiddLM, check_finite, check_same_mask
from hf_ddistill.processes import Absorbing, Hybrid
from hf_ddistill.schedules import LogLinear

NAMES = Renaming(())
#: The mask of GIDD's tokenizer.
MASK_TOKEN_ID = 3
#: sigmoid(x) is 0 or 1 to 2e-9 beyond.
_SURE = 20.0
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
)
_OTHER = (
    "attn_soft_cap",
    "resid_scale",
    "rms_norm_eps",
    "use_qk_norm",
    "weight_scaling",
    "head_scaling",
    "rope_theta",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
)
_NUMBERS = ("attn_soft_cap", "resid_scale", "rms_norm_eps", "head_scaling", "rope_theta")
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Gidd(ByType, Converter):
    """GIDD of 3 and 10 billion parameters: masked, or uniform over all tokens but the mask.

    References:
        Scaling Behavior of Discrete Diffusion Language Models (2025),
        https://arxiv.org/abs/2512.10858
    """

    id: ClassVar[str] = "gidd"
    reads: ClassVar[str] = "model of GIDD"
    gives: ClassVar[str] = "diffusion language model of full attention"
    types: ClassVar[tuple[str, ...]] = ("gidd",)

    def read(self, folder: str) -> tuple[GiddLM, PreTrainedTokenizerBase | None]:
        """Its network with its process, and the tokenizer with its mask token.

        Raises:
            ValueError: for a mixture of masks and uniform tokens, which no process here is.
        """
        check_sizes(folder)
        fields = Fields(configuration(folder), str(folder))
        sizes = {name: fields.count(name) for name in _SIZES}
        values = fields.values
        for name in _NUMBERS:
            if values.get(name) is not None:
                fields.number(name)
        named = (*_OTHER, *_SPECIAL)
        given = {name: values[name] for name in named if values.get(name) is not None}
        with made_of(folder):
            config = GiddConfig(**sizes, **floats(GiddConfig, given))
        if values.get("head_dim") not in (None, config.hidden_size // config.num_attention_heads):
            raise ValueError(f"The heads of {folder} do not share its width, as GIDD's do.")
        config.mask_token_id = fields.count("mask_token_id", MASK_TOKEN_ID, least=0)
        diffusion, reading = _process(fields, config)
        config.discrete_diffusion = {**diffusion.to_config(), "parameterization": reading}
        state = NAMES.ours(weights(folder))
        check_floating(state, folder)
        with torch.device("meta"), made_of(folder):
            model = GiddLM(config)
        wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in state.items()}
        check_same(found, wanted, f"{folder} is no network of GIDD of its configuration's sizes")
        model.load_state_dict(state, assign=True)
        check_finite(model, str(folder))
        config.dtype = model.model.embed_tokens.weight.dtype
        tokenizer = read_tokenizer(folder)
        if tokenizer is not None and tokenizer.mask_token_id is None:
            tokenizer.mask_token = tokenizer.convert_ids_to_tokens(config.mask_token_id)
        check_same_mask(diffusion, config, tokenizer)
        return model.requires_grad_(True).eval(), tokenizer

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder as GIDD's own, without its code."""
        if not isinstance(model, GiddLM):
            raise ValueError(f"{type(model).__name__} holds no network of GIDD to write.")
        process = Diffusion.from_config(model.config.discrete_diffusion).process
        config = _fields(model.config) | {
            "noise_type": -1000.0 if process.reveals else 1000.0,
            "torch_dtype": dtype_name(model),
        }
        _write(model, folder, config | special_tokens(model))

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """One of random weights, over uniform tokens, with a learned first key."""
        shape = {"vocab_size": 12, "hidden_size": 8, "intermediate_size": 8}
        shape |= {"num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = GiddLM(GiddConfig(**shape, attention_bias=True, mask_token_id=3))
        _write(model, folder, _fields(model.config) | {"noise_type": 1000.0})


def _process(fields: Fields, config: GiddConfig) -> tuple[Diffusion, str]:
    """What it was trained for, and how its output is read; the share of uniform tokens in the
    noise is sigmoid(log-SNR + noise_type), constant where that is far from 0."""
    said = {"noise_type": 0.0, "min_log_snr": -9.0, "max_log_snr": 9.0}
    said |= {name: fields.values[name] for name in said if fields.values.get(name) is not None}
    for name, value in said.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(
                f"The config.json of {fields.source} gives {value!r} for {name}, a number."
            )
    shift, *ends = said.values()
    mask, size = config.mask_token_id, config.vocab_size
    if shift + ends[1] < -_SURE:
        return Diffusion(Absorbing(size, mask), LogLinear()), "subs"
    if shift + ends[0] > _SURE:
        # The mask itself is no uniform token: a share of 1 is what Hybrid does not take.
        uniform = Hybrid(size, 1 - 1e-9, mask, constant=True)
        return Diffusion(uniform, LogLinear()), "given_others"
    raise ValueError(
        f"{fields.source} was trained on a mixture of masks and uniform tokens (noise_type="
        f"{shift}) that changes with the time in a way that no process here does; GIDD's masked "
        "and uniform models are read."
    )


def _fields(config: GiddConfig) -> dict[str, Any]:
    named = {name: getattr(config, name) for name in (*_SIZES, *_OTHER)}
    head = config.hidden_size // config.num_attention_heads
    own = {"architectures": ["GiddForDiffusionLM"], "model_type": "gidd", "head_dim": head}
    return own | named | {"mask_token_id": config.mask_token_id}


def _write(model: GiddLM, folder: str | Path, config: dict[str, Any]) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(dict(model.state_dict()), folder)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
