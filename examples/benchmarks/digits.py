"""One law-matching student of the digits teacher, trained longer, against the teacher at 1 to 64.

    python examples/benchmarks/digits.py --steps 1500 --samples 5000 --output digits_benchmark

Everything as in `hf-ddistill quickstart`, but more steps and samples, and two more figures: the
Fréchet distance within each class, averaged, which a blur of the classes cannot flatter, and that
to the 300 digits which neither teacher, student nor judge has seen. The row "fresh" is what real
digits would have that are in no training set. It goes on from its last checkpoint, and writes
`metrics.json` and the student's folder; with `--steps 0` it measures the student that is there, and
`--seed` draws other samples of it. `--levels` of grey and `--uniform` noise come with a teacher of
their own; with `--teachers` the student is aimed at the mean of several, measured as "ensemble".
"""

import argparse
import json
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.cli.quickstart import RECIPES, shipped_student, shipped_teacher
from hf_ddistill.cli.quickstart_figures import Measure
from hf_ddistill.cli.quickstart_teacher import TeacherSetup, train_teacher
from hf_ddistill.cli.resuming import train
from hf_ddistill.denoisers import Ensemble
from hf_ddistill.evaluation import (
    DigitsJudge,
    frechet_distance,
    load_digit_tokens,
    split_digits,
)
from hf_ddistill.models import as_denoiser
from hf_ddistill.objectives import Objective


def teacher_of(args: argparse.Namespace, split, seed: int = 0):  # noqa: ANN001, ANN201
    """The teacher in the package, or one of other levels of grey, other noise or another seed,
    trained once."""
    if args.levels == 2 and not args.uniform and not seed:
        return shipped_teacher()
    folder = Path(args.output) / (f"teacher_{seed}" if seed else "teacher")
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder)
    setup = TeacherSetup(
        levels=args.levels, uniform=args.uniform, steps=args.teacher_steps, bf16=True, seed=seed
    )
    return train_teacher(folder, split.train_tokens, split.train_labels, setup)


def recipe_for(objective: dict) -> dict:
    """The quickstart's settings of law matching, without those of what it trains beside the student
    where an objective trains nothing there."""
    more, own = RECIPES["law_matching"].more, Objective.from_config(objective).auxiliaries
    return {k: v for k, v in more.items() if own or not k.startswith("auxiliary_")}


def averaged(models: list):  # noqa: ANN201
    """The first of them with the mean of all their logits, which is what `Ensemble` predicts."""

    def mean(module, given, settings, output):  # noqa: ANN001, ANN202
        logits = [other(*given, **settings).logits for other in models[1:]]
        output.logits = torch.stack([output.logits, *logits]).mean(0)
        return output

    models[0].register_forward_hook(mean, with_kwargs=True)
    return models[0]


def first_student(start: str | None):  # noqa: ANN201
    """What the student starts from: the one in the package, one in a folder, or None for a copy of
    the teacher."""
    if start is None:
        return None
    model = (
        shipped_student()
        if start == "package"
        else AutoModelForMaskedLM.from_pretrained(start, dtype=torch.float32)
    )
    model.set_attn_implementation("eager")
    return model


