"""The converter of a folder of students that share a task, into one model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_ddistill.convert.converter import Converter
from hf_ddistill.convert.source import read_object
from hf_ddistill.denoisers import Classes, Intervals
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, PartedLM
from hf_ddistill.models.opening import MODEL_FILES, open_model
from hf_ddistill.models.tokenizers import has_tokenizer, load_tokenizer
from hf_ddistill.processes import Absorbing

#: In a folder that `write` made: who owns what, as `{"bounds": ...}` or `{"groups": ...}`.
OWNERS = "students.json"


@dataclass(frozen=True)
class Students(Converter):
    """Students in the sub-folders of a folder, in the order of their names, become one model that
    asks each for its own rows (`PartedLM`); adapters are merged into their bases.

    References: Fan et al., Phased DMD: Few-step Distribution Matching Distillation via Score
    Matching within Subintervals, 2025, arXiv:2510.27684.

    Args:
        bounds: between the intervals of time that they own; the first student owns those up to the
            first bound, which are the last calls of a sample. If neither is given, what the folder
            says that `write` made, and else as much time for each.
        groups: or the classes that each owns.

    Raises:
        ValueError: for both.
    """

    id: ClassVar[str] = "students"
    reads: ClassVar[str] = "folder of students that share a task"
    gives: ClassVar[str] = "model of several students"

    bounds: tuple[float, ...] | None = field(
        default=None,
        metadata={
            "help": "Times between those of each student (default: as the folder says that export "
            "made, else equally many for each)."
        },
    )
    groups: tuple[tuple[int, ...], ...] | None = field(
        default=None, metadata={"help": "Or the classes of each student, such as [[0, 1], [2]]."}
    )

    def __post_init__(self) -> None:
        if self.bounds is not None and self.groups is not None:
            raise ValueError(
                "Students share a task by times or by classes: give bounds or groups, got both."
            )
        if self.groups is not None:
            Classes(self.groups)

    @classmethod
    def recognises(cls, folder: str) -> bool:
        place = Path(folder)
        return place.is_dir() and not _has_model(place) and len(_students_in(place)) > 1

    @classmethod
    def evidence(cls, folder: str) -> str:
        return ", ".join(student.name for student in _students_in(Path(folder)))

    def read(self, folder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
        found = _students_in(Path(folder))
        given = {"bounds": self.bounds, "groups": self.groups}
        if given == {"bounds": None, "groups": None}:
            given |= read_object(Path(folder) / OWNERS)
        if given["groups"] is not None:
            owners = Classes(given["groups"])
        else:
            equal = tuple(k / len(found) for k in range(1, len(found)))
            owners = Intervals(equal if given["bounds"] is None else given["bounds"])
        model = PartedLM.of([open_model(student) for student in found], owners)
        # That of the students, or, as `write` leaves it, the one beside them.
        place = next((each for each in (str(found[0]), folder) if has_tokenizer(each)), None)
        return model, None if place is None else load_tokenizer(place)

    def write(self, model: PreTrainedModel, folder: str | Path) -> None:
        if not isinstance(model, PartedLM):
            raise ValueError(
                f"Sub-folders are of the students of a PartedLM, got {type(model).__name__}."
            )
        digits = len(str(len(model.parts) - 1))  # read in the order of their names
        for number, student in enumerate(model.parts):
            student.save_pretrained(Path(folder) / f"{number:0{digits}}")
        owned = {name: getattr(model.config, name) for name in ("bounds", "groups")}
        (Path(folder) / OWNERS).write_text(json.dumps(owned) + "\n")

    @classmethod
    def example(cls, folder: str | Path) -> None:
        diffusion = Diffusion(Absorbing(5)).to_config()
        for number in range(2):
            torch.manual_seed(number)
            config = DDiTConfig(
                vocab_size=5,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=8,
                discrete_diffusion=diffusion,
            )
            DDiTForDiscreteDiffusion(config).save_pretrained(Path(folder) / str(number))


def _has_model(place: Path) -> bool:
    return any((place / name).is_file() for name in MODEL_FILES)


def _students_in(place: Path) -> list[Path]:
    """The sub-folders that hold a model, by name."""
    return sorted(each for each in place.iterdir() if each.is_dir() and _has_model(each))
