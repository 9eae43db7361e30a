"""The scoreboard of the exact laboratory: teacher, limit, start and students of any objective, each
with the exact distance of its terminal law from the data's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.laboratory import (
    ExactProblem,
    Limit,
    chi_square,
    entropy,
    kl_divergence,
    steps_within,
    terminal_law,
    total_variation,
)
from hf_ddistill.laboratory.network import ExactNetwork, network_denoiser
from hf_ddistill.laboratory.students import (
    BenchSettings,
    fit_start,
    new_network,
    set_up,
    train_student,
)
from hf_ddistill.objectives import Objective
from hf_ddistill.samplers import Sampler

Row: TypeAlias = dict[str, Any]
#: Draws of the noise input at each step of a student's law: 2^19 leave 0.002 in total variation.
DRAWS = 2**19


def distances(data: Tensor, law: Tensor) -> Row:
    """How far a law is from the data's, and its entropy."""
    return {
        "tv": float(total_variation(data, law)),
        "kl": float(kl_divergence(data, law)),
        "reverse_kl": float(kl_divergence(law, data)),
        "chi_square": float(chi_square(data, law)),
        "entropy": float(entropy(law)),
    }


@dataclass(frozen=True)
class Bench:
    """A problem with its name, and what is measured on it.

    Args:
        name: of the problem, for the rows.
        problem: law, process and schedule.
        settings: of every training.
        draws: of the noise input at each step of a student's law.
    """

    name: str
    problem: ExactProblem
    settings: BenchSettings = BenchSettings()
    draws: int = DRAWS

    @property
    def description(self) -> str:
        """The problem in one line."""
        problem, diffusion = self.problem, self.problem.diffusion
        return (
            f"{self.name}: {len(problem.law):,} sequences of {problem.length}, entropy "
            f"{problem.entropy:.4f} nats, total correlation {problem.total_correlation:.4f}; "
            f"{diffusion.process.id}, {len(problem.states):,} states, {diffusion.schedule.id}"
        )

    #: Network calls a sample, if nobody says.
    usual_calls: ClassVar[tuple[int, ...]] = (1, 2, 4, 8)

    def fit_start(self) -> ExactNetwork:
        """The network that all students start from."""
        return fit_start(self.problem, self.settings)

    def row(self, method: str, nfe: int, seed: int | None, law: Tensor, **more: Any) -> Row:
        """One row of the scoreboard."""
        process = self.problem.diffusion.process.id
        named = {"method": method, "problem": self.name, "process": process, "nfe": nfe}
        return {**named, **distances(self.problem.law, law), "seed": seed, **more}

    @torch.no_grad()
    def law(
        self, denoiser: Denoiser, nfe: int, sampler: Sampler | str = "ancestral"
    ) -> tuple[Tensor, float]:
        """The terminal law, and half the total variation between two estimates of it from half of
        the draws each: about what its own distance from the true one adds. 0 without a noise
        input, where the law is exact."""
        sampler = Sampler.from_config(sampler)
        grid = sampler.grid(nfe, self.problem.diffusion)
        run = (denoiser, self.problem, self.problem.length, grid, sampler)
        if denoiser.latent is None:
            return terminal_law(*run), 0.0
        one, other = (
            terminal_law(*run, draws=self.draws // 2, generator=torch.Generator().manual_seed(seed))
            for seed in (0, 1)
        )
        return (one + other) / 2, float(total_variation(one, other)) / 2

    def teacher_rows(
        self, nfe: Iterable[int], samplers: Sequence[Sampler | str] = ("ancestral",)
    ) -> Iterator[Row]:
        """The exact conditionals, by the steps of each sampler that so many calls allow.

        Raises:
            ValueError: if one step of a sampler takes more calls.
        """
        for sampler in map(Sampler.from_config, samplers):
            sampler.check(self.problem.diffusion)
            for calls in nfe:
                steps = steps_within(sampler, self.problem, calls)
                law, _ = self.law(self.problem.denoiser(), steps, sampler)
                yield self.row("teacher", calls, None, law, sampler=sampler.id, steps=steps)

    def limit_rows(
        self, nfe: Iterable[int], find: Callable[[ExactProblem, int], Limit]
    ) -> Iterator[Row]:
        """The best factorised sampler without a noise input that `find` finds for a number of
        calls: a bound by optimisation, not a proof."""
        for calls in nfe:
            yield self.row("limit", calls, 0, find(self.problem, calls).law)

    def start_rows(self, start: ExactNetwork, nfe: Iterable[int]) -> Iterator[Row]:
        """The network that all students start from."""
        denoiser = network_denoiser(start, self.problem)
        for calls in nfe:
            yield self.row("start", calls, 0, self.law(denoiser, calls)[0])

    def check(self, objective: Objective, nfe: Sequence[int], *, one_student: bool = False) -> None:
        """Raise, before anything is trained, for what `student_rows` would; arguments as there."""
        objective = _told(objective, one_student)
        start = new_network(self.problem, self.settings)
        for calls in [max(nfe)] if one_student else nfe:
            set_up(self.problem, objective, calls, start, self.settings)

    def student_rows(
        self,
        objective: Objective,
        start: ExactNetwork,
        nfe: Sequence[int],
        seed: int,
        *,
        one_student: bool = False,
        notify: Callable[[float], object] | None = None,
    ) -> Iterator[Row]:
        """Train by an objective and measure: a student for each number of calls, or one for all.

        Args:
            objective: its settings; one with `steps` is told which of the two it is.
            start: where all start.
            nfe: numbers of network calls.
            seed: of the training.
            one_student: train one, for the largest number of calls, and measure it at all.
            notify: is told the share of each training that is done.
        """
        objective = _told(objective, one_student)
        for measured in [nfe] if one_student else [[calls] for calls in nfe]:
            trained = train_student(
                self.problem,
                objective,
                max(measured),
                start,
                self.settings,
                seed=seed,
                notify=notify,
            )
            cost = {
                **trained.cost(),
                "sampler": trained.sampler.id,
                "noise_dim": getattr(trained.denoiser.latent, "dim", 0),
                "one_student": one_student,
            }
            for calls in measured:
                law, error = self.law(trained.denoiser, calls, trained.sampler)
                yield self.row(objective.id, calls, seed, law, tv_error=error, **cost)


def _told(objective: Objective, one_student: bool) -> Objective:
    """An objective that knows for which numbers of calls it trains, if it has a setting for it."""
    if not hasattr(objective, "steps"):
        return objective
    return dataclasses.replace(objective, steps="each_number" if one_student else "only")
