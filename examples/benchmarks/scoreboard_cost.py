"""Scoreboard 5: what a training step of each objective costs, on the digits teacher.

    python examples/benchmarks/scoreboard_cost.py --json examples/results/scoreboard_cost.json

A row has the sequences shown to each network per sequence of the batch, with gradients and without
(`calls`), the ratio of its time to that of a step of ECD (forward, backward; both in turn, A B A B,
in one process; processor time, the median of the ratios of neighbours), and the peak bytes of the
tensors that it makes, weights left out. Batches of 32 digits, a student for 4 calls.
"""

import argparse
import copy
import gc
import json
import statistics
import time
from collections import Counter
from contextlib import contextmanager

import torch
from benchmark_files import rows_file
from scoreboard_shared import OBJECTIVES, Entry, RowsFile
from torch import nn
from vocabulary import PeakBytes

from hf_ddistill import DiscreteDistillationConfig, Objective, as_denoiser
from hf_ddistill.cli.quickstart import shipped_teacher
from hf_ddistill.couplings import Memory, TrainingStep
from hf_ddistill.evaluation import load_digit_tokens
from hf_ddistill.laboratory.fit import make_peers, mean_of
from hf_ddistill.training.copies import student_of

BATCH, STEPS, NOISE = 32, 4, 8


@contextmanager
def counted_calls():
    """Counts the sequences shown to networks, by whether gradients are kept: the rows of tokens
    (B, L) that are embedded."""
    calls = Counter()

    def count(module, inputs, output):  # noqa: ANN001, ANN202
        if isinstance(module, nn.Embedding) and output.ndim == 3:
            calls["with gradients" if output.requires_grad else "without"] += len(output)

    hook = nn.modules.module.register_module_forward_hook(count)
    try:
        yield calls
    finally:
        hook.remove()


class Side:
    """The networks of an objective, and steps of it.

    Args:
        entry: settings.
        teacher: that student and auxiliaries are copies of.
    """

    def __init__(self, entry: Entry, teacher: nn.Module) -> None:
        noise = {"noise_dim": NOISE} if entry.noise else {}
        args = DiscreteDistillationConfig(report_to="none", **noise)
        self.model = student_of(None, copy.deepcopy(teacher), args, False).requires_grad_(True)
        self.student, self.teacher = as_denoiser(self.model), as_denoiser(teacher)
        objective = Objective.from_config(entry.settings)
        self.objective = objective.for_student(self.student)
        sources = {"teacher": self.teacher, "start": self.teacher}
        mean = mean_of(self.student)
        self.peers = make_peers(self.objective, self.student, mean, sources)
        self.generator, self.memory = torch.Generator().manual_seed(0), Memory()
        # Law matching looks at the teacher on the data, too, in its first 20 steps.
        self.memory.of("law_matching").put("teacher_steps", torch.tensor(20))

    def step(self, tokens: torch.Tensor, labels: torch.Tensor) -> float:
        """Forward and backward; seconds of the processor."""
        began = time.process_time()
        about = (tokens, self.student.diffusion, self.student, self.peers, 0.5, self.generator)
        condition = {"class_labels": labels}
        step = TrainingStep(*about, STEPS, condition=condition, memory=self.memory)
        losses = self.objective(step)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        return time.process_time() - began


def calls_of(entry: Entry, repeats: int = 16, rows: int = 8) -> dict[str, float]:
    """Sequences shown to networks in a step, for each of the batch, the mean of several steps."""
    tokens, labels = load_digit_tokens(2)
    side = Side(entry, shipped_teacher().eval().requires_grad_(False))
    with counted_calls() as calls:
        for _ in range(repeats):
            side.step(tokens[:rows], labels[:rows])
    return {kind: round(count / rows / repeats, 2) for kind, count in sorted(calls.items())}


def measure(name: str, pairs: int) -> dict:
    """One row."""
    entry, teacher = OBJECTIVES[name], shipped_teacher().eval().requires_grad_(False)
    tokens, labels = (each[:BATCH] for each in load_digit_tokens(2))
    ours, ecd = Side(entry, teacher), Side(OBJECTIVES["ecd"], teacher)
    ratios = []
    for pair in range(pairs + 1):
        seconds = [side.step(tokens, labels) for side in (ecd, ours)]
        if pair:
            ratios.append(seconds[1] / seconds[0])
    gc.collect()
    with PeakBytes() as alive:
        ours.step(tokens, labels)
    return {
        "objective": name,
        "calls": calls_of(entry),
        "ratio_to_ecd": round(statistics.median(ratios), 2),
        "range": [round(min(ratios), 2), round(max(ratios), 2)],
        "peak_bytes": alive.peak,
        "pairs": pairs,
    }


def main() -> None:
    """Measure what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=OBJECTIVES)
    parser.add_argument("--pairs", type=int, default=6)
    parser.add_argument("--json", type=rows_file, default="scoreboard_cost.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = RowsFile(args.json, ("objective",))
    for name in args.objectives:
        if not kept.has(objective=name):
            kept.add(measure(name, args.pairs))
            print(json.dumps(kept.rows[-1]), flush=True)


if __name__ == "__main__":
    main()
