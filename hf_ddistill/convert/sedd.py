"""The converter of SEDD's networks."""

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
from hf_ddistill.convert.noise import noise_of, schedule_of
from hf_ddistill.convert.source_tokenizer import read_tokenizer
from hf_ddistill.convert.unsaid import Unsaid
from hf_ddistill.convert.vocabulary import with_mask
from hf_ddistill.convert.written_ddit import (
    check_reads_sigma,
    check_writable,
    example_ddit,
    hydra_model,
    write_ddit,
)
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTForDiscreteDiffusion
from hf_ddistill.parameterizations import Score
from hf_ddistill.processes import Absorbing, Uniform

GRAPHS = ("absorb", "uniform")


@dataclass(frozen=True)
class SEDD(Unsaid, Converter):
    """A score network of SEDD: absorbing, its mask the last token, or uniform.

    References:
        Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution (2023),
        https://arxiv.org/abs/2310.16834

    Args:
        graph: "absorb" or "uniform", where nothing says it.

    Raises:
        ValueError: for another graph.
    """

    id: ClassVar[str] = "sedd"
    reads: ClassVar[str] = "score network of SEDD"
    gives: ClassVar[str] = "DDiT"

    graph: str | None = field(
        default=None,
        metadata={"help": "SEDD's process, absorb or uniform (default: what the source says)."},
    )

    def __post_init__(self) -> None:
        if self.graph not in (None, *GRAPHS):
            raise ValueError(f"graph must be one of {', '.join(GRAPHS)}, got {self.graph!r}.")

    @classmethod
    def recognises(cls, folder: str) -> bool:
        """By the `graph` of its training configuration."""
        return "type" in part_of(described(folder), "graph")

    @classmethod
    def evidence(cls, folder: str) -> str:
        """The graph and the noise that its configuration names."""
        config = described(folder)
        graph, noise = (part_of(config, name).get("type") for name in ("graph", "noise"))
        return f"its configuration has SEDD's graph {graph!r} and noise {noise!r}"

    def read(self, folder: str) -> tuple[DDiTForDiscreteDiffusion, PreTrainedTokenizerBase | None]:
        """The network, read as log-scores, and its tokenizer."""
        found = DDiTCheckpoint.open(folder, "SEDD")
        graph = self._graph(found.config, folder)
        vocab = self._vocabulary(found, graph)
        absorbing = graph == "absorb"
        scaled = truth(part_of(found.config, "model"), "scale_by_sigma", absorbing, folder)
        if scaled and not absorbing:
            raise ValueError(f"{folder} scales by sigma under a uniform graph, which SEDD has not.")
        process = Absorbing(vocab) if absorbing else Uniform(vocab)
        tokenizer = read_tokenizer(folder, given=self.tokenizer)
        model = found.model(
            found.sizes(self.length, self.heads),
            Diffusion(process, schedule_of(found.config.get("noise"), folder)),
            Score(scale_by_sigma=scaled),
            time_input="sigma",
            tokenizer=with_mask(tokenizer, vocab, process.mask_token_id, folder),
        )
        return model, tokenizer

    def _graph(self, config: Mapping[str, Any], folder: str) -> str:
        said = part_of(config, "graph").get("type")
        graph = said or self.graph
        if graph not in GRAPHS or self.graph not in (None, graph):
            of = "nothing" if said is None else f"graph.type {said!r}"
            raise ValueError(
                f"The configuration of {folder} says {of} of SEDD's process; it must be one of "
                f"{', '.join(GRAPHS)}, and --graph the same where both say it."
            )
        return graph

    def _vocabulary(self, found: DDiTCheckpoint, graph: str) -> int:
        """K: the configuration counts the tokens without the mask."""
        tokens = found.config.get("tokens")
        if tokens is None and found.config:
            raise ValueError(f"The configuration of {found.source} lacks tokens, a whole number.")
        if tokens is None:
            return found.vocab_size
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 2:
            raise ValueError(f"The configuration of {found.source} gives {tokens!r} for tokens.")
        return tokens + (graph == "absorb")

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """The folder that SEDD's `from_pretrained` reads."""
        diffusion, reading = check_writable(model, "SEDD")
        process, noise = diffusion.process, noise_of(diffusion.schedule)
        absorbing = isinstance(process, Absorbing)
        if not isinstance(reading, Score) or (reading.scale_by_sigma and not absorbing):
            raise ValueError(f"SEDD's networks give scores, and this one's outputs are {reading}.")
        check_reads_sigma(model.config, "SEDD")
        if not absorbing and process != Uniform(process.vocab_size):
            raise ValueError(f"SEDD has no process {process.id!r}; it has absorbing and uniform.")
        if absorbing and process.mask_token_id != process.vocab_size - 1:
            raise ValueError(
                f"SEDD's mask is the last token, and this network's is {process.mask_token_id} of "
                f"{process.vocab_size}."
            )
        if noise is None:
            raise ValueError(
                f"SEDD has no schedule {diffusion.schedule}; it has geometric ones and the "
                "log-linear one with eps 1e-3."
            )
        config = {
            "tokens": process.vocab_size - absorbing,
            "graph": {"type": "absorb" if absorbing else "uniform"},
            "noise": noise,
            "model": {**hydra_model(model.config), "scale_by_sigma": reading.scale_by_sigma},
        }
        write_ddit(model, folder, config, prefix="")

    @classmethod
    def example(cls, folder: str | Path) -> None:
        """A small absorbing network of random weights."""
        example_ddit(cls(), folder, Absorbing(7), Score(scale_by_sigma=True), "sigma")
