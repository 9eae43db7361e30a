"""Options of `hf-ddistill teacher`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass
from typing import ClassVar

from hf_ddistill.cli.options.option import flag_name, option
from hf_ddistill.cli.options.shared import TrainingDataOptions, TrainingOptions
from hf_ddistill.cli.values import positive
from hf_ddistill.training.settings import DiffusionSettings

NEW = ("a new network", "which --init has its own of")
#: What a new network is made with; one that exists (--init) has its own.
FRESH = {
    "process": "absorbing",
    "schedule": "log_linear",
    "hidden_size": 256,
    "layers": 6,
    "heads": 4,
    "position_embedding": "rotary_learned",
}
FRESH_ALONE = ("vocab_size", "token_shape", "class_conditional")


@dataclass
class TeacherOptions(DiffusionSettings, TrainingOptions, TrainingDataOptions):
    """train a teacher from data by maximum likelihood"""

    output: str = option("folder of the model", MISSING)
    init: str | None = option(
        "a masked LM or DDiT to train on from: a folder or Hub id (default: a new network)",
        metavar="MODEL",
    )
    tokenizer: str | None = option(
        "for text: folder or id, or characters, bytes or bpe:SIZE, made of the data and saved with "
        "the model (default: that of --init)"
    )
    process: str | None = option(
        "an id (hf-ddistill list), or JSON (default: absorbing)", family="process", group=NEW
    )
    schedule: str | None = option(
        "an id, or JSON (default: log_linear)", family="schedule", group=NEW
    )
    vocab_size: int | None = option(
        "tokens, noise included (default: those of the data)", kind=positive, group=NEW
    )
    hidden_size: int | None = option(
        "width of the network (default: 256)", kind=positive, group=NEW
    )
    layers: int | None = option("of the network (default: 6)", kind=positive, group=NEW)
    heads: int | None = option("of attention in each layer (default: 4)", kind=positive, group=NEW)
    token_shape: Sequence[int] | None = option(
        "of images, such as 8 8 (default: none; of digits 8 8)",
        kind=positive,
        many=True,
        group=NEW,
    )
    class_conditional: bool = option("use the data's labels", False, group=NEW)
    position_embedding: str | None = option(
        "how a position is told (default: rotary_learned)",
        choices=("rotary_learned", "learned", "rotary"),
        group=NEW,
    )
    HELD_OUT: ClassVar[float] = 0.05

    def check(self) -> None:
        """Fill in what a new network is made with; refuse it beside one that exists."""
        self.check_resume()
        self.check_data(eval_steps=self.eval_steps, num_eval_samples=self.num_eval_samples)
        self.check_diffusion()
        if self.class_conditional and self.streaming:
            raise ValueError("--class-conditional counts the labels, which a stream cannot do.")
        if self.init is None:
            for name, default in FRESH.items():
                if getattr(self, name) is None:
                    setattr(self, name, default)
            return
        given = [name for name in (*FRESH, *FRESH_ALONE) if getattr(self, name)]
        if given:
            flags = ", ".join(map(flag_name, given))
            raise ValueError(f"{flags}: of a new network; {self.init} (--init) has its own.")
