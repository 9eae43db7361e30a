"""Training of the laboratory's small networks: the common start, and one student by an
objective."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hf_ddistill.couplings import TrainingStep
from hf_ddistill.couplings.times import stratified
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.laboratory import ExactProblem
from hf_ddistill.laboratory.network import ExactNetwork, exact_teacher, network_denoiser
from hf_ddistill.objectives import Objective
from hf_ddistill.training.alternation import Alternation

#: What the bench can supply to an objective.
NETWORKS = ("teacher", "ema", "auxiliary")


@dataclass(frozen=True)
class BenchSettings:
    """What all objectives are trained with: Adam, a cosine down to a hundredth, a running mean.

    Args:
        calls: passes of a batch through the student in training; all objectives get as many. An
            objective that rolls its student out needs several a step.
        minutes: or the wall time of each training.
        rows: of a batch.
        width: of the hidden layers of all networks.
        noise_dim: numbers of noise at each position, for students whose objective has an auxiliary;
            None for 4 where the process starts from masks and for 0 where it starts from noise.
        noise_std: of what that adds to the first layer at first.
        learning_rate: of the student.
        auxiliary_learning_rate: of the auxiliary.
        auxiliary_updates: for each one of the student.
        auxiliary_warmup: steps at the start that train it alone.
        ema: decay of the student's running mean, which is what is measured.
        start_steps: of cross entropy against the exact conditionals, for the start of all.
    """

    calls: int | None = 12_000
    minutes: float | None = None
    rows: int = 512
    width: int = 192
    noise_dim: int | None = None
    noise_std: float = 1.0
    learning_rate: float = 1e-3
    auxiliary_learning_rate: float = 2e-3
    auxiliary_updates: int = 1
    auxiliary_warmup: int = 0
    ema: float = 0.99
    start_steps: int = 1000

    def __post_init__(self) -> None:
        if (self.calls is None) == (self.minutes is None):
            raise ValueError("Give either a number of calls or minutes, one of the two.")
        least = {"calls": 1, "rows": 2, "width": 1, "auxiliary_updates": 1}
        least |= {"noise_dim": 0, "auxiliary_warmup": 0, "start_steps": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"{name} must be at least {bound}, got {value}.")
        rates = ("minutes", "noise_std", "learning_rate", "auxiliary_learning_rate")
        for name in rates:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, got {value}.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}.")

    def noise_of(self, problem: ExactProblem, objective: Objective) -> int:
        """The width of the noise input of a student of this objective."""
        if not objective.auxiliaries:
            return 0
        if self.noise_dim is not None:
            return self.noise_dim
        return 4 if bool((problem.diffusion.process.limit() == 1).any()) else 0


@dataclass(frozen=True)
class Trained:
    """A student and what it cost.

    Args:
        denoiser: around the running mean of its weights.
        student_calls: passes of a batch through it in training.
        network_calls: passes of a batch through all networks, the exact teacher among them.
        updates: of the student.
        seconds: wall time of the training.
        record: the last parts of the loss that the objective recorded.
    """

    denoiser: Denoiser
    student_calls: float
    network_calls: float
    updates: int
    seconds: float
    record: Mapping[str, float]


def check_objective(objective: Objective) -> None:
    """Raise if the objective needs a network that the bench does not have."""
    if missing := [name for name in objective.networks if name not in NETWORKS]:
        raise ValueError(
            f"Objective {objective.id!r} needs the network {missing[0]!r}; the laboratory has "
            f"{', '.join(NETWORKS)}."
        )


def fit_start(problem: ExactProblem, settings: BenchSettings, seed: int = 0) -> ExactNetwork:
    """The network that all students start from: cross entropy against the exact conditionals at
    states noised to all times."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ExactNetwork(problem.diffusion.vocab_size, problem.length, settings.width)
    denoiser, teacher = network_denoiser(network, problem), exact_teacher(problem)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for number in range(settings.start_steps):
        _set_rate(optimizer, number / settings.start_steps)
        x_0 = _data(problem, settings.rows, generator)
        t = stratified(len(x_0), generator, x_0.device)
        x_t = problem.diffusion.corrupt(x_0, t, generator)
        where = problem.diffusion.undetermined(x_t)
        log_q = denoiser(x_t, t).log_conditional[where]
        target = teacher(x_t, t).log_conditional[where].exp().to(log_q)
        loss = -(target * log_q).sum() / where.numel()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network


