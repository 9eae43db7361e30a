"""The converter of BD3LM's networks: blocks of a DDiT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.ddit_checkpoint import (
    DDiTCheckpoint,
    described,
    part_of,
    trained_for,
    truth,
)
from hf_ddistill.convert.source_tokenizer import read_tokenizer
from hf_ddistill.convert.unsaid import UnsaidMask
from hf_ddistill.convert.vocabulary import mask_of, with_mask
from hf_ddistill.convert.written_ddit import check_layout, flat, write_ddit
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import (
    BlockDiffusionConfig,
    BlockDiffusionLM,
    DDiTDecoderConfig,
    DDiTForCausalLM,
    as_denoiser,
)
from hf_ddistill.parameterizations import Subs
from hf_ddistill.processes import Absorbing
from hf_ddistill.schedules import LogLinear

#: BD3LM's chance of a mask is t itself.
SCHEDULE = LogLinear(1e-9)
#: Scalars that it saves beside the weights: between which times it was trained.
_TIMES = ("sampling_eps_min", "sampling_eps_max")
#: The code of their classes, for those who load a written folder with it.
_CODE = "kuleshov-group/bd3lm-owt-block_size4--"
_AUTO_MAP = {
    "AutoConfig": f"{_CODE}configuration_bd3lm.BD3LMConfig",
    "AutoModelForMaskedLM": f"{_CODE}modeling_bd3lm.BD3LM",
}


@dataclass(frozen=True)
class BD3LM(UnsaidMask, Converter):
    """A block-diffusion network of BD3LM.

    References:
        Block Diffusion: Interpolating Between Autoregressive and Diffusion Language Models (2025),
        https://arxiv.org/abs/2503.09573

    Args:
        block_size: tokens in a block, where nothing says it.

    Raises:
        ValueError: for blocks of no token.
    """

    id: ClassVar[str] = "bd3lm"
    reads: ClassVar[str] = "block-diffusion network of BD3LM"
    gives: ClassVar[str] = "block-diffusion DDiT"

    block_size: int | None = field(
        default=None, metadata={"help": "Tokens in a block (default: what the source says)."}
    )

    def __post_init__(self) -> None:
        if self.block_size is not None and self.block_size < 1:
            raise ValueError(f"block_size must be at least 1, got {self.block_size}.")

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """By its type, or by the `algo` of a training configuration."""
        config = described(folder)
        return _is_flat(config) or part_of(config, "algo").get("name") == "bd3lm"

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The type, or the algorithm."""
        if _is_flat(described(folder)):
            return "its configuration is that of 'bd3lm'"
        return "its training had the algo 'bd3lm'"

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """The network, with one set of weights for training and sampling, and its tokenizer."""
        found = DDiTCheckpoint.open(folder, "BD3LM")
        config, vocab = found.config, found.vocab_size
        self._check(config, folder)
        tokenizer = read_tokenizer(folder, given=self.tokenizer)
        mask = mask_of(config, vocab, tokenizer, self.mask_token_id, folder)
        text = DDiTDecoderConfig(
            vocab_size=vocab,
            time_conditioning=found.time_conditioning,
            time_input="zero",
            **found.sizes(self.length, self.heads),
        )
        block = BlockDiffusionConfig(
            text_config=text, block_size=self._block_size(config, folder), mask_token_id=mask
        )
        model = BlockDiffusionLM(block, found.network(text, DDiTForCausalLM)).eval()
        as_denoiser(
            model,
            Diffusion(Absorbing(vocab, mask), SCHEDULE),
            Subs(),
            tokenizer=with_mask(tokenizer, vocab, mask, folder),
        )
        times = [float(found.state[name]) for name in _TIMES if name in found.state]
        if len(times) == 2:
            block.discrete_diffusion = {**block.discrete_diffusion, "trained_times": times}
        return model, tokenizer

    def _check(self, config: Mapping[str, Any], folder: str) -> None:
        """Raise for what a network of BD3LM's code may be and block diffusion of a DDiT is not."""
        algo = part_of(config, "algo")
        flags = {
            "causal": (config, False, "it is an autoregressive network"),
            "causal_attention": (algo, False, "it is an autoregressive network"),
            "cross_attn": (algo or config, True, "it has no blocks, and --kind mdlm reads it"),
            "time_conditioning": (algo or config, False, "blocks are decoded without a time"),
        }
        for name, (part, due, why) in flags.items():
            if truth(part, name, due, folder) != due:
                raise ValueError(f"The configuration of {folder} has {name}={not due}: {why}.")

    def _block_size(self, config: Mapping[str, Any], folder: str) -> int:
        said = config.get("block_size", self.block_size)
        if isinstance(said, bool) or not isinstance(said, int) or said < 1:
            of = "lacks" if said is None else f"gives {said!r} for"
            raise ValueError(
                f"The configuration of {folder} {of} block_size, a positive number, and "
                f"--block-size {'is not given' if self.block_size is None else self.block_size}."
            )
        if self.block_size not in (None, said):
            raise ValueError(
                f"{folder} was trained with blocks of {said}, and --block-size is "
                f"{self.block_size}."
            )
        return said

    def next_step(self, model: PreTrainedModel, source: str, output: str) -> str:
        """Its blocks, and what its configuration now says."""
        return f"blocks of {model.config.block_size}, {trained_for(model)}"

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """The folder that BD3LM's class on the Hub reads."""
        inner = getattr(model, "lm", None)
        if not isinstance(model, BlockDiffusionLM) or not isinstance(inner, DDiTForCausalLM):
            held = type(model if inner is None else inner).__name__
            raise ValueError(f"BD3LM networks are blocks of a DDiT, and this is one of {held}.")
        check_layout(inner.config, "BD3LM")
        if model.config.noise_dim or model.config.shift_logits:
            more = "a noise input" if model.config.noise_dim else "shifted outputs"
            raise ValueError(f"BD3LM networks have no place for {more}.")
        denoiser = as_denoiser(model)
        process = denoiser.diffusion.process
        if not isinstance(process, Absorbing) or denoiser.parameterization != Subs():
            raise ValueError(
                "A BD3LM network's outputs are those of 'subs' over masks, and this one's are "
                f"{denoiser.parameterization.id!r} over {process.id!r}."
            )
        times = model.config.discrete_diffusion.get("trained_times")
        buffers = dict(zip(_TIMES, times or (), strict=False))
        written = {
            "model_type": "bd3lm",
            "architectures": ["BD3LM"],
            "auto_map": _AUTO_MAP,
            "block_size": model.config.block_size,
            **flat(inner.config),
            "cross_attn": True,
            "adaln": inner.config.time_conditioning,
            "attn_backend": "sdpa",
            "causal": False,
            "time_conditioning": False,
            "var_min": times is not None,
            **buffers,
        }
        mask = process.mask_token_id
        if mask != mask_of(written, process.vocab_size, None, None, str(folder)):
            written["mask_token_id"] = mask
        scalars = {name: torch.tensor(value) for name, value in buffers.items()}
        write_ddit(inner, folder, written, buffers=scalars, plain=not written["adaln"])

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A small network of random weights."""
        text = DDiTDecoderConfig(
            vocab_size=7,
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            cond_dim=4,
            time_conditioning=True,
            time_input="zero",
        )
        block = BlockDiffusionConfig(text_config=text, block_size=4, mask_token_id=6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = BlockDiffusionLM(block)
        cls().write(model, folder)


def _is_flat(config: Mapping[str, Any]) -> bool:
    named = str(config.get("model_type")).lower() == "bd3lm"
    return named or ("model_type" not in config and {"block_size", "cross_attn"} <= set(config))
