"""One law-matching student of the digits teacher, trained longer, against the teacher at 1 to 64.

    python examples/benchmark_digits.py --steps 1500 --samples 5000 --output digits_benchmark

Everything as in `hf-ddistill quickstart`, but more steps and samples, and one more figure: the
Fréchet distance within each class, averaged, which a blur of the classes cannot flatter. It goes
on from its last checkpoint, and writes `metrics.json` and the student's folder.
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.cli.quickstart import RECIPES, shipped_teacher
from hf_ddistill.cli.quickstart_figures import Measure
from hf_ddistill.cli.quickstart_teacher import TeacherSetup, train_teacher
from hf_ddistill.cli.resuming import train
from hf_ddistill.evaluation import (
    DigitsJudge,
    frechet_distance,
    load_digit_tokens,
    split_digits,
)


def teacher_of(args: argparse.Namespace, split):  # noqa: ANN001, ANN201
    """The teacher in the package, or one of more levels of grey, trained once."""
    if args.levels == 2:
        return shipped_teacher()
    folder = Path(args.output) / "teacher"
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder)
    setup = TeacherSetup(levels=args.levels, steps=args.teacher_steps, bf16=True)
    return train_teacher(folder, split.train_tokens, split.train_labels, setup)


def student_in(folder: Path, settings: dict, args: argparse.Namespace, split):  # noqa: ANN201
    """The student, from the last checkpoint if there is one."""
    columns = {
        "input_ids": split.train_tokens.tolist(),
        "class_labels": split.train_labels.tolist(),
    }
    recipe = RECIPES["law_matching"]
    teacher, training = teacher_of(args, split), recipe.more | args.training
    if training.get("bf16"):
        # torch's fused attention has a slow bfloat16 gradient on CPUs.
        teacher.set_attn_implementation("eager")
    trainer = DiscreteDistillationTrainer(
        teacher=teacher,
        objective=settings,
        args=DiscreteDistillationConfig(
            str(folder),
            student_steps=4,
            max_steps=args.steps,
            per_device_train_batch_size=args.batch_size or recipe.batch_size,
            warmup_steps=20,
            logging_steps=50,
            save_steps=250,
            save_total_limit=1,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            seed=args.seed,
            **training,
        ),
        train_dataset=Dataset.from_dict(columns),
    )
    train(trainer, folder)
    trainer.save_model()
    return trainer.model


def within_classes(judge: DigitsJudge, drawn: torch.Tensor, split) -> float:  # noqa: ANN001
    """The mean over classes of the Fréchet distance to the training digits of that class."""
    labels = torch.arange(len(drawn)) % 10
    features, real = judge.features(drawn), judge.features(split.train_tokens)
    distances = [
        frechet_distance(features[labels == c], real[split.train_labels == c]) for c in range(10)
    ]
    return sum(distances) / 10


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="digits_benchmark")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--objective", default='{"type": "law_matching"}', help="JSON")
    parser.add_argument("--training", type=json.loads, default={}, help="JSON, arguments")
    parser.add_argument("--batch-size", type=int, help="of the quickstart if not given")
    parser.add_argument("--teacher-nfe", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--levels", type=int, default=2, help="of grey; with a teacher of its own")
    parser.add_argument("--teacher-steps", type=int, default=7000, help="of that teacher")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder, settings = Path(args.output), json.loads(args.objective)
    split = split_digits(*load_digit_tokens(args.levels))
    judge = DigitsJudge.fit(args.levels)
    student = student_in(folder / "student", settings, args, split)
    measure = Measure(judge, split.train_tokens, args.samples, args.seed)
    measure.model("law_matching", student, (1, 2, 4, 8))
    measure.model("teacher", teacher_of(args, split), args.teacher_nfe)
    for row in measure.rows[1:]:
        drawn = measure.drawn[row["model"], row["nfe"]]
        row["fd_within_classes"] = within_classes(judge, drawn, split)
        print({key: value for key, value in row.items() if not isinstance(value, dict)})
    about = {"steps": args.steps, "objective": settings, "samples": args.samples}
    about |= {
        "levels": args.levels,
        "training": args.training,
        "batch_size": args.batch_size,
        "seed": args.seed,
    }
    (folder / "metrics.json").write_text(json.dumps({"rows": measure.rows, **about}, indent=1))


if __name__ == "__main__":
    main()
