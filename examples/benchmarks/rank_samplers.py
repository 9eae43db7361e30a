"""All samplers of one teacher at equal network calls: where truth is known, on digits, on text.

    python examples/benchmarks/rank_samplers.py --problem standard
    python examples/benchmarks/rank_samplers.py --problem digits
    python examples/benchmarks/rank_samplers.py --problem text --text TEXT.txt --teacher FOLDER

A sampler that makes several calls a step has as many steps as its calls allow, so that all are
compared at equal calls; `made` is what a batch took. One that calls as often as it must (`OWN`) is
drawn once, under `calls` 0. `standard` gives exact laws; `digits` draws from the teacher of the
package, and beside it from the student of the package; `text` trains a masked diffusion model of
characters on TEXT.txt (`dllm.py` says how to get one), once, into FOLDER. Rows that the JSON file
has are not made again, so that a run that was stopped goes on.
"""

import argparse
import itertools
import json
from pathlib import Path

import torch
from benchmark_files import given_file, rows_file
from rank_samplers_models import Digits, Text

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import (
    ExactProblem,
    calls_of,
    sequence_numbers,
    steps_within,
    terminal_law,
)
from hf_ddistill.laboratory.problems import exact_law
from hf_ddistill.laboratory.scoreboard import distances
from hf_ddistill.processes import Absorbing, Uniform
from hf_ddistill.samplers import Canvas, Sampler
from hf_ddistill.schedules import LogLinear

#: Beside every member with its own settings, the unmasking rules: (name, sampler).
RULES = {
    "confidence": {"type": "static", "score": "confidence"},
    "margin": {"type": "static", "score": "margin"},
    "entropy": {"type": "static", "score": "entropy"},
    "random": {"type": "static", "score": "random"},
    "left_to_right": {"type": "static", "score": "left_to_right"},
    "threshold_.9": {"type": "threshold", "threshold": 0.9},
    "factor": "factor",
    "klass": "klass",
    "prophet": "prophet",
    "entropy_bounded": "entropy_bounded",
}
#: Draws of a sampler whose law cannot be enumerated.
DRAWS = 2**16
#: Samplers that call as often as it takes, whatever number of steps they are given.
OWN = ("speculative", "uniformisation")
CALLS = (1, 2, 4, 8, 16, 32, 64)


def candidates(names=()):
    """Samplers by name: all members, and the unmasking sampler with each rule."""
    members = {name: kind for name, kind in Sampler.registry.items() if name != "unmasking"}
    found = {name: kind() for name, kind in members.items()}
    for name, rule in RULES.items():
        found[name] = Sampler.from_config({"type": "unmasking", "unmasking": rule})
    return {name: sampler for name, sampler in found.items() if not names or name in names}


def exact_problem(process):
    """The standard problem under a process, alpha = 1 - t."""
    law = exact_law("digits")
    return ExactProblem(law.law, law.sequences, Diffusion(process, LogLinear(eps=1e-9)))


def plan(sampler, problem, calls):
    """Steps that so many calls allow, or the sentence by which the sampler refuses."""
    try:
        sampler.check(problem.diffusion)
        return steps_within(sampler, problem, calls)
    except ValueError as error:
        return str(error)


@torch.no_grad()
def law_of(sampler, problem, steps):
    """The law of its samples, and whether it is exact or that of draws."""
    diffusion, length = problem.diffusion, problem.length
    try:
        grid = sampler.grid(steps, diffusion)
        return terminal_law(problem.denoiser(), problem, length, grid, sampler), True
    except ValueError as error:
        print(f"{sampler.id}, {steps} steps: {error}")
    generator = torch.Generator().manual_seed(0)
    x = sampler.sample(problem.denoiser(), Canvas.empty((DRAWS, length)), steps, generator)
    size = diffusion.vocab_size
    numbers = sequence_numbers(x, size).bincount(minlength=size**length).double() / DRAWS
    return numbers[sequence_numbers(problem.sequences, size)], False


