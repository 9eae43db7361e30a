"""Students at rates from 1e-5 to 1e-3, each beside its teacher at the same calls.

    python examples/benchmarks/safety.py --json safety.json
    python examples/benchmarks/safety.py --json safety.json --sapiens FOLDER --sequences FILE

A row says of a teacher (`rate` 0) or a student how far its samples are from the data, by a figure
that no training looks at: lower is better. `letters` (a masked LM that knows a a and b b): the
total variation. `sentences` (one that knows rows through ten letters): the share of letters that do
not follow the one before, and the total variation of single ones. `digits` (the teacher in the
package): the Frechet distance in the features of a classifier. `sapiens` (FOLDER, a masked LM of
antibodies with its tokenizer; FILE, a sequence a line): the share of 4-mers that the last 300
sequences, which are held out, do not have. `guarded` is False where the guard was off
(collapse_share and auxiliary_lag 0); `said` is what it said. Rows that the file has are not made
again.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertConfig, BertForMaskedLM

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.evaluation.digits_judge import DigitsJudge
from hf_ddistill.hub import load_model
from hf_ddistill.linalg.keyed_noise import keyed_generator
from hf_ddistill.training.samples import draw_samples

STEPS, LETTERS, LENGTH = 40, 10, 8


@dataclass(frozen=True)
class Problem:
    """A teacher with its data.

    Args:
        teacher: makes the model.
        rows: of the data.
        judge: of samples (N, L); lower is better.
        samples: how many are judged.
        calls: of student and teacher.
        settings: of the training.
        tokenizer: of the model, if it has one.
    """

    teacher: Callable[[], torch.nn.Module]
    rows: list[dict[str, Any]]
    judge: Callable[[Tensor], float]
    samples: int
    calls: int
    settings: dict[str, Any]
    tokenizer: object = None


@dataclass(frozen=True)
class Combination:
    """One student: problem, objective, rate, and what else it is trained with."""

    problem: str
    objective: str
    rate: float
    noise_dim: int = 0
    noise_std: float = 0.3


COMBINATIONS = (
    Combination("letters", "law_matching", 1e-5, noise_dim=2, noise_std=3.0),
    Combination("letters", "law_matching", 1e-4, noise_dim=2, noise_std=3.0),
    Combination("letters", "law_matching", 1e-3, noise_dim=2, noise_std=3.0),
    Combination("sentences", "law_matching", 1e-3),
    Combination("sentences", "law_matching", 3e-4, noise_dim=4, noise_std=3.0),
    Combination("sentences", "ecd", 1e-3),
    Combination("digits", "ecd", 1e-3),
    Combination("digits", "law_matching", 3e-4, noise_dim=8),
    Combination("digits", "law_matching", 1e-3, noise_dim=8),
    Combination("sapiens", "ecd", 1e-3),
    Combination("sapiens", "law_matching", 5e-5),
    Combination("sapiens", "law_matching", 3e-4),
)


def masked_lm(rows: Tensor, hidden: int, layers: int, steps: int) -> BertForMaskedLM:
    """A masked LM that learns rows of letters from 0; the mask is the last token."""
    torch.manual_seed(0)
    mask = int(rows.max()) + 1
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": 2 * hidden}
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": rows.shape[1]}
    model = BertForMaskedLM(BertConfig(vocab_size=mask + 1, mask_token_id=mask, **sizes, **quiet))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(steps):
        hidden_there = torch.rand(rows.shape) < torch.rand(len(rows), 1).clamp_min(0.1)
        labels = torch.where(hidden_there, rows, -100)
        model(torch.where(hidden_there, mask, rows), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def letters() -> Problem:
    """Two letters that are equal."""
    rows = torch.arange(2)[:, None].expand(2, 2).repeat(32, 1)

    def judge(samples: Tensor) -> float:
        law = torch.bincount(2 * samples[:, 0] + samples[:, 1], minlength=4) / len(samples)
        return float((law - torch.tensor([0.5, 0.0, 0.0, 0.5])).abs().sum() / 2)

    settings = {"per_device_train_batch_size": 64, "max_steps": 5 * STEPS}
    return Problem(lambda: masked_lm(rows, 16, 2, 150), _listed(rows), judge, 8000, 1, settings)


def sentences() -> Problem:
    """Rows through ten letters, from any of them on."""
    start = torch.randint(LETTERS, (512, 1), generator=torch.Generator().manual_seed(0))
    rows = (start + torch.arange(LENGTH)) % LETTERS

    def judge(samples: Tensor) -> float:
        right = samples.diff(dim=1) % LETTERS == 1
        law = torch.bincount(samples.flatten(), minlength=LETTERS) / samples.numel()
        return float(1 - right.float().mean() + (law - 1 / LETTERS).abs().sum() / 2)

    settings = {"per_device_train_batch_size": 32, "max_steps": STEPS}
    return Problem(lambda: masked_lm(rows, 32, 1, 400), _listed(rows), judge, 2000, 4, settings)


def digits() -> Problem:
    """Those of scikit-learn, with the teacher of the package."""
    judge = DigitsJudge()
    split = judge.split
    labels = split.train_labels.tolist()
    rows = [
        {**row, "class_labels": label}
        for row, label in zip(_listed(split.train_tokens), labels, strict=True)
    ]
    teacher = str(files("hf_ddistill") / "assets/digits_teacher")
    settings = {"per_device_train_batch_size": 32, "max_steps": STEPS}
    return Problem(
        lambda: load_model(teacher),
        rows,
        lambda samples: float(judge(samples)["fd"]),
        1000,
        4,
        settings,
    )


def sapiens(folder: str, sequences: Path) -> Problem:
    """A masked LM of antibodies."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = sequences.read_text().split()
    rows = [{"input_ids": tokenizer(text)["input_ids"]} for text in texts[:-300]]
    length = Counter(len(row["input_ids"]) for row in rows).most_common(1)[0][0]
    rows = [row for row in rows if len(row["input_ids"]) == length]
    known = {text[i : i + 4] for text in texts[-300:] for i in range(len(text) - 3)}

    def judge(samples: Tensor) -> float:
        texts = ["".join(tokenizer.convert_ids_to_tokens(row[1:-1].tolist())) for row in samples]
        own = [text[i : i + 4] for text in texts for i in range(len(text) - 3)]
        return 1 - sum(each in known for each in own) / len(own)

    def teacher() -> torch.nn.Module:
        return AutoModelForMaskedLM.from_pretrained(folder)

    settings = {"per_device_train_batch_size": 16, "max_steps": 30, "max_length": length}
    return Problem(teacher, rows, judge, 200, 4, settings, tokenizer)


