"""Students at rates from 1e-5 to 1e-3, each beside its teacher at the same calls.

    python examples/benchmarks/safety.py --json safety.json [--text FILE] [--sapiens FOLDER
        --sequences FILE] [--unguarded]

A row says of a teacher (`rate` 0, with the sampler of a student) or a student how far its samples
are from the data, by a figure that no training looks at: lower is better, one number for each of
several draws. `letters` (a masked LM that knows a a and b b) and `patches` (one of the 2 x 3
patches of digits): the total variation. `sentences` (one that knows rows through ten letters): the
share of letters that do not follow the one before, and the total variation of single ones.
`characters` (FILE, any text; one of 32 characters): the share of 4-grams that the last tenth of the
text, which is held out, does not have, and the total variation of single ones. `digits` (the
teacher in the package): the Frechet distance in the features of a classifier. `sapiens` (FOLDER, a
masked LM of antibodies with its tokenizer; FILE, a sequence a line): the share of 4-mers that the
last 300 sequences, which are held out, do not have. `guarded` is False where the guard was off
(collapse_share and auxiliary_lag 0); `said` is what it said; `fewer`, where it kept a student for
what it is at fewer calls, are student and teacher there. Rows that the file has are not made again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmark_files import given_file, rows_file
from safety_problems import Problem, characters, digits, letters, patches, sapiens, sentences

from hf_ddistill import (
    Denoiser,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
    Objective,
)
from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.models import enter_sampler
from hf_ddistill.training.samples import draw_samples

#: Of each model.
DRAWS = 3


@dataclass(frozen=True)
class Combination:
    """One student: problem, objective, rate, and what else it is trained with."""

    problem: str
    objective: str
    rate: float
    noise_dim: int = 0


COMBINATIONS = (
    Combination("letters", "law_matching", 1e-5, noise_dim=2),
    Combination("letters", "law_matching", 1e-4, noise_dim=2),
    Combination("letters", "law_matching", 1e-3, noise_dim=2),
    Combination("patches", "law_matching", 1e-4, noise_dim=4),
    Combination("patches", "law_matching", 1e-3),
    Combination("patches", "ecd", 1e-5),
    Combination("patches", "distribution_matching", 3e-4, noise_dim=4),
    Combination("sentences", "law_matching", 1e-3),
    Combination("sentences", "law_matching", 3e-4, noise_dim=4),
    Combination("sentences", "ecd", 1e-3),
    Combination("sentences", "simplex_dmd", 3e-4, noise_dim=4),
    Combination("characters", "law_matching", 1e-3),
    Combination("characters", "law_matching", 1e-4, noise_dim=8),
    Combination("characters", "ecd", 3e-4),
    Combination("digits", "ecd", 1e-3),
    Combination("digits", "law_matching", 3e-4, noise_dim=8),
    Combination("digits", "law_matching", 1e-3, noise_dim=8),
    Combination("digits", "distribution_matching", 1e-4, noise_dim=8),
    Combination("sapiens", "ecd", 1e-3),
    Combination("sapiens", "law_matching", 5e-5),
    Combination("sapiens", "law_matching", 3e-4),
    Combination("sapiens", "simplex_dmd", 1e-4, noise_dim=8),
)


def trainer_of(
    problem: Problem, made: Combination, guarded: bool, folder: str
) -> DiscreteDistillationTrainer:
    """As a newcomer makes it: nothing is set but what the combination says."""
    off = {} if guarded else {"collapse_share": 0.0, "auxiliary_lag": 0.0}
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    args = DiscreteDistillationConfig(
        folder,
        student_steps=problem.calls,
        learning_rate=made.rate,
        logging_steps=1000,
        **problem.settings,
        noise_dim=made.noise_dim,
        **off,
        **quiet,
    )
    return DiscreteDistillationTrainer(
        teacher=problem.teacher(),
        objective=made.objective,
        args=args,
        train_dataset=problem.rows,
        processing_class=problem.tokenizer,
    )


def judged(problem: Problem, denoiser: Denoiser, calls: int) -> list[float]:
    """The figure of several draws."""
    shape = (problem.samples, len(problem.rows[0]["input_ids"]))
    noise = [keyed_generator(0, "judged", number) for number in range(DRAWS)]
    return [
        round(problem.judge(draw_samples(denoiser, shape, calls, 250, each)), 5) for each in noise
    ]


def of_teacher(problem: Problem, made: Combination) -> dict[str, Any]:
    """The teacher at the student's calls, with its sampler."""
    with TemporaryDirectory() as folder:
        trainer = trainer_of(problem, made, True, folder)
    enter_sampler(trainer.teacher.networks()[0], trainer.objective.sampler, problem.calls)
    return {"figures": judged(problem, trainer.teacher, problem.calls)}


