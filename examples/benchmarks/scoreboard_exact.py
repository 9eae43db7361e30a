"""Scoreboard 1: objectives where every law is known, at one number of network calls in training.

    python examples/benchmarks/scoreboard_exact.py --json examples/results/scoreboard_exact.json

The problems, networks and distances are those of `hf-ddistill exact`; a student for each number of
calls a sample, all from one start, each with as many passes of a batch of 512 as the others through
all networks, the exact teacher's among them (`--calls`). TV is that of the exact law of the samples
from the data's, with a noise input over 2^18 draws of it. What is in the file is not made again.
"""

import argparse
import dataclasses
import json
from collections.abc import Iterator

import torch
from benchmark_files import rows_file
from scoreboard_shared import OBJECTIVES, Entry, RowsFile, short, table

from hf_ddistill import Absorbing, Diffusion, LogLinear, Objective
from hf_ddistill.cli.kept_limits import cached_limit
from hf_ddistill.laboratory import ExactProblem
from hf_ddistill.laboratory.fit import Batch, fit, make_peers, mean_of
from hf_ddistill.laboratory.network import ExactNetwork, exact_teacher, network_denoiser
from hf_ddistill.laboratory.problems import exact_law
from hf_ddistill.laboratory.scoreboard import Bench
from hf_ddistill.laboratory.students import BenchSettings, network_calls
from hf_ddistill.linalg import keyed_generator

PROBLEMS = {
    "digits": (1, 2, 4, 8),
    "trigrams": (1, 2, 4),
    "parity": (1, 2, 4, 8),
    "levels": (1, 2, 4),
}
KEYS = ("method", "problem", "nfe", "seed", "calls")
ROWS, NOISE, DRAWS = 512, 4, 2**18
SETTINGS = BenchSettings(calls=1, rows=ROWS, learning_rate=2e-3, auxiliary_learning_rate=4e-3)
#: Of a start that learns what it is to start from.
SCALES = {"parity": 3.0}
#: What is there beside the objectives of all scoreboards: a plan without a noise input and one from
#: noise of the sequence, and what each of the two settings of "law_matching_step" is worth.
MORE = {
    "law_matching_without_noise": Entry({"type": "law_matching"}, noise=False),
    "law_matching_sequence": Entry(
        {"type": "law_matching", "horizon": "call"}, noise_per="sequence"
    ),
    "law_matching_mean": Entry(
        {"type": "law_matching", "horizon": "call", "divergence": "mean_kl"}
    ),
    "law_matching_step_drawn": Entry(
        {"type": "law_matching", "horizon": "step", "divergence": "reverse_kl"}
    ),
}
ENTRIES = {**OBJECTIVES, **MORE}
#: Of the lines of tables.
ORDER = ("teacher", "limit", "start", *ENTRIES)


def bench_of(name: str) -> Bench:
    """A problem under masks, with alpha = 1 - t."""
    law = exact_law(name)
    masks = Absorbing(int(law.sequences.max()) + 2)
    problem = ExactProblem(law.law, law.sequences, Diffusion(masks, LogLinear(1e-9)))
    settings = dataclasses.replace(SETTINGS, start_scale=SCALES.get(name, 1.0))
    return Bench(name, problem, settings, DRAWS)


