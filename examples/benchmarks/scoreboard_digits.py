"""Scoreboard 2: objectives on handwritten digits, at one number of network calls in training.

    python examples/benchmarks/scoreboard_digits.py --json examples/results/scoreboard_digits.json

All students start from the digits teacher of the package (`--levels 4`: from one of four levels of
grey, which is trained first; in another `--folder` and `--json`) and get as many calls of a batch
of 32 as the others, with gradients and without, teacher and auxiliaries among them (`--calls`): an
objective that asks its teacher eight times a step makes fewer steps. Rates are those of the
quickstart's recipe of law matching for all; settings of objectives are their defaults
(`scoreboard_shared.py`).
One student for all numbers of calls a sample, trained for four, and without the trainer's guard
(`--guard`: with it, in another `--folder`), which would put back the weights of a student that is
ahead of its teacher at no number of calls.

Judges, on which no student was tuned: `auc_forest` and `auc_network`, of a forest and of a small
convolutional network that tell samples from training digits in five-fold cross-validation (.5 is
perfect), the mean over several choices of as many training digits; Fréchet distances in features of
a classifier of another seed than the package's judge.
Students are kept in `--folder`, rows in `--json`; what is there is not made again.
"""

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from benchmark_files import rows_file
from datasets import Dataset
from digits import fresh, recipe_for, teacher_of, within_classes
from scoreboard_cost import calls_of
from scoreboard_shared import OBJECTIVES, Entry, RowsFile, short, table
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM
from two_sample_network import network_auc

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.cli.evaluate import draw
from hf_ddistill.cli.quickstart import shipped_student
from hf_ddistill.cli.resuming import train
from hf_ddistill.cli.sample import use_unmasking
from hf_ddistill.evaluation import (
    DigitsJudge,
    frechet_distance,
    load_digit_tokens,
    split_digits,
)
from hf_ddistill.evaluation.digits_figures import judge_samples
from hf_ddistill.evaluation.two_sample import two_sample_auc
from hf_ddistill.pipelines import DiscreteDiffusionPipeline

BATCH, STUDENT_STEPS, NOISE = 32, 4, 8
#: Of the judges: not those of the package's, by which settings were chosen.
JUDGE_SEED, DRAW_SEED = 7, 21
KEYS = ("model", "nfe", "seed", "calls")
#: A student of an exact problem is for one number of calls; those here are for several, too.
GRIDS = Entry({"type": "distribution_matching", "setting": "d_mmd", "start": "grids"})
ENTRIES = {**OBJECTIVES, "d_mmd_grids": GRIDS}


#: Of each seed another choice of training digits: one alone favours whom it likes by up to .03.
JUDGES = (
    ("auc_forest", two_sample_auc, (11, 12, 13, 14)),
    ("auc_network", network_auc, (5, 6)),
)


class Board:
    """The judges, and the rows that they wrote."""

    def __init__(self, file: Path, samples: int, levels: int) -> None:
        self.kept, self.samples = RowsFile(file, KEYS), samples
        self.split = split_digits(*load_digit_tokens(levels))
        self.judge = DigitsJudge(levels, JUDGE_SEED)

    def real(self, seed: int) -> Tensor:
        """The training digits in an order of their own: whichever are asked for are the first."""
        every = self.split.train_tokens
        return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))]

    def told(self, judge: Callable[..., float], tokens: Tensor, seeds: tuple[int, ...]) -> float:
        """The AUC of a judge, of each seed with a choice of digits of its own."""
        return fmean(judge(tokens, self.real(DRAW_SEED + seed), seed) for seed in seeds)

    def figures(self, tokens: Tensor) -> dict[str, float]:
        """All of one draw, whose row i is of class i mod 10."""
        features_of, split = self.judge.classifier.features, self.split
        features, real = features_of(tokens), features_of(split.train_tokens)
        return {
            **{key: self.told(judge, tokens, seeds) for key, judge, seeds in JUDGES},
            **judge_samples(self.judge.classifier, tokens, split.train_tokens),
            "fd_within_classes": within_classes(features, real, split.train_labels),
            "fd_unseen": frechet_distance(features, features_of(split.held_out_tokens)),
        }

    def real_row(self) -> None:
        """What as many new digits would have; the AUC of two halves of the training digits."""
        if self.kept.has(model="real"):
            return
        known = fresh(self.judge, self.samples, self.split)
        row = {"model": "real", "nfe": 0, "seed": None, "calls": None}
        for key, judge, seeds in JUDGES:
            halves = [self.real(DRAW_SEED + seed).chunk(2) for seed in seeds]
            row[key] = fmean(judge(*two, seed) for two, seed in zip(halves, seeds, strict=True))
        row |= {"fd": known["fd"]}
        row |= {"fd_within_classes": known["fd_within_classes"], "fd_unseen": known["fd_held_out"]}
        self._add(row)

    def missing(self, nfes: list[int], **named: object) -> list[int]:
        """The numbers of calls of which there is no row of this name."""
        return [nfe for nfe in nfes if not self.kept.has(nfe=nfe, **named)]

    def model(self, name, network, nfes, seed=None, calls=None, rule=None, **more) -> None:  # noqa: ANN001, ANN003
        """The rows of a network (or of what makes it) that are not there yet."""
        named = {"model": name, "seed": seed, "calls": calls}
        nfes = self.missing(nfes, **named)
        if not nfes:
            return
        pipe = DiscreteDiffusionPipeline.from_model(
            network if isinstance(network, nn.Module) else network()
        )
        pipe.set_progress_bar_config(disable=True)
        use_unmasking(pipe, None, rule)
        for nfe in nfes:
            tokens = draw(pipe, nfe, self.samples, seed=DRAW_SEED, batch_size=250)
            named["nfe"] = nfe
            self._add({**named, "samples": self.samples, **self.figures(tokens), **more})

    def _add(self, row: dict) -> None:
        self.kept.add(row)
        print(json.dumps(row), flush=True)


