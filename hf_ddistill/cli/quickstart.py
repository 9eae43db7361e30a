"""`hf-ddistill quickstart`: the main job on real handwritten digits, from teacher to pictures.

Binarised 8 x 8 digits, by class, and the absorbing process: with one bit per pixel, what few steps
lose is the correlation between pixels and nothing else, which is what distillation is about. Beside
the student of this run stands the one in the package, which was trained by the same method for
three quarters of an hour of a core.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from hf_ddistill.cli.common import print_table
from hf_ddistill.cli.evaluate import draw
from hf_ddistill.cli.options.quickstart import QuickstartOptions
from hf_ddistill.cli.plots import save_frontier, save_samples
from hf_ddistill.cli.quickstart_figures import Measure
from hf_ddistill.cli.quickstart_folder import begin, finishing
from hf_ddistill.cli.quickstart_teacher import TeacherSetup, train_teacher
from hf_ddistill.cli.resuming import train
from hf_ddistill.cli.run_folder import run_folder
from hf_ddistill.evaluation import (
    DigitsJudge,
    DigitSplit,
    load_digit_tokens,
    split_digits,
)
from hf_ddistill.hub import save_pipeline
from hf_ddistill.objectives import Objective
from hf_ddistill.outputs import writing
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.training import (
    CardFacts,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)

LEVELS = 2


@dataclass(frozen=True)
class Recipe:
    """How one objective is trained: ECD in its few-step form, law matching with a noise input.

    Args:
        settings: of the objective.
        steps, batch_size: of the training.
        more: of `DiscreteDistillationConfig`.
    """

    settings: Mapping[str, Any]
    steps: int
    batch_size: int
    more: Mapping[str, Any]


RECIPES = {
    "ecd": Recipe(
        {"type": "ecd", "times": "grid_times"},
        steps=400,
        batch_size=32,
        more={"learning_rate": 2e-4, "lr_scheduler_type": "cosine", "ema_decay": 0.99},
    ),
    "law_matching": Recipe(
        {"type": "law_matching"},
        steps=700,
        batch_size=64,
        more={
            "learning_rate": 4e-4,
            "lr_scheduler_type": "cosine",
            "auxiliary_learning_rate": 1e-3,
            "noise_dim": 8,
            "adam_beta2": 0.99,
            "ema_decay": 0.99,
            "bf16": True,
        },
    ),
}
#: What the student in the package is called in rows and pictures.
SHIPPED = "law_matching_shipped"
SHIPPED_STEPS = 5000


@dataclass(frozen=True)
class Setup:
    """How long each part runs; `steps` and `batch_size` are the recipes' own if not given."""

    objectives: tuple[str, ...] = ("law_matching",)
    student_steps: int = 4
    steps: int | None = None
    batch_size: int | None = None
    samples: int = 1000
    draws: int = 3
    teacher_nfes: tuple[int, ...] = (1, 2, 4, 8, 64)
    student_nfes: tuple[int, ...] = (1, 2, 4)
    from_scratch: bool = False
    fast: bool = False
    seed: int = 0


FAST = {
    "steps": 24,
    "samples": 160,
    "draws": 1,
    "teacher_nfes": (1, 4, 64),
    "student_nfes": (1, 4),
}


def run(options: QuickstartOptions) -> int:
    """Everything that the command does."""
    fast = {**FAST, "fast": True} if options.fast else {}
    setup = Setup(**fast, seed=options.seed, from_scratch=options.from_scratch)
    quickstart(Path(options.output), setup, options.overwrite)
    return 0


def quickstart(folder: Path, setup: Setup, overwrite: bool = False) -> None:
    """Teacher, students, figures, pictures and cards in `folder`.

    Run again after an interruption with the same setup, it goes on where it stopped.
    """
    started = time.monotonic()
    begin(folder, asdict(setup), overwrite)
    split = split_digits(*load_digit_tokens(LEVELS))
    judge = DigitsJudge(LEVELS)
    print(f"Judge: {judge.classifier.accuracy:.1%} of held-out digits named right.")
    teacher = _teacher(folder, setup, split)
    students = {}
    for name in setup.objectives:
        print(f"Distilling by {name}.")
        students[name] = train_student(folder, setup, name, teacher, split)
    measure = Measure(judge, setup.samples, setup.draws, setup.seed)
    measure.model("teacher", teacher, setup.teacher_nfes)
    for name, student in students.items():
        steps = setup.steps or RECIPES[name].steps
        measure.model(name, student, setup.student_nfes, steps=steps)
    if not setup.from_scratch:
        # It was distilled from the teacher in the package, and is compared with no other.
        measure.model(SHIPPED, shipped_student(), setup.student_nfes, steps=SHIPPED_STEPS)
    matched = [measure.matched(teacher, name, setup.student_steps) for name in students]
    panels = {
        "real": by_class(split.train_tokens, split.train_labels),
        "teacher at 64": measure.drawn["teacher", 64],
        f"teacher at {setup.student_steps}": measure.drawn["teacher", setup.student_steps],
    }
    with finishing(folder) as draft:
        for name, student in students.items():
            pipe = DiscreteDiffusionPipeline.from_model(student)
            target = draft / "students" / name
            save_pipeline(pipe, target, _facts(setup, name, student, measure.rows))
            afresh = DiscreteDiffusionPipeline.from_pretrained(target)
            afresh.set_progress_bar_config(disable=True)
            again = draw(afresh, setup.student_steps, 64, seed=setup.seed, batch_size=64)
            panels[f"{name} at {setup.student_steps}"] = again
        if (SHIPPED, setup.student_steps) in measure.drawn:
            shown = f"{SHIPPED} at {setup.student_steps}"
            panels[shown] = measure.drawn[SHIPPED, setup.student_steps]
        save_samples(draft / "samples.png", panels, LEVELS)
        save_frontier(draft / "frontier.png", measure.rows)
        minutes = (time.monotonic() - started) / 60
        about = {
            "setup": asdict(setup),
            "judge_accuracy": judge.classifier.accuracy,
            "minutes": minutes,
        }
        written = {"rows": measure.rows, "teacher_at_equal_diversity": matched, **about}
        (draft / "metrics.json").write_text(json.dumps(written, indent=1) + "\n")
    print_table([_shown(row) for row in measure.rows])
    print(f"\nIn {folder}/: samples.png, frontier.png, metrics.json, students/ ({minutes:.1f} min)")