def _listed(rows: Tensor) -> list[dict[str, Any]]:
    return [{"input_ids": row} for row in rows.tolist()]


def trainer_of(
    problem: Problem, made: Combination, guarded: bool, folder: str
) -> DiscreteDistillationTrainer:
    """As a newcomer makes it: nothing is set but what the combination says."""
    off = {} if guarded else {"collapse_share": 0.0, "auxiliary_lag": 0.0}
    noise = {"noise_dim": made.noise_dim, "noise_std": made.noise_std} if made.noise_dim else {}
    quiet = {"report_to": [], "save_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    args = DiscreteDistillationConfig(
        folder,
        student_steps=problem.calls,
        learning_rate=made.rate,
        logging_steps=1000,
        **problem.settings,
        **noise,
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


def of_teacher(problem: Problem, made: Combination) -> dict[str, Any]:
    """Two draws of the teacher at the student's calls."""
    with TemporaryDirectory() as folder:
        trainer = trainer_of(problem, made, True, folder)
        shape = (problem.samples, len(problem.rows[0]["input_ids"]))
        figures = [
            problem.judge(
                draw_samples(trainer.teacher, shape, problem.calls, 256, keyed_generator(0, seed))
            )
            for seed in ("one", "two")
        ]
    return {"figure": figures[0], "again": figures[1]}


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
            samples = trainer.sample(problem.samples)
    said = [str(each.message) for each in caught if "student" in str(each.message)]
    return {"figure": problem.judge(samples), "said": said, "seconds": round(seconds, 1)}


def main() -> None:
    """Make the rows that are missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--sapiens", help="folder of the masked LM, with its tokenizer")
    parser.add_argument("--sequences", type=Path, help="one a line")
    parser.add_argument("--only", nargs="+", help="problems")
    parser.add_argument("--unguarded", action="store_true", help="without the guard, too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.json.read_text())["rows"] if args.json.is_file() else []
    problems: dict[str, Callable[[], Problem]] = {
        "letters": letters,
        "sentences": sentences,
        "digits": digits,
    }
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
            common = {"problem": name, "calls": problem.calls}
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
