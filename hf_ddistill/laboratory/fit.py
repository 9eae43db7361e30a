"""The one loop that trains networks in the laboratory, by the steps that the `Trainer` takes.

Step n has the noise of `keyed_generator(seed, n, 0, 0)`: that of the Trainer's optimizer step n,
micro step 0, on process 0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from torch import Tensor, nn

from hf_ddistill.couplings import Memory, TrainingStep, Trajectory
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.laboratory.network import CountedDiscriminator
from hf_ddistill.linalg import keyed_generator
from hf_ddistill.objectives import Frozen, Objective
from hf_ddistill.objectives.alternation import Alternation
from hf_ddistill.objectives.discriminator import Discriminator
from hf_ddistill.shapes import Tokens

Peers: TypeAlias = Mapping[str, Denoiser | nn.Module]


@dataclass(frozen=True)
class Batch:
    """What one step learns from.

    Args:
        x_0: clean tokens (B, L).
        trajectory: how they came about, where blocks are decoded or told of; None otherwise.
    """

    x_0: Tokens
    trajectory: Trajectory | None = None


@dataclass(frozen=True)
class Pace:
    """How fast networks move: Adam, a cosine for the learning rate, a running mean.

    Args:
        learning_rate: of the student, at the start.
        auxiliary_learning_rate: of what is trained beside it.
        betas: of Adam. A short memory: what each of two networks is told changes with the other.
        floor: share of the learning rate at the end of the cosine; 1 for a constant one.
        max_grad_norm: of each network by itself.
        ema: decay of the student's running mean; at update n it is no more than (1 + n) / (10 + n).
        alternation: which steps update the student, where something is trained beside it.
    """

    learning_rate: float = 1e-3
    auxiliary_learning_rate: float = 2e-3
    betas: tuple[float, float] = (0.5, 0.99)
    floor: float = 0.01
    max_grad_norm: float = 1.0
    ema: float = 0.99
    alternation: Alternation = Alternation()

    def rate(self, progress: float) -> float:
        """The share of the learning rate at a share of the training."""
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * min(progress, 1.0))) / 2


@dataclass(eq=False)
class Run:
    """What the loop keeps from step to step.

    Args:
        number: steps taken.
        updates: of them those that updated the student.
        progress: share of the training that is done.
        memory: of the objective.
        figures: of the last step, that the objective logged.
    """

    number: int = 0
    updates: int = 0
    progress: float = 0.0
    memory: Memory = field(default_factory=Memory)
    figures: dict[str, Tensor] = field(default_factory=dict)


def fit(
    objective: Objective,
    student: Denoiser,
    peers: Peers,
    batches: Callable[[int], Batch],
    done: Callable[[int], float],
    *,
    pace: Pace = Pace(),
    mean: Denoiser | None = None,
    student_steps: int = 1,
    seed: int = 0,
    notify: Callable[[float], object] | None = None,
) -> Run:
    """Train until it is done; networks and their mean are changed in place.

    Args:
        objective: what is minimised, as `for_student` gives it.
        student: in training.
        peers: the networks that it names, see `make_peers`.
        batches: from the number of a step to what it learns from.
        done: from how many steps were taken to the share of the training that is done.
        pace: rates, mean and turns.
        mean: of the student's weights, a copy at first.
        student_steps: network calls that the student is trained for.
        seed: of the noise of every step.
        notify: is told the share that is done, after each step.

    Raises:
        ValueError: if a loss is not finite, or there is none for a network that is updated.
    """
    trained = {"student": student, **{name: peers[name] for name in objective.auxiliaries}}
    optimizers = {name: _adam(name, network, pace) for name, network in trained.items()}
    run = Run()
    while run.progress < 1:
        turn = frozenset({"student"})
        if objective.auxiliaries:
            turn = pace.alternation.trained(run.number, objective.auxiliaries)
        batch = batches(run.number)
        step = TrainingStep(
            batch.x_0,
            student.diffusion,
            student,
            peers,
            run.progress,
            keyed_generator(seed, run.number, 0, 0),
            student_steps,
            memory=run.memory,
            trajectory=batch.trajectory,
            train=turn,
        )
        _update(objective, step, optimizers, pace)
        run.number, run.figures = run.number + 1, step.log.figures
        if "student" in turn:
            run.updates += 1
            if mean is not None:
                _average(mean, student, min(pace.ema, (1 + run.updates) / (10 + run.updates)))
        run.progress = done(run.number)
        if notify is not None:
            notify(min(run.progress, 1.0))
    return run


def make_peers(
    objective: Objective,
    student: Denoiser,
    mean: Denoiser,
    sources: Mapping[str, Denoiser],
    seed: int = 0,
) -> dict[str, Denoiser | nn.Module]:
    """The networks beside the student, by the names that the objective gives them.

    Args:
        objective: says which.
        student: of which copies and factories make what they make.
        mean: of the student's weights.
        sources: "teacher", which is asked, and "start", of which copies of the teacher are made:
            an exact teacher has no weights.
        seed: of the weights that a factory draws.

    Raises:
        ValueError: for a frozen network that is no teacher and no mean.
    """
    check_networks(objective)
    made: dict[str, Denoiser | nn.Module] = {}
    for name, need in objective.networks.items():
        if isinstance(need, Frozen):
            made[name] = mean if need.mean else sources["teacher"]
        elif need.copy_of is not None:
            source = student if need.copy_of == "student" else sources["start"]
            made[name] = source.trainable_copy()
        else:
            built = need.build(name, student.networks()[0], student.diffusion, seed)
            judges = isinstance(built, Discriminator)
            made[name] = CountedDiscriminator(built) if judges else built
    return made


def checked(
    objective: Objective, student: Denoiser, teacher: Denoiser, student_steps: int
) -> Objective:
    """The objective as it is for a student.

    Raises:
        ValueError: if it needs what the laboratory does not have, or its settings do not go with a
            training for so many calls: what a trainer says of them, too.
    """
    check_networks(objective)
    objective = objective.for_student(student)
    objective.check(student, teacher, [student_steps])
    return objective


def check_networks(objective: Objective) -> None:
    """Raise if the objective needs a network, or a reward, that the laboratory does not have."""
    if objective.takes_reward:
        raise ValueError(
            f"Objective {objective.id!r} needs the reward of each row, and the laboratory has none."
        )
    for name, need in objective.networks.items():
        if isinstance(need, Frozen) and name != "teacher" and not need.mean:
            raise ValueError(
                f"Objective {objective.id!r} needs the network {name!r}; the laboratory has "
                "teacher, means of the student and what is trained."
            )


def mean_of(student: Denoiser) -> Denoiser:
    """A copy that keeps the running mean of the student's weights."""
    return student.with_networks(
        [copy.deepcopy(network).requires_grad_(False) for network in student.networks()]
    )


