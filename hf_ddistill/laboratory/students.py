"""The laboratory's students of sequences: the start of all, and one student by an objective."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_ddistill.couplings.times import stratified
from hf_ddistill.denoisers import Denoiser
from hf_ddistill.laboratory import ExactProblem
from hf_ddistill.laboratory.fit import Batch, Pace, Peers, checked, fit, make_peers, mean_of
from hf_ddistill.laboratory.network import (
    Counted,
    CountedDiscriminator,
    ExactNetwork,
    exact_teacher,
    network_denoiser,
)
from hf_ddistill.linalg import keyed_generator
from hf_ddistill.objectives import Objective
from hf_ddistill.objectives.alternation import Alternation
from hf_ddistill.samplers import Sampler


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
            None for 4 where the process starts from masks, or the objective cannot do without, and
            for 0 where it starts from noise.
        noise_std: of what that adds to the first layer at first.
        learning_rate: of the student.
        auxiliary_learning_rate: of the auxiliary.
        auxiliary_updates: for each one of the student.
        auxiliary_warmup: steps at the start that train it alone.
        ema: decay of the student's running mean, which is what is measured.
        start_steps: of cross entropy against the exact conditionals, for the start of all.
        start_scale: what the hidden weights of that start are multiplied by before its first step.
            With those of torch a network is all but linear at first, and does not learn what only
            many tokens together decide, as parity; with 3 it does.
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
    start_scale: float = 1.0

    def __post_init__(self) -> None:
        if (self.calls is None) == (self.minutes is None):
            raise ValueError("Give either a number of calls or minutes, one of the two.")
        least = {"calls": 1, "rows": 2, "width": 1, "auxiliary_updates": 1}
        least |= {"noise_dim": 0, "auxiliary_warmup": 0, "start_steps": 0}
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise ValueError(f"{name} must be at least {bound}, got {value}.")
        rates = ("minutes", "noise_std", "learning_rate", "auxiliary_learning_rate", "start_scale")
        for name in rates:
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, got {value}.")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must lie in [0, 1), got {self.ema}.")

    @property
    def pace(self) -> Pace:
        """What the loop is told of them."""
        return Pace(
            self.learning_rate,
            self.auxiliary_learning_rate,
            ema=self.ema,
            alternation=Alternation(self.auxiliary_warmup, self.auxiliary_updates),
        )

    def noise_of(self, problem: ExactProblem, objective: Objective) -> int:
        """The width of the noise input of a student of this objective."""
        if not (objective.auxiliaries or objective.reads_noise):
            return 0
        if self.noise_dim is not None:
            return self.noise_dim
        masks = bool((problem.diffusion.process.limit() == 1).any())
        return 4 if objective.reads_noise or masks else 0


@dataclass(frozen=True)
class Student:
    """A student and what it cost.

    Args:
        denoiser: around the running mean of its weights.
        student_calls: passes of a batch through it in training.
        network_calls: passes of a batch through all networks, the exact teacher among them.
        updates: of the student.
        seconds: wall time of the training.
        record: the last parts of the loss that the objective recorded.
        sampler: that it is to be sampled with.
    """

    denoiser: Denoiser
    student_calls: float
    network_calls: float
    updates: int
    seconds: float
    record: Mapping[str, float]
    sampler: Sampler

    def cost(self) -> dict[str, float]:
        """What it cost, for a row."""
        return {
            "student_calls": round(self.student_calls, 1),
            "network_calls": round(self.network_calls, 1),
            "updates": self.updates,
            "seconds": round(self.seconds, 1),
        }


def fit_start(problem: ExactProblem, settings: BenchSettings, seed: int = 0) -> ExactNetwork:
    """The network that all students start from: cross entropy against the exact conditionals at
    states noised to all times."""
    generator = torch.Generator().manual_seed(seed)
    network = new_network(problem, settings, seed)
    denoiser, teacher = network_denoiser(network, problem), exact_teacher(problem)
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for number in range(settings.start_steps):
        optimizer.param_groups[0]["lr"] = 2e-3 * Pace().rate(number / settings.start_steps)
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


def new_network(problem: ExactProblem, settings: BenchSettings, seed: int = 0) -> ExactNetwork:
    """What that is before its first step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ExactNetwork(problem.diffusion.vocab_size, problem.length, settings.width)
    with torch.no_grad():
        for layer in (network.first, network.middle):
            layer.weight *= settings.start_scale
    return network


def set_up(
    problem: ExactProblem,
    objective: Objective,
    student_steps: int,
    start: ExactNetwork,
    settings: BenchSettings,
    seed: int = 0,
) -> tuple[Objective, Denoiser, Denoiser]:
    """The objective as it is for its student, the student and the exact teacher; arguments as
    `train_student`.

    Raises:
        ValueError: for settings that do not go with this training.
    """
    noise_dim = settings.noise_of(problem, objective)
    network = start.with_noise(noise_dim, settings.noise_std, seed)
    student = network_denoiser(network, problem, noise_dim)
    teacher = exact_teacher(problem, start)
    return checked(objective, student, teacher, student_steps), student, teacher


def train_student(
    problem: ExactProblem,
    objective: Objective,
    student_steps: int,
    start: ExactNetwork,
    settings: BenchSettings,
    *,
    seed: int = 0,
    notify: Callable[[float], object] | None = None,
) -> Student:
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
        ValueError: if the objective needs what the bench does not have, its settings do not go with
            the training, or its loss is not finite.
    """
    made = set_up(problem, objective, student_steps, start, settings, seed)
    (objective, student, teacher), mean = made, mean_of(made[1])
    sources = {"teacher": teacher, "start": network_denoiser(start, problem)}
    peers = make_peers(objective, student, mean, sources, seed)

    def batch(number: int) -> Batch:
        return Batch(_data(problem, settings.rows, keyed_generator(seed, number, "data")))

    return fit_student(
        objective,
        student,
        peers,
        batch,
        settings,
        mean=mean,
        student_steps=student_steps,
        seed=seed,
        notify=notify,
    )


def fit_student(
    objective: Objective,
    student: Denoiser,
    peers: Peers,
    batch: Callable[[int], Batch],
    settings: BenchSettings,
    *,
    mean: Denoiser,
    student_steps: int,
    seed: int,
    notify: Callable[[float], object] | None,
) -> Student:
    """`fit` for as many passes, or minutes, as the settings give, with what it took."""
    begun = time.perf_counter()

    def done(number: int) -> float:
        if settings.calls is not None:
            return student.network.sequences / settings.rows / settings.calls
        return (time.perf_counter() - begun) / 60 / settings.minutes

    run = fit(
        objective,
        student,
        peers,
        batch,
        done,
        pace=settings.pace,
        mean=mean,
        student_steps=student_steps,
        seed=seed,
        notify=notify,
    )
    return Student(
        mean,
        student.network.sequences / settings.rows,
        network_calls(student, peers, settings.rows),
        run.updates,
        time.perf_counter() - begun,
        {key: float(value) for key, value in run.figures.items()},
        objective.learned_sampler(peers, student_steps),
    )


def network_calls(student: Denoiser, peers: Peers, rows: int) -> float:
    """Passes of a batch through all networks, discriminators among them."""
    networks = [getattr(each, "network", each) for each in (student, *peers.values())]
    counted = [each for each in networks if isinstance(each, (Counted, CountedDiscriminator))]
    return sum(each.sequences for each in counted) / rows


def _data(problem: ExactProblem, rows: int, generator: torch.Generator) -> Tensor:
    return problem.sequences[torch.multinomial(problem.law, rows, True, generator=generator)]
