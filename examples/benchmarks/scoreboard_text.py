"""Scoreboard of text: few-step students of one masked diffusion model of characters, at equal
entropy beside three ways to sample their teacher in as many calls.

    python examples/benchmarks/scoreboard_text.py --text TEXT.txt --output FOLDER --json ROWS.json

TEXT.txt holds documents separated by empty lines (the tables are of State-of-the-Union speeches;
`dllm.py` says how to get a text). Speeches are read as 27 symbols and split into what teacher and
students learn from, what the judge learns from, what settings are chosen by and what is reported.
The teacher is `examples/assets/sotu_teacher`, trained on for `--teacher-steps` if these are given,
the judge `examples/assets/sotu_judge`, or one of `--judge-steps`. Each student starts from the
teacher and is trained for the same number of network passes, then drawn from at each number of
calls and each temperature. Rows that the JSON file has are not made again, and trainings go on from
their checkpoints, so that a run that was stopped goes on.
`scoreboard_text_language_model.py` has a second judge read the samples, and
`scoreboard_text_tables.py ROWS.json` prints the tables.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from benchmark_files import given_file, rows_file
from rank_samplers import Rows
from safetensors.torch import save_file
from scoreboard_text_corpus import Corpus
from scoreboard_text_figures import Figures
from scoreboard_text_language_model import samples_file
from scoreboard_text_networks import ASSET, bound, judge, train_teacher
from scoreboard_text_recipes import ALL, RECIPES
from scoreboard_text_students import trained
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel

from hf_ddistill import as_denoiser
from hf_ddistill.denoisers import Sharpened
from hf_ddistill.models.as_denoiser import sampler_of
from hf_ddistill.samplers import Ancestral, Canvas, Sampler

#: The teacher's: its own law, confidence decoding, and its own law cut to the likeliest symbols.
TEACHERS = {
    "ancestral": ("ancestral", 1.0),
    "confidence": ({"type": "unmasking", "unmasking": "static"}, 1.0),
    "ancestral, top-p .9": ("ancestral", 0.9),
}
BATCH = 64
#: Rows of which the teacher's bound is told.
BOUNDED = 512


@torch.no_grad()
def drawn(
    model: PreTrainedModel,
    sampler: Sampler,
    calls: int,
    shape: tuple[int, int],
    how: dict[str, Any],
    seed: int,
) -> Tensor:
    """Samples, the draws in float64; `how` is temperature and top_p, and the network's dtype."""
    low = how["dtype"] == "bfloat16"
    temperature, top_p = how["temperature"], how["top_p"]
    denoiser = as_denoiser(model.eval())
    if temperature != 1 or top_p != 1:
        own = sampler.sharpened(temperature, None, top_p)
        denoiser = Sharpened(denoiser, temperature, None, top_p) if own is None else denoiser
        sampler = own or sampler
    generator, rows = torch.Generator().manual_seed(seed), []
    with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
        for start in range(0, shape[0], BATCH):
            canvas = Canvas.empty((min(BATCH, shape[0] - start), shape[1]))
            rows.append(sampler.sample(denoiser, canvas, calls, generator))
    return torch.cat(rows)


