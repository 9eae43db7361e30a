"""The contract of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from hf_ddistill.configurable import Configurable
from hf_ddistill.couplings import TrainingStep
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.samplers import Ancestral, Sampler
from hf_ddistill.shapes import Scalar


class Objective(Configurable, ABC):
    """A loss for each network that it trains; its settings are the fields of a frozen dataclass.

    `networks` are those that it needs beside the student, by name: asked (`Frozen`) or trained
    (`Trained`). `rollouts` names the network that decodes the x_0 of a step, with its `trajectory`:
    "student" or "teacher"; None for data. `one_call`: whether it trains a student that draws all
    that it draws in one call. `unit` is what its losses are a mean of, so that those of several
    batches make up one: "token" (of `TrainingStep.trained`) or "row" (that has any). `sampler` is
    what the student is to be sampled with: its configuration, and so every pipeline, has it from
    here. It never sees a Trainer.
    """

    networks: ClassVar[Networks] = {"teacher": Frozen()}
    rollouts: ClassVar[str | None] = None
    one_call: ClassVar[bool] = False
    unit: ClassVar[str] = "token"
    sampler: ClassVar[Sampler] = Ancestral()

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        """The names of the networks that are trained beside the student."""
        return tuple(name for name, need in self.networks.items() if isinstance(need, Trained))

    @property
    def prompt_rows(self) -> int:
        """So many rows, one after another, must be rollouts behind one prompt."""
        return 1

    def for_student(self, student: Denoiser) -> Objective:
        """These settings, with what is left to the student filled in.

        Raises:
            ValueError: if that contradicts what is set.
        """
        return self

    @abstractmethod
    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        """{"student": loss, ...}, in nats per token, a mean over the units of the batch.

        What a row adds to the sum over them hangs on no other row, up to baselines that leave its
        mean as it is.
        """