def of_student(problem: Problem, made: Combination, guarded: bool) -> dict[str, Any]:
    """The student that is saved in the end."""
    torch.manual_seed(0)
    began = time.perf_counter()
    with TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = trainer_of(problem, made, guarded, folder)
        trainer.train()
        seconds = time.perf_counter() - began
        with trainer.averaged_weights():
            figures = judged(problem, trainer.denoiser(), problem.calls)
            fewer = at_fewer(problem, trainer) if trainer.guard.last.ahead else {}
    said = [str(each.message) for each in caught if "The student" in str(each.message)]
    guard = trainer.guard
    about = {"rate_left": guard.rate, "is_teacher": guard.last.is_teacher}
    about |= {"good_step": guard.good.step, **fewer, "said": said, "seconds": round(seconds, 1)}
    return {"figures": figures, **about}


def at_fewer(problem: Problem, trainer: DiscreteDistillationTrainer) -> dict[str, Any]:
    """The same of student and teacher at the fewer calls for which the student was kept."""
    enter_sampler(trainer.teacher.networks()[0], trainer.objective.sampler, problem.calls)
    numbers = trainer.objective.fewer_calls(problem.calls)
    models = {"student": trainer.denoiser(), "teacher": trainer.teacher}
    return {
        "fewer": {
            str(calls): {name: judged(problem, each, calls) for name, each in models.items()}
            for calls in numbers
        }
    }


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=rows_file, required=True)
    parser.add_argument("--text", type=given_file, help="of the characters")
    parser.add_argument("--sapiens", help="folder of the masked LM, with its tokenizer")
    parser.add_argument("--sequences", type=Path, help="one a line")
    parser.add_argument("--only", nargs="+", help="problems")
    parser.add_argument("--unguarded", action="store_true", help="without the guard, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.json.read_text())["rows"] if args.json.is_file() else []
    problems: dict[str, Callable[[], Problem]] = {
        "letters": letters,
        "patches": patches,
        "sentences": sentences,
        "digits": digits,
    }
    if args.text:
        problems["characters"] = lambda: characters(args.text)
    if args.sapiens:
        problems["sapiens"] = lambda: sapiens(args.sapiens, args.sequences)

    def add(about: dict[str, Any], make: Callable[[], dict[str, Any]]) -> None:
        if not any(about.items() <= row.items() for row in rows):
            rows.append(about | make())
            print(rows[-1], flush=True)
            args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")

    for name in args.only or problems:
        problem = problems[name]()
        for made in COMBINATIONS:
            if made.problem != name:
                continue
            sampler = Objective.from_config(made.objective).sampler.id
            common = {"problem": name, "calls": problem.calls, "sampler": sampler}
            add(
                {**common, "model": "teacher", "rate": 0},
                lambda p=problem, m=made: of_teacher(p, m),
            )
            about = {**common, "model": made.objective, "rate": made.rate, "noise": made.noise_dim}
            for guarded in (True, False)[: 1 + args.unguarded]:
                add(
                    {**about, "guarded": guarded},
                    lambda p=problem, m=made, g=guarded: of_student(p, m, g),
                )


if __name__ == "__main__":
    main()
