"""The converter of the networks of Duo's code: Duo and UDLM, and its own MDLM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

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
    check_reads_sigma,
    check_writable,
    example_ddit,
    flat,
    write_ddit,
)
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTForDiscreteDiffusion
from hf_ddistill.parameterizations import (
    Conditional,
    GivenOthers,
    Parameterization,
    Score,
    Subs,
)
from hf_ddistill.processes import Absorbing, Uniform

#: Duo's algorithms over masks, and what their outputs are; all others are over uniform states.
MASKED: dict[str, Parameterization] = {
    "mdlm": Subs(),
    "d3pm": Conditional(),
    "sedd": Score(scale_by_sigma=True),
}
#: The code of their classes, for those who load a written folder with it.
_AUTO_MAP = {
    "AutoConfig": "s-sahoo/duo--model.DUOConfig",
    "AutoModelForMaskedLM": "s-sahoo/duo--model.DUO",
}


@dataclass(frozen=True)
class Duo(UnsaidMask, Converter):
    """A network of Duo's code: over uniform states, or over masks where it trained MDLM.

    Duo puts its outputs in the place of x_0 in q(x_s | x_t, x_0): they are read as 'given_others'.

    References:
        The Diffusion Duality (2025), https://arxiv.org/abs/2506.10892
        Simple Guidance Mechanisms for Discrete Diffusion Models (2024),
        https://arxiv.org/abs/2412.10193

    Args:
        algorithm: Duo's name of what was trained, where nothing says it (default: duo).

    Raises:
        ValueError: for an autoregressive algorithm.
    """

    id: ClassVar[str] = "duo"
    reads: ClassVar[str] = "network of Duo"
    gives: ClassVar[str] = "DDiT"

    algorithm: str | None = field(
        default=None,
        metadata={
            "help": "Duo's name of what was trained, such as duo or mdlm (default: what the "
            "source says, else duo)."
        },
    )

    def __post_init__(self) -> None:
        if self.algorithm == "ar":
            raise ValueError("algorithm 'ar' is no diffusion, but an autoregressive network.")

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """By its type, by the `algo` of a training configuration without blocks, or by UDLM's
        `diffusion`."""
        config = described(folder)
        trained = "name" in part_of(config, "algo") and not _has_blocks(config)
        return _is_flat(config) or trained or (_is_udlm(config) and "model" in config)

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The type, or the algorithm."""
        config = described(folder)
        if _is_flat(config):
            return f"its configuration is of {config['model_type']!r}"
        if _is_udlm(config):
            return "its training had UDLM's diffusion 'uniform'"
        return f"its training had the algo {part_of(config, 'algo')['name']!r}"

    def read(self, folder: str) -> tuple[DDiTForDiscreteDiffusion, PreTrainedTokenizerBase | None]:
        """The network and its tokenizer."""
        found = DDiTCheckpoint.open(folder, "Duo")
        config, vocab = found.config, found.vocab_size
        algo = part_of(config, "algo")
        for part, name in ((config, "causal"), (algo, "causal_attention")):
            if truth(part, name, False, folder) or algo.get("name") == "ar":
                raise ValueError(f"{folder} is an autoregressive network of Duo's, no diffusion.")
        reading = self._reading(algo, folder)
        schedule = schedule_of(config.get("noise"), folder, of_duo=not _is_udlm(config))
        tokenizer = read_tokenizer(folder, given=self.tokenizer)
        if isinstance(reading, GivenOthers):
            process, mask, time = Uniform(vocab), None, True
            if self.mask_token_id is not None:
                raise ValueError(f"{folder} is over uniform states, which have no mask token.")
        else:
            mask = mask_of(config, vocab, tokenizer, self.mask_token_id, folder)
            process, time = Absorbing(vocab, mask), truth(algo, "time_conditioning", False, folder)
        model = found.model(
            found.sizes(self.length, self.heads),
            Diffusion(process, schedule),
            reading,
            time_input="sigma" if time else "zero",
            tokenizer=with_mask(tokenizer, vocab, mask, folder),
        )
        return model, tokenizer

    def _reading(self, algo: Mapping[str, Any], folder: str) -> Parameterization:
        """By the algorithm; one of another name is over uniform states if it reads the time, as all
        of those do, and over masks if not."""
        said = algo.get("name")
        if self.algorithm is not None and said not in (None, self.algorithm):
            raise ValueError(
                f"The configuration of {folder} has the algo {said!r}, and --algorithm is "
                f"{self.algorithm!r}."
            )
        name = str(said or self.algorithm or "duo").lower()
        if name in MASKED:
            return MASKED[name]
        uniform = "duo" in name or name in ("udlm", "distillation")
        if uniform or truth(algo, "time_conditioning", True, folder):
            return GivenOthers()
        return Subs()

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """The folder that Duo's class on the Hub reads."""
        diffusion, reading = check_writable(model, "Duo")
        process = diffusion.process
        if process != Uniform(process.vocab_size) or reading != GivenOthers():
            raise ValueError(
                "A Duo network's outputs are those of 'given_others' over uniform states, and this "
                f"one's are {reading.id!r} over {process.id!r}."
            )
        check_reads_sigma(model.config, "Duo")
        check_log_linear(diffusion, "Duo")
        written = {
            "model_type": "duo",
            "architectures": ["DUO"],
            "auto_map": _AUTO_MAP,
            **flat(model.config),
            "causal": False,
        }
        write_ddit(model, folder, written)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A small network of random weights."""
        example_ddit(cls(), folder, Uniform(7), GivenOthers(), "sigma")


def _is_flat(config: Mapping[str, Any]) -> bool:
    return str(config.get("model_type")).lower() == "duo"


def _is_udlm(config: Mapping[str, Any]) -> bool:
    return config.get("diffusion") == "uniform" and "algo" not in config


def _has_blocks(config: Mapping[str, Any]) -> bool:
    return part_of(config, "algo").get("name") == "bd3lm"