def student_row(
    bench: Bench, name: str, nfe: int, seed: int, calls: int, start: ExactNetwork
) -> dict:
    """Train a student for `nfe` calls and measure it."""
    entry, problem = ENTRIES[name], bench.problem
    objective = Objective.from_config(entry.settings)
    if hasattr(objective, "steps"):
        objective = dataclasses.replace(objective, steps="only")
    noise = NOISE if entry.noise else 0
    network = start.with_noise(noise, SETTINGS.noise_std, seed, entry.noise_per)
    student = network_denoiser(network, problem, noise, entry.noise_per)
    objective, mean = objective.for_student(student), mean_of(student)
    sources = {"teacher": exact_teacher(problem, start), "start": network_denoiser(start, problem)}
    peers = make_peers(objective, student, mean, sources, seed)

    def batch(number: int) -> Batch:
        chosen = keyed_generator(seed, number, "data")
        return Batch(
            problem.sequences[torch.multinomial(problem.law, ROWS, True, generator=chosen)]
        )

    def done(_: int) -> float:
        return network_calls(student, peers, ROWS) / calls

    run = fit(
        objective,
        student,
        peers,
        batch,
        done,
        pace=SETTINGS.pace,
        mean=mean,
        student_steps=nfe,
        seed=seed,
    )
    sampler = objective.learned_sampler(peers, nfe)
    law, error = bench.law(mean, nfe, sampler)
    cost = {"updates": run.updates, "network_calls": network_calls(student, peers, ROWS)}
    about = {"calls": calls, "sampler": sampler.id, "noise_dim": noise}
    return {**bench.row(name, nfe, seed, law), "tv_error": error, **cost, **about}


def known_rows(bench: Bench, nfes: list[int]) -> Iterator[dict]:
    """The exact teacher's, those of the limit (not of trigrams, where it takes hours, nor beyond
    four calls, where that of the digits is 0) and of the start."""
    yield from bench.teacher_rows(nfes)
    if bench.name != "trigrams":
        yield from bench.limit_rows([nfe for nfe in nfes if nfe <= 4], cached_limit)
    yield from bench.start_rows(bench.fit_start(), nfes)


def print_tables(rows: list[dict]) -> None:
    """Those of the page: for each problem a line for each method and its calls in training; seeds
    beside each other, distances and entropy of the first of them."""
    for problem in dict.fromkeys(row["problem"] for row in rows):
        mine = [row for row in rows if row["problem"] == problem]
        nfes = sorted({row["nfe"] for row in mine})
        lines = []
        names = dict.fromkeys((row["method"], row.get("calls")) for row in mine)
        for name in sorted(names, key=lambda name: ORDER.index(name[0])):
            of = [row for row in mine if (row["method"], row.get("calls")) == name]
            of.sort(key=lambda row: (row["nfe"], row["seed"] or 0))
            cells = [
                " / ".join(short(row["tv"], 4) for row in of if row["nfe"] == nfe) for nfe in nfes
            ]
            first = [next((row for row in of if row["nfe"] == nfe), None) for nfe in nfes]
            for key in ("kl", "reverse_kl", "entropy"):
                cells.append(" · ".join(short(row[key]) for row in first if row))
            lines.append([name[0], f"{name[1] or ''}", *cells])
        heads = ["method", "passes", *(f"TV, {n}" for n in nfes), "KL", "reverse KL", "entropy"]
        print(f"\n{problem}\n{table(heads, lines)}")


def main() -> None:
    """Measure what is not in the file yet, and print all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--objectives", nargs="*", default=list(ENTRIES), choices=ENTRIES)
    parser.add_argument("--calls", type=int, default=4500, help="of a batch of 512, all networks'")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--nfe", type=int, nargs="+", help="of the problem's if not given")
    parser.add_argument("--json", type=rows_file, default="scoreboard_exact.json")
    parser.add_argument("--table", action="store_true", help="print the rows that are there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = RowsFile(args.json, KEYS)
    for problem in () if args.table else args.problems:
        bench, nfes = bench_of(problem), args.nfe or list(PROBLEMS[problem])
        known = [n for n in nfes if not kept.has(method="start", problem=problem, nfe=n)]
        for row in known_rows(bench, known) if known else ():
            kept.add(row)
        start = bench.fit_start()
        for seed in args.seeds:
            for name in args.objectives:
                for nfe in nfes:
                    named = {"method": name, "problem": problem, "nfe": nfe, "seed": seed}
                    defined = ENTRIES[name].calls is None or nfe in ENTRIES[name].calls
                    if not defined or kept.has(calls=args.calls, **named):
                        continue
                    kept.add(student_row(bench, name, nfe, seed, args.calls, start))
                    print(json.dumps(kept.rows[-1]), flush=True)
    print_tables(kept.rows)


if __name__ == "__main__":
    main()
