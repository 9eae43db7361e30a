"""The contract of an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from hf_ddistill.configurable import Configurable
from hf_ddistill.couplings import TrainingStep
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.objectives.needs import Frozen, Networks, Trained
from hf_ddistill.objectives.rollouts import Rollouts
from hf_ddistill.samplers import Ancestral, Sampler
from hf_ddistill.shapes import Scalar


class Objective(Configurable, ABC):
    """A loss for each network that it trains; its settings are the fields of a frozen dataclass.

    What it needs is data. `networks` are those beside the student, by name: asked (`Frozen`) or
    trained (`Trained`). `rollouts` is what is decoded to be the x_0 of a step, with its
    `trajectory`; an objective that needs it has a field of this name, with a default, and is given
    another one as `Rollouts` or as a mapping of what differs from the default; None means data.
    `block_size` are the tokens in a block of the student, where that is a setting. `one_call`:
    whether it trains a student that draws all that it draws in one call. `unit` is what its losses
    are a mean of, so that those of several batches make up one: "token" (of `TrainingStep.trained`)
    or "row" (that has any). `takes_reward`: whether it cannot do without what each rollout earned.
    `reads_noise`: whether its student cannot do without a noise input.
    `matches_conditionals`: whether the student's loss is how far its conditionals are from those of
    the teacher, so that a student that ends above where it started has lost something.
    `is_bound`: whether its loss is a bound on the negative log-likelihood of the data. `over` is
    what the student is trained to draw: "rows", all positions at once, "blocks", each behind
    finished ones (by a `BlockDiffusionLM`), or None for either. `measured` is a row of the results,
    which `hf-ddistill list` shows: total variation from the data's law, which is .4465 / .2216 /
    .1121 at 1 / 2 / 4 calls of the exact teacher (.4465 / .2911 / .1540 under uniform noise), after
    so many passes of a batch through all networks.
    `sampler` is what the student is to be sampled with: its configuration, and so every pipeline,
    has it from here. It never sees a Trainer.

    Raises:
        ValueError: when it is made, for settings that contradict each other. A subclass with checks
            of its own calls `super().__post_init__()` first.
    """

    networks: ClassVar[Networks] = {"teacher": Frozen()}
    rollouts: Rollouts | Mapping[str, Any] | None = None
    block_size: int | None = None
    one_call: ClassVar[bool] = False
    unit: ClassVar[str] = "token"
    takes_reward: ClassVar[bool] = False
    reads_noise: ClassVar[bool] = False
    matches_conditionals: ClassVar[bool] = False
    is_bound: bool | property = False
    over: ClassVar[str | None] = None
    measured: ClassVar[str] = ""
    sampler: ClassVar[Sampler] = Ancestral()

    def __post_init__(self) -> None:
        default = type(self).rollouts
        if default is None:
            return
        if isinstance(self.rollouts, Mapping):
            object.__setattr__(self, "rollouts", default.changed(self.rollouts))
        if not isinstance(self.rollouts, Rollouts):
            raise ValueError(
                f"Objective {self.id!r} trains on what is decoded: rollouts must be Rollouts, or a "
                f"mapping of their settings, got {self.rollouts!r}."
            )
        if self.rollouts.by != default.by:
            raise ValueError(
                f"Objective {self.id!r} is defined on rollouts of the {default.by}, got "
                f"rollouts.by={self.rollouts.by!r}."
            )

    @property
    def auxiliaries(self) -> tuple[str, ...]:
        """The names of the networks that are trained beside the student."""
        return tuple(name for name, need in self.networks.items() if isinstance(need, Trained))

    def for_student(self, student: Denoiser) -> Objective:
        """These settings, with what is left to the student filled in.

        Raises:
            ValueError: if that contradicts what is set.
        """
        return self

    def check(self, student: Denoiser, teacher: Denoiser | None, calls: Sequence[int]) -> None:
        """Raise for a run that these settings do not go with: once, before anything is trained.

        Args:
            student: in training, see `for_student`.
            teacher: None where there is none.
            calls: network calls of the student that each round is for.

        Raises:
            ValueError: in one sentence.
        """

    def fewer_calls(self, calls: int) -> tuple[int, ...]:
        """The numbers of calls below `calls`, those of the training, that its student may be
        sampled in too: 1, 2, 4, ...; none where it is trained for `calls` alone."""
        return (
            () if self.one_call else tuple(2**i for i in range(calls.bit_length()) if 2**i < calls)
        )

    def learned_sampler(self, networks: Mapping[str, Any], calls: int) -> Sampler:
        """What the student is to be sampled with behind the training: `sampler`, unless the trained
        networks beside the student, given by name, are numbers of it."""
        return self.sampler

    @abstractmethod
    def __call__(self, step: TrainingStep) -> dict[str, Scalar]:
        """{"student": loss, ...}, in nats per token, a mean over the units of the batch.

        What a row adds to the sum over them hangs on no other row, up to baselines that leave its
        mean as it is. All losses go backward together: what a loss must not train, it takes from
        `torch.no_grad`, detached, or within `TrainingStep.freeze`.
        """