class World:
    """The corpus, the networks and what judges.

    Args:
        args: of the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.corpus = args, Corpus.read(args.text)
        self.part = "validation" if args.pilot else "test"

    @cached_property
    def teacher_folder(self) -> Path:
        """The asset, or where it was trained on to."""
        args = self.args
        if not args.teacher_steps:
            return args.teacher
        folder = args.output / f"teacher_{args.length}_{args.teacher_steps}"
        start = args.teacher if args.teacher.is_dir() else None
        how = {"length": args.length, "rate": args.teacher_rate}
        train_teacher(self.corpus, folder, args.teacher_steps, start, **how)
        return folder

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """In float32."""
        return AutoModelForMaskedLM.from_pretrained(self.teacher_folder, dtype=torch.float32).eval()

    @cached_property
    def figures(self) -> Figures:
        """Of samples, by networks and words of the judge's speeches."""
        model = judge(self.corpus, self.args.output / "judge", self.args.judge_steps)
        return Figures(model, self.corpus.parts["judge"], self.corpus.words("judge"))

    def real(self, about: dict[str, Any]) -> dict[str, Any]:
        """Of as many real rows."""
        return self._told(self._spread(self.args.samples), about)

    def bound(self, about: dict[str, Any]) -> dict[str, Any]:
        """Of the teacher on the part."""
        return bound(self.teacher, self._spread(BOUNDED))

    def _spread(self, count: int) -> Tensor:
        """So many rows, evenly from all over the part."""
        rows = self.corpus.rows(self.part, self.args.length)
        return rows[:: max(1, len(rows) // count)][:count]

    def judged(self, model: PreTrainedModel, sampler: Sampler, how: dict, about: dict[str, Any]):
        """Figures of samples, of as many calls and with the seed that the row is about."""
        shape = (self.args.samples, self.args.length)
        # Validation and test are drawn from other random numbers, too.
        started, seed = time.monotonic(), 2 * about["seed"] + (self.part == "test")
        rows = drawn(model, sampler, about["calls"], shape, how, seed)
        return self._told(rows, about) | {"seconds": time.monotonic() - started}

    def _told(self, rows: Tensor, about: dict[str, Any]) -> dict[str, float]:
        """The figures; the rows are kept for the second judge."""
        file = samples_file(self.args.output / "samples", about)
        file.parent.mkdir(exist_ok=True)
        save_file({"tokens": rows.to(torch.uint8)}, file)
        return self.figures(rows)


def teachers(world: World, keep: Rows) -> None:
    """The teacher's rows."""
    args = world.args
    for seed in args.seeds:
        for calls in args.teacher_calls:
            for name, (sampler, top_p) in TEACHERS.items():
                many = calls > max(args.calls)
                if many and top_p < 1:
                    continue
                for temperature in (1.0,) if many else args.teacher_temperatures:
                    about = {**setup(world), "model": "teacher", "sampler": name, "calls": calls}
                    about |= {"temperature": temperature, "seed": seed}
                    how = {"temperature": temperature, "top_p": top_p, "dtype": args.dtype}
                    own = (world.teacher, Sampler.from_config(sampler), how)
                    add(keep, about, lambda about, own=own: world.judged(*own, about))


def students(world: World) -> Iterator[tuple[str, int, Callable[[], PreTrainedModel]]]:
    """Name, seed and how to get it, of each student."""
    args = world.args
    for seed in args.seeds:
        for name in args.students:
            own = f"{name}_{args.length}_{args.passes}_{args.learning_rate:g}_{seed}"

            def get(name=name, folder=args.output / own, seed=seed):
                about = (world.corpus, world.teacher_folder, folder, args, seed, args.passes)
                return trained(ALL[name], *about)

            yield name, seed, get


def setup(world: World) -> dict[str, Any]:
    """What all rows that are compared have in common."""
    args = world.args
    teacher = args.teacher_steps or "asset"
    own = {"part": world.part, "length": args.length, "samples": args.samples}
    return own | {"teacher": teacher, "dtype": args.dtype}


def add(keep: Rows, about: dict[str, Any], make: Callable[[dict], dict[str, Any]]) -> None:
    """A row, unless it is there."""
    if not keep.has(about):
        keep.row(about | make(about))


def main() -> None:
    """Make the rows that are missing."""
    args = arguments()
    args.output.mkdir(parents=True, exist_ok=True)
    world, keep = World(args), Rows(args.json)
    add(keep, {**setup(world), "model": "real"}, world.real)
    add(keep, {**setup(world), "model": "bound"}, world.bound)
    teachers(world, keep)
    for name, seed, get in students(world):
        own = {"model": name, "seed": seed, "passes": args.passes, "rate": args.learning_rate}
        model, took = None, {}
        for calls in args.calls:
            for temperature in args.temperatures:
                about = {**setup(world), **own, "calls": calls, "temperature": temperature}
                if keep.has(about):
                    continue
                if model is None:
                    model = get()
                    took = json.loads((Path(model.name_or_path) / "took.json").read_text())
                how = {"temperature": temperature, "top_p": 1.0, "dtype": args.dtype}
                found = world.judged(model, sampler_of(model) or Ancestral(), how, about)
                keep.row(about | {**took, **found})


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=given_file, required=True, help="documents by empty lines")
    parser.add_argument("--output", type=Path, default=Path("scoreboard_text"))
    parser.add_argument("--json", type=rows_file, default="scoreboard_text.json")
    parser.add_argument("--teacher", type=Path, default=ASSET, help="folder that is started from")
    parser.add_argument("--teacher-steps", type=int, default=0, help="the teacher is trained on")
    parser.add_argument("--teacher-rate", type=float, default=2.5e-3, help="cosine from here")
    parser.add_argument("--judge-steps", type=int, default=0, help="of a judge of its own")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--teacher-calls", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.8, 0.9, 1.0, 1.1])
    parser.add_argument(
        "--teacher-temperatures", type=float, nargs="+", default=[0.65, 0.8, 1.0, 1.1]
    )
    parser.add_argument("--students", nargs="*", choices=list(ALL), default=list(RECIPES))
    parser.add_argument("--passes", type=int, default=1000, help="of networks, for each student")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--ema-decay", type=float, default=0.98)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument(
        "--no-bf16", dest="bf16", action="store_false", help="students trained in float32"
    )
    parser.add_argument("--pilot", action="store_true", help="the validation part instead of test")
    return parser.parse_args(given)


if __name__ == "__main__":
    main()