def train_student(
    problem: ExactProblem,
    objective: Objective,
    student_steps: int,
    start: ExactNetwork,
    settings: BenchSettings,
    *,
    seed: int = 0,
    notify: Callable[[float], object] | None = None,
) -> Trained:
    """Train a copy of the start.

    Args:
        problem: its exact conditionals are the teacher.
        objective: what is minimised.
        student_steps: network calls that the student is trained for.
        start: where student and auxiliary start; the student gets a noise input beside it.
        settings: of the training.
        seed: of batches, noise and the weights of the noise input.
        notify: is told the share of the training that is done, after each step.

    Raises:
        ValueError: if the objective needs a network that the bench does not have, or its loss is
            not finite.
    """
    check_objective(objective)
    generator = torch.Generator().manual_seed(seed)
    noise_dim = settings.noise_of(problem, objective)
    network = start.with_noise(noise_dim, settings.noise_std, seed)
    mean = copy.deepcopy(network).requires_grad_(False)
    student, teacher = network_denoiser(network, problem, noise_dim), exact_teacher(problem)
    auxiliary = copy.deepcopy(start)
    peers = {
        "teacher": teacher,
        "ema": network_denoiser(mean, problem, noise_dim),
        "auxiliary": network_denoiser(auxiliary, problem),
    }
    peers = {name: peers[name] for name in objective.networks}
    optimizers = {"student": _adam(network, settings.learning_rate)}
    turns = Alternation()
    if "auxiliary" in peers:
        optimizers["auxiliary"] = _adam(auxiliary, settings.auxiliary_learning_rate)
        turns = Alternation(settings.auxiliary_warmup, settings.auxiliary_updates)
    memory: dict[str, Tensor] = {}
    begun, progress, number, updates, record = time.perf_counter(), 0.0, 0, 0, {}
    while progress < 1:
        step = TrainingStep(
            _data(problem, settings.rows, generator),
            problem.diffusion,
            student,
            peers,
            progress,
            generator,
            student_steps,
            memory=memory,
            train=turns.trained(number, objective.auxiliaries),
        )
        _update(objective, step, optimizers)
        if "student" in step.train:
            updates += 1
            _average(mean, network, min(settings.ema, (1 + updates) / (10 + updates)))
        number, record = number + 1, step.record
        calls, seconds = student.network.sequences / settings.rows, time.perf_counter() - begun
        if settings.calls is not None:
            progress = calls / settings.calls
        else:
            progress = seconds / 60 / settings.minutes
        if notify is not None:
            notify(min(progress, 1.0))
    shown = sum(some.network.sequences for some in (student, *peers.values()))
    return Trained(
        network_denoiser(mean, problem, noise_dim),
        calls,
        shown / settings.rows,
        updates,
        seconds,
        {key: float(value) for key, value in record.items()},
    )


def _update(
    objective: Objective, step: TrainingStep, optimizers: Mapping[str, torch.optim.Optimizer]
) -> None:
    losses = {name: loss for name, loss in objective(step).items() if name in step.train}
    for name, loss in losses.items():
        if not bool(loss.isfinite()):
            raise ValueError(
                f"The {name} loss of {objective.id!r} is {float(loss.detach())} after "
                f"{step.progress:.0%} of the training; lower the learning rate."
            )
        optimizer = optimizers[name]
        _set_rate(optimizer, step.progress)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
        optimizer.step()


def _adam(network: nn.Module, rate: float) -> torch.optim.Adam:
    # Short memory: what each of the two networks is told changes with the other.
    return torch.optim.Adam(network.parameters(), rate, betas=(0.5, 0.99))


def _set_rate(optimizer: torch.optim.Optimizer, progress: float) -> None:
    share = 0.01 + 0.99 * (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    for group in optimizer.param_groups:
        group.setdefault("full", group["lr"])
        group["lr"] = group["full"] * share


@torch.no_grad()
def _average(mean: nn.Module, network: nn.Module, decay: float) -> None:
    for kept, new in zip(mean.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def _data(problem: ExactProblem, rows: int, generator: torch.Generator) -> Tensor:
    return problem.sequences[torch.multinomial(problem.law, rows, True, generator=generator)]