def student_in(folder: Path, settings: dict, args: argparse.Namespace, split):  # noqa: ANN201
    """The student, from the last checkpoint if there is one."""
    if args.steps == 0:
        if not (folder / "model.safetensors").exists():
            raise SystemExit(
                f"--steps 0 measures a trained student, and there is none in {folder}."
            )
        return AutoModelForMaskedLM.from_pretrained(folder)
    columns = {
        "input_ids": split.train_tokens.tolist(),
        "class_labels": split.train_labels.tolist(),
    }
    recipe = RECIPES["law_matching"]
    teachers = [teacher_of(args, split, seed) for seed in range(args.teachers)]
    training = {"student_steps": 4} | recipe_for(settings) | args.training
    for teacher in teachers if training.get("bf16") else ():
        # torch's fused attention has a slow bfloat16 gradient on CPUs.
        teacher.set_attn_implementation("eager")
    trainer = DiscreteDistillationTrainer(
        model=first_student(args.start),
        teacher=Ensemble(tuple(as_denoiser(teacher.eval()) for teacher in teachers)),
        objective=settings,
        args=DiscreteDistillationConfig(
            str(folder),
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


def within_classes(features, real, labels: torch.Tensor) -> float:  # noqa: ANN001
    """The mean over classes of the Fréchet distance; row i of `features` is of class i mod 10."""
    of = torch.arange(len(features)) % 10
    distances = [frechet_distance(features[of == c], real[labels == c]) for c in range(10)]
    return sum(distances) / 10


def fresh(judge: DigitsJudge, samples: int, split, halvings: int = 40) -> dict:  # noqa: ANN001
    """What `samples` new digits of the training digits' own law would have: the mean distances of
    halves with even classes, less by the bias of their size, which goes with 1 / N + 1 / M."""
    real, labels = judge.classifier.features(split.train_tokens), split.train_labels
    generator, total = torch.Generator().manual_seed(0), torch.zeros(2)
    for _ in range(halvings):
        order = torch.randperm(len(real), generator=generator)
        order = order[labels[order].argsort(stable=True)]
        a, b = order[::2], order[1::2]
        inside = [
            frechet_distance(real[a[labels[a] == c]], real[b[labels[b] == c]]) for c in range(10)
        ]
        total += torch.tensor([frechet_distance(real[a], real[b]), sum(inside) / 10])
    fewer = (1 / samples + 1 / len(real)) / (2 / (len(real) / 2))
    fd, within = (total / halvings * fewer).tolist()
    held_out = frechet_distance(real, judge.classifier.features(split.held_out_tokens))
    return {"fd": fd, "fd_within_classes": within, "fd_held_out": held_out}


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="digits_benchmark")
    parser.add_argument("--steps", type=int, default=1500, help="0: only measure")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--objective", default='{"type": "law_matching"}', help="JSON")
    parser.add_argument("--training", type=json.loads, default={}, help="JSON, arguments")
    parser.add_argument("--start", help="a student to go on from: a folder, or 'package'")
    parser.add_argument("--batch-size", type=int, help="of the quickstart if not given")
    parser.add_argument("--nfe", type=int, nargs="*", default=[1, 2, 4, 8], help="of the student")
    parser.add_argument("--teacher-nfe", type=int, nargs="*", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--levels", type=int, default=2, help="of grey; with a teacher of its own")
    parser.add_argument(
        "--uniform", type=float, default=0.0, help="share of random tokens in the noise; likewise"
    )
    parser.add_argument(
        "--teachers", type=int, default=1, help="whose mean the student is aimed at"
    )
    parser.add_argument("--teacher-steps", type=int, default=7000, help="of that teacher")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder, settings = Path(args.output), json.loads(args.objective)
    split = split_digits(*load_digit_tokens(args.levels))
    judge = DigitsJudge(args.levels)
    student = student_in(folder / "student", settings, args, split)
    measure = Measure(judge, args.samples, 1, args.seed)
    models = {
        "law_matching": (student, args.nfe),
        "teacher": (teacher_of(args, split), args.teacher_nfe),
    }
    if args.teachers > 1:
        teachers = [teacher_of(args, split, seed) for seed in range(args.teachers)]
        models["ensemble"] = (averaged(teachers), args.teacher_nfe)
    for name, (model, nfes) in models.items():
        if nfes:
            measure.model(name, model, nfes)
    features_of = judge.classifier.features
    real, unseen = features_of(split.train_tokens), features_of(split.held_out_tokens)
    for row in measure.rows[1:]:
        features = features_of(measure.drawn[row["model"], row["nfe"]])
        row["fd_within_classes"] = within_classes(features, real, split.train_labels)
        row["fd_held_out"] = frechet_distance(features, unseen)
    measure.rows.append({"model": "fresh", "nfe": 0, **fresh(judge, args.samples, split)})
    for row in measure.rows[1:]:
        print({key: value for key, value in row.items() if not isinstance(value, dict)})
    about = {"steps": args.steps, "objective": settings, "samples": args.samples}
    about |= {
        "levels": args.levels,
        "uniform": args.uniform,
        "teachers": args.teachers,
        "training": args.training,
        "batch_size": args.batch_size,
        "seed": args.seed,
    }
    (folder / "metrics.json").write_text(json.dumps({"rows": measure.rows, **about}, indent=1))


if __name__ == "__main__":
    main()
