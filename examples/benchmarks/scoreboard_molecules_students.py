"""The students of `scoreboard_molecules.py`: every objective at one number of network passes.

A pass is one row through one network, forward; the passes of a step are counted, not taken from a
formula, in a few steps that are thrown away. The trainer's guard is off but for --guard: what an
objective does is measured, and not what the guard makes of it.
"""

import copy
import json
import tempfile
import time
from dataclasses import dataclass

from scoreboard_molecules_teacher import in_bf16, settings, trained
from torch.nn.modules.module import register_module_forward_hook
from transformers import AutoModelForMaskedLM, TrainerCallback

from hf_ddistill import (
    DiscreteDiffusionConfig,
    DiscreteDiffusionTrainer,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)

TRIED = 64  # steps in which passes are counted, behind the first of them
NOISE = {"noise_dim": 8}
PAIR = {"learning_rate": 5e-4, "auxiliary_learning_rate": 1e-3}
D_MMD = {"type": "distribution_matching", "start": "grid"}
CALL = {"type": "law_matching", "horizon": "call"}
STEP = {"type": "law_matching", "horizon": "step", "divergence": "mean_kl"}
BRIDGE = {**STEP, "horizon": "bridge"}


@dataclass(frozen=True)
class Student:
    """The objective of a student, the settings of its training that are not those of all, and how
    many times --passes it takes."""

    objective: dict
    training: dict
    budgets: int = 1


STUDENTS = {
    "law_matching_step": Student(STEP, NOISE | PAIR),
    "law_matching_bridge": Student(BRIDGE, NOISE | PAIR),
    "distribution_matching": Student(D_MMD, NOISE | PAIR),
    "law_matching": Student(CALL, NOISE | PAIR),
    "law_matching_jeffreys": Student({**CALL, "divergence": "jeffreys"}, NOISE | PAIR),
    "sdtt": Student({"type": "sdtt"}, {"learning_rate": 5e-4}),
    "ecd": Student({"type": "ecd", "times": "grid_times"}, {"learning_rate": 5e-4}),
    "mcd": Student({"type": "mcd"}, {"learning_rate": 5e-4}),
    "imdm": Student({"type": "imdm", "teacher_steps": 8}, NOISE | {"learning_rate": 1e-3}),
    "simplex_dmd": Student({"type": "simplex_dmd"}, NOISE | PAIR),
    "di4c": Student({"type": "di4c"}, NOISE | {"learning_rate": 5e-4}),
    "alpha": Student({"type": "alpha"}, {"learning_rate": 5e-4}),
    "law_matching_5x": Student(CALL, NOISE | PAIR, 5),
    "law_matching_step_5x": Student(STEP, NOISE | PAIR, 5),
    "law_matching_bridge_5x": Student(BRIDGE, NOISE | PAIR, 5),
    "distribution_matching_5x": Student(D_MMD, NOISE | PAIR, 5),
}


class Passes:
    """Counts rows through networks of a kind while it is open."""

    def __init__(self, kind):
        self.kind, self.rows = kind, 0

    def __enter__(self):
        self._hook = register_module_forward_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self._hook.remove()

    def _count(self, module, inputs, named, _):
        if isinstance(module, self.kind):
            self.rows += len(inputs[0] if inputs else named["input_ids"])


class Counted(TrainerCallback):
    """The passes at the end of each step."""

    def __init__(self, passes):
        self.passes, self.rows = passes, []

    def on_step_end(self, args, state, control, **kwargs):
        self.rows.append(self.passes.rows)


def passes_per_step(args, name, teacher, data):
    """Of the steps that follow the first, as a mean."""
    with tempfile.TemporaryDirectory() as thrown, Passes(type(teacher)) as passes:
        trainer = trainer_of(args, name, copied(teacher, args), data, thrown, TRIED)
        counted = Counted(passes)
        trainer.add_callback(counted)
        trainer.train()
    return (counted.rows[-1] - counted.rows[0]) / (TRIED - 1)


def trainer_of(args, name, teacher, data, folder, steps):
    """A trainer of `steps` steps; of an objective without a teacher the model is a copy of it."""
    objective, own = STUDENTS[name].objective, STUDENTS[name].training
    shared = settings(args, steps, weight_decay=0.0, ema_decay=0.98, **own)
    shared |= {"per_device_train_batch_size": args.batch_size, "warmup_steps": min(20, steps // 10)}
    if "auxiliary_learning_rate" in own:
        shared["auxiliary_warmup_steps"] = min(50, steps // 10)
    if name == "alpha":
        return DiscreteDiffusionTrainer(
            teacher, DiscreteDiffusionConfig(str(folder), **shared), objective=objective,
            train_dataset=data,
        )  # fmt: skip
    shared["student_steps"] = max(args.student_nfe)
    if "noise_dim" in own:
        shared["noise_std"] = args.noise_std
    if not args.guard:
        shared["collapse_share"] = 0.0
    config = DiscreteDistillationConfig(str(folder), **shared)
    return DiscreteDistillationTrainer(
        teacher=teacher, objective=objective, args=config, train_dataset=data
    )


def distil(args, name, teacher, data):
    """The student for all of --student-nfe calls, and what its training took."""
    folder = args.output / f"{name}_seed_{args.seed}"
    kept = folder / "training.json"
    if kept.exists():
        return AutoModelForMaskedLM.from_pretrained(folder), json.loads(kept.read_text())
    counted = args.output / f"{name}.passes_per_step.json"
    if not counted.exists():  # a run that goes on makes as many steps as it set out to
        counted.write_text(json.dumps(passes_per_step(args, name, teacher, data)))
    budget = STUDENTS[name].budgets * args.passes
    steps, started = round(budget / json.loads(counted.read_text())), time.process_time()
    with Passes(type(teacher)) as passes:
        model = trained(trainer_of(args, name, copied(teacher, args), data, folder, steps), folder)
    about = {"steps": steps, "passes": passes.rows, "seconds": time.process_time() - started}
    kept.write_text(json.dumps(about))
    return model, about


def copied(teacher, args):
    """A copy, which training may change."""
    return in_bf16(copy.deepcopy(teacher), args)