def _modules(network: Denoiser | nn.Module) -> tuple[nn.Module, ...]:
    return network.networks() if isinstance(network, Denoiser) else (network,)


def _adam(name: str, network: Denoiser | nn.Module, pace: Pace) -> torch.optim.Adam:
    rate = pace.learning_rate if name == "student" else pace.auxiliary_learning_rate
    weights = [weight for module in _modules(network) for weight in module.parameters()]
    return torch.optim.Adam(weights, rate, betas=pace.betas)


def _update(
    objective: Objective,
    step: TrainingStep,
    optimizers: Mapping[str, torch.optim.Optimizer],
    pace: Pace,
) -> None:
    losses = {name: loss for name, loss in objective(step).items() if name in step.train}
    if not losses:
        raise ValueError(
            f"Objective {objective.id!r} gives no loss for a network that is updated: "
            f"{', '.join(sorted(step.train))}."
        )
    for name, loss in losses.items():
        if not bool(loss.isfinite()):
            raise ValueError(
                f"The {name} loss of {objective.id!r} is {float(loss.detach())} after "
                f"{step.progress:.0%} of the training; lower the learning rate."
            )
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    rates = {"student": pace.learning_rate}
    for name in losses:
        (group,) = optimizers[name].param_groups
        group["lr"] = rates.get(name, pace.auxiliary_learning_rate) * pace.rate(step.progress)
        nn.utils.clip_grad_norm_(group["params"], pace.max_grad_norm)
        optimizers[name].step()


@torch.no_grad()
def _average(mean: Denoiser, student: Denoiser, decay: float) -> None:
    for kept, new in zip(_modules(mean), _modules(student), strict=True):
        for old, weight in zip(kept.parameters(), new.parameters(), strict=True):
            old.lerp_(weight, 1 - decay)