def student_of(name: str, args: argparse.Namespace, seed: int, split) -> tuple[nn.Module, dict]:  # noqa: ANN001
    """The student of an objective, trained once, and what its training took."""
    folder, entry = args.folder / f"{name}_{args.calls}_{seed}", ENTRIES[name]
    about = folder / "cost.json"
    if about.exists():
        return AutoModelForMaskedLM.from_pretrained(folder), json.loads(about.read_text())
    per_step = calls_of(entry)
    steps = max(2, round(args.calls / sum(per_step.values())))
    recipe = {**recipe_for(entry.settings), "noise_dim": NOISE if entry.noise else 0}
    teacher = teacher_of(args, split)
    # torch's fused attention has a slow gradient in bfloat16 on a CPU.
    teacher.set_attn_implementation("eager")
    columns = {
        "input_ids": split.train_tokens.tolist(),
        "class_labels": split.train_labels.tolist(),
    }
    trainer = DiscreteDistillationTrainer(
        teacher=teacher,
        objective=entry.settings,
        args=DiscreteDistillationConfig(
            str(folder),
            student_steps=STUDENT_STEPS,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            warmup_steps=min(10, steps // 4),
            logging_steps=max(1, steps // 10),
            save_steps=max(50, steps // 4),
            save_total_limit=1,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
            # What an objective does is measured, and not what the guard makes good of it.
            **({} if args.guard else {"collapse_share": 0.0}),
            seed=seed,
            **recipe | entry.training,
        ),
        train_dataset=Dataset.from_dict(columns),
    )
    began = time.process_time()
    train(trainer, folder)
    cost = {"steps": steps, "calls_per_step": per_step}
    cost |= {"processor_seconds": round(time.process_time() - began, 1)}
    trainer.save_model(str(folder))
    about.write_text(json.dumps(cost))
    return AutoModelForMaskedLM.from_pretrained(folder), cost


def over_seeds(rows: list[dict], key: str) -> str:
    """The mean over seeds at each number of calls and, of several seeds, half of the widest range
    between them."""
    calls = sorted({row["nfe"] for row in rows if key in row})
    told = [[row[key] for row in rows if row["nfe"] == nfe] for nfe in calls]
    text = " / ".join(short(fmean(values)) for values in told)
    spread = max((max(values) - min(values) for values in told), default=0)
    return f"{text} ± {short(spread / 2)}" if spread else text


def print_tables(rows: list[dict]) -> None:
    """The page's: a line for each model, in each cell its numbers of calls."""
    judges = {"auc_forest": "AUC, forest", "auc_network": "AUC, network"}
    others = {"fd": "FD", "fd_within_classes": "FD within classes", "fd_unseen": "FD to unseen"}
    others |= {"unique": "unique", "novelty": "novelty", "confidence": "confidence"}
    order = list(ENTRIES)
    rows = sorted(rows, key=lambda r: order.index(r["model"]) if r["model"] in order else -1)
    names = list(dict.fromkeys((r["model"], r["calls"]) for r in rows))
    for keys in (judges, others):
        lines = []
        for model, calls in names:
            of = [row for row in rows if (row["model"], row["calls"]) == (model, calls)]
            seeds = sorted({str(row["seed"]) for row in of if row["seed"] is not None})
            nfes = " / ".join(str(n or "") for n in sorted({row["nfe"] for row in of}))
            about = [model, " ".join(seeds), str(of[0].get("steps", "")), nfes]
            lines.append(about + [over_seeds(of, key) for key in keys])
        print(f"\n{table(['model', 'seeds', 'steps', 'calls', *keys.values()], lines)}")


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objectives", nargs="*", default=list(ENTRIES), choices=ENTRIES)
    parser.add_argument("--calls", type=int, default=1000, help="of a batch of 32, all networks'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--nfe", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--teacher-nfe", type=int, nargs="*", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--levels", type=int, default=2, help="of grey; with a teacher of its own")
    parser.add_argument("--teacher-steps", type=int, default=3500, help="of that teacher")
    parser.add_argument("--guard", action="store_true", help="the trainer's, over students")
    parser.add_argument("--folder", type=Path, default=Path("scoreboard_digits"))
    parser.add_argument("--json", type=rows_file, default="scoreboard_digits.json")
    parser.add_argument(
        "--student", nargs=2, metavar=("NAME", "FOLDER"), help="rows of one that was trained before"
    )
    parser.add_argument("--table", action="store_true", help="print the rows that are there")
    args = parser.parse_args()
    args.output, args.uniform = args.folder, 0.0
    board = Board(args.json, args.samples, args.levels)
    if not args.table:
        board.real_row()
        teacher = partial(teacher_of, args, board.split)
        board.model("teacher", teacher, args.teacher_nfe)
        few = [nfe for nfe in args.teacher_nfe if nfe in args.nfe]
        board.model("teacher, surest first", teacher, few, rule="static")
        if args.levels == 2:
            board.model("law_matching, in the package", shipped_student, args.nfe)
        if args.student:
            name, folder = args.student
            board.model(name, AutoModelForMaskedLM.from_pretrained(folder), args.nfe)
        for seed in args.seeds:
            for name in args.objectives:
                calls = ENTRIES[name].calls or args.nfe
                nfe = [n for n in args.nfe if n in calls]
                if board.missing(nfe, model=name, seed=seed, calls=args.calls):
                    student, cost = student_of(name, args, seed, board.split)
                    board.model(name, student, nfe, seed, args.calls, **cost)
    print_tables(board.kept.rows)


if __name__ == "__main__":
    main()
