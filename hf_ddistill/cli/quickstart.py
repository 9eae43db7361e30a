"""`hf-ddistill quickstart`: the main job on real handwritten digits, from teacher to pictures.

Binarised 8 x 8 digits, by class, and the absorbing process: with one bit per pixel, what few steps
lose is the correlation between pixels and nothing else, which is what distillation is about.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from hf_ddistill.cli.common import output_folder, print_table, write_json
from hf_ddistill.cli.evaluate import draw
from hf_ddistill.cli.plots import save_frontier, save_samples
from hf_ddistill.cli.quickstart_teacher import (
    TeacherSetup,
    last_whole_checkpoint,
    train_teacher,
)
from hf_ddistill.evaluation import (
    DigitsJudge,
    DigitSplit,
    judge_real,
    judge_samples,
    load_digit_tokens,
    match_entropy,
    nfe_frontier,
    pairwise_distance,
    split_digits,
)
from hf_ddistill.hub import save_pipeline
from hf_ddistill.objectives import Objective
from hf_ddistill.pipelines import DiscreteDiffusionPipeline
from hf_ddistill.training import (
    CardFacts,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)

HELP = "distil a teacher of handwritten digits, with pictures and figures (no download)"
LEVELS = 2
#: The settings of each objective: ECD in its few-step form.
OBJECTIVES = {"ecd": {"type": "ecd", "times": "grid_times"}}


@dataclass(frozen=True)
class Setup:
    """How long each part runs."""

    objective: str = "ecd"
    student_steps: int = 4
    steps: int = 400
    batch_size: int = 32
    learning_rate: float = 2e-4
    samples: int = 1000
    teacher_nfes: tuple[int, ...] = (1, 2, 4, 8, 16, 64)
    student_nfes: tuple[int, ...] = (1, 2, 4, 8)
    from_scratch: bool = False
    fast: bool = False
    seed: int = 0


FAST = {"steps": 30, "samples": 160, "teacher_nfes": (1, 4, 64), "student_nfes": (1, 4)}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--output", default="quickstart", help="folder (default: quickstart)")
    parser.add_argument("--fast", action="store_true", help="under two minutes, rougher figures")
    parser.add_argument(
        "--from-scratch", action="store_true", help="train the teacher, too (7,000 steps)"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Everything that the command does."""
    fast = {**FAST, "fast": True} if args.fast else {}
    setup = Setup(**fast, seed=args.seed, from_scratch=args.from_scratch)
    quickstart(output_folder(args.output), setup)
    return 0


def quickstart(folder: Path, setup: Setup) -> None:
    """Teacher, student, figures, pictures and card in `folder`.

    Run again after an interruption with the same setup, it goes on where it stopped.
    """
    started = time.monotonic()
    _begin(folder, setup)
    split = split_digits(*load_digit_tokens(LEVELS))
    judge = DigitsJudge.fit(LEVELS)
    print(f"Judge: {judge.accuracy:.1%} of held-out digits named right.")
    teacher = _teacher(folder, setup, split)
    student = _student(folder, setup, teacher, split)
    rows, matched, drawn = _measure(setup, judge, split.train_tokens, teacher, student)
    pipe = DiscreteDiffusionPipeline.from_model(student)
    save_pipeline(pipe, folder / "student", _facts(setup, student, rows))
    afresh = DiscreteDiffusionPipeline.from_pretrained(folder / "student")
    afresh.set_progress_bar_config(disable=True)
    again = draw(afresh, setup.student_steps, 64, seed=setup.seed, batch_size=64)
    name = f"student at {setup.student_steps} ({setup.objective})"
    panels = {
        "real": split.train_tokens[torch.randperm(1000, generator=_generator(1))],
        "teacher at 64": drawn["teacher", 64],
        f"teacher at {setup.student_steps}": drawn["teacher", setup.student_steps],
        name: again,
    }
    save_samples(folder / "samples.png", panels, LEVELS)
    save_frontier(folder / "frontier.png", rows)
    minutes = (time.monotonic() - started) / 60
    about = {"setup": asdict(setup), "judge_accuracy": judge.accuracy, "minutes": minutes}
    write_json(
        folder / "metrics.json", {"rows": rows, "teacher_at_equal_diversity": matched, **about}
    )
    print_table(rows)
    print(f"\nIn {folder}/: samples.png, frontier.png, metrics.json, student/ ({minutes:.1f} min)")