def shipped_teacher() -> PreTrainedModel:
    """The teacher inside the package; its README says how it was trained and what it is worth."""
    with resources.as_file(resources.files("hf_ddistill") / "assets" / "digits_teacher") as path:
        return AutoModelForMaskedLM.from_pretrained(path)


def shipped_student() -> PreTrainedModel:
    """The student inside the package; its README says how it was trained and what it is worth."""
    with resources.as_file(resources.files("hf_ddistill") / "assets" / "digits_student") as path:
        # Its file has float16, half the size; it computes in float32.
        return AutoModelForMaskedLM.from_pretrained(path, dtype=torch.float32)


def _teacher(folder: Path, setup: Setup, split: DigitSplit) -> PreTrainedModel:
    if not setup.from_scratch:
        return shipped_teacher()
    sizes = TeacherSetup(steps=400) if setup.fast else TeacherSetup()
    return train_teacher(folder / "teacher", split.train_tokens, split.train_labels, sizes)


def train_student(
    folder: Path, setup: Setup, name: str, teacher: PreTrainedModel, split: DigitSplit
) -> PreTrainedModel:
    """Distil by the recipe of an objective, from the last checkpoint if there is one."""
    work, recipe = folder / "distillation" / name, RECIPES[name]
    steps = setup.steps or recipe.steps
    if recipe.more.get("bf16"):
        # torch's fused attention has a slow gradient in bfloat16 on a CPU.
        teacher.set_attn_implementation("eager")
    columns = {
        "input_ids": split.train_tokens.tolist(),
        "class_labels": split.train_labels.tolist(),
    }
    trainer = DiscreteDistillationTrainer(
        teacher=teacher,
        objective=dict(recipe.settings),
        args=DiscreteDistillationConfig(
            str(work),
            student_steps=setup.student_steps,
            max_steps=steps,
            per_device_train_batch_size=setup.batch_size or recipe.batch_size,
            warmup_steps=10,
            logging_steps=max(1, steps // 20),
            save_steps=max(1, steps // 4),
            save_total_limit=1,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            seed=setup.seed,
            **recipe.more,
        ),
        train_dataset=Dataset.from_dict(columns),
    )
    with run_folder(trainer, work):
        train(trainer, work)
        with writing(work / "final") as draft:
            trainer.save_model(str(draft))
    return AutoModelForMaskedLM.from_pretrained(work / "final")


def _facts(
    setup: Setup, name: str, student: PreTrainedModel, rows: Sequence[dict[str, Any]]
) -> CardFacts:
    from_scratch = "trained from scratch by" if setup.from_scratch else "shipped with"
    return CardFacts(
        name=name,
        objective=Objective.from_config(dict(RECIPES[name].settings)).to_config(),
        citation=Objective.named(name).citation,
        diffusion=student.config.discrete_diffusion,
        steps=setup.student_steps,
        teacher=f"digits teacher {from_scratch} hf_ddistill",
        data="1,497 binarised 8 x 8 digits of scikit-learn (the rest is held out)",
        rows=rows,
        license="apache-2.0",
    )


def by_class(tokens: Tensor, labels: Tensor) -> Tensor:
    """The rows in the order in which samples are drawn, row i of class i mod 10."""
    by_label = [tokens[labels == label] for label in range(10)]
    fewest = min(len(rows) for rows in by_label)
    return torch.stack([rows[:fewest] for rows in by_label], 1).flatten(0, 1)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the console shows it: without the spreads, which are in metrics.json."""
    return {key: value for key, value in row.items() if not key.endswith("_spread")}
