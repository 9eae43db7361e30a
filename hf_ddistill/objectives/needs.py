"""The networks that an objective has beside the student, as data: which are asked, which trained.

    networks = {"teacher": Frozen(), "auxiliary": Trained(copy_of="teacher")}

Whoever trains (the Trainer, the laboratory) makes them and passes them by these names in
`TrainingStep.peers`; the losses of an objective bear the names of those that are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.linalg import keyed_generator

SOURCES = ("teacher", "student")
#: Names that no trained network can have.
TAKEN = ("student", "teacher", "ema")
#: From the student's network and the diffusion to a network of any kind.
Factory = Callable[[nn.Module, Diffusion], nn.Module]


@dataclass(frozen=True)
class Frozen:
    """A network that is asked and not trained: the teacher, by that name, or a mean.

    Args:
        mean: the running mean of the student's weights, in the place of a teacher.
        causal: it is asked as a causal language model, for each token behind those before it, and
            not for what stands at masks.
    """

    mean: bool = False
    causal: bool = False


@dataclass(frozen=True)
class Trained:
    """A network that is trained beside the student, by the loss of its name.

    Args:
        copy_of: "teacher" or "student": a trainable copy, given to the objective as a `Denoiser`.
        factory: or what makes it, from the student's network (which it may copy parts of and must
            not change) and the diffusion; the objective is given the `nn.Module` that comes back,
            such as a discriminator, and calls it as it likes.

    Raises:
        ValueError: unless it is one of the two.
    """

    copy_of: str | None = None
    factory: Factory | None = None

    def __post_init__(self) -> None:
        if (self.copy_of is None) == (self.factory is None):
            raise ValueError(
                "A trained network is a copy or is made: give copy_of= or factory=, one of the two."
            )
        if self.copy_of is not None and self.copy_of not in SOURCES:
            raise ValueError(f"copy_of must be one of {', '.join(SOURCES)}, got {self.copy_of!r}.")

    def build(self, name: str, student: nn.Module, diffusion: Diffusion, seed: int) -> nn.Module:
        """What the factory makes, with weights that hang on the seed and the name alone.

        Raises:
            ValueError: if it makes no network.
        """
        with torch.random.fork_rng(devices=[]):
            of_name = keyed_generator(seed, "factory", name).initial_seed()
            torch.default_generator.manual_seed(of_name)
            network = self.factory(student, diffusion)
        if not isinstance(network, nn.Module):
            raise ValueError(
                f"The factory of {name!r} must make an nn.Module, got {type(network).__name__}."
            )
        return network


Networks = Mapping[str, Frozen | Trained]
