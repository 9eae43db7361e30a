"""Experiments on law matching where truth is known: what each of its choices is worth.

    python examples/benchmarks/law_matching.py --calls 3000 --seeds 0 1 \
        --output examples/results/law_matching.json

Every row is a student of the standard problem (`hf-ddistill exact --problem digits`), all of the
same network, start and number of student calls; TV is that of its exact terminal law.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

from learned_schedule import LearnedSchedule, learned_rows

from hf_ddistill import Absorbing, Diffusion, Hybrid, LogLinear, Objective, Polynomial, Uniform
from hf_ddistill.laboratory import ExactProblem
from hf_ddistill.laboratory.problems import exact_law
from hf_ddistill.laboratory.scoreboard import Bench
from hf_ddistill.laboratory.students import BenchSettings, fit_start

ROLLOUT = {"horizon": "rollout"}
POLICY = {"gradient": "policy", **ROLLOUT}
#: name: (process, calls, settings of the objective, settings of the bench)
EXPERIMENTS = {
    "ecd": ("absorbing", (1, 2, 4), {"type": "ecd", "times": "grid_times"}, {}),
    "plain": ("absorbing", (1, 2, 4), {}, {}),
    "one student": ("absorbing", (1, 2, 4), {"one_student": True}, {}),
    "one student, jump": ("absorbing", (1, 2, 4), {"one_student": True, "sampler": "jump"}, {}),
    "jump": ("absorbing", (2, 4), {"sampler": "jump"}, {}),
    "uniform": ("uniform", (1, 2), {}, {}),
    "hybrid": ("hybrid", (1, 2), {}, {"noise_dim": 4}),
    "random initial tokens": ("random tokens", (1, 2), {}, {"noise_dim": 0}),
    "random initial tokens and noise": ("random tokens", (1, 2), {}, {"noise_dim": 4}),
    "no noise": ("absorbing", (2, 4), {}, {"noise_dim": 0}),
    "no noise, policy": (
        "absorbing",
        (2, 4),
        POLICY,
        {"noise_dim": 0},
    ),
    "no noise, policy, 4 maskings": (
        "absorbing",
        (2, 4),
        {**POLICY, "maskings": 4},
        {"noise_dim": 0},
    ),
    "no noise, pathwise": (
        "absorbing",
        (2,),
        {"gradient": "pathwise", **ROLLOUT},
        {"noise_dim": 0},
    ),
    "policy, uniform": ("uniform", (1, 2), POLICY, {}),
    "noise, policy": ("absorbing", (1,), {"gradient": "policy"}, {}),
    "4 maskings": ("absorbing", (1, 2), {"maskings": 4}, {}),
    "2 auxiliary updates": ("absorbing", (1, 2), {}, {"auxiliary_updates": 2}),
    "auxiliary warm-up of 300": ("absorbing", (1, 2), {}, {"auxiliary_warmup": 300}),
    "forward KL": ("absorbing", (1, 2), {"divergence": "forward_kl"}, {}),
    "Jeffreys": ("absorbing", (1, 2), {"divergence": "jeffreys"}, {}),
    "noise 1": ("absorbing", (1, 2), {}, {"noise_dim": 1}),
    "noise 16": ("absorbing", (1, 2), {}, {"noise_dim": 16}),
    "noise std .3": ("absorbing", (1, 2), {}, {"noise_std": 0.3}),
    "noise std 3": ("absorbing", (1, 2), {}, {"noise_std": 3.0}),
    "twice the rates": (
        "absorbing",
        (1, 2),
        {},
        {"learning_rate": 2e-3, "auxiliary_learning_rate": 4e-3},
    ),
    "no noise, policy, 1/4 first": ("absorbing, 1/4 first", (2,), POLICY, {"noise_dim": 0}),
    "no noise, policy, 3/8 first": ("absorbing, 3/8 first", (2,), POLICY, {"noise_dim": 0}),
    "no noise, policy, 5/8 first": ("absorbing, 5/8 first", (2,), POLICY, {"noise_dim": 0}),
    "no noise, policy, 3/4 first": ("absorbing, 3/4 first", (2,), POLICY, {"noise_dim": 0}),
    "no noise, policy, learned shares": (
        "absorbing",
        (2, 4),
        {"type": LearnedSchedule.id, "maskings": 4},
        {"noise_dim": 0},
    ),
    "no noise, policy, learned shares, from 3/4 first": (
        "absorbing",
        (2,),
        {"type": LearnedSchedule.id, "maskings": 4, "first": 0.75},
        {"noise_dim": 0},
    ),
    "no EMA": ("absorbing", (1, 2), {}, {"ema": 0.0}),
}
#: Of two calls the first reveals, on average, a share of 2^-power of the tokens.
PROCESSES = {
    "absorbing": Diffusion(Absorbing(3), LogLinear(1e-9)),
    "uniform": Diffusion(Uniform(2), LogLinear(1e-9)),
    "hybrid": Diffusion(Hybrid(3), LogLinear(1e-9)),
    # Two positions in five begin with a token instead of a mask, and may change it.
    "random tokens": Diffusion(Hybrid(3, uniform=0.4, constant=True), LogLinear(1e-9)),
    "absorbing, 1/4 first": Diffusion(Absorbing(3), Polynomial(2.0, eps=1e-9)),
    "absorbing, 3/8 first": Diffusion(Absorbing(3), Polynomial(math.log2(8 / 3), eps=1e-9)),
    "absorbing, 5/8 first": Diffusion(Absorbing(3), Polynomial(math.log2(8 / 5), eps=1e-9)),
    "absorbing, 3/4 first": Diffusion(Absorbing(3), Polynomial(math.log2(4 / 3), eps=1e-9)),
}


def main() -> None:
    """Run the experiments that are not in the output yet, and add their rows to it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=3000, help="of each student in training")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--output", default="law_matching.json")
    args = parser.parse_args()
    file = Path(args.output)
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    done = {(row["experiment"], row["seed"], row["calls"]) for row in rows}
    starts = {}
    for seed in args.seeds:
        for name in args.only:
            if (name, seed, args.calls) in done:
                continue
            process, nfe, settings, bench_settings = EXPERIMENTS[name]
            law = exact_law("digits")
            problem = ExactProblem(law.law, law.sequences, PROCESSES[process])
            bench = Bench("digits", problem, BenchSettings(calls=args.calls))
            start = starts.setdefault(process, fit_start(problem, bench.settings))
            bench = replace(bench, settings=replace(bench.settings, **bench_settings))
            own = "type" in settings or bench.settings.noise_dim == 0
            apart = {} if own else {"horizon": "call"}
            objective = {"type": "law_matching", **apart, **settings}
            one = objective.pop("one_student", False)
            began = time.monotonic()
            objective = Objective.from_config(objective)
            if isinstance(objective, LearnedSchedule):
                made = learned_rows(bench, objective, start, nfe, seed)
            else:
                made = bench.student_rows(objective, start, list(nfe), seed, one_student=one)
            for row in made:
                rows.append({"experiment": name, "calls": args.calls, **row})
                print(f"{name:28s} {process} {row['nfe']} TV {row['tv']:.4f}", flush=True)
            print(f"  {time.monotonic() - began:.0f} s")
            file.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
