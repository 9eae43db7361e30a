"""Converters: a kind of model that others train, read from its folder as one of ours."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.configurable import Configurable
from hf_ddistill.convert.source import WEIGHTS, configuration

#: Why a model is not read that is as it should be.
OURS = "it is a model of ours already"
#: Types of diffusion models that no converter reads, and why.
UNREAD = {
    "wedlm": "WeDLM's masks see what is known before them alone, causally, and blocks see all",
    "edlm": "the names of Efficient-DLM's weights and its mask are not known here",
    "lladamoe": "LLaDA's first mixture of experts has no converter; llada and llada2 have",
    "nemotron_labs_diffusion_vlm": "it reads images; the text models are read",
    "block_diffusion": OURS,
    "ddit": OURS,
    "canvas": OURS,
    "gidd_lm": OURS,
    "parted_lm": OURS,
}


class Converter(Configurable, ABC):
    """Recognises a folder, reads it as one of our models, writes such a model back.

    A member is a frozen dataclass in a file of its own; its fields are its settings, and the flags
    of `hf-ddistill convert`, with the help that their metadata has.

    Attributes:
        reads: what it recognises, in words, without an article.
        gives: what it makes of it.
    """

    reads: ClassVar[str]
    gives: ClassVar[str]

    @classmethod
    @abstractmethod
    def recognises(cls, folder: str) -> bool:
        """Whether a folder (or file of weights) is of this kind, by its configuration alone.

        Raises:
            ValueError: if there is no model.
        """

    @classmethod
    def evidence(cls, folder: str) -> str:
        """Why a folder that was recognised is of this kind, in a few words."""
        return cls.reads

    @abstractmethod
    def read(self, folder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        """One of our models with the folder's weights, and its tokenizer if it has one.

        Raises:
            ValueError: if it cannot be read with these settings.
        """

    def fitted(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        """Model and tokenizer as those who read the form need them, before `write`; the model may
        be changed in place.

        Raises:
            ValueError: if they cannot be made so.
        """
        return model, tokenizer

    @abstractmethod
    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """The weights of one of our models in the form of the source, for whoever reads that.

        Raises:
            ValueError: if the source has no place for what the model has.
        """

    @classmethod
    @abstractmethod
    def example(cls, folder: str | Path) -> None:
        """Write a small model of the kind that it recognises."""

    def card(
        self,
        name: str,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        source: str,
        base_model: str | None = None,
    ) -> ModelCard:
        """The card of what `read` returned.

        Args:
            name: of the new model.
            model, tokenizer: the converted ones.
            source: name of what was converted.
            base_model: its id, where it is on the Hub.
        """
        data = ModelCardData(
            library_name="hf_ddistill",
            base_model=base_model,
            tags=["discrete-diffusion", "converted"],
            model_name=name,
        )
        text = f"# {name}\n\nA {self.gives} with the weights of `{source}`, a {self.reads}."
        return ModelCard(f"---\n{data}\n---\n\n{text}\n")

    def loaded_by(self, model: PreTrainedModel, folder: str) -> str:
        """The command by which others load what `write` wrote; empty if there is none."""
        return ""

    def next_step(self, model: PreTrainedModel, source: str, output: str) -> str:
        """What a user does with the new model; empty if it is ready."""
        return ""


def recognise(name: str) -> type[Converter]:
    """The converter that recognises a folder or Hub id.

    Raises:
        ValueError: if none does, or several do; what one of them says of a folder that it cannot
            read, if that is all there is.
    """
    found: list[type[Converter]] = []
    refusals: list[ValueError] = []
    for kind in Converter.registry.values():
        try:
            found += [kind] * kind.recognises(name)
        except ValueError as error:
            refusals.append(error)
    if not found and (Path(name) / "adapter_config.json").is_file():
        raise ValueError(
            f"{name} holds adapters, which are opened on their base as they are: to convert the "
            "whole, merge them into it first."
        )
    if not found and _is_bare(Path(name)):
        raise ValueError(
            f"{name} has weights and says nothing of what they are: say it with --kind, one of "
            f"{', '.join(Converter.registry)}."
        )
    model_type = configuration(name).get("model_type")
    if not found and model_type in UNREAD:
        raise ValueError(f"{name} is of {model_type!r}, which is not read: {UNREAD[model_type]}.")
    if not found and refusals:
        raise refusals[0]
    if not found and configuration(name).get("discrete_diffusion"):
        raise ValueError(f"{name} is of {model_type!r}, which is not read: {OURS}.")
    if not found:
        known = ", no ".join(f"{kind.reads} ({key})" for key, kind in Converter.registry.items())
        raise ValueError(f"{name} is no {known}, which alone can be converted.")
    if len(found) > 1:
        raise ValueError(f"{name} is recognised by {', '.join(kind.id for kind in found)}.")
    return found[0]


def _is_bare(place: Path) -> bool:
    """Whether there are weights without any configuration."""
    if place.is_dir():
        there = [*place.iterdir()] if not (place / "config.json").is_file() else []
        return any(file.suffix in WEIGHTS for file in there)
    return place.is_file()