def _begin(folder: Path, setup: Setup) -> None:
    """Go on with the same settings; after other ones, or after a finished run, start anew."""
    file = folder / "setup.json"
    now = json.loads(json.dumps(asdict(setup)))
    same = file.exists() and json.loads(file.read_text()) == now
    if not same or (folder / "metrics.json").exists():
        for name in ("teacher", "student", "distillation"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("metrics.json", "samples.png", "frontier.png"):
            (folder / name).unlink(missing_ok=True)
    write_json(file, now)


def shipped_teacher() -> PreTrainedModel:
    """The teacher inside the package; its README says how it was trained and what it is worth."""
    with resources.as_file(resources.files("hf_ddistill") / "assets" / "digits_teacher") as path:
        return AutoModelForMaskedLM.from_pretrained(path)


def _teacher(folder: Path, setup: Setup, split: DigitSplit) -> PreTrainedModel:
    if not setup.from_scratch:
        return shipped_teacher()
    sizes = TeacherSetup(steps=400) if setup.fast else TeacherSetup()
    return train_teacher(folder / "teacher", split.train_tokens, split.train_labels, sizes)


def _student(
    folder: Path, setup: Setup, teacher: PreTrainedModel, split: DigitSplit
) -> PreTrainedModel:
    """Distil, from the last checkpoint if there is one."""
    work = folder / "distillation"
    columns = {
        "input_ids": split.train_tokens.tolist(),
        "class_labels": split.train_labels.tolist(),
    }
    trainer = DiscreteDistillationTrainer(
        teacher=teacher,
        objective=OBJECTIVES[setup.objective],
        args=DiscreteDistillationConfig(
            str(work),
            student_steps=setup.student_steps,
            max_steps=setup.steps,
            per_device_train_batch_size=setup.batch_size,
            learning_rate=setup.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            ema_decay=0.99,
            logging_steps=max(1, setup.steps // 20),
            save_steps=max(1, setup.steps // 4),
            save_total_limit=1,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            seed=setup.seed,
        ),
        train_dataset=Dataset.from_dict(columns),
    )
    trainer.train(resume_from_checkpoint=last_whole_checkpoint(work))
    trainer.save_model(str(work / "final"))
    return AutoModelForMaskedLM.from_pretrained(work / "final")


def _measure(
    setup: Setup,
    judge: DigitsJudge,
    real: Tensor,
    teacher: PreTrainedModel,
    student: PreTrainedModel,
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[tuple[str, int], Tensor]]:
    """Rows for real data, teacher and student; the teacher at the student's entropy; samples."""
    drawn: dict[tuple[str, int], Tensor] = {}
    truth = judge_real(judge, real, generator=_generator(0))
    rows = [{"model": "real", "nfe": 0, **truth, "pairwise": pairwise_distance(real)}]
    models = {
        "teacher": (teacher, setup.teacher_nfes),
        setup.objective: (student, setup.student_nfes),
    }
    for name, (model, nfes) in models.items():
        pipe = _quiet(model)

        def sampler(nfe: int, count: int, name: str = name, pipe: Any = pipe) -> Tensor:
            drawn[name, nfe] = draw(pipe, nfe, count, seed=setup.seed + 1, batch_size=250)
            return drawn[name, nfe]

        verdict = partial(judge_samples, judge, real=real)
        measured = nfe_frontier(sampler, nfes, setup.samples, verdict)
        for row in measured:
            row["pairwise"] = pairwise_distance(drawn[name, row["nfe"]])
            rows.append({"model": name, **row})
    target = pairwise_distance(drawn[setup.objective, setup.student_steps])
    return rows, _matched(setup, judge, real, teacher, target), drawn


def _matched(
    setup: Setup, judge: DigitsJudge, real: Tensor, teacher: PreTrainedModel, target: float
) -> dict[str, Any]:
    """The teacher at the student's calls, at the temperature that gives it the same diversity."""

    def sample(temperature: float) -> Tensor:
        pipe = _quiet(teacher, temperature=temperature)
        return draw(pipe, setup.student_steps, setup.samples, seed=setup.seed + 1, batch_size=250)

    row = {"model": "teacher", "nfe": setup.student_steps, "target": target}
    try:
        found = match_entropy(
            sample, target, low=0.5, high=2.0, budget=6, tolerance=0.02, entropy=pairwise_distance
        )
    except ValueError as error:
        # The student may be more, or less, diverse than any temperature makes its teacher.
        return {**row, "temperature": None, "why": str(error)}
    figures = judge_samples(judge, sample(found.temperature), real)
    return {**row, "temperature": found.temperature, "pairwise": found.entropy, **figures}


def _quiet(model: PreTrainedModel, **settings: Any) -> DiscreteDiffusionPipeline:
    pipe = DiscreteDiffusionPipeline.from_model(model, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _facts(setup: Setup, student: PreTrainedModel, rows: Sequence[dict[str, Any]]) -> CardFacts:
    from_scratch = "trained from scratch by" if setup.from_scratch else "shipped with"
    return CardFacts(
        name="student",
        objective=Objective.from_config(OBJECTIVES[setup.objective]).to_config(),
        citation=Objective.named(setup.objective).citation,
        diffusion=student.config.discrete_diffusion,
        steps=setup.student_steps,
        teacher=f"digits teacher {from_scratch} hf_ddistill",
        data="1,497 binarised 8 x 8 digits of scikit-learn (the rest is held out)",
        rows=rows,
        license="apache-2.0",
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
