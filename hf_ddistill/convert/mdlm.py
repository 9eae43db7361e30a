"""The converter of MDLM's networks, and of others with its configuration (ReMDM)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.ddit_checkpoint import DDiTCheckpoint, described, truth
from hf_ddistill.convert.noise import schedule_of
from hf_ddistill.convert.remasking import enter_remasking
from hf_ddistill.convert.source_tokenizer import read_tokenizer
from hf_ddistill.convert.unsaid import UnsaidMask
from hf_ddistill.convert.vocabulary import mask_of, with_mask
from hf_ddistill.convert.written_ddit import (
    check_log_linear,
    check_writable,
    example_ddit,
    flat,
    write_ddit,
)
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTForDiscreteDiffusion
from hf_ddistill.parameterizations import Conditional, Parameterization, Score, Subs
from hf_ddistill.processes import Absorbing

#: MDLM's names of outputs.
READINGS: dict[str, Parameterization] = {
    "subs": Subs(),
    "d3pm": Conditional(),
    "sedd": Score(scale_by_sigma=True),
}
TIME_INPUTS = ("sigma", "zero")
#: The code of their classes, for those who load a written folder with it.
_AUTO_MAP = {
    "AutoConfig": "kuleshov-group/mdlm-owt--configuration_mdlm.MDLMConfig",
    "AutoModelForMaskedLM": "kuleshov-group/mdlm-owt--modeling_mdlm.MDLM",
}


@dataclass(frozen=True)
class MDLM(UnsaidMask, Converter):
    """A masked diffusion network of MDLM or ReMDM, of the Hub or of a training run.

    References:
        Simple and Effective Masked Diffusion Language Models (2024),
        https://arxiv.org/abs/2406.07524
        Remasking Discrete Diffusion Models with Inference-Time Scaling (2025),
        https://arxiv.org/abs/2503.00307

    Args:
        parameterization: "subs", "d3pm" or "sedd", where nothing says it (default: subs).
        time_input: "sigma" or "zero", where nothing says it (default: zero).

    Raises:
        ValueError: for another parameterization or time input.
    """

    id: ClassVar[str] = "mdlm"
    reads: ClassVar[str] = "masked diffusion network of MDLM"
    gives: ClassVar[str] = "DDiT"

    parameterization: str | None = field(
        default=None,
        metadata={
            "help": "What the outputs are: subs, d3pm or sedd (default: what the source says)."
        },
    )
    time_input: str | None = field(
        default=None,
        metadata={"help": "The time that it reads: sigma or zero (default: what the source says)."},
    )

    def __post_init__(self) -> None:
        for name, known in (("parameterization", READINGS), ("time_input", TIME_INPUTS)):
            value = getattr(self, name)
            if value not in (None, *known):
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}.")

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """By its type, or by MDLM's `parameterization` in a training configuration."""
        config = described(folder)
        trained = isinstance(config.get("parameterization"), str) and "model" in config
        other = {"graph", "algo"} & set(config) or config.get("diffusion") == "uniform"
        return _is_flat(config) or (trained and not other)

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The type, or the parameterization."""
        config = described(folder)
        if _is_flat(config):
            return f"its configuration is of {config['model_type']!r}"
        return f"its training had MDLM's parameterization {config['parameterization']!r}"

    def read(self, folder: str) -> tuple[DDiTForDiscreteDiffusion, PreTrainedTokenizerBase | None]:
        """The network, with the mask that all agree on, and its tokenizer."""
        found = DDiTCheckpoint.open(folder, "MDLM")
        config, vocab = found.config, found.vocab_size
        tokenizer = read_tokenizer(folder, given=self.tokenizer)
        mask = mask_of(config, vocab, tokenizer, self.mask_token_id, folder)
        model = found.model(
            found.sizes(self.length, self.heads),
            Diffusion(Absorbing(vocab, mask), schedule_of(config.get("noise"), folder)),
            self._reading(config, folder),
            time_input=self._time(config, folder),
            tokenizer=with_mask(tokenizer, vocab, mask, folder),
        )
        enter_remasking(model, config)
        return model, tokenizer

    def _reading(self, config: Mapping[str, Any], folder: str) -> Parameterization:
        if config.get("diffusion") == "uniform":
            raise ValueError(f"{folder} is over uniform states; --kind duo reads it.")
        said, given = config.get("parameterization"), self.parameterization
        name = said or given or "subs"
        if name not in READINGS or given not in (None, name):
            raise ValueError(
                f"The configuration of {folder} has the parameterization {name!r}; it must be one "
                f"of {', '.join(READINGS)}, and --parameterization the same where both say it."
            )
        return READINGS[name]

    def _time(self, config: Mapping[str, Any], folder: str) -> str:
        if "time_conditioning" not in config:
            return self.time_input or "zero"
        said = "sigma" if truth(config, "time_conditioning", False, folder) else "zero"
        if self.time_input not in (None, said):
            raise ValueError(
                f"The configuration of {folder} says that the network reads {said}, and "
                f"--time-input {self.time_input}."
            )
        return said

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """The folder that MDLM's class on the Hub reads."""
        diffusion, reading = check_writable(model, "MDLM")
        process, config = diffusion.process, model.config
        if not isinstance(process, Absorbing) or reading != Subs():
            raise ValueError(
                "The configuration of an MDLM network has no place for what its outputs are: they "
                f"are those of 'subs' over masks, and this one's are {reading.id!r} over "
                f"{process.id!r}."
            )
        if config.time_conditioning and config.time_input == "sigma":
            check_log_linear(diffusion, "MDLM")
        written = {
            "model_type": "mdlm",
            "architectures": ["MDLM"],
            "auto_map": _AUTO_MAP,
            **flat(config),
            "time_conditioning": config.time_conditioning and config.time_input == "sigma",
        }
        mask = process.mask_token_id
        if mask != mask_of(written, process.vocab_size, None, None, str(folder)):
            written["mask_token_id"] = mask
        write_ddit(model, folder, written)

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A small network of random weights."""
        example_ddit(cls(), folder, Absorbing(7), Subs(), "zero")


def _is_flat(config: Mapping[str, Any]) -> bool:
    return str(config.get("model_type")).lower() == "mdlm"
