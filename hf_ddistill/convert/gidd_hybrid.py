"""GIDD's first models: a DiT under masks and uniform tokens together."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.ddit_checkpoint import DDiTCheckpoint
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.source_tokenizer import read_tokenizer
from hf_ddistill.convert.unsaid import UnsaidMask
from hf_ddistill.convert.vocabulary import mask_of, with_mask
from hf_ddistill.convert.written_ddit import check_layout, example_ddit, write_ddit
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.parameterizations import GivenOthers, Parameterization, Subs
from hf_ddistill.processes import Absorbing, Hybrid
from hf_ddistill.schedules import LogLinear

#: Their names of the sizes, and those of the other DiTs on the Hub.
_SIZES = {
    "hidden_size": "hidden_dim",
    "timestep_cond_dim": "cond_dim",
    "max_seq_len": "model_length",
    "num_hidden_layers": "n_blocks",
    "num_attention_heads": "n_heads",
}
#: The share of noise is t itself.
SCHEDULE = LogLinear(1e-9)


@dataclass(frozen=True)
class GiddHybrid(UnsaidMask, Converter):
    """GIDD of 2025, `p_unif` of 0, .1 and .2: uniform tokens swell to that share halfway.

    Its outputs stand in the place of x_0 in q(x_s | x_t, x_0), as Duo's do: `given_others`, and
    `subs` without uniform tokens. The network reads t.

    References:
        Generalized Interpolating Discrete Diffusion (2025), https://arxiv.org/abs/2503.04482
    """

    id: ClassVar[str] = "gidd_hybrid"
    reads: ClassVar[str] = "DiT of GIDD"
    gives: ClassVar[str] = "DDiT"

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """By the share of uniform tokens and the width of its time, whatever its type is called."""
        return {"p_uniform", "timestep_cond_dim"} <= configuration(folder).keys()

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The share of uniform tokens."""
        return f"its configuration has p_uniform={configuration(folder)['p_uniform']!r}"

    def read(self, folder: str) -> tuple[DDiTForDiscreteDiffusion, PreTrainedTokenizerBase | None]:
        """The network and its tokenizer.

        Raises:
            ValueError: for a share that is none.
        """
        found = DDiTCheckpoint.open(folder, "GIDD")
        fields = Fields(found.config, folder)
        config = {"model_type": "gidd_dit", "vocab_size": fields.count("vocab_size")}
        config |= {ours: fields.count(theirs) for theirs, ours in _SIZES.items()}
        config["dropout"] = found.config.get("attention_dropout")
        # Theirs keeps what rotary positions are made of, which the sizes say.
        kept = {key: value for key, value in found.state.items() if not key.endswith("_cached")}
        found = replace(found, config=config, state=kept)
        tokenizer = read_tokenizer(folder, given=self.tokenizer)
        vocab = found.vocab_size
        mask = mask_of(fields.values, vocab, tokenizer, self.mask_token_id, folder)
        process, reading = _process(fields, vocab, mask)
        model = found.model(
            found.sizes(self.length, self.heads),
            Diffusion(process, SCHEDULE),
            reading,
            time_input="t",
            time_scale=1.0,
            tokenizer=with_mask(tokenizer, vocab, mask, folder),
        )
        return model, tokenizer

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder as their class on the Hub reads it, without its code."""
        if not isinstance(model, DDiTForDiscreteDiffusion):
            raise ValueError(f"GIDD networks are DDiTs, and this is a {type(model).__name__}.")
        own = copy.deepcopy(model.config)
        own.time_scale = None
        check_layout(own, "GIDD")
        denoiser = as_denoiser(model)
        process, of = denoiser.diffusion.process, model.config
        uniform = process.uniform if isinstance(process, Hybrid) and not process.constant else 0.0
        due = GivenOthers() if uniform else Subs()
        is_theirs = isinstance(process, Absorbing) or uniform
        if not is_theirs or (of.reads_time, of.time_scale) != ("t", 1):
            raise ValueError(
                "GIDD networks read the time t, unscaled, under masks with uniform tokens that "
                f"come and go; this one reads {of.reads_time} (time_scale={of.time_scale}) under "
                f"{process}."
            )
        if denoiser.parameterization != due or denoiser.diffusion.schedule != SCHEDULE:
            raise ValueError(
                f"GIDD's outputs are those of {due.id!r} under {SCHEDULE}, this one's of "
                f"{denoiser.parameterization.id!r} under {denoiser.diffusion.schedule}."
            )
        config = {theirs: _of(model.config, theirs) for theirs in _SIZES}
        config |= {"architectures": ["DIT"], "vocab_size": process.vocab_size}
        config |= {"attention_dropout": model.config.dropout, "p_uniform": uniform}
        config["mask_token_id"] = process.mask_token_id
        write_ddit(model, folder, config, prefix="", buffers=_rotary(model.config), turned=False)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A small network of random weights."""
        example_ddit(
            cls(), folder, Hybrid(7, 0.2), GivenOthers(), "t", schedule=SCHEDULE, time_scale=1.0
        )


def _process(fields: Fields, vocab: int, mask: int) -> tuple[Absorbing | Hybrid, Parameterization]:
    share = fields.values["p_uniform"]
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(
            f"The config.json of {fields.source} gives {share!r} for p_uniform, a share below 1."
        )
    if not share:
        return Absorbing(vocab, mask), Subs()
    return Hybrid(vocab, float(share), mask), GivenOthers()


def _of(config: DDiTConfig, theirs: str) -> Any:
    own = {"timestep_cond_dim": "cond_dim", "max_seq_len": "max_position_embeddings"}
    return getattr(config, own.get(theirs, theirs))


def _rotary(config: DDiTConfig) -> dict[str, Tensor]:
    """Cosines and sines for queries and keys, and what leaves values as they are, as theirs
    keeps them: (1, L, 3, 1, width of a head)."""
    width = config.hidden_size // config.num_attention_heads
    turned = 1.0 / (10000.0 ** (torch.arange(0, width, 2).float() / width))
    angles = torch.outer(torch.arange(config.max_position_embeddings).float(), turned)
    both = torch.cat([angles, angles], 1)[None, :, None, None].repeat(1, 1, 3, 1, 1)
    cos, sin = both.cos(), both.sin()
    cos[:, :, 2], sin[:, :, 2] = 1.0, 0.0
    return {"rotary_emb.cos_cached": cos, "rotary_emb.sin_cached": sin}