def standard(args, keep):
    """Exact distances from the data's law under masks and under uniform noise."""
    for process in (Absorbing(3), Uniform(2)):
        problem = exact_problem(process)
        for name, sampler in candidates(args.samplers).items():
            for calls in args.calls:
                about = {"problem": "standard", "process": process.id, "sampler": name}
                about["calls"] = calls
                if keep.has(about):
                    continue
                steps = plan(sampler, problem, calls)
                if isinstance(steps, str):
                    print(f"{name}, {process.id}, {calls} calls: {steps}")
                    continue
                law, exact = law_of(sampler, problem, steps)
                made = calls_of(sampler, problem, steps)
                found = {"steps": steps, "made": made, "exact": exact}
                keep.row(about | found | distances(problem.law, law))


def drawn(world, args, keep):
    """Figures of samples of a model, at equal calls; the teacher at lower temperatures, too."""
    problem = exact_problem(Absorbing(3))  # how many calls a step takes
    about = {"problem": world.name, "sampler": "data", "calls": 0, "samples": args.samples}
    if not keep.has(about):
        keep.row(about | world.real())
    for seed, calls in itertools.product(args.seeds, args.calls):
        for name, sampler in candidates(args.samplers).items():
            for temperature in (1.0, *(args.temperatures if name == "ancestral" else ())):
                about = {"problem": world.name, "process": "absorbing", "sampler": name}
                about |= {"calls": 0 if name in OWN else calls, "temperature": temperature}
                about |= {"samples": args.samples, "seed": seed}
                steps = "there" if keep.has(about) else plan(sampler, problem, calls)
                if isinstance(steps, int):
                    found = world.figures(sampler, steps, temperature, seed)
                    keep.row(about | {"steps": steps} | found)
        for name, figures in world.students(calls, seed):
            about = {"problem": world.name, "process": "absorbing", "sampler": name}
            about |= {"calls": calls, "temperature": 1.0, "samples": args.samples, "seed": seed}
            if not keep.has(about) and (not args.samplers or name in args.samplers):
                keep.row(about | {"steps": calls} | figures())


class Rows:
    """The rows of a JSON file, written with each new one."""

    def __init__(self, file):
        self.file = file
        self.rows = json.loads(file.read_text())["rows"] if file.is_file() else []

    def has(self, about):
        """Whether there is a row with these entries."""
        return any(about.items() <= row.items() for row in self.rows)

    def row(self, row):
        """One more, printed and kept."""
        self.rows.append(row)
        self._keep(row)

    def more(self, row, found):
        """Entries that a row there is does not have yet."""
        row |= found
        self._keep(row)

    def _keep(self, row):
        self.file.write_text(json.dumps({"rows": self.rows}, indent=1) + "\n")
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        print(*(f"{key}={value}" for key, value in shown.items()), flush=True)


def main():
    """Rank and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problem", nargs="+", default=["standard", "digits"])
    parser.add_argument("--samplers", nargs="*", default=(), help="names; all if not given")
    parser.add_argument("--calls", type=int, nargs="+", default=CALLS)
    parser.add_argument("--temperatures", type=float, nargs="*", default=())
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--text", type=given_file, help="plain English, documents by empty lines")
    parser.add_argument("--teacher", type=Path, default=Path("text_teacher"))
    parser.add_argument("--steps", type=int, default=2000, help="of that teacher's training")
    parser.add_argument("--json", type=rows_file, default="rank_samplers.json")
    args = parser.parse_args()
    keep = Rows(args.json)
    if "standard" in args.problem:
        standard(args, keep)
    if "digits" in args.problem:
        drawn(Digits(args.samples), args, keep)
    if "text" in args.problem:
        drawn(Text(args.samples, args.text, args.teacher, args.steps), args, keep)


if __name__ == "__main__":
    main()
