"""What the converters of language models share: a folder read and written by its form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.convert.bounds import check_sizes
from hf_ddistill.convert.fields import Fields
from hf_ddistill.convert.language_model import Form, Reading, read_language_model
from hf_ddistill.convert.source import configuration
from hf_ddistill.convert.written_language_model import write_language_model
from hf_ddistill.models import BlockDiffusionLM


class LanguageModelFolder(ABC):
    """Reads and writes; stands before `Converter` among the bases of a member.

    Attributes:
        form: what all folders of the kind have in common.
    """

    form: ClassVar[Form]

    @abstractmethod
    def reading(self, fields: Fields) -> Reading:
        """What the configuration of a folder says.

        Raises:
            ValueError: for a field that is missing, or asks for another network.
        """

    @abstractmethod
    def described(self, model: BlockDiffusionLM) -> Mapping[str, Any]:
        """A model as the form's configuration has it, without mask, special tokens and dtype.

        Raises:
            ValueError: for what the form has no place for.
        """

    def read(self, folder: str) -> tuple[BlockDiffusionLM, PreTrainedTokenizerBase | None]:
        """The network in its attention, and the tokenizer with its mask token."""
        check_sizes(folder)
        fields = Fields(configuration(folder), str(folder))
        return read_language_model(folder, self.form, self.reading(fields))

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        """A folder as its authors' own, without their code."""
        write_language_model(model, self.form, self.described, folder)
