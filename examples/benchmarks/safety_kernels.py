"""What the criterion of the trainer's guard sees of a student, and what other kernels would.

    python examples/benchmarks/safety_kernels.py --json FILE [--only patches sentences]
        [--student FOLDER --calls 1 2 4]

Rows of `--only`: the combinations of `safety.py`, trained with the guard on, but for its last look,
which here judges and puts nothing back. `figure` is what no training looks at (lower is better),
`beyond` by how many standard errors the student's samples are farther from the data than the
teacher's, by the squared maximum mean discrepancy of each kernel: "grams" is the guard's, and
"hamming_c" exp(-c h / median of h), h the number of positions at which two rows differ; `auc`, how
well a ridge regression on the kernel of c = 4 tells samples from data in five-fold cross-validation
(student, teacher; .5 is perfect). Rows of `--student` (a student of the package's digits teacher
that `scoreboard_digits.py` keeps): the same of 1,000 samples at each number of calls.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import torch
from benchmark_files import rows_file
from safety import COMBINATIONS, Combination, judged, trainer_of
from safety_problems import Problem, letters, patches, sentences
from torch import Tensor
from transformers import AutoModelForMaskedLM

from hf_ddistill.cli.evaluate import draw
from hf_ddistill.cli.quickstart import shipped_teacher
from hf_ddistill.evaluation import load_digit_tokens, split_digits
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.training import comparison
from hf_ddistill.training.callbacks.guard import Guard
from hf_ddistill.training.likeness import Rows, _shared
from hf_ddistill.training.told_apart import FOLDS, _scores

SHARPNESS, AUC_OF, SAMPLES = (1, 4, 8), 4, 1000
Kernel = Callable[[Tensor, Tensor], Tensor]


def kernels(data: Tensor) -> dict[str, Kernel]:
    """By name; the scale of distances is that of some rows of the data."""
    median = float(_differing(data[:200], data[:200]).median().clamp_min(1))

    def whole(x: Tensor) -> Rows:
        return Rows(x, torch.ones_like(x, dtype=torch.bool))

    def of(sharpness: int) -> Kernel:
        return lambda a, b: (-sharpness * _differing(a, b) / median).exp()

    grams: Kernel = lambda a, b: _shared(whole(a), whole(b))[0]  # noqa: E731
    return {"grams": grams, **{f"hamming_{c}": of(c) for c in SHARPNESS}}


def _differing(a: Tensor, b: Tensor) -> Tensor:
    return (a[:, None] != b[None]).sum(-1).double()


def beyond(kernel: Kernel, student: Tensor, teacher: Tensor, data: Tensor, paired: bool) -> float:
    """How much farther from the data the student is, in standard errors."""
    found = []
    for rows in (student, teacher):
        own, across = kernel(rows, rows), kernel(rows, data)
        others = (own.sum(1) - own.diagonal()) / (len(rows) - 1)
        mean = float(others.mean() - 2 * across.mean())
        found.append((mean, 2 * (others - across.mean(1)), -2 * across.mean(0)))
    (own, of_own, one), (its, of_its, other) = found
    parts = (of_own - of_its,) if paired else (of_own, of_its)
    error = sum(float(part.var()) / len(part) for part in (*parts, one - other)) ** 0.5
    return round((own - its) / max(error, 1e-12), 2)


def auc(kernel: Kernel, rows: Tensor, data: Tensor) -> float:
    """Of kernel ridge regression, samples against as many rows of the data."""
    count = min(len(rows), len(data))
    both = torch.cat([rows[:count], data[:count]])
    gram, label = kernel(both, both), torch.ones(2 * count, dtype=torch.float64)
    label[count:] = -1
    fold = torch.randperm(count, generator=torch.Generator().manual_seed(0)).repeat(2) % FOLDS
    score = _scores(gram, label, fold)
    return round(float((score[:count, None] > score[None, count:]).double().mean()), 3)


def of_combination(problem: Problem, made: Combination) -> dict:
    """Train, and compare what the guard's last look is given."""
    seen, likeness = [], comparison.likeness

    def noted(rows: Rows, data: Rows, vocab_size: int) -> object:
        seen.append((rows.tokens, data.tokens))
        return likeness(rows, data, vocab_size)

    def judge(guard: Guard, _: int) -> None:
        larger = guard.comparison.larger()
        larger.student()
        (teacher, data), (student, _) = seen[-2:]
        known = kernels(data)
        found = {
            name: beyond(kernel, student, teacher, data, larger.is_noisier)
            for name, kernel in known.items()
        }
        told = [auc(known[f"hamming_{AUC_OF}"], rows, data) for rows in (student, teacher)]
        seen.append({"beyond": found, "auc": told})

    torch.manual_seed(0)
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with (
            mock.patch.object(comparison, "likeness", noted),
            mock.patch.object(Guard, "_end", judge),
        ):
            trainer = trainer_of(problem, made, True, folder)
            trainer.train()
        with trainer.averaged_weights():
            figures = judged(problem, trainer.denoiser(), problem.calls)
    return {"figure": round(sum(figures) / len(figures), 4), **seen[-1]}


def of_student(folder: str, calls: int) -> dict:
    """A student of the digits beside its teacher."""
    split = split_digits(*load_digit_tokens(2))
    order = torch.randperm(len(split.train_tokens), generator=torch.Generator().manual_seed(0))
    data, drawn = split.train_tokens[order], []
    for model in (AutoModelForMaskedLM.from_pretrained(folder), shipped_teacher()):
        pipe = DiscreteDiffusionPipeline.from_model(model)
        pipe.set_progress_bar_config(disable=True)
        drawn.append(draw(pipe, calls, SAMPLES, seed=3, batch_size=250))
    known = kernels(data)
    far = {name: beyond(kernel, *drawn, data, False) for name, kernel in known.items()}
    told = [auc(known[f"hamming_{AUC_OF}"], rows, data) for rows in drawn]
    return {"beyond": far, "auc": told}


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    problems = {"letters": letters, "patches": patches, "sentences": sentences}
    parser.add_argument("--json", type=rows_file, required=True)
    parser.add_argument("--only", nargs="*", default=["patches", "sentences"], choices=problems)
    parser.add_argument("--student", help="folder of a student of the digits")
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4])
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.json.read_text())["rows"] if args.json.is_file() else []

    def add(about: dict, make: Callable[[], dict]) -> None:
        if not any(about.items() <= row.items() for row in rows):
            rows.append(about | make())
            print(rows[-1], flush=True)
            args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")

    for name in args.only:
        problem = problems[name]()
        for made in COMBINATIONS:
            if made.problem == name:
                about = {"problem": name, "model": made.objective, "rate": made.rate}
                about["noise"] = made.noise_dim
                add(about, lambda p=problem, m=made: of_combination(p, m))
    for calls in args.calls if args.student else ():
        about = {"problem": "digits", "model": Path(args.student).name, "calls": calls}
        add(about, lambda n=calls: of_student(args.student, n))


if __name__ == "__main__":
    main()
