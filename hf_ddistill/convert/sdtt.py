"""The converter of SDTT's students and teachers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.ddit_checkpoint import (
    DDiTCheckpoint,
    described,
    part_of,
    truth,
)
from hf_ddistill.convert.noise import schedule_of
from hf_ddistill.convert.source_tokenizer import read_tokenizer
from hf_ddistill.convert.unsaid import UnsaidMask
from hf_ddistill.convert.vocabulary import mask_of, with_mask
from hf_ddistill.convert.written_ddit import (
    check_log_linear,
    check_writable,
    example_ddit,
    hydra_model,
    write_ddit,
)
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTForDiscreteDiffusion
from hf_ddistill.parameterizations import Subs
from hf_ddistill.processes import Absorbing


@dataclass(frozen=True)
class SDTT(UnsaidMask, Converter):
    """A masked network of SDTT, one of its revisions.

    References:
        Beyond Autoregression: Fast LLMs via Self-Distillation Through Time (2024),
        https://arxiv.org/abs/2410.21035
    """

    id: ClassVar[str] = "sdtt"
    reads: ClassVar[str] = "masked diffusion network of SDTT"
    gives: ClassVar[str] = "DDiT"

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """By its training configuration, where the parameterization is a part of its own."""
        config = described(folder)
        return bool(part_of(config, "parameterization")) and bool(part_of(config, "model"))

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The part that names it."""
        part = part_of(described(folder), "parameterization")
        named = f" named {part['name']!r}" if "name" in part else ""
        return f"its training configuration has SDTT's part 'parameterization'{named}"

    def read(self, folder: str) -> tuple[DDiTForDiscreteDiffusion, PreTrainedTokenizerBase | None]:
        """The network and its tokenizer."""
        found = DDiTCheckpoint.open(folder, "SDTT")
        config, vocab = found.config, found.vocab_size
        tokenizer = read_tokenizer(folder, given=self.tokenizer)
        mask = mask_of(config, vocab, tokenizer, self.mask_token_id, folder)
        conditional = truth(config, "time_conditioning", False, folder)
        model = found.model(
            found.sizes(self.length, self.heads),
            Diffusion(Absorbing(vocab, mask), schedule_of(config.get("noise"), folder)),
            Subs(),
            time_input="sigma" if conditional else "zero",
            tokenizer=with_mask(tokenizer, vocab, mask, folder),
        )
        return model, tokenizer

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """The folder of a student of SDTT."""
        diffusion, reading = check_writable(model, "SDTT")
        process, config = diffusion.process, model.config
        if not isinstance(process, Absorbing) or reading != Subs():
            raise ValueError(
                "An SDTT network's outputs are those of 'subs' over masks, and this one's are "
                f"{reading.id!r} over {process.id!r}."
            )
        if process.mask_token_id != process.vocab_size - 1:
            raise ValueError(
                "SDTT's mask is the token behind those of gpt2, the last, and this network's is "
                f"{process.mask_token_id} of {process.vocab_size}."
            )
        check_log_linear(diffusion, "SDTT")
        written = {
            "model": hydra_model(config),
            "noise": {"type": "loglinear"},
            "parameterization": {"name": "multi-round-sdtt"},
            "time_conditioning": config.time_conditioning and config.time_input == "sigma",
            "tokenizer": {"name": "gpt2"},
        }
        write_ddit(model, folder, written)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A small network of random weights."""
        example_ddit(cls(), folder, Absorbing(7), Subs(), "zero")
